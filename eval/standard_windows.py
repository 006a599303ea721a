"""Which pieces of held-out text the scores of others are computed on.

All choices follow from the true firings and the seed, never from what a label predicts.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from labeler.arrays import Bools, Floats, Longs
from labeler.eval.firings import TextFirings
from labeler.tokens import Tokens

_LATENTS_AT_ONCE = 256
"""Latents whose silent windows are drawn at once: a random number per latent and window."""


@dataclass(frozen=True)
class Sizes:
    """How much text a score looks at; the defaults are those of the code that is named."""

    window: int = 32
    """Tokens of an example of detection and fuzzing (delphi, config.py: example_ctx_len)."""
    n_active: int = 50
    """Windows in which the latent fires (delphi: n_examples_test)."""
    n_silent: int = 50
    """Windows in which it does not (delphi: n_non_activating)."""
    n_quantiles: int = 10
    """Equal parts of the active windows by their peak, each drawn from alike (delphi)."""
    marked: float = 0.3
    """Share of a window's peak from which fuzzing marks a token (delphi, fuzz.py: threshold)."""
    least: int = 10
    """Windows of each kind that a latent needs. delphi asks for 200 in 10 M tokens; a held-out
    text is a hundred times smaller, and its ten quantiles need one window each."""
    n_shown: int = 5
    """Windows among which is one intruder (delphi: num_examples_per_scorer_prompt)."""
    sequence: int = 64
    """Tokens of a simulated sequence (Bills et al. 2023)."""
    n_top: int = 20
    """Sequences of highest peak (Bills et al.), and prompts (Neuroscope, as N2G uses it)."""
    n_splits: int = 4
    """Splits that the top sequences are dealt to in turn: train, calibration, valid, test
    (automated-interpretability, activations.py); the third is scored, with as many random ones."""
    firing: float = 0.5
    """Share of a latent's maximum from which N2G counts a token as firing (fire_threshold)."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A text cut into windows of equal length that do not cross contexts.

    Attributes
    ----------
    length : int
        Tokens of a window.
    per_context : int
        Windows of a context; what is left at its end is in none.
    usable : bool [n_ctx * per_context]
        Windows without padding; all of them where `whole` was asked for.
    ctx_len : int
    """

    length: int
    per_context: int
    usable: Bools
    ctx_len: int

    @classmethod
    def of(cls, tokens: Tokens, length: int) -> "Cut":
        """Windows of `length` tokens, at most a context, without padding."""
        length = min(length, tokens.ctx_len)
        per_context = tokens.ctx_len // length
        ends = length * np.arange(1, per_context + 1)
        usable = ends[None, :] <= tokens.length[:, None]
        return cls(length, per_context, usable.ravel(), tokens.ctx_len)

    @classmethod
    def contexts(cls, tokens: Tokens) -> "Cut":
        """Whole contexts, padded or not."""
        return cls(tokens.ctx_len, 1, np.ones(tokens.n_ctx, dtype=bool), tokens.ctx_len)

    @property
    def n_windows(self) -> int:
        """Windows, usable or not."""
        return len(self.usable)

    def start(self, window: Longs) -> Longs:
        """Flat position of the first token of each window."""
        context, number = np.divmod(window, self.per_context)
        start: Longs = context * self.ctx_len + number * self.length
        return start

    def window_of(self, position: Longs) -> Longs:
        """Usable window of each flat position; -1 where it is in none."""
        context, offset = np.divmod(position, self.ctx_len)
        number = offset // self.length
        inside = number < self.per_context
        window = np.where(inside, context * self.per_context + number, 0)
        return np.where(inside & self.usable[window], window, -1)


@dataclass(frozen=True, eq=False)
class Peaks:
    """The windows in which each of some latents fires, by latent and then by window.

    Attributes
    ----------
    n : int
        Number of latents.
    column : int64 [n_found]
        Number of the latent among them.
    window : int64 [n_found]
    peak : float32 [n_found]
        Its highest activation there.
    count : int64 [n_found]
        Its firings there.
    """

    n: int
    column: Longs
    window: Longs
    peak: Floats
    count: Longs

    @classmethod
    def find(cls, cut: Cut, position: Longs, column: Longs, act: Floats, n: int) -> "Peaks":
        """From firings in any order."""
        window = cut.window_of(position)
        kept = window >= 0
        code = column[kept] * cut.n_windows + window[kept]
        order = np.argsort(code, kind="stable")
        code, act = code[order], act[kept][order]
        first = np.flatnonzero(np.diff(code, prepend=-1))
        peak = np.maximum.reduceat(act, first) if len(first) else act
        count = np.diff(np.append(first, len(code)))
        found_column, found_window = np.divmod(code[first], max(cut.n_windows, 1))
        return cls(n, found_column, found_window, peak, count)

    @cached_property
    def n_found(self) -> Longs:
        """Windows in which each latent fires, int64 [n]."""
        return np.bincount(self.column, minlength=self.n)

    @cached_property
    def rank(self) -> Longs:
        """Place of each window among its latent's by peak, 0 for the highest."""
        order = np.lexsort((self.window, -self.peak, self.column))
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = _within(self.column[order])
        return rank


@dataclass(frozen=True, eq=False)
class Chosen:
    """Windows chosen for latents, a row for each, by window.

    Attributes
    ----------
    cut : Cut
    column : int64 [n_rows]
        Number of the latent.
    window : int64 [n_rows]
    active : bool [n_rows]
        Whether the window was chosen because the latent fires in it.
    quantile : int64 [n_rows]
        Which part by peak an active window is from, 0 the highest; -1 for others.
    """

    cut: Cut
    column: Longs
    window: Longs
    active: Bools
    quantile: Longs

    @classmethod
    def make(cls, cut: Cut, parts: list[tuple[Longs, Longs, bool, Longs]]) -> "Chosen":
        """From parts of (column, window, whether active, quantile)."""
        column, window, quantile = (
            np.concatenate([part[number] for part in parts]) for number in (0, 1, 3)
        )
        active = np.repeat([part[2] for part in parts], [len(part[0]) for part in parts])
        order = np.lexsort((column, window))
        return cls(cut, column[order], window[order], active[order], quantile[order])

    def rows(self, begin: int, end: int) -> slice:
        """Rows whose window starts at flat position begin to end - 1, both at context starts."""
        edges = np.array([begin, end]) // self.cut.ctx_len * self.cut.per_context
        low, high = np.searchsorted(self.window, edges)
        return slice(int(low), int(high))


def tested_firings(firings: TextFirings, latents: Longs) -> tuple[Longs, Longs, Floats]:
    """Position, number and activation of the firings of some latents."""
    number = np.full(firings.n_latents, -1, dtype=np.int64)
    number[latents] = np.arange(len(latents))
    column = number[firings.latent]
    kept = np.flatnonzero(column >= 0)
    return firings.position[kept], column[kept], firings.act[kept]


def detection_windows(cut: Cut, peaks: Peaks, sizes: Sizes, rng: np.random.Generator) -> Chosen:
    """Active windows by quantiles of their peak, and silent ones at random.

    As delphi samples them (latents/samplers.py, `split_quantiles`; latents/constructors.py,
    `constructor` with non_activating_source "random"): the active windows, highest peak first, are
    cut into `n_quantiles` parts of equal size, the rest at the end left out, and as many are drawn
    from each. Silent are windows in which the latent never fires. Latents with fewer than `least`
    windows of either kind get none.
    """
    silent = _silent_windows(cut, peaks, sizes.n_silent, rng)
    n_silent = np.bincount(silent[0], minlength=peaks.n)
    enough = (peaks.n_found >= sizes.least) & (n_silent >= sizes.least)
    size = np.maximum(peaks.n_found // sizes.n_quantiles, 1)
    quantile = peaks.rank // size[peaks.column]
    row = np.flatnonzero((quantile < sizes.n_quantiles) & enough[peaks.column])
    row = row[np.lexsort((rng.random(len(row)), quantile[row], peaks.column[row]))]
    place = _within(peaks.column[row] * sizes.n_quantiles + quantile[row])
    row = row[place < sizes.n_active // sizes.n_quantiles]
    kept = enough[silent[0]]
    nothing = np.full(int(kept.sum()), -1)
    return Chosen.make(
        cut,
        [
            (peaks.column[row], peaks.window[row], True, quantile[row]),
            (silent[0][kept], silent[1][kept], False, nothing),
        ],
    )


def simulation_windows(cut: Cut, peaks: Peaks, sizes: Sizes, rng: np.random.Generator) -> Chosen:
    """One split of the top sequences, and as many random ones.

    As automated-interpretability takes them (activations.py, `valid_activation_records`): the top
    sequences are dealt to the splits in turn, and the third split is scored beside as many random
    sequences, which may be anything.
    """
    n_each = np.minimum(peaks.n_found, sizes.n_top) // sizes.n_splits
    n_each[peaks.n_found < sizes.least] = 0
    dealt, turn = np.divmod(peaks.rank, sizes.n_splits)
    top = np.flatnonzero((turn == sizes.n_splits // 2) & (dealt < n_each[peaks.column]))
    usable = np.flatnonzero(cut.usable)
    random = [rng.choice(usable, size=n, replace=False) for n in n_each.tolist()]
    others = np.concatenate([np.zeros(0, dtype=np.int64), *random])
    return Chosen.make(
        cut,
        [
            (peaks.column[top], peaks.window[top], True, np.full(len(top), -1)),
            (np.repeat(np.arange(peaks.n), n_each), others, False, np.full(len(others), -1)),
        ],
    )


def top_prompts(cut: Cut, peaks: Peaks, sizes: Sizes) -> Chosen:
    """The contexts of highest peak."""
    row = np.flatnonzero((peaks.rank < sizes.n_top) & (peaks.n_found >= sizes.least)[peaks.column])
    none = np.full(len(row), -1)
    return Chosen.make(cut, [(peaks.column[row], peaks.window[row], True, none)])


def wrong_marks(chosen: Chosen, peaks: Peaks, rng: np.random.Generator) -> Bools:
    """Tokens that fuzzing marks in silent windows, bool [n_rows, length].

    As many as the latent's active windows have firings on average, rounded up; the token three
    quarters into the window is always among them (delphi, fuzz.py: `mean_n_activations_ceil`;
    sample.py: `_prepare_text`).
    """
    firings = np.zeros(len(chosen.column))
    code = peaks.column * chosen.cut.n_windows + peaks.window
    row = np.flatnonzero(chosen.active)
    wanted = chosen.column[row] * chosen.cut.n_windows + chosen.window[row]
    firings[row] = peaks.count[np.searchsorted(code, wanted)]
    total = np.bincount(chosen.column, weights=firings, minlength=peaks.n)
    n_active = np.bincount(chosen.column[row], minlength=peaks.n)
    wrong = np.ceil(total / np.maximum(n_active, 1)).astype(np.int64)
    length = chosen.cut.length
    key = rng.random((len(chosen.column), length))
    key[:, length - max(length // 4, 1)] = -1
    marks: Bools = key.argsort(axis=1).argsort(axis=1) < wrong[chosen.column][:, None]
    return marks & ~chosen.active[:, None]


def _silent_windows(
    cut: Cut, peaks: Peaks, n_wanted: int, rng: np.random.Generator
) -> tuple[Longs, Longs]:
    """Column and window of up to `n_wanted` windows in which each latent never fires."""
    edges = np.searchsorted(peaks.column, np.arange(peaks.n + 1))
    columns, windows = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for begin in range(0, peaks.n, _LATENTS_AT_ONCE):
        end = min(begin + _LATENTS_AT_ONCE, peaks.n)
        key = rng.random((end - begin, cut.n_windows), dtype=np.float32)
        key[:, ~cut.usable] = 2
        fires = slice(edges[begin], edges[end])
        key[peaks.column[fires] - begin, peaks.window[fires]] = 2
        n_drawn = min(n_wanted, cut.n_windows)
        drawn = np.argpartition(key, max(n_drawn - 1, 0), axis=1)[:, :n_drawn]
        row, place = np.nonzero(np.take_along_axis(key, drawn, axis=1) < 1)
        columns.append(row + begin)
        windows.append(drawn[row, place])
    return np.concatenate(columns), np.concatenate(windows)


def _within(group: Longs) -> Longs:
    """Place of each row within its run of equal groups."""
    edges = np.flatnonzero(np.diff(group, prepend=-1))
    size = np.diff(np.append(edges, len(group)))
    place: Longs = np.arange(len(group)) - np.repeat(edges, size)
    return place
