"""Labels that are wrong in known ways and claim as much as the true ones.

Four kinds: the label of a random other latent, that of the latent whose firings are most like its
own, a label that is too broad, and one that is too narrow. Only what a label says is changed. What
it claims, F1 on the fit split, stays that of the true label.

A changed label may be right all the same (a sibling's may). It counts as wrong if its F1 on all of
the fit split is below `WRONG`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from labeler.arrays import Bools, Doubles
from labeler.errors import OptionError
from labeler.eval.claims import Claims
from labeler.eval.firings import TextFirings
from labeler.eval.wrong_keys import broader_keys, further_key
from labeler.eval.wrong_labels import Change, change, entries_of, lend
from labeler.labels import LabelSet
from labeler.level import Nodes
from labeler.tokens import Tokens

WRONG = 0.5
"""F1 on the fit split below which a changed label is wrong."""

TIMES = 4.0
"""Positions that a too broad label calls, for each that the true one does: all that the true label
calls and three times as many others are an F1 of 0.4 where the true label's is 1."""

SHARE = 0.2
"""Share of the true label's calls that a too narrow label keeps: an F1 of 0.33."""

Latents = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Ground:
    """True labels, and the fit split on which changed ones are made and measured.

    Attributes
    ----------
    claims : Claims
        Under a budget of short labels.
    tokens : Tokens
        The fit split.
    nodes : mapping of str to int32 [n_ctx, ctx_len] or [n_ctx, ctx_len, m]
        Of its positions, by level, those of the calls of earlier labels included.
    firings : TextFirings
        True firings there.
    calls : TextFirings
        What the true labels call there.
    """

    claims: Claims
    tokens: Tokens
    nodes: Mapping[str, Nodes]
    firings: TextFirings
    calls: TextFirings

    @classmethod
    def make(
        cls, claims: Claims, tokens: Tokens, nodes: Mapping[str, Nodes], firings: TextFirings
    ) -> "Ground":
        """Run the true labels on the fit split; `nodes` are those in the shared tree.

        Raises
        ------
        OptionError
            If the budget is "unlimited": whole tables are not changed.
        """
        if claims.budget == "unlimited":
            raise OptionError("budget 'unlimited': wrong labels are made of short ones, 16 or 100")
        found = claims.labels.tree.complete(nodes)
        return cls(claims, tokens, found, firings, claims.calls(tokens, nodes))

    @property
    def labels(self) -> LabelSet:
        """The true labels."""
        return self.claims.labels

    @property
    def budget(self) -> int:
        """Keys of a label at most."""
        return int(self.claims.budget)

    def parts(self, latent: int) -> tuple[float, float, float, pl.DataFrame]:
        """Default, threshold, mean activation where it fires, and entries of a label."""
        row: Mapping[str, Any] = self.labels.latents.row(latent, named=True)
        names = (f"default_{self.budget}", f"threshold_{self.budget}", "mean_act")
        default, threshold, act = (float(row[name]) for name in names)
        return default, threshold, act, entries_of(self.labels, self.budget, latent)


@dataclass(frozen=True, eq=False)
class Wrong:
    """Labels of which some were changed.

    Attributes
    ----------
    kind : str
    claims : Claims
        All labels of the hookpoint; those of other latents are as they were.
    calls : TextFirings
        What they call on the fit split.
    f1 : float64 [n_latents]
        Of the changed labels on the fit split; NaN where nothing was changed.
    unchanged : dict of int to str
        Latents whose label could not be changed in this way, and why.
    """

    kind: str
    claims: Claims
    calls: TextFirings
    f1: Doubles
    unchanged: Mapping[int, str]

    @property
    def wrong(self) -> Bools:
        """Latents whose label was changed and is wrong, bool [n_latents]."""
        found: Bools = self.f1 < WRONG
        return found

    @property
    def right(self) -> Bools:
        """Latents whose label was changed and is right all the same, bool [n_latents]."""
        found: Bools = self.f1 >= WRONG
        return found


Maker = Callable[[Ground, Latents, int], Wrong]
"""From true labels, the latents whose label is changed, and a seed."""


def permuted(ground: Ground, latents: Latents, seed: int) -> Wrong:
    """Labels of random other latents, each of which lends its own once.

    Never one among `latents`: so nobody has the true label of a latent under test but itself, and
    its control is never its true label.

    Raises
    ------
    OptionError
        If there are too few other latents.
    """
    others = _others(ground, latents)
    if len(others) < len(latents):
        raise OptionError(
            f"{len(latents)} labels cannot be permuted with {len(others)} others; change fewer"
        )
    chosen = np.random.default_rng(seed).choice(others, len(latents), replace=False)
    return _measured("permuted", ground, _lent(ground, latents, chosen), latents, {})


def sibling(ground: Ground, latents: Latents, seed: int) -> Wrong:
    """Labels of the latents that fire most alike (Dice on the fit split); no seed plays a part.

    Never one among `latents`, as in `permuted`.
    """
    others = _others(ground, latents)
    shape = ground.firings.n_positions, ground.firings.n_latents
    ones = np.ones(len(ground.firings.latent), np.float32)
    indices = ground.firings.latent, ground.firings.start
    fires = sparse.csr_matrix((ones, *indices), shape=shape).tocsc()
    met = np.asarray((fires[:, latents].T @ fires[:, others]).todense())
    count = ground.firings.count
    dice = 2 * met / np.maximum(count[latents][:, None] + count[others], 1)
    some = dice.max(axis=1, initial=0) > 0
    lacking = dict.fromkeys(latents[~some].tolist(), "no other latent fires where it does")
    changed = latents[some]
    chosen = others[dice[some].argmax(axis=1)] if len(changed) else changed
    return _measured("sibling", ground, _lent(ground, changed, chosen), changed, lacking)


def broadened(ground: Ground, latents: Latents, seed: int) -> Wrong:
    """Labels that call about `TIMES` as often.

    Each key is replaced by what it backs off to, and exceptions are forgotten. Where that is not
    broad enough, further keys of the same levels are added, drawn at random.
    """
    rng = np.random.default_rng(seed)
    called = ground.calls.count

    def broaden(latent: int) -> Change | str:
        default, threshold, act, entries = ground.parts(latent)
        wanted, most = TIMES * called[latent], ground.budget
        keys = broader_keys(ground.labels.tree, ground.nodes, entries, threshold, wanted, most, rng)
        value = max(act, 1.01 * threshold)
        return Change(default, threshold, [(key, value - default, value) for key in keys])

    return _changed("broadened", ground, latents, broaden)


def narrowed(ground: Ground, latents: Latents, seed: int) -> Wrong:
    """Labels that call only where one further key holds too, in about `SHARE` of their calls.

    The key gets more weight than all others together, and the threshold rises by as much.
    """
    rng = np.random.default_rng(seed)
    called = ground.calls.by_latent(latents.tolist())

    def narrow(latent: int) -> Change | str:
        default, threshold, _, entries = ground.parts(latent)
        key = further_key(ground.labels.tree, ground.nodes, called[latent], SHARE, rng)
        if key is None:
            return "no key holds in a tenth to a quarter of its calls"
        weight = entries["weight"].to_numpy()
        large = float(weight[weight > 0].sum()) + abs(default) + abs(threshold)
        # Less what rounding may take from sums of that size.
        raised = threshold + (1 - 1e-5) * large
        return Change(default, raised, [(key, large, default + large)], keep=True)

    return _changed("narrowed", ground, latents, narrow)


KINDS: Mapping[str, Maker] = {
    "permuted": permuted,
    "sibling": sibling,
    "broadened": broadened,
    "narrowed": narrowed,
}


def f1_of(calls: TextFirings, firings: TextFirings) -> Doubles:
    """F1 of calls against firings on a text, float64 [n_latents]; 0 where there are neither."""
    hits = firings.at(calls.position, calls.latent) > 0
    hit = np.bincount(calls.latent[hits], minlength=calls.n_latents)
    f1: Doubles = 2 * hit / np.maximum(calls.count + firings.count, 1)
    return f1


def _others(ground: Ground, latents: Latents) -> npt.NDArray[np.int64]:
    """Labeled latents that call somewhere and are not among some."""
    free = ground.claims.labeled & (ground.calls.count > 0)
    free[latents] = False
    return np.flatnonzero(free)


def _lent(ground: Ground, latents: Latents, source: Latents) -> LabelSet:
    return lend(ground.labels, ground.budget, latents, source)


def _changed(
    kind: str, ground: Ground, latents: Latents, make: Callable[[int], Change | str]
) -> Wrong:
    """Each latent with what `make` says of its label."""
    called = ground.calls.count
    changes: dict[int, Change] = {}
    lacking: dict[int, str] = {}
    for latent in latents.tolist():
        made = make(latent) if called[latent] else "its label calls nothing"
        if isinstance(made, str):
            lacking[latent] = made
        else:
            changes[latent] = made
    labels = change(ground.labels, ground.budget, changes)
    return _measured(kind, ground, labels, np.array(list(changes), dtype=np.int64), lacking)


def _measured(
    kind: str, ground: Ground, labels: LabelSet, latents: Latents, lacking: Mapping[int, str]
) -> Wrong:
    claims = Claims(labels, ground.claims.budget)
    calls = claims.calls(ground.tokens, ground.nodes)
    f1 = np.full(labels.n_latents, np.nan)
    f1[latents] = f1_of(calls, ground.firings)[latents]
    return Wrong(kind, claims, calls, f1, lacking)
