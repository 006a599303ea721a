"""The contract check: what every function type must hold, tried on example text.

Plug-in authors call `check_function_type` in their tests; the built-in types pass it too.
"""

from typing import NamedTuple

from labeler.errors import FunctionTypeError, NotApplicableError
from labeler.functions import check_output, check_reads
from labeler.functions.contract import FunctionType
from labeler.functions.example import example_tokens
from labeler.functions.registry import check_class, check_parent
from labeler.functions.trial import Trial
from labeler.tokens import Tokens

__all__ = ["Checked", "check_function_type", "example_tokens", "try_function_type"]

_CHECKS = (
    check_reads.repeats,
    check_reads.is_causal,
    check_reads.reads_its_context_only,
    check_reads.fit_keys_are_causal,
    check_output.renders,
    check_output.restores,
    check_output.exports,
    check_output.writes,
)


class Checked(NamedTuple):
    """What trying a function type has shown."""

    faults: tuple[FunctionTypeError, ...]
    """Empty where it keeps its contract."""
    abstained: str | None
    """Why `prepare` said that the type does not apply to the text; nothing was tried then."""
    n_keys: int
    """Distinct keys on the text; where there are none, little was tried."""


def check_function_type(
    kind: type[FunctionType] | FunctionType, tokens: Tokens | None = None
) -> None:
    """Check that a function type keeps its contract.

    Parameters
    ----------
    kind : type or FunctionType
        A class that can be made without arguments, or an instance that is not prepared yet.
    tokens : Tokens, optional
        Text to try it on, both splits; a small made-up corpus with two levels of topics where
        None. Give your own where the type has no keys on it.

    Raises
    ------
    FunctionTypeError
        Names the type and every fault: keys of a wrong shape, type or range, or twice at a
        position; keys that differ between calls, or depend on later positions (unless
        `looks_ahead`), on other contexts or on metadata; `fit_keys` that depend on later positions
        of their own fold; a rendering that is no line of text; a state, a source or an edited
        context that does not give the same keys again; a parent that does not exist.

    Notes
    -----
    A type that raises NotApplicableError from `prepare` passes: it says why it abstains.
    """
    faults = try_function_type(kind, tokens).faults
    if faults:
        cls = kind if isinstance(kind, type) else type(kind)
        where = f"{cls.__module__}.{cls.__qualname__} ({cls.name})"
        message = "; ".join(str(fault) for fault in faults)
        raise FunctionTypeError(f"{where}: {message}") from faults[0].__cause__


def try_function_type(
    kind: type[FunctionType] | FunctionType, tokens: Tokens | None = None
) -> Checked:
    """Do what `check_function_type` does, and return the faults.

    Raises
    ------
    FunctionTypeError
        Only for what is no function type at all (`check_class`).
    """
    cls = kind if isinstance(kind, type) else type(kind)
    check_class(cls)
    faults: list[FunctionTypeError] = []
    try:
        check_parent(cls)
    except FunctionTypeError as fault:
        faults.append(fault)
    try:
        trial = Trial(kind, example_tokens() if tokens is None else tokens)
    except NotApplicableError as why:
        return Checked(tuple(faults), str(why), 0)
    except FunctionTypeError as fault:
        return Checked((*faults, fault), None, 0)
    for check in _CHECKS:
        try:
            check(trial)
        except FunctionTypeError as fault:
            faults.append(fault)
    return Checked(tuple(faults), None, len(trial.distinct))
