"""Function types whose keys are one function of the token ids and of some arrays."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from labeler.functions.contract import FunctionType, Keys, State
from labeler.functions.source import export_source
from labeler.tokens import Tokens

Ids = npt.NDArray[np.int32]
Constants = Mapping[str, npt.NDArray[np.generic] | int]

_EXTRA = "extra_"


class Computed(FunctionType):
    """Keys from ``compute(ids, **constants, **tables)``, which is exported as it stands.

    A subclass names the function, what it calls and its constants, and makes its tables from the
    texts of the vocabulary. `extras` are arrays that `drafts` or `render` need and `compute` does
    not.
    """

    compute: ClassVar[Callable[..., Keys]]
    helpers: ClassVar[tuple[Callable[..., Any], ...]] = ()
    constants: ClassVar[Constants] = {}

    def __init__(self) -> None:
        self._tables: State = {}
        self._extras: State = {}

    def tables(self, vocab: Sequence[str]) -> State:
        """Arrays for `compute`, made from the texts.

        Raises
        ------
        NotApplicableError
            If the vocabulary has no token that the type is about.
        """
        return {}

    def extras(self, vocab: Sequence[str]) -> State:
        """Further arrays to keep."""
        return {}

    def drafts(self, ids: Ids, pos: int, key: int) -> Iterator[Ids]:
        """Edited contexts that may carry the key at `pos`, the most promising first.

        `ids` is a copy that may be changed and yielded, again and again.
        """
        return iter(())

    def prepare(self, tokens: Tokens) -> None:
        """Make the arrays from the vocabulary."""
        self._tables = self.tables(tokens.vocab)
        self._extras = self.extras(tokens.vocab)

    def state(self) -> State:
        """All arrays; the names of the extra ones begin with ``extra_``."""
        return {**self._tables, **{_EXTRA + name: value for name, value in self._extras.items()}}

    def load_state(self, state: State) -> None:
        """Restore the arrays."""
        extras = {name for name in state if name.startswith(_EXTRA)}
        self._tables = {name: state[name] for name in state if name not in extras}
        self._extras = {name.removeprefix(_EXTRA): state[name] for name in extras}

    def keys(self, tokens: Tokens) -> Keys:
        """Key at every position."""
        return self._compute(tokens.ids)

    def source(self) -> str | None:
        """Python for exported labels."""
        arguments = {
            name: int(value) if np.ndim(value) == 0 else value
            for name, value in {**self.constants, **self._tables}.items()
        }
        return export_source(self.name, self.compute, arguments, self.helpers)

    def write(self, ids: Ids, pos: int, key: int) -> Ids | None:
        """Return the context itself if it has the key, else the first draft that has."""
        for draft in chain([ids.copy()], self.drafts(ids.copy(), pos, key)):
            if (self._compute(draft[None])[0, pos] == key).any():
                return draft
        return None

    def sample(self, name: str, *place: int) -> int:
        """A number of `extras`, such as the id of a token to write with."""
        return int(self._extras[name][place])

    def _compute(self, ids: Ids) -> Keys:
        return self.compute(ids, **self.constants, **self._tables)


def pick(vocab: Sequence[str], *wanted: Callable[[str], bool]) -> int:
    r"""Id of the first token that the earliest possible condition holds for; -1 = none.

    >>> pick([" a", ".", "\n"], lambda text: text == "!", lambda text: text in ".?")
    1
    """
    for condition in wanted:
        for token, text in enumerate(vocab):
            if condition(text):
                return token
    return -1


def spelled(vocab: Sequence[str], *texts: str) -> int:
    """Id of the first of some texts that is a token; -1 = none.

    >>> spelled(["a", "(", "b"], " (", "(")
    1
    """
    return next((vocab.index(text) for text in texts if text in vocab), -1)


def is_plain_word(text: str) -> bool:
    """Whether a token is a space and small letters: what stands in for a token to be removed."""
    return text[:1] == " " and len(text) > 3 and text[1:].isalpha() and text[1:].islower()
