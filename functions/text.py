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


def quote(text: str) -> str:
    r"""Text in backquotes on one line, control characters escaped, backquotes kept readable.

    >>> quote(" def")
    '` def`'
    >>> quote("\n\t")
    '`\\n\\t`'
    """
    shown = one_line(text)
    fence = "``" if "`" in shown else "`"
    return f"{fence}{shown}{fence}"
