"""Counterfactual pairs: put a label's key into text, and take out what it reads (design.md, 7.2).

Edits start from held-out text and end at the position in question, so that nothing later matters.
Every trial has a control made in the same way: another label's key put in, another token taken out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Bools, Longs
from labeler.eval.edit_contexts import Prefixes, called, fired, firing, generator
from labeler.eval.scene import Scene
from labeler.eval.snippets import silent, sources, write_keys
from labeler.eval.trials import Trials

NEAR = 8
"""Tokens up to a position among which the one that the label reads is looked for."""

_DRAWS = 2
"""Tokens put in place of one before the next is tried."""

_SUFFICIENCY, _NECESSITY = 1, 2
"""Which random numbers a test takes."""


def sufficiency(
    scene: Scene, n: int = 12, advance: Callable[[float], None] = lambda done: None
) -> Trials:
    """Whether a latent starts to fire where its label's key is written.

    Up to n held-out contexts of each latent, in which it is silent and its label does not call,
    get the label's key (`write_keys`), so that the label calls. The control watches the latent in
    the contexts that got its partner's key. Failed: contexts that could not be made to be called,
    or that lack a control.

    Parameters
    ----------
    scene : Scene
    n : int
        Trials of each latent.
    advance : callable
        Told the labels done.
    """
    step = len(scene.latents) / 2

    def draws(latent: int) -> np.random.Generator:
        return generator(scene, _SUFFICIENCY, latent)

    plain = silent(scene, scene.latents.tolist(), n, draws)
    written, size = write_keys(scene, plain, sources(scene, plain.latent, draws))
    made = written.take(size != 0)
    advance(step)
    firings = fired(scene, made, lambda done: advance(step * done / max(len(made), 1)))

    def calls(rows: Longs, latent: Longs) -> Bools:
        return called(scene, Prefixes(latent, made.ids[rows], made.length[rows]))

    control = controls(scene, made.latent, calls)
    kept = np.flatnonzero(control >= 0)
    latent = made.latent[kept]
    wanted = np.zeros(scene.claims.n_latents, dtype=np.int64)
    wanted[scene.latents] = n
    return Trials(
        "sufficiency",
        latent.astype(np.int32),
        firings.at(kept, latent) > 0,
        firings.at(control[kept], latent) > 0,
        wanted - np.bincount(latent, minlength=len(wanted)),
    )


def controls(scene: Scene, latent: Longs, calls: Callable[[Longs, Longs], Bools]) -> Longs:
    """For each trial the trial of the partner's that is its control, int64 [n]; -1 where none.

    Where nothing could be made for the partner, its own partner stands in, and so on. Trials that
    a latent's own label calls are no control of it: there it claims to fire as well.

    Parameters
    ----------
    scene : Scene
    latent : int64 [n]
        Whose trial each is.
    calls : callable
        Which of some trials (int64 [m]) are called by the labels of some latents (int64 [m]).
    """
    trials = {int(one): np.flatnonzero(latent == one) for one in np.unique(latent)}
    whose: dict[int, Longs] = {}
    for one in trials:
        other = int(scene.partner[one])
        for _ in range(len(scene.latents)):
            if other in trials or other < 0:
                break
            other = int(scene.partner[other])
        if other != one and other in trials:
            whose[one] = trials[other]
    nothing = [np.zeros(0, dtype=np.int64)]
    rows = np.concatenate([*nothing, *whose.values()])
    of = np.repeat(np.array(list(whose), dtype=np.int64), [len(found) for found in whose.values()])
    idle = ~calls(rows, of)
    rows, of = rows[idle], of[idle]
    out = np.full(len(latent), -1, dtype=np.int64)
    for one in np.unique(of).tolist():
        out[trials[one]] = np.resize(rows[of == one], len(trials[one]))
    return out


def necessity(
    scene: Scene, n: int = 12, advance: Callable[[float], None] = lambda done: None
) -> Trials:
    """Whether a latent stops firing where the token that its label reads is replaced.

    At up to n held-out positions of each latent, where it fires and its label calls, the nearest
    of the last NEAR tokens is replaced that makes the label no longer call. The control replaces
    another of them, drawn at random among those where the label still calls. Replacements are
    drawn from all tokens as often as they occur. Failed: positions where no one token stops the
    label, or where none leaves it calling.

    Parameters
    ----------
    scene : Scene
    n : int
        Trials of each latent.
    advance : callable
        Told the labels done.
    """
    step = len(scene.latents) / 2
    found = firing(scene, scene.latents, n, _NECESSITY)
    read = _edits(scene, found)
    kept = np.flatnonzero((read.own >= 0) & (read.other >= 0))
    advance(step)
    latent = found.latent[kept]

    def stops(back: Longs) -> Bools:
        edited = read.apply(found, back, kept)
        firings = fired(scene, edited, lambda done: advance(step * done / (2 * len(kept))))
        stopped: Bools = firings.at(np.arange(len(kept)), latent) <= 0
        return stopped

    size = scene.claims.n_latents
    return Trials(
        "necessity",
        latent.astype(np.int32),
        stops(read.own),
        stops(read.other),
        np.bincount(found.latent, minlength=size) - np.bincount(latent, minlength=size),
    )


@dataclass(frozen=True, eq=False)
class _Replaced:
    """Tokens to replace, by how far before the last they are.

    Attributes
    ----------
    own, other : int64 [n]
        Without this token the label no longer calls; without that it still does. -1 where there
        is none.
    token : int32 [n, NEAR]
        What takes the place of each.
    """

    own: Longs
    other: Longs
    token: npt.NDArray[np.int32]

    def apply(self, contexts: Prefixes, back: Longs, rows: Longs) -> Prefixes:
        """Some of the contexts with one token replaced each."""
        return contexts.put(rows, back[rows, None], self.token[rows, back[rows]][:, None])


def _edits(scene: Scene, contexts: Prefixes) -> _Replaced:
    """Find the tokens that each context's label reads and does not read."""
    draws, order = _random(scene, contexts)
    n = len(contexts)
    token = np.zeros((n, NEAR), dtype=np.int32)

    def search(rows: Longs, backs: Longs, calls: bool, taken: Longs) -> Longs:
        """First of the tokens, [n, NEAR], that leaves the label calling or not; -1 where none."""
        found = np.full(n, -1, dtype=np.int64)
        for back in backs.T:
            for drawn in draws:
                left = rows[found[rows] < 0]
                at = back[left]
                end = contexts.length[left] - 1
                # The first token of a context, which may be a mark, stays.
                fits = (at < end) & (at != taken[left])
                fits &= contexts.ids[left, np.maximum(end - at, 0)] != drawn[left, at]
                left, at = left[fits], at[fits]
                tried = contexts.put(left, at[:, None], drawn[left, at][:, None])
                kept = called(scene, tried) == calls
                left, at = left[kept], at[kept]
                found[left], token[left, at] = at, drawn[left, at]
        return found

    nearest = np.tile(np.arange(NEAR), (n, 1))
    own = search(np.arange(n), nearest, False, np.full(n, -1))
    other = search(np.flatnonzero(own >= 0), order, True, own)
    return _Replaced(own, other, token)


def _random(scene: Scene, contexts: Prefixes) -> tuple[npt.NDArray[np.int32], Longs]:
    """Tokens to put in, int32 [_DRAWS, n, NEAR], and an order of the last NEAR, int64 [n, NEAR]."""
    source = scene.source
    # Not the first tokens of contexts: a mark of the beginning occurs nowhere else.
    pool = source.ids[:, 1:][source.valid[:, 1:]]
    n = len(contexts)
    tokens = np.zeros((_DRAWS, n, NEAR), dtype=np.int32)
    order = np.zeros((n, NEAR), dtype=np.int64)
    for latent in np.unique(contexts.latent).tolist():
        mine: Bools = contexts.latent == latent
        rng = generator(scene, _NECESSITY, latent).spawn(1)[0]
        size = int(mine.sum())
        tokens[:, mine] = pool[rng.integers(len(pool), size=(_DRAWS, size, NEAR))]
        order[mine] = rng.permuted(np.tile(np.arange(NEAR), (size, 1)), axis=1)
    return tokens, order
