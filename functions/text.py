"""How tokens look in a label."""


def quote(text: str) -> str:
    r"""Text in backquotes on one line, control characters escaped, backquotes kept readable.

    >>> quote(" def")
    '` def`'
    >>> quote("\n\t")
    '`\\n\\t`'
    """
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
    fence = "``" if "`" in shown else "`"
    return f"{fence}{shown}{fence}"
