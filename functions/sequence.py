"""A sequence under way: numbers, months, weekdays, letters, and the member due next."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.computed import Computed, Constants, Ids, is_plain_word, pick
from labeler.functions.contract import Keys, State
from labeler.functions.layout import plain_text
from labeler.functions.registry import register
from labeler.functions.text import quote

_WINDOW = 16
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ROMAN = (
    *("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X"),
    *("XI", "XII", "XIII", "XIV", "XV", "XVI", "XVII", "XVIII", "XIX", "XX"),
)
_WORDS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
)
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

KINDS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("months", _MONTHS, True),
    ("abbreviated months", tuple(month[:3] for month in _MONTHS), True),
    ("weekdays", _WEEKDAYS, True),
    ("abbreviated weekdays", tuple(day[:3] for day in _WEEKDAYS), True),
    ("number words", _WORDS, False),
    ("numerals", tuple(map(str, range(1000))), False),
    ("Roman numerals", _ROMAN, False),
    ("small Roman numerals", tuple(number.lower() for number in _ROMAN), False),
    ("capital letters", tuple(_LETTERS.upper()), False),
    ("small letters", tuple(_LETTERS), False),
)
"""Name, members, and whether the first follows the last. Of two kinds that a token continues at
once, the earlier one here counts."""

_VARIANTS = {
    "number words": {word.capitalize(): word for word in _WORDS},
    "abbreviated months": {"Sept": "Sep"},
    "abbreviated weekdays": {"Tues": "Tue", "Thur": "Thu", "Thurs": "Thu"},
}

_MEMBERS = [(kind, text) for kind, (_, texts, _) in enumerate(KINDS) for text in texts]
"""All members, by number."""


def _following() -> npt.NDArray[np.int16]:
    """Number of the member after each one, -1 after the last, int16 [n_members]."""
    after: list[int] = []
    for _, texts, in_circle in KINDS:
        first = len(after)
        after += range(first + 1, first + len(texts))
        after.append(first if in_circle else -1)
    return np.array(after, dtype=np.int16)


_FOLLOWING = _following()


def sequence_keys(
    ids: npt.NDArray[np.integer],
    row: npt.NDArray[np.integer],
    members: npt.NDArray[np.int16],
    sides: npt.NDArray[np.uint8],
    following: npt.NDArray[np.int16],
    window: int,
) -> Keys:
    """``2 * member due + (1 if the token continues)``, -1 = none; int64 [n_ctx, ctx_len]."""
    n_members, n_kinds = len(following), members.shape[1]
    # One place more, never seen: -1 is "no member" and looks there.
    preceding = np.full(n_members + 1, -1)
    preceding[following[following >= 0]] = np.flatnonzero(following >= 0)
    out = np.full(ids.shape, -1, dtype=np.int64)
    at_once = 4096  # contexts, to bound the memory
    for start in range(0, len(ids), at_once):
        part = ids[start : start + at_once]
        rows, side, context = row[part], sides[part], np.arange(len(part))
        joined = np.zeros(part.shape, dtype=bool)
        joined[:, 1:] = (side[:, 1:] & 1) & (side[:, :-1] >> 1) > 0
        seen = np.zeros((len(part), n_members + 1), dtype=bool)
        last = np.full((len(part), n_kinds), -1)
        at = np.full((len(part), n_kinds), -window - 1)
        who, found = context[:0], members[:0]
        continues = found >= 0
        for t in range(ids.shape[1]):
            # Only now it shows whether a member at t-1 was a whole word.
            whole = ~joined[who, t]
            who, found, continues = who[whole], found[whole], continues[whole]
            last[who] = np.where(continues, found, last[who])
            at[who] = np.where(continues, t - 1, at[who])
            seen[who[:, None], found] = True
            seen[:, -1] = False
            newest = at.argmax(axis=1)
            due = following[last[context, newest]].astype(np.int64)
            holds = (t - at[context, newest] <= window) & (due >= 0)
            key = np.where(holds, 2 * due, -1)
            who = np.flatnonzero((rows[:, t] > 0) & ~joined[:, t])
            found = members[rows[who, t]]
            continues = seen[who[:, None], preceding[found]]
            some = continues.any(axis=1)
            due = following[found[some, continues[some].argmax(axis=1)]].astype(np.int64)
            key[who[some]] = np.where(due >= 0, 2 * due + 1, -1)
            out[start : start + at_once, t] = key
    return out


@register
class SequenceUnderWay(Computed):
    """The member due next in a sequence: numbers, months, weekdays, letters, Roman numerals.

    A token continues a sequence if it is a member (its whole text, spaces aside) and the member
    before it came earlier in the context. The key holds for 16 tokens from there, of the sequence
    continued last, and says whether it is this token that continues it. A member is no part of a
    longer word or number: one that directly follows or (known a token later) is followed by a
    letter or digit does not count. Numbers up to 999 count where the tokenizer has them as one
    token.
    """

    name = "sequence"
    compute = staticmethod(sequence_keys)
    constants: ClassVar[Constants] = {"following": _FOLLOWING, "window": _WINDOW}

    def tables(self, vocab: Sequence[str]) -> State:
        """Which members each token is.

        ``row``, int16 [n_vocab], is the line of ``members``, int16 [n_rows, n_kinds], the number of
        the member of each kind, -1 = none; line 0 is that of most tokens, which are no members.
        ``sides``, uint8 [n_vocab]: 1 begins and 2 ends with a letter or digit.
        """
        member_of = _member_of()
        none = (-1,) * len(KINDS)
        index = {none: 0}
        row = [index.setdefault(member_of.get(text.strip(), none), len(index)) for text in vocab]
        members = np.array(list(index), dtype=np.int16)
        if not any(_has_neighbours(column) for column in members.T):
            raise NotApplicableError(
                "the vocabulary has no two neighbours of a sequence (numbers, months, letters ...)"
            )
        texts = [plain_text(text) for text in vocab]
        sides = [_in_word(text[:1]) | _in_word(text[-1:]) << 1 for text in texts]
        return {
            "row": np.array(row, dtype=np.int16),
            "members": members,
            "sides": np.array(sides, dtype=np.uint8),
        }

    def extras(self, vocab: Sequence[str]) -> State:
        """A word, a token that separates words, one of each member [n_members]; -1 = none."""
        member_of = _member_of()
        word = pick(vocab, lambda text: is_plain_word(text) and text.strip() not in member_of)
        tokens = np.full(len(_MEMBERS), -1)
        best = np.full(len(_MEMBERS), -1)
        for token, text in enumerate(vocab):
            for member in member_of.get(text.strip(), ()):
                # Its own spelling goes before a variant, and one space before none.
                exact = _MEMBERS[member][1] == text.strip()
                score = 2 * exact + (text[:1] == " ")
                if member >= 0 and score > best[member]:
                    tokens[member], best[member] = token, score
        gap = pick(vocab, lambda text: text == ",", lambda text: not text.strip(",.;:-\n "))
        return {"word": np.array(word), "gap": np.array(gap), "tokens": tokens}

    def render(self, key: int) -> str:
        """The member due, or the one that just came."""
        due, here = divmod(key, 2)
        kind, text = _MEMBERS[due]
        if here:
            return f"{quote(_MEMBERS[_before(due)][1])} just continued {KINDS[kind][0]}"
        return f"in a list of {KINDS[kind][0]}, {quote(text)} is due"

    def drafts(self, ids: Ids, pos: int, key: int) -> Iterator[Ids]:
        """Put the two members before the one due right up to `pos`, or before a word there."""
        due, here = divmod(key, 2)
        last, gap = _before(due), self.sample("gap")
        earlier = _before(last)
        if earlier < 0:
            return
        first, second = self.sample("tokens", earlier), self.sample("tokens", last)
        after = [] if here else [self.sample("word")]
        for row in ([first, second], [first, gap, second], [gap, first, gap, second]):
            begin = pos + 1 - len(row) - len(after)
            if min(begin, *row, *after) >= 0:
                ids[begin : pos + 1] = row + after
                yield ids


def _member_of() -> dict[str, tuple[int, ...]]:
    """Numbers of the members of each kind that a text is, -1 = none."""
    found: dict[str, list[int]] = {}
    number = {member: index for index, member in enumerate(_MEMBERS)}
    for (kind, text), index in number.items():
        found.setdefault(text, [-1] * len(KINDS))[kind] = index
    for kind, (name, _, _) in enumerate(KINDS):
        for variant, text in _VARIANTS.get(name, {}).items():
            found.setdefault(variant, [-1] * len(KINDS))[kind] = number[kind, text]
    return {text: tuple(members) for text, members in found.items()}


def _in_word(character: str) -> bool:
    """Whether it is a letter or a digit; a lone byte is most often part of a letter."""
    return character.isalnum() or character == "\ufffd"


def _has_neighbours(members: npt.NDArray[np.int16]) -> bool:
    """Whether some member and the one after it are there."""
    return bool(np.isin(_FOLLOWING[members[members >= 0]], members[members >= 0]).any())


def _before(member: int) -> int:
    """Number of the member before one; -1 = none."""
    before = np.flatnonzero(member == _FOLLOWING)
    return int(before[0]) if member >= 0 and len(before) else -1
