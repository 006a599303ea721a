"""The token and the two before it."""

from labeler.functions.ngram import NGram
from labeler.functions.registry import register


@register
class Trigram(NGram):
    """The token and the two before it."""

    name = "trigram"
    backs_off_to = "bigram"
    order = 3
