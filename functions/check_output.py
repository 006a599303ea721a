"""What a function type makes of its keys: a text, a state, a source, an edited context."""

import copy
import io
import sys
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.errors import FunctionTypeError
from labeler.functions.check_keys import checked_keys
from labeler.functions.contract import FunctionType, State
from labeler.functions.trial import Trial, attempt
from labeler.tokens import Tokens

_N_RENDERED = 200
_N_WRITTEN = 100


def renders(trial: Trial) -> None:
    """Each key reads as one line, those of the fit split too."""
    keys = trial.some_keys(_N_RENDERED)
    if trial.has_fit_keys:
        fit_keys = np.unique(trial.fit_keys_of(trial.tokens.fit))
        keys += [int(key) for key in fit_keys[fit_keys >= 0][:_N_RENDERED]]
    for key in keys:
        text = attempt(f"render({key})", trial.kind.render, key)
        if not isinstance(text, str) or text.splitlines() != [text]:
            raise FunctionTypeError(f"render({key}) is {text!r}; return one line of text")


def restores(trial: Trial) -> None:
    """The state, saved and loaded, gives the same keys and texts."""
    other = _restored(trial)
    try:
        keys = trial.keys_of(other, trial.tokens)
    except FunctionTypeError as fault:
        raise FunctionTypeError(
            f"after load_state(state()), {fault}; {_forgotten(trial)}"
        ) from fault.__cause__
    trial.same(keys, trial.keys, f"keys after load_state(state()) differ; {_forgotten(trial)}")
    for key in trial.some_keys(_N_RENDERED):
        wanted = attempt(f"render({key})", trial.kind.render, key)
        try:
            found = attempt(f"render({key}) after load_state(state())", other.render, key)
        except FunctionTypeError as fault:
            raise FunctionTypeError(f"{fault}; {_forgotten(trial)}") from fault.__cause__
        if found != wanted:
            raise FunctionTypeError(
                f"render({key}) after load_state(state()) is {found!r}, not {wanted!r}; "
                f"{_forgotten(trial)}"
            )
    trial.restored = other


def exports(trial: Trial) -> None:
    """The source, of this instance and of the restored one, computes the same keys."""
    source = attempt("source", trial.kind.source)
    if source is None:
        return
    _run_source(trial, source)
    if trial.restored is not None:
        again = attempt("source after load_state(state())", trial.restored.source)
        if again != source:
            _run_source(trial, again)


def _run_source(trial: Trial, source: object) -> None:
    tokens, name = trial.tokens, f"keys_{trial.kind.name}"
    if not isinstance(source, str):
        raise FunctionTypeError(f"source returns {type(source).__name__}; return Python as a text")
    names: dict[str, Any] = {"np": np, "__builtins__": _guarded_builtins()}
    attempt("running source()", exec, source, names)
    if name not in names:
        raise FunctionTypeError(f"source defines no {name}(ids)")
    ids = tokens.ids.astype(np.int64)
    keys = attempt(f"{name} of source()", names[name], ids)
    if not isinstance(keys, np.ndarray) or keys.shape[:2] != ids.shape:
        raise FunctionTypeError(f"{name} of source() returns no array {list(ids.shape)}")
    if not np.array_equal(ids, tokens.ids):
        raise FunctionTypeError(f"{name} of source() changes the ids it is given")
    if np.issubdtype(keys.dtype, np.integer):
        keys = keys.astype(np.int64)
    several = trial.kind.several_keys
    found = checked_keys(keys, tokens, several=several, what=f"{name} of source()")
    trial.same(found, trial.keys, f"{name} of source() gives other keys than keys")


def writes(trial: Trial) -> None:
    """An edited context has the key at the position."""
    tokens, rng = trial.tokens, trial.rng
    for key in trial.some_keys(_N_WRITTEN):
        context = int(rng.integers(tokens.n_ctx))
        n = int(tokens.length[context])
        # The last position of a full context too: nothing may be written past the end.
        pos = n - 1 if rng.random() < 0.2 else int(rng.integers(n))
        ids = tokens.ids[context].copy()
        edited = attempt("write", trial.kind.write, ids, pos, key)
        if edited is None:
            continue
        if not np.array_equal(ids, tokens.ids[context]):
            raise FunctionTypeError("write changes the context it is given; return a copy")
        _check_context(edited, tokens)
        one = replace(
            tokens.select(np.array([context])), ids=edited[None].astype(np.int32, copy=False)
        )
        found = np.atleast_1d(trial.keys_of(trial.kind, one)[0, pos])
        if key not in found:
            shown = ", ".join(str(int(other)) for other in found if other >= 0) or "none"
            raise FunctionTypeError(
                f"write(ids, {pos}, {key}) gives a context whose key at {pos} is {shown}; "
                "return None where the key cannot be written"
            )


def _check_context(ids: npt.NDArray[np.int32], tokens: Tokens) -> None:
    """An edited context has the same shape and known tokens."""
    if (
        not isinstance(ids, np.ndarray)
        or ids.shape != (tokens.ctx_len,)
        or not np.issubdtype(ids.dtype, np.integer)
        or ids.min() < 0
        or ids.max() >= tokens.n_vocab
    ):
        raise FunctionTypeError(
            f"write returns no context of {tokens.ctx_len} token ids below {tokens.n_vocab}"
        )


def _restored(trial: Trial) -> FunctionType:
    """A new instance with the state of the prepared one, by way of a file."""
    state = attempt("state", trial.kind.state)
    if not isinstance(state, Mapping):
        raise FunctionTypeError(
            f"state returns no dict of names to arrays, but {type(state).__name__}"
        )
    for name, array in state.items():
        is_array = isinstance(array, np.ndarray)
        if not isinstance(name, str) or not is_array or array.dtype.hasobject:
            found = array.dtype if is_array else type(array).__name__
            raise FunctionTypeError(
                f"state returns no dict of names to arrays without objects: {name!r} is {found}; "
                "make it a numpy array of numbers or of texts (dtype=np.str_)"
            )
    stream = io.BytesIO()
    arrays: dict[str, Any] = dict(state)
    np.savez(stream, **arrays)
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as saved:
        loaded: State = {name: saved[name] for name in saved}
    other = copy.deepcopy(trial.fresh)
    try:
        attempt("load_state", other.load_state, loaded)
    except FunctionTypeError as fault:
        raise FunctionTypeError(f"{fault}; {_forgotten(trial)}") from fault.__cause__
    return other


def _forgotten(trial: Trial) -> str:
    """What to put into the state, by name."""
    before, after = vars(trial.fresh), vars(trial.kind)
    made = sorted(name for name in after if not _alike(before.get(name), after[name]))
    what = f" ({', '.join(made)})" if made else ""
    if not trial.kind.state():
        return f"state() is empty: return what prepare makes{what}, restore it in load_state"
    return f"put all that prepare makes{what} into state, restore it in load_state"


def _alike(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return repr(one) == repr(other)


def _guarded_builtins() -> dict[str, Any]:
    """Builtins whose import knows numpy and the standard library only, as an exported file does."""
    import builtins

    def import_(name: str, *args: Any) -> ModuleType:
        top = name.split(".")[0]
        if top != "numpy" and top not in sys.stdlib_module_names:
            raise ImportError(f"source may use numpy and the standard library only, not {top}")
        return builtins.__import__(name, *args)

    return {**vars(builtins), "__import__": import_}
