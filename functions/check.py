"""The contract check: what every function type must hold, tried on example text.

Plug-in authors call `check_function_type` in their tests; the built-in types pass it too.
"""

import copy
import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from labeler.errors import FunctionTypeError, NotApplicableError
from labeler.functions.contract import NO_KEY, FunctionType, Keys, State
from labeler.functions.registry import check_class
from labeler.tokens import HELDOUT, N_FOLDS, Tokens

_N_CUTS = 8
_N_RENDERED = 200
_N_WRITTEN = 100

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


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
        Names the type and every fault: keys of a wrong shape, type or range; keys that differ
        between calls, or depend on later positions (unless `looks_ahead`), on other contexts or
        on metadata; a rendering that is no line of text; a state, a source or an edited context
        that does not give the same keys again.

    Notes
    -----
    A type that raises NotApplicableError from `prepare` passes: it says why it abstains.
    """
    cls = kind if isinstance(kind, type) else type(kind)
    check_class(cls)
    where = f"{cls.__module__}.{cls.__qualname__} ({cls.name})"
    tokens = example_tokens() if tokens is None else tokens
    try:
        checked = _Check(kind, tokens)
    except NotApplicableError:
        return
    except FunctionTypeError as fault:
        raise FunctionTypeError(f"{where}: {fault}") from fault.__cause__
    faults: list[FunctionTypeError] = []
    for check in (
        checked.repeats,
        checked.is_causal,
        checked.reads_its_context_only,
        checked.renders,
        checked.restores,
        checked.exports,
        checked.writes,
    ):
        try:
            check()
        except FunctionTypeError as fault:
            faults.append(fault)
    if faults:
        message = "; ".join(str(fault) for fault in faults)
        raise FunctionTypeError(f"{where}: {message}") from faults[0].__cause__


class _Check:
    """One prepared type, its keys on the example text, and what can be wrong with them."""

    def __init__(self, kind: type[FunctionType] | FunctionType, tokens: Tokens) -> None:
        self.tokens = tokens
        self.rng = np.random.default_rng(0)
        self.fresh = _attempt("making an instance", kind) if isinstance(kind, type) else kind
        self.kind = copy.deepcopy(self.fresh)
        _attempt("prepare", self.kind.prepare, tokens.fit)
        self.keys = self.keys_of(self.kind, tokens)

    def keys_of(self, kind: FunctionType, tokens: Tokens) -> Keys:
        """Keys of a text, checked to be keys; -1 at padding."""
        before = tokens.ids.copy()
        keys = _attempt("keys", kind.keys, tokens)
        if not isinstance(keys, np.ndarray) or keys.dtype != np.int64:
            found = keys.dtype if isinstance(keys, np.ndarray) else type(keys).__name__
            raise FunctionTypeError(f"keys returns {found}; return an array of int64")
        if keys.shape != tokens.ids.shape:
            raise FunctionTypeError(
                f"keys has shape {list(keys.shape)}; return one key per position, "
                f"{list(tokens.ids.shape)}"
            )
        if not np.array_equal(tokens.ids, before):
            raise FunctionTypeError("keys changes the tokens it is given; work on a copy")
        keys = np.where(tokens.valid, keys, NO_KEY)
        if (keys < NO_KEY).any():
            raise FunctionTypeError(f"keys has the value {keys.min()}; keys are >= 0, -1 = no key")
        return keys

    def same(self, keys: Keys, wanted: Keys, fault: str) -> None:
        """Compare keys; the message names the first position that differs."""
        if not np.array_equal(keys, wanted):
            context, position = np.argwhere(keys != wanted)[0]
            raise FunctionTypeError(
                f"{fault} (context {context}, position {position}: "
                f"{keys[context, position]}, not {wanted[context, position]})"
            )

    def repeats(self) -> None:
        """The same text has the same keys, for this instance and for one prepared anew."""
        self.same(self.keys_of(self.kind, self.tokens), self.keys, "keys differ from call to call")
        other = copy.deepcopy(self.fresh)
        _attempt("prepare", other.prepare, self.tokens.fit)
        self.same(
            self.keys_of(other, self.tokens),
            self.keys,
            "keys differ between two instances prepared on the same text; seed what is random",
        )

    def is_causal(self) -> None:
        """Nothing after a position changes its key: other tokens there, or none at all."""
        if self.kind.looks_ahead:
            return
        cuts = np.unique(np.linspace(0, self.tokens.ctx_len - 2, _N_CUTS).astype(int))
        for cut in cuts[cuts >= 0]:
            after = slice(cut + 1, None)
            shape = self.tokens.ids[:, after].shape
            changed, ended = self.tokens.ids.copy(), self.tokens.ids.copy()
            changed[:, after] = self.rng.integers(0, self.tokens.n_vocab, shape)
            ended[:, after] = 0
            for ids, length in (
                (changed, self.tokens.length),
                (ended, np.minimum(self.tokens.length, cut + 1).astype(np.int32)),
            ):
                keys = self.keys_of(self.kind, replace(self.tokens, ids=ids, length=length))
                self.same(
                    keys[:, : cut + 1],
                    self.keys[:, : cut + 1],
                    f"keys reads the future: what follows position {cut} changes the keys up to "
                    "it; read positions up to t only, or declare looks_ahead = True",
                )

    def reads_its_context_only(self) -> None:
        """A context has the same keys alone, without documents, folds and topics."""
        tokens = self.tokens
        bare = replace(
            tokens,
            doc=np.zeros_like(tokens.doc),
            fold=np.full_like(tokens.fold, HELDOUT),
            doc_ids=("",),
            topics=((),),
            topic_levels=(),
        )
        self.same(
            self.keys_of(self.kind, bare),
            self.keys,
            "keys reads documents, folds or topics, which text to be labeled does not have; read "
            "the token ids, and metadata in prepare only",
        )
        some = np.arange(tokens.n_ctx)[::-1][::2]
        self.same(
            self.keys_of(self.kind, tokens.select(some)),
            self.keys[some],
            "keys of a context depend on the other contexts it is given with",
        )

    def renders(self) -> None:
        """Each key reads as one line."""
        for key in self.some_keys(_N_RENDERED):
            text = _attempt(f"render({key})", self.kind.render, key)
            if not isinstance(text, str) or text.splitlines() != [text]:
                raise FunctionTypeError(f"render({key}) is {text!r}; return one line of text")

    def restores(self) -> None:
        """The state, saved and loaded, gives the same keys and texts."""
        other = self.restored()
        self.same(
            self.keys_of(other, self.tokens),
            self.keys,
            "keys after load_state(state()) differ; put all that prepare makes into state",
        )
        for key in self.some_keys(_N_RENDERED):
            wanted = _attempt(f"render({key})", self.kind.render, key)
            found = _attempt(f"render({key}) after load_state", other.render, key)
            if found != wanted:
                raise FunctionTypeError(
                    f"render({key}) after load_state(state()) is {found!r}, not {wanted!r}"
                )

    def restored(self) -> FunctionType:
        """A new instance with this one's state, by way of a file."""
        state = _attempt("state", self.kind.state)
        if not isinstance(state, Mapping) or not all(
            isinstance(name, str) and isinstance(array, np.ndarray) and not array.dtype.hasobject
            for name, array in state.items()
        ):
            raise FunctionTypeError("state returns no dict of names to arrays without objects")
        stream = io.BytesIO()
        arrays: dict[str, Any] = dict(state)
        np.savez(stream, **arrays)
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as saved:
            loaded: State = {name: saved[name] for name in saved}
        other = copy.deepcopy(self.fresh)
        _attempt("load_state", other.load_state, loaded)
        return other

    def exports(self) -> None:
        """The source, of this instance and of the restored one, computes the same keys."""
        for kind in (self.kind, self.restored()):
            source = _attempt("source", kind.source)
            if source is None:
                return
            name = f"keys_{kind.name}"
            names: dict[str, Any] = {"np": np, "__builtins__": _guarded_builtins()}
            _attempt("running source()", exec, source, names)
            if name not in names:
                raise FunctionTypeError(f"source defines no {name}(ids)")
            ids = self.tokens.ids.astype(np.int64)
            keys = _attempt(f"{name} of source()", names[name], ids)
            if not isinstance(keys, np.ndarray) or keys.shape != ids.shape:
                raise FunctionTypeError(f"{name} of source() returns no array {list(ids.shape)}")
            if not np.array_equal(ids, self.tokens.ids):
                raise FunctionTypeError(f"{name} of source() changes the ids it is given")
            self.same(
                np.where(self.tokens.valid, keys, NO_KEY),
                self.keys,
                f"{name} of source() gives other keys than keys",
            )

    def writes(self) -> None:
        """An edited context has the key at the position."""
        tokens, keys = self.tokens, self.some_keys(_N_WRITTEN)
        for key in keys:
            context = int(self.rng.integers(tokens.n_ctx))
            n = int(tokens.length[context])
            # The last position of a full context too: nothing may be written past the end.
            pos = n - 1 if self.rng.random() < 0.2 else int(self.rng.integers(n))
            ids = tokens.ids[context].copy()
            edited = _attempt("write", self.kind.write, ids, pos, key)
            if edited is None:
                continue
            if not np.array_equal(ids, tokens.ids[context]):
                raise FunctionTypeError("write changes the context it is given; return a copy")
            self.is_context(edited)
            one = replace(
                tokens.select(np.array([context])), ids=edited[None].astype(np.int32, copy=False)
            )
            found = int(self.keys_of(self.kind, one)[0, pos])
            if found != key:
                raise FunctionTypeError(
                    f"write(ids, {pos}, {key}) gives a context whose key at {pos} is {found}; "
                    "return None where the key cannot be written"
                )

    def is_context(self, ids: npt.NDArray[np.int32]) -> None:
        """An edited context has the same shape and known tokens."""
        if (
            not isinstance(ids, np.ndarray)
            or ids.shape != (self.tokens.ctx_len,)
            or not np.issubdtype(ids.dtype, np.integer)
            or ids.min() < 0
            or ids.max() >= self.tokens.n_vocab
        ):
            raise FunctionTypeError(
                f"write returns no context of {self.tokens.ctx_len} token ids below "
                f"{self.tokens.n_vocab}"
            )

    def some_keys(self, n: int) -> list[int]:
        """Some of the keys that the example text has."""
        distinct = np.unique(self.keys[self.keys >= 0])
        if len(distinct) > n:
            distinct = np.random.default_rng(n).choice(distinct, n, replace=False)
        return [int(key) for key in distinct]


def _attempt(
    what: str, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call the type's code; its own errors become the contract's, abstaining passes through."""
    try:
        return call(*args, **kwargs)
    except (NotApplicableError, FunctionTypeError):
        raise
    except Exception as error:
        raise FunctionTypeError(f"{what} raised {type(error).__name__}: {error}") from error


def _guarded_builtins() -> dict[str, Any]:
    """Builtins whose import knows numpy and the standard library only, as an exported file does."""
    import builtins

    def import_(name: str, *args: Any) -> ModuleType:
        top = name.split(".")[0]
        if top != "numpy" and top not in sys.stdlib_module_names:
            raise ImportError(f"source may use numpy and the standard library only, not {top}")
        return builtins.__import__(name, *args)

    return {**vars(builtins), "__import__": import_}


def example_tokens() -> Tokens:
    """A small made-up corpus: 40 documents, 4 subjects of 2 books, awkward token texts."""
    rng = np.random.default_rng(0)
    awkward = (" the", " def", "\n", "\r\n", "`", "``", "\t", "\u00e9", "\u2028", '"', "\\", "#")
    vocab = (*awkward, *(f" word{number}" for number in range(36)))
    n_docs, n_books, ctx_len = 40, 8, 24
    taste = rng.gamma(0.5, size=(n_books, len(vocab)))
    book = np.arange(n_docs) % n_books
    doc = np.repeat(np.arange(n_docs), 2).astype(np.int32)
    length = np.where(np.arange(len(doc)) % 2, rng.integers(1, ctx_len + 1, len(doc)), ctx_len)
    ids = np.stack(
        [rng.choice(len(vocab), ctx_len, p=row / row.sum()) for row in taste[book[doc]]]
    ).astype(np.int32)
    ids[np.arange(ctx_len)[None, :] >= length[:, None]] = 0
    fold = np.where(np.arange(n_docs) % 10 == 9, HELDOUT, np.arange(n_docs) % N_FOLDS)
    return Tokens(
        ids=ids,
        length=length.astype(np.int32),
        doc=doc,
        fold=fold[doc].astype(np.int8),
        doc_ids=tuple(f"doc{number}" for number in range(n_docs)),
        topics=tuple((f"subject {number // 2}", f"book\n{number}") for number in book),
        topic_levels=("subject", "book"),
        vocab=vocab,
    )
