"""Which pieces of text a language model is shown, and what the latents do there.

Explained on the fit split, scored on the held-out one. All choices follow from the true firings and
the seed, by the functions that choose for our labels (`labeler.eval.standard_windows`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labeler.arrays import Bools, Floats, Longs
from labeler.corpus import Split
from labeler.eval.firings import TextFirings
from labeler.eval.standard_windows import (
    Chosen,
    Cut,
    Peaks,
    Sizes,
    detection_windows,
    simulation_windows,
    tested_firings,
    wrong_marks,
)
from labeler.latent_cache import LatentCache
from labeler.tokens import HELDOUT, Tokens

N_QUANTILES = 10
"""Parts of a latent's windows, by their peak, that examples are drawn from alike (delphi)."""

LEAST = 5
"""Windows of each kind that a latent needs to be scored."""


def firings_of(
    cache: LatentCache, hookpoint: str, split: Split, tokens: Tokens, latents: Longs
) -> TextFirings:
    """The firings of some latents on a split, numbered by their place among `latents`.

    Parameters
    ----------
    cache : LatentCache
    hookpoint : str
    split : {"fit", "heldout"}
        Contexts are counted from its first one.
    tokens : Tokens
        Both splits, the fit split first.
    latents : int64 [n]
        Ascending.
    """
    n_fit = int((tokens.fold != HELDOUT).sum()) * tokens.ctx_len
    first, n_positions = (0, n_fit) if split == "fit" else (n_fit, tokens.ids.size - n_fit)
    number = np.full(cache.num_latents(hookpoint), -1, dtype=np.int64)
    number[latents] = np.arange(len(latents))
    position: list[Longs] = [np.zeros(0, np.int64)]
    column: list[Longs] = [np.zeros(0, np.int64)]
    act: list[Floats] = [np.zeros(0, np.float32)]
    for found in cache.iter_shards(hookpoint, split):
        mine = number[found.latent]
        kept = mine >= 0
        position.append(found.position[kept].astype(np.int64) - first)
        column.append(mine[kept])
        act.append(found.act[kept])
    return TextFirings.make(
        np.concatenate(position),
        np.concatenate(column),
        np.concatenate(act),
        n_positions=n_positions,
        n_latents=len(latents),
    )


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of equal length, each looked at for one latent.

    Attributes
    ----------
    column : int64 [n_windows]
        Whose they are, by place among the latents.
    start : int64 [n_windows]
        Flat position of the first token.
    act : float32 [n_windows, t]
        The latent's activation on each token.
    active : bool [n_windows]
        Whether chosen because the latent fires there.
    quantile : int64 [n_windows]
        Which part by peak an active window is from, 0 the highest; -1 for others.
    """

    column: Longs
    start: Longs
    act: Floats
    active: Bools
    quantile: Longs

    @classmethod
    def of(cls, chosen: Chosen, firings: TextFirings) -> "Windows":
        """Those that were chosen, with what fires there."""
        start = chosen.cut.start(chosen.window)
        act = _acts(firings, start, chosen.column, chosen.cut.length)
        return cls(chosen.column, start, act, chosen.active, chosen.quantile)

    def take(self, rows: Longs) -> "Windows":
        """Some of them, in this order."""
        return Windows(
            self.column[rows],
            self.start[rows],
            self.act[rows],
            self.active[rows],
            self.quantile[rows],
        )

    def __len__(self) -> int:
        return len(self.column)


@dataclass(frozen=True, eq=False)
class HeldoutWindows:
    """The held-out windows on which explanations of `n` latents are scored.

    Attributes
    ----------
    detection : Windows
        As many with a firing as without one, in an order that tells nothing.
    marks : bool [n_detection, t]
        Tokens that fuzzing marks.
    top : Windows
        Among the strongest of each latent, for simulation.
    shared : int64 [m]
        Flat positions where windows begin that are simulated for every latent, drawn from all
        text; ascending.
    shared_act : float32 [n, m, t]
        Activations there.
    """

    detection: Windows
    marks: Bools
    top: Windows
    shared: Longs
    shared_act: Floats

    @classmethod
    def choose(
        cls, heldout: Tokens, firings: TextFirings, *, window: int, n_windows: int, seed: int
    ) -> "HeldoutWindows":
        """Choose the windows.

        Parameters
        ----------
        heldout : Tokens
        firings : TextFirings
            Of the latents, by their place.
        window : int
            Tokens of a window.
        n_windows : int
            Windows of detection and fuzzing of a latent, and windows that all share.
        seed : int
            The shared windows follow from it and the text alone: they are the same for all
            hookpoints.
        """
        rng = np.random.default_rng(seed)
        n = firings.n_latents
        half = max(n_windows // 2, 1)
        sizes = Sizes(
            window=window,
            n_active=half,
            n_silent=half,
            n_quantiles=min(N_QUANTILES, half),
            least=min(LEAST, half),
            sequence=window,
        )
        cut = Cut.of(heldout, window)
        usable = np.flatnonzero(cut.usable)
        drawn = rng.choice(usable, size=min(n_windows, len(usable)), replace=False)
        shared = cut.start(np.sort(drawn))
        peaks = Peaks.find(cut, *tested_firings(firings, np.arange(n)), n)
        chosen = detection_windows(cut, peaks, sizes, rng)
        marks = wrong_marks(chosen, peaks, rng)
        simulated = Windows.of(simulation_windows(cut, peaks, sizes, rng), firings)
        detection = Windows.of(chosen, firings)
        strongest = detection.act.max(axis=1, keepdims=True, initial=0)
        marks |= (detection.act > 0) & (detection.act >= sizes.marked * strongest)
        order = np.lexsort((rng.random(len(detection)), detection.column))
        every = np.repeat(np.arange(n), len(shared))
        act = _acts(firings, np.tile(shared, n), every, cut.length)
        return cls(
            detection.take(order),
            marks[order],
            simulated.take(np.flatnonzero(simulated.active)),
            shared,
            act.reshape(n, len(shared), cut.length),
        )


def examples(
    fit: Tokens, firings: TextFirings, *, window: int, n_examples: int, seed: int
) -> Windows:
    """Windows of the fit split to explain latents from, the strongest first.

    The windows in which a latent fires are cut into ten parts by their peak, and as many are drawn
    from each (delphi, latents/samplers.py, `split_quantiles`).
    """
    n = firings.n_latents
    n_quantiles = min(N_QUANTILES, n_examples)
    sizes = Sizes(window, n_active=n_examples, n_silent=0, n_quantiles=n_quantiles, least=0)
    cut = Cut.of(fit, window)
    peaks = Peaks.find(cut, *tested_firings(firings, np.arange(n)), n)
    chosen = detection_windows(cut, peaks, sizes, np.random.default_rng(seed))
    found = Windows.of(chosen, firings)
    return found.take(np.lexsort((found.start, -found.act.max(axis=1, initial=0), found.column)))


def texts_at(tokens: Tokens, start: int, length: int) -> Sequence[str]:
    """Text of each token of a window that begins at a flat position."""
    return [tokens.vocab[one] for one in tokens.ids.ravel()[start : start + length].tolist()]


def _acts(firings: TextFirings, start: Longs, column: Longs, length: int) -> Floats:
    position = start[:, None] + np.arange(length)
    found = firings.at(position.ravel(), np.repeat(column, length))
    return found.reshape(position.shape)
