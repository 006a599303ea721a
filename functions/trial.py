"""A function type on trial: prepared on example text, its keys there, and ways to compare them."""

import copy
from collections.abc import Callable
from functools import cached_property
from typing import ParamSpec, TypeVar

import numpy as np

from labeler.errors import FunctionTypeError, NotApplicableError
from labeler.functions.check_keys import checked_keys, first_difference
from labeler.functions.contract import FunctionType, Keys
from labeler.tokens import Tokens

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def attempt(
    what: str, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call the type's code; its own errors become the contract's, abstaining passes through."""
    try:
        return call(*args, **kwargs)
    except (NotApplicableError, FunctionTypeError):
        raise
    except Exception as error:
        raise FunctionTypeError(f"{what} raised {type(error).__name__}: {error}") from error


class Trial:
    """One prepared type and its keys on the example text.

    Attributes
    ----------
    tokens : Tokens
        The text.
    fresh : FunctionType
        An instance that nothing was done with.
    kind : FunctionType
        An instance prepared on the fit split.
    keys : Keys
        Its checked keys of the text.
    restored : FunctionType or None
        An instance with the state of `kind`, once `check_output.restores` found that it has the
        same keys and texts.
    rng : numpy.random.Generator

    Raises
    ------
    FunctionTypeError
        If there is no instance, `prepare` raises or changes the text, or the keys are no keys.
    NotApplicableError
        If the type abstains.
    """

    def __init__(self, kind: type[FunctionType] | FunctionType, tokens: Tokens) -> None:
        self.tokens = tokens
        self.rng = np.random.default_rng(0)
        self.fresh = attempt("making an instance", kind) if isinstance(kind, type) else kind
        self.kind = self.prepared()
        self.restored: FunctionType | None = None
        self.keys = self.keys_of(self.kind, tokens)

    def prepared(self) -> FunctionType:
        """A new instance, prepared on the fit split."""
        kind, fit = copy.deepcopy(self.fresh), self.tokens.fit
        before = fit.ids.copy()
        attempt("prepare", kind.prepare, fit)
        if not np.array_equal(fit.ids, before):
            raise FunctionTypeError("prepare changes the tokens it is given; work on a copy")
        return kind

    def keys_of(self, kind: FunctionType, tokens: Tokens) -> Keys:
        """What `keys` gives for a text, checked to be keys; -1 at padding."""
        return self._checked("keys", kind.keys, tokens)

    def fit_keys_of(self, fit: Tokens) -> Keys:
        """What `fit_keys` gives for a fit split, checked to be keys; -1 at padding."""
        return self._checked("fit_keys", self.kind.fit_keys, fit)

    def _checked(self, method: str, call: Callable[[Tokens], Keys], tokens: Tokens) -> Keys:
        before = tokens.ids.copy()
        keys = attempt(method, call, tokens)
        keys = checked_keys(keys, tokens, several=self.kind.several_keys, what=method)
        if not np.array_equal(tokens.ids, before):
            raise FunctionTypeError(f"{method} changes the tokens it is given; work on a copy")
        return keys

    def same(self, keys: Keys, wanted: Keys, fault: str) -> None:
        """Compare keys.

        Raises
        ------
        FunctionTypeError
            If they differ: the fault, and the first position that does.
        """
        where = first_difference(keys, wanted)
        if where is not None:
            raise FunctionTypeError(f"{fault} ({where})")

    @property
    def has_fit_keys(self) -> bool:
        """Whether the type has fit keys of its own."""
        return type(self.kind).fit_keys is not FunctionType.fit_keys

    @cached_property
    def distinct(self) -> Keys:
        """Distinct keys on the text, ascending."""
        found = np.unique(self.keys)
        return found[found >= 0]

    def some_keys(self, n: int) -> list[int]:
        """At most `n` of the keys that the text has."""
        keys = self.distinct
        if len(keys) > n:
            keys = np.random.default_rng(n).choice(keys, n, replace=False)
        return [int(key) for key in keys]
