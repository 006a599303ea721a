"""The topic of the document at the first level of its metadata."""

from labeler.functions.registry import register
from labeler.functions.topic_model import TopicModel


@register
class Topic(TopicModel):
    """The topic at the first level, inferred from the tokens so far."""

    name = "topic"
    level = 0
