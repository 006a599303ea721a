"""An explanation cut into words, marks, and what it quotes."""

import re
from dataclasses import dataclass
from typing import Literal

LONGEST = 60
"""Characters from which a quotation is an example sentence, not a literal."""

_WORD = re.compile(r"-?\w+(?:['’.-]\w+)*-?")
_FENCE = re.compile(r"`+")
_CLOSING = {"“": "”", "«": "»", "„": "“”"}
_CODES = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4}))")
_MARKED_SPACE = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n", "⏎": "\n", "↵": "\n"})


@dataclass(frozen=True)
class Lexeme:
    """A word, a mark, or something quoted.

    Attributes
    ----------
    kind : {"word", "mark", "quote", "code"}
        "code" in backquotes.
    text : str
        Without its quotes.
    """

    kind: Literal["word", "mark", "quote", "code"]
    text: str

    @property
    def quoted(self) -> bool:
        """Whether it names a piece of text."""
        return self.kind in ("quote", "code")

    @property
    def low(self) -> str:
        """A word or mark in lower case; "" for what is quoted."""
        return "" if self.quoted else self.text.lower().replace("’", "'")


def lexemes(text: str) -> tuple[tuple[Lexeme, ...], bool]:
    r"""Cut a text, and say whether a quote or bracket in it is never closed.

    An apostrophe opens a quotation only where no letter or digit is before it, and closes one only
    where none follows, so that "don't" and "the dogs' owners" hold none.

    >>> found, _ = lexemes("don't fire on 'a' or `\\n`")
    >>> [(one.kind, one.text) for one in found][-3:]
    [('quote', 'a'), ('word', 'or'), ('code', '\\n')]
    """
    found: list[Lexeme] = []
    at, open_end = 0, False
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        inner = _quotation(text, at)
        if inner is not None:
            kind: Literal["quote", "code"] = "code" if text[at] == "`" else "quote"
            found.append(Lexeme(kind, inner[0]))
            at = inner[1]
            continue
        word = _WORD.match(text, at)
        if word and not (word.group().endswith("-") and text[word.end() : word.end() + 1] == "-"):
            found.append(Lexeme("word", word.group()))
            at = word.end()
            continue
        open_end |= text[at] in '"`“«'
        found.append(Lexeme("mark", text[at]))
        at += 1
    depth = sum((one.low == "(") - (one.low == ")") for one in found)
    return tuple(found), open_end or depth > 0


def _quotation(text: str, at: int) -> tuple[str, int] | None:
    """What the quotation that opens here holds, and where it ends."""
    mark = text[at]
    if mark == "`":
        fence = _FENCE.match(text, at)
        size = fence.end() - at if fence else 1
        end = text.find("`" * size, at + size)
        return (text[at + size : end], end + size) if end > at else None
    if mark == '"' or mark in _CLOSING:
        closing = _CLOSING.get(mark, '"')
        ends = [place for one in closing if (place := text.find(one, at + 1)) > at + 1]
        return (text[at + 1 : min(ends)], min(ends) + 1) if ends else None
    if mark not in "'‘" or (at and text[at - 1].isalnum()):
        return None
    for end in range(at + 2, min(at + LONGEST + 3, len(text))):
        after = text[end + 1 : end + 2]
        if text[end] in ("'" if mark == "'" else "’'") and not after.isalnum():
            return text[at + 1 : end], end + 1
    return None


def decoded(lexeme: Lexeme) -> str:
    r"""The text that something quoted stands for: escapes, and glyphs for spaces and line ends.

    >>> decoded(Lexeme("code", "Ġthe")), decoded(Lexeme("quote", r"\n"))
    (' the', '\n')
    """
    text = lexeme.text.translate(_MARKED_SPACE)
    text = text.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r")
    if lexeme.kind == "code":
        text = text.replace("→", "\t")
        text = _CODES.sub(lambda found: chr(int(found[1] or found[2], 16)), text)
    return text


def written(lexeme: Lexeme) -> str:
    r"""What something quoted is where a backslash is a backslash: labels show line ends as glyphs.

    >>> written(Lexeme("code", r"\n"))
    '\\n'
    """
    return lexeme.text.translate(_MARKED_SPACE).replace("→", "\t")
