"""What keys may depend on: the tokens of their own context up to their own position."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from labeler.functions.trial import Trial
from labeler.tokens import HELDOUT, Tokens

_N_CUTS = 8


def repeats(trial: Trial) -> None:
    """The same text has the same keys, for this instance and for one prepared anew."""
    again = trial.keys_of(trial.kind, trial.tokens)
    trial.same(again, trial.keys, "keys differ from call to call")
    trial.same(
        trial.keys_of(trial.prepared(), trial.tokens),
        trial.keys,
        "keys differ between two instances prepared on the same text; seed what is random",
    )


def is_causal(trial: Trial) -> None:
    """Nothing after a position changes its key: other tokens there, or none at all."""
    if trial.kind.looks_ahead:
        return
    everywhere = np.ones(trial.tokens.n_ctx, dtype=bool)
    for cut in _cuts(trial.tokens):
        for changed in _futures(trial.tokens, cut, everywhere, trial.rng):
            trial.same(
                trial.keys_of(trial.kind, changed)[:, : cut + 1],
                trial.keys[:, : cut + 1],
                f"keys reads the future: what follows position {cut} changes the keys up to "
                "it; read positions up to t only, or declare looks_ahead = True",
            )


def reads_its_context_only(trial: Trial) -> None:
    """A context has the same keys alone, without documents, folds and topics."""
    tokens = trial.tokens
    bare = replace(
        tokens,
        doc=np.zeros_like(tokens.doc),
        fold=np.full_like(tokens.fold, HELDOUT),
        doc_ids=("",),
        topics=((),),
        topic_levels=(),
    )
    trial.same(
        trial.keys_of(trial.kind, bare),
        trial.keys,
        "keys reads documents, folds or topics, which text to be labeled does not have; read "
        "the token ids, and metadata in prepare only",
    )
    some = np.arange(tokens.n_ctx)[::-1][::2]
    trial.same(
        trial.keys_of(trial.kind, tokens.select(some)),
        trial.keys[some],
        "keys of a context depend on the other contexts it is given with",
    )


def fit_keys_are_causal(trial: Trial) -> None:
    """Keys of its own for the fit split repeat, and do not depend on what follows in their fold.

    What follows in the other folds stays as it is: that may be counted.
    """
    fit = trial.tokens.fit
    if not trial.has_fit_keys or not fit.n_ctx:
        return
    keys = trial.fit_keys_of(fit)
    trial.same(trial.fit_keys_of(fit), keys, "fit_keys differ from call to call")
    if trial.kind.looks_ahead:
        return
    folds = np.unique(fit.fold)
    for number, cut in enumerate(_cuts(fit)):
        mine = fit.fold == folds[number % len(folds)]
        for changed in _futures(fit, cut, mine, trial.rng):
            trial.same(
                trial.fit_keys_of(changed)[mine, : cut + 1],
                keys[mine, : cut + 1],
                f"fit_keys reads the future: what follows position {cut} in the contexts of a "
                "fold changes their keys up to it; read positions up to t, and other contexts "
                "only where their fold is another (fit.fold)",
            )


def _cuts(tokens: Tokens) -> list[int]:
    """Positions after which the future is changed."""
    last = tokens.ctx_len - 2
    return sorted({int(cut) for cut in np.linspace(0, last, _N_CUTS) if cut >= 0})


def _futures(
    tokens: Tokens, cut: int, contexts: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Tokens, Tokens]:
    """The text with other tokens after position `cut` of some contexts, and with none there."""
    later = contexts[:, None] & (np.arange(tokens.ctx_len) > cut)
    # Half of them from the text itself: in a large vocabulary, few others mean anything to a type.
    shape = tokens.ids.shape
    known = rng.choice(tokens.ids[tokens.valid], shape)
    other = np.where(rng.random(shape) < 0.5, known, rng.integers(0, tokens.n_vocab, shape))
    length = np.where(contexts, np.minimum(tokens.length, cut + 1), tokens.length)
    return (
        replace(tokens, ids=np.where(later, other, tokens.ids).astype(np.int32)),
        replace(
            tokens,
            ids=np.where(later, 0, tokens.ids).astype(np.int32),
            length=length.astype(np.int32),
        ),
    )
