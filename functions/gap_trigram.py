"""The token and the one three before it, with any two tokens between."""

from labeler.functions.registry import register
from labeler.functions.text import quote
from labeler.functions.token_back import TokensAt


@register
class GapTrigram(TokensAt):
    """The token and the one three before it, with any two tokens between."""

    name = "gap_trigram"
    backs_off_to = "unigram"
    distances = (0, 3)

    def render(self, key: int) -> str:
        """Both tokens with a dash for each token between."""
        here, before = self.texts_of(key)
        return f"{quote(before)} _ _ {quote(here)}"
