"""The topic of the document at the first level of its metadata."""

from labeler.functions.metadata_topic import MetadataTopic
from labeler.functions.registry import register


@register
class Topic(MetadataTopic):
    """The topic at the first level, inferred from the tokens so far."""

    name = "topic"
    level = 0
