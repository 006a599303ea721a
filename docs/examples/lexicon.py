"""Terms of a subject and their fields, from lexicon.csv beside this file."""

import csv
from pathlib import Path

import numpy as np

from labeler.errors import NotApplicableError
from labeler.functions import FunctionType, Keys, State, register
from labeler.functions.source import export_source
from labeler.functions.text import quote
from labeler.functions.word_so_far import word_ends, words_so_far
from labeler.tokens import Tokens

LEXICON = Path(__file__).with_name("lexicon.csv")


def lexicon_keys(ids, tail, joins, terms, numbers):
    """Number of the term that the word so far is; -1 = none."""
    number = dict(zip(terms.tolist(), numbers.tolist(), strict=True))
    words = words_so_far(ids, tail, joins)
    keys = [number.get(word.lower(), -1) for word in words.ravel()]
    return np.array(keys, dtype=np.int64).reshape(ids.shape)


@register
class LexiconField(FunctionType):
    """The field of the lexicon that the word so far is a term of."""

    name = "lexicon_field"

    def prepare(self, tokens: Tokens) -> None:
        """Read the lexicon; abstain if the text has none of its terms."""
        with LEXICON.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        self.terms = np.array([row["term"].lower() for row in rows])
        self.fields, self.numbers = np.unique([row["field"] for row in rows], return_inverse=True)
        self.tail, self.joins = word_ends(tokens.vocab)
        if not (self.keys(tokens)[tokens.valid] >= 0).any():
            raise NotApplicableError(f"no term of {LEXICON.name} occurs in the fit split")

    def state(self) -> State:
        """What `prepare` made: no later step reads the lexicon."""
        return {**self.tables(), "fields": self.fields}

    def tables(self) -> State:
        """Arguments of `lexicon_keys`."""
        return {
            "tail": self.tail,
            "joins": self.joins,
            "terms": self.terms,
            "numbers": self.numbers,
        }

    def load_state(self, state: State) -> None:
        """Restore what `prepare` made."""
        for name, array in state.items():
            setattr(self, name, array)

    def keys(self, tokens: Tokens) -> Keys:
        """Field at each position, int64 [n_ctx, ctx_len]."""
        return lexicon_keys(tokens.ids, **self.tables())

    def render(self, key: int) -> str:
        """Name of the field."""
        return f"a term of the field {quote(str(self.fields[key]))}"

    def source(self) -> str:
        """Python for exported labels."""
        return export_source(self.name, lexicon_keys, self.tables(), (words_so_far,))


@register
class LexiconTerm(LexiconField):
    """The term of the lexicon that the word so far is."""

    name = "lexicon_term"
    backs_off_to = "lexicon_field"

    def prepare(self, tokens: Tokens) -> None:
        """Give every term a key of its own."""
        super().prepare(tokens)
        self.numbers = np.arange(len(self.terms))

    def render(self, key: int) -> str:
        """The term."""
        return f"the term {quote(str(self.terms[key]))}"
