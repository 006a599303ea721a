"""The token and the four before it."""

from labeler.functions.ngram import NGram
from labeler.functions.registry import register


@register
class FiveGram(NGram):
    """The token and the four before it.

    No key where one of them is not among the 6,208 most frequent tokens of the fit split.
    """

    name = "fivegram"
    backs_off_to = "fourgram"
    order = 5
