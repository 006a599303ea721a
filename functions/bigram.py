"""The token and the one before it."""

from labeler.functions.ngram import NGram
from labeler.functions.registry import register


@register
class Bigram(NGram):
    """The token and the one before it."""

    name = "bigram"
    backs_off_to = "unigram"
    order = 2
