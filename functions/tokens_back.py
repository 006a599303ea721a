"""The token k positions back, for k from 2 to 8; `previous_token` is k = 1."""

from typing import ClassVar

from labeler.functions.registry import register
from labeler.functions.text import quote
from labeler.functions.token_back import TokensAt


class _TokenBack(TokensAt):
    """The token k positions back, whatever lies between."""

    backs_off_to: ClassVar[str | None] = None

    def render(self, key: int) -> str:
        """The token and how far back it is."""
        return f"anything {self.distances[0]} tokens after {quote(self.texts_of(key)[0])}"


@register
class Token2Back(_TokenBack):
    """The token two positions back, whatever lies between."""

    name = "token_2_back"
    distances = (2,)


@register
class Token3Back(_TokenBack):
    """The token three positions back, whatever lies between."""

    name = "token_3_back"
    distances = (3,)


@register
class Token4Back(_TokenBack):
    """The token four positions back, whatever lies between."""

    name = "token_4_back"
    distances = (4,)


@register
class Token5Back(_TokenBack):
    """The token five positions back, whatever lies between."""

    name = "token_5_back"
    distances = (5,)


@register
class Token6Back(_TokenBack):
    """The token six positions back, whatever lies between."""

    name = "token_6_back"
    distances = (6,)


@register
class Token7Back(_TokenBack):
    """The token seven positions back, whatever lies between."""

    name = "token_7_back"
    distances = (7,)


@register
class Token8Back(_TokenBack):
    """The token eight positions back, whatever lies between."""

    name = "token_8_back"
    distances = (8,)
