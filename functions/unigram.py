"""The token itself."""

from labeler.functions.ngram import NGram
from labeler.functions.registry import register


@register
class Unigram(NGram):
    """The token itself."""

    name = "unigram"
    backs_off_to = None
    order = 1
