"""The kind of a word, by regular expressions."""

import numpy as np

from labeler.functions import FunctionType, Keys, State, register
from labeler.functions.source import export_source
from labeler.functions.word_so_far import word_ends, words_so_far
from labeler.tokens import Tokens

PATTERNS = {
    "a year": r"1[5-9]\d\d|20\d\d",
    "a number": r"\d+",
    "an -ing form": r"\w\w+ing",
    "a name in snake case": r"[a-z]+(_[a-z]+)+",
    "a name with a number": r"[A-Za-z]+\d+",
}


def pattern_keys(ids, tail, joins, patterns):
    """First pattern that the word so far matches as a whole; -1 = none."""
    import re
    from functools import cache

    @cache
    def key_of(word):
        found = (key for key, pattern in enumerate(patterns) if re.fullmatch(pattern, word))
        return next(found, -1)

    words = words_so_far(ids, tail, joins)
    return np.array([key_of(word) for word in words.ravel()], dtype=np.int64).reshape(ids.shape)


@register
class WordPattern(FunctionType):
    """What the word so far looks like: a year, another number, an -ing form, ..."""

    name = "word_pattern"

    def prepare(self, tokens: Tokens) -> None:
        """Find the word that each token of the vocabulary ends in."""
        self.tail, self.joins = word_ends(tokens.vocab)

    def state(self) -> State:
        """The arguments of `pattern_keys`; the patterns too, for exported labels."""
        patterns = np.array(list(PATTERNS.values()), dtype=np.str_)
        return {"tail": self.tail, "joins": self.joins, "patterns": patterns}

    def load_state(self, state: State) -> None:
        """Restore what `prepare` made."""
        self.tail, self.joins = state["tail"], state["joins"]

    def keys(self, tokens: Tokens) -> Keys:
        """Pattern at each position, int64 [n_ctx, ctx_len]."""
        return pattern_keys(tokens.ids, **self.state())

    def render(self, key: int) -> str:
        """Name of the pattern."""
        return list(PATTERNS)[key]

    def source(self) -> str:
        """Python for exported labels."""
        return export_source(self.name, pattern_keys, self.state(), (words_so_far,))
