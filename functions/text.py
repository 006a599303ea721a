"""How tokens look in a label."""


def one_line(text: str) -> str:
    r"""Text with what is not printable escaped: newlines, control characters, surrogates.

    >>> one_line("a\nb\t")
    'a\\nb\\t'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


_GLYPHS = {"\n": "↵", "\t": "→"}
"""As in the report: a line end must not look like a backslash and an n, which code is full of."""


def quote(text: str) -> str:
    r"""Text in backquotes on one line, control characters escaped, backquotes kept readable.

    >>> quote(" def")
    '` def`'
    >>> quote("\n\t")
    '`↵→`'
    """
    shown = "".join(
        _GLYPHS.get(character)
        or (character if character.isprintable() else character.encode("unicode_escape").decode())
        for character in text
    )
    fence = "``" if "`" in shown else "`"
    return f"{fence}{shown}{fence}"
