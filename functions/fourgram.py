"""The token and the three before it."""

from labeler.functions.ngram import NGram
from labeler.functions.registry import register


@register
class FourGram(NGram):
    """The token and the three before it."""

    name = "fourgram"
    backs_off_to = "trigram"
    order = 4
