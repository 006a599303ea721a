"""Token texts as a page or a terminal can show them: one line, nothing invisible."""

import re
from typing import NamedTuple

_GLYPHS = {"\n": "↵", "\t": "→", "\r": "␍", "\f": "␌"}
_CODE = re.compile(r"``.+?``|`[^`]+`")


def visible(text: str) -> str:
    r"""Text of a token with line ends and tabs as glyphs and other unprintables escaped.

    Escape sequences, zero-width and direction-changing characters must not reach a terminal or
    a page: tokens are whatever the corpus holds.

    >>> visible("a\n\tb\x1b[0m")
    'a↵→b\\x1b[0m'
    """
    return "".join(
        char if char.isprintable() else _GLYPHS.get(char, char.encode("unicode_escape").decode())
        for char in text
    )


class Segment(NamedTuple):
    """A part of a label's line."""

    text: str
    code: bool
    """Whether it is a key, quoted in the line."""


def segments(line: str) -> list[Segment]:
    """Cut a label's line at its backquotes, which are left out.

    >>> [tuple(part) for part in segments("fires on ` of` and 3 more")]
    [('fires on ', False), (' of', True), (' and 3 more', False)]
    """
    parts, end = [], 0
    for found in _CODE.finditer(line):
        fence = 2 if found[0].startswith("``") else 1
        parts.append(Segment(line[end : found.start()], code=False))
        parts.append(Segment(found[0][fence:-fence], code=True))
        end = found.end()
    parts.append(Segment(line[end:], code=False))
    return [Segment(visible(part.text), part.code) for part in parts if part.text]
