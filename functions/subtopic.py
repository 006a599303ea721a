"""The topic of the document at the second level of its metadata."""

from labeler.functions.metadata_topic import MetadataTopic
from labeler.functions.registry import register


@register
class Subtopic(MetadataTopic):
    """The topic at the second level, inferred from the tokens so far."""

    name = "subtopic"
    backs_off_to = "topic"
    level = 1
