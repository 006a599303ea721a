"""The contract of a function type: a keying of positions, and how to read its keys.

A plug-in author subclasses `FunctionType`, defines `name`, `keys` and `render`, and gets fitting,
scoring, labels, prediction, export and verification for nothing (docs/design.md, section 1).
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.tokens import Tokens

Keys = npt.NDArray[np.int64]
State = dict[str, npt.NDArray[np.generic]]

NO_KEY = -1
"""The key of a position to which a function type does not apply."""


class FunctionType(ABC):
    """A family of labels: it maps every position of a context to a small integer key.

    You define
    ----------
    name : str
        Unique, lower case, snake case.
    keys(tokens)
        The key at every position; reads only positions up to its own.
    render(key)
        What a person reads.

    You may define
    --------------
    backs_off_to : str or None
        A coarser function type that stands in where a key was seen too rarely; None for the
        base rate. Keys are refined by their parent's keys, so the parent need not be nested.
    looks_ahead : bool
        True if `keys` reads later positions. Such a type may label, but never runs in a layer.
    several_keys : bool
        True if a position may have several keys at once (tokens seen before, rules that hold).
    fit_keys(tokens)
        Keys of the fit split itself, where `prepare` counted something there: made without the
        context's own fold, so that they are no better than on unseen text.
    prepare(tokens), state(), load_state(state)
        Corpus-level state, made from the fit split and saved with the labels.
    source()
        Python for exported labels: a function ``keys_<name>(ids)``.
    write(ids, pos, key)
        The context edited to carry the key, for counterfactual pairs.

    You get
    -------
    Shrunk means and firing probabilities per key for all latents at once, out-of-fold scores,
    key budgets, executable labels and their source, a line in every table of the report.
    """

    name: ClassVar[str]
    backs_off_to: ClassVar[str | None] = None
    looks_ahead: ClassVar[bool] = False
    several_keys: ClassVar[bool] = False

    def prepare(self, tokens: Tokens) -> None:  # noqa: B027 - optional, not abstract
        """Make corpus-level state from the fit split.

        Raises
        ------
        NotApplicableError
            If the type says nothing about this corpus; the message says why it abstains.
        """

    def state(self) -> State:
        """Arrays that `load_state` needs to restore `prepare`'s result."""
        return {}

    def load_state(self, state: State) -> None:  # noqa: B027 - optional, not abstract
        """Restore what `prepare` made."""

    @abstractmethod
    def keys(self, tokens: Tokens) -> Keys:
        """Key at every position, int64 [n_ctx, ctx_len]; -1 = no key.

        With `several_keys`, int64 [n_ctx, ctx_len, m]: up to m distinct keys, -1 in the places
        left. Values at padded positions are ignored. Must not depend on later positions unless
        the type declares `looks_ahead`.
        """

    def fit_keys(self, fit: Tokens) -> Keys:
        """Keys of the fit split that `prepare` saw, shaped as those of `keys`.

        Override where `prepare` learned from the fit split what the keys themselves depend on:
        leave out each context's own fold (`fit.fold`).
        """
        return self.keys(fit)

    @abstractmethod
    def render(self, key: int) -> str:
        """Text of a key as a person reads it, one line."""

    def source(self) -> str | None:
        """Python source of ``keys_<name>(ids)``, or None if the type cannot be exported.

        The function takes int64 [n_ctx, ctx_len] token ids, may use ``np`` (numpy) and the
        standard library, and returns the same keys as `keys`.
        """
        return None

    def write(self, ids: npt.NDArray[np.int32], pos: int, key: int) -> npt.NDArray[np.int32] | None:
        """Copy of the context `ids` [ctx_len] edited so that position `pos` has `key`, or None."""
        return None
