"""Texts of others as a page can show them: cut, on lines of their own, nothing invisible."""

from typing import TypedDict

from labeler.report.glyphs import Segment, segments, visible

MAX_TEXT, MAX_LINE = 600, 400
"""Characters shown of an explanation, and of a line about it."""


class Cut(TypedDict):
    """A text as it is shown."""

    text: str
    n_chars: int
    """Characters it has in all; 0 where nothing was cut."""


def cut(text: str, most: int) -> Cut:
    """The first `most` characters of a text, and how many there are."""
    if len(text) <= most:
        return Cut(text=text, n_chars=0)
    return Cut(text=text[:most] + "…", n_chars=len(text))


def short_line(line: str, most: int) -> list[Segment]:
    """The beginning of a label's line or a reason, cut between keys and never within one.

    >>> [part.text for part in short_line("fires on ` of` and ` or`", 12)]
    ['fires on ', ' of', '…']
    """
    found: list[Segment] = []
    left = most
    for part in segments(line[: 4 * most]):
        if len(part.text) > left:
            return [*found, Segment(("" if part.code else part.text[:left].rstrip()) + "…", False)]
        found.append(part)
        left -= len(part.text)
    return [*found, Segment("…", False)] if len(line) > 4 * most else found


def prose(text: str, most: int) -> Cut:
    """An explanation as a page can show it: its lines kept, whatever is invisible escaped."""
    short = cut(text, most)
    lines = [visible(line) for line in short["text"].split("\n")]
    return Cut(text="\n".join(lines).strip("\n"), n_chars=short["n_chars"])


def shown_name(hookpoint: str) -> str:
    """The name of a place, which a file may have put anything into."""
    return visible(cut(hookpoint, 60)["text"])
