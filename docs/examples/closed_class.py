"""The part of speech of a token, looked up in a list."""

import numpy as np

from labeler.functions import FunctionType, Keys, State, register
from labeler.functions.source import export_source
from labeler.tokens import Tokens

CLASSES = {
    "a determiner": "a an the this that these those every each some any no",
    "a preposition": "of in to for with on at from by about into over after under between",
    "a pronoun": "i you he she it we they me him her us them",
    "a conjunction": "and or but nor because although while if",
    "an auxiliary": "is are was were be been has have had do does did will would can may",
}


def class_keys(ids, table):
    """Class of the token at each position; -1 = none."""
    return table[ids]


@register
class ClosedClass(FunctionType):
    """The part of speech of the token, if it is a common closed-class word."""

    name = "closed_class"

    def prepare(self, tokens: Tokens) -> None:
        """Look every token of the vocabulary up, once."""
        lists = enumerate(CLASSES.values())
        number = {word: key for key, words in lists for word in words.split()}
        self.table = np.array(
            [number.get(text.strip().lower(), -1) for text in tokens.vocab], dtype=np.int64
        )

    def state(self) -> State:
        """The table, which is all that `prepare` makes."""
        return {"table": self.table}

    def load_state(self, state: State) -> None:
        """Restore the table."""
        self.table = state["table"]

    def keys(self, tokens: Tokens) -> Keys:
        """Class at each position, int64 [n_ctx, ctx_len]."""
        return class_keys(tokens.ids, self.table)

    def render(self, key: int) -> str:
        """Name of the class."""
        return list(CLASSES)[key]

    def source(self) -> str:
        """Python for exported labels."""
        return export_source(self.name, class_keys, self.state())

    def write(self, ids, pos, key):
        """Put a word of the class at `pos`."""
        edited = ids.copy()
        edited[pos] = np.flatnonzero(self.table == key)[0]
        return edited
