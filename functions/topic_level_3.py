"""The topic of the document at the third level of its metadata."""

from labeler.functions.metadata_topic import MetadataTopic
from labeler.functions.registry import register


@register
class TopicLevel3(MetadataTopic):
    """The topic at the third level, inferred from the tokens so far."""

    name = "topic_level_3"
    backs_off_to = "subtopic"
    level = 2
