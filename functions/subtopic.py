"""The topic of the document at the second level of its metadata."""

from labeler.functions.registry import register
from labeler.functions.topic_model import TopicModel


@register
class Subtopic(TopicModel):
    """The topic at the second level, inferred from the tokens so far."""

    name = "subtopic"
    backs_off_to = "topic"
    level = 1
