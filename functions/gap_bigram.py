"""The token and the one two before it, with any token between."""

from labeler.functions.registry import register
from labeler.functions.text import quote
from labeler.functions.token_back import TokensAt


@register
class GapBigram(TokensAt):
    """The token and the one two before it, with any token between."""

    name = "gap_bigram"
    backs_off_to = "unigram"
    distances = (0, 2)

    def render(self, key: int) -> str:
        """Both tokens with a dash for each token between."""
        here, before = self.texts_of(key)
        return f"{quote(before)} _ {quote(here)}"
