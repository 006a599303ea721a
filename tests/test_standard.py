"""Scores that others report: each by hand on a few tokens, and all of them on fitted labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from labeler.eval.claims import Claims
from labeler.eval.firings import TextFirings
from labeler.eval.heldout import score_heldout
from labeler.eval.scene import Scene
from labeler.eval.standard import OTHERS, OURS, pooled, standard_scores
from labeler.eval.standard_sums import Sums
from labeler.eval.standard_windows import (
    Chosen,
    Cut,
    Peaks,
    Sizes,
    detection_windows,
    simulation_windows,
    top_prompts,
    wrong_marks,
)
from labeler.tokens import Tokens
from tests.synthetic import make_tokens, material, plain_tokens, random_acts, save_fit

SMALL = Sizes(
    window=4,
    n_active=4,
    n_silent=4,
    n_quantiles=2,
    least=2,
    n_shown=3,
    sequence=4,
    n_top=4,
    n_splits=1,
)


@dataclass
class WrittenClaims:
    """Labels whose predictions are written out by the test; they call from 1 on."""

    predicted: np.ndarray

    def column(self, latent: np.ndarray) -> np.ndarray:
        return latent

    @property
    def threshold(self) -> np.ndarray:
        return np.ones(self.predicted.shape[1], dtype=np.float32)

    def iterate(
        self, tokens: Tokens, nodes: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        step = max(3, tokens.n_ctx // 20)
        for begin in range(0, tokens.n_ctx, step):
            span = slice(begin, min(begin + step, tokens.n_ctx))
            yield span, self.predicted[span.start * tokens.ctx_len : span.stop * tokens.ctx_len]


def dense_firings(acts: np.ndarray) -> TextFirings:
    position, latent = np.nonzero(acts)
    return TextFirings.make(
        position,
        latent,
        acts[position, latent],
        n_positions=len(acts),
        n_latents=acts.shape[1],
    )


def written_scene(text: Tokens, acts: np.ndarray, predicted: np.ndarray) -> Scene:
    """A scene of latents that are each other's partner (one alone has none)."""
    acts, predicted = acts.astype(np.float32), predicted.astype(np.float32)
    n = acts.shape[1]
    partner = np.arange(n)[::-1].copy() if n > 1 else np.array([-1])
    nothing = dense_firings(np.zeros((1, n), np.float32))
    return Scene(
        subject=None,  # type: ignore[arg-type]
        claims=WrittenClaims(predicted),  # type: ignore[arg-type]
        source=text,
        source_calls=nothing,
        heldout=text,
        firings=dense_firings(acts),
        calls=dense_firings(np.where(predicted >= 1, predicted, 0)),
        latents=np.arange(n),
        partner=partner,
        seed=0,
    )


def windows(rows: list[list[float]]) -> tuple[Tokens, np.ndarray]:
    """A text of one context for each row, and the rows as a column of values."""
    return plain_tokens([[1] * len(row) for row in rows]), np.array(rows).reshape(-1, 1)


def score(acts: list[list[float]], predicted: list[list[float]], **options: Any) -> dict[str, Any]:
    text, true = windows(acts)
    scene = written_scene(text, true, windows(predicted)[1])
    return standard_scores(scene, sizes=SMALL, **options).row(0, named=True)


FIRES = [[0, 2, 0, 0], [0, 0, 8, 0], [3, 0, 0, 0], [0, 0, 0, 1]]
SILENT = [[0, 0, 0, 0]] * 4


def test_detection_asks_whether_a_window_has_any_call() -> None:
    # Three of four active windows have a call somewhere, one of four silent ones.
    calls = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 2], [0.9, 0, 0, 0]]
    row = score(FIRES + SILENT, [*calls, [0, 0, 1, 0], *SILENT[1:]])
    assert (row["n_active"], row["n_silent"]) == (4, 4)
    assert row["detection_tpr"] == 0.75
    assert row["detection_tnr"] == 0.75
    assert row["detection"] == 0.75
    missed = score(FIRES + SILENT, SILENT + SILENT)
    assert (missed["detection_tpr"], missed["detection_tnr"]) == (0, 1)
    assert missed["detection"] == 0.5


def test_fuzzing_asks_whether_every_marked_token_is_called() -> None:
    acts = [[10, 5, 2, 0], [10, 5, 0, 0], [10, 0, 0, 0], [10, 0, 0, 0]]
    # Marked from 3 on: tokens 0 and 1 of the first two windows, token 0 of the others.
    calls = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 1, 1], [0, 0, 0, 1]]  # yes no yes no
    # 7 firings in 4 windows: two tokens are marked in silent ones, token 3 among them.
    wrong = [[1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]]  # yes no no no
    row = score(acts + SILENT, calls + wrong)
    assert row["fuzzing"] == (2 / 4 + 3 / 4) / 2
    # Detection takes any call in the window for an answer.
    assert row["detection"] == (4 / 4 + 1 / 4) / 2


def test_simulation_correlates_all_tokens_at_once() -> None:
    # With one split, all four top sequences and four random ones, which are the same four.
    acts = [[0, 1, 0, 0], [4, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 3]]
    guess = [[0, 2, 0, 0], [0, 0, 0, 1], [0, 0.5, 2, 0], [0, 0, 0, 9]]
    row = score(acts, guess)
    true, simulated = np.ravel(acts), np.ravel(guess)
    assert row["simulation_r"] == pytest.approx(np.corrcoef(true, simulated)[0, 1])
    per_sequence = [np.corrcoef(one, other)[0, 1] for one, other in zip(acts, guess, strict=True)]
    assert row["simulation_r"] != pytest.approx(np.mean(per_sequence), abs=0.01)
    assert score(acts, [[0.5] * 4] * 4)["simulation_r"] == 0
    # No silent window: no detection.
    assert np.isnan(row["detection"])
    assert np.isnan(row["fuzzing"])


def test_n2g_counts_tokens_from_half_the_maximum() -> None:
    # The maximum is 8: 4 and 8 fire, 3.9 does not; a prediction of 3 is a call but no firing.
    acts = [[4, 0, 0, 0], [8, 3.9, 0, 0], [0, 0, 4, 0], [0, 0, 0, 0]]
    guess = [[4, 0, 4, 0], [5, 4, 0, 0], [0, 0, 3, 0], [9, 9, 9, 9]]
    row = score(acts, guess)
    # Padding counts for nothing, whatever is predicted there.
    text = plain_tokens([[1] * 4, [1] * 2, [1] * 4, [1] * 4])
    padded = written_scene(
        text, np.reshape(acts, (-1, 1)), np.reshape([*guess[:1], [5, 4, 9, 9], *guess[2:]], (-1, 1))
    )
    assert standard_scores(padded, sizes=SMALL)["n2g_f1"].to_list() == [row["n2g_f1"]]
    # The silent context is no top prompt. Predicted: four tokens, two of them right, of three.
    assert row["n2g_f1"] == pytest.approx(2 * 2 / (4 + 3))


def test_intruder_is_the_window_predicted_least() -> None:
    active = [[3, 0, 0, 0], [0, 3, 0, 0], [3, 0, 0, 0], [0, 0, 3, 0]]
    # Two windows are shown beside each: found, found, predicted more, one of three alike.
    silent = [[0, 0, 0, 0], [2, 0, 0, 1], [5, 0, 0, 0], [0, 3, 0, 3]]
    row = score(FIRES + SILENT, active + silent, intruder=True)
    assert row["intruder"] == pytest.approx((1 + 1 + 0 + 1 / 3) / 4)
    assert "intruder" not in score(FIRES + SILENT, active + silent)
    blind = score(FIRES + SILENT, SILENT + SILENT, intruder=True)
    assert blind["intruder"] == pytest.approx(1 / 3)
    # It shows all quantiles: a label blind to the weaker half finds every second intruder.
    order = np.argsort([-max(row) for row in FIRES])
    half = [[5.0 if place in order[:2] else 0, 0, 0, 0] for place in range(4)]
    weak = score(FIRES + SILENT, [*half, *[[1.0, 0, 0, 0]] * 4], intruder=True)
    assert weak["intruder"] == 0.5


def test_natural_rate_counts_every_position() -> None:
    acts = [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]]
    guess = [[2, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]]
    row = score(acts, guess)
    assert row["precision"] == pytest.approx(2 / 5)
    assert row["recall"] == pytest.approx(2 / 3)
    assert row["f1"] == pytest.approx(2 * 2 / (5 + 3))
    assert row["pearson"] == pytest.approx(np.corrcoef(np.ravel(acts), np.ravel(guess))[0, 1])


def test_base_rate_makes_detection_and_precision_part() -> None:
    """Specificity of 90% is .95 in a balanced sample and next to nothing in running text."""
    rng = np.random.default_rng(0)
    n_windows, n_active = 4000, 20
    acts = np.zeros((n_windows, 32))
    acts[:n_active, 20] = 1
    calls = acts.copy()
    # The label finds every firing, and calls once in one of ten silent windows.
    false = n_active + rng.permutation(n_windows - n_active)[: (n_windows - n_active) // 10]
    calls[false, rng.integers(32, size=len(false))] = 1
    text = plain_tokens([[1] * 32] * n_windows)
    scene = written_scene(text, acts.reshape(-1, 1), calls.reshape(-1, 1))
    found = [standard_scores(replace(scene, seed=seed)).row(0, named=True) for seed in range(5)]
    assert np.mean([row["detection"] for row in found]) > 0.9
    assert found[0]["precision"] < 0.1
    assert found[0]["precision"] == pytest.approx(20 / (20 + 398))
    assert found[0]["f1"] < 0.1
    assert found[0]["recall"] == 1


def test_control_is_the_partners_label_on_the_same_latent() -> None:
    text, first = windows(FIRES + SILENT)
    second = np.roll(first, 9)
    scene = written_scene(text, np.hstack([first, second]), np.hstack([first, second]) + 0.5)
    frame = standard_scores(scene, sizes=SMALL, intruder=True)
    swapped = written_scene(text, np.hstack([first, second]), np.hstack([second, first]) + 0.5)
    other = standard_scores(swapped, sizes=SMALL, intruder=True)
    names = [*OTHERS, *OURS, "intruder", "detection_tpr", "detection_tnr"]
    for name in names:
        assert frame[f"{name}_control"].equals(other[name].alias(f"{name}_control"))
        assert frame[name].equals(other[f"{name}_control"].alias(name))
    assert frame["f1"].to_list() == [1, 1]
    assert frame["f1_control"].to_list() != [1, 1]


def test_latents_with_too_few_windows_or_no_partner_have_no_score() -> None:
    rare = score([[2, 0, 0, 0], *SILENT], [[2, 0, 0, 0], *SILENT], intruder=True)
    for name in (*OTHERS, "intruder", "detection_tpr", "detection_tnr"):
        assert np.isnan(rare[name])
    assert (rare["n_active"], rare["n_silent"]) == (0, 0)
    assert rare["f1"] == 1
    assert all(np.isnan(rare[f"{name}_control"]) for name in (*OTHERS, *OURS))
    never = score([*SILENT], [[2, 0, 0, 0], *SILENT[1:]])
    assert all(np.isnan(never[name]) for name in (*OTHERS, *OURS))


def test_windows_stay_within_contexts_and_off_the_padding() -> None:
    text = plain_tokens([[1] * 10, [1] * 7, [1] * 3])
    cut = Cut.of(text, 4)
    assert cut.usable.tolist() == [True, True, True, False, False, False]
    assert cut.start(np.arange(6)).tolist() == [0, 4, 10, 14, 20, 24]
    assert cut.window_of(np.array([0, 3, 4, 7, 8, 10, 13, 14, 16, 22])).tolist() == [
        *(0, 0, 1, 1, -1, 2, 2, -1, -1, -1)
    ]
    assert Cut.of(text, 64).length == 10
    peaks = Peaks.find(
        cut,
        np.array([0, 1, 5, 8, 11]),
        np.array([1, 1, 0, 0, 0]),
        np.array([2, 3, 1, 9, 4], np.float32),
        2,
    )
    assert peaks.column.tolist() == [0, 0, 1]
    assert peaks.window.tolist() == [1, 2, 0]
    assert peaks.peak.tolist() == [1, 4, 3]
    assert peaks.count.tolist() == [1, 1, 2]
    assert peaks.rank.tolist() == [1, 0, 0]


def many_peaks(n_active: int, n_windows: int, n: int = 3) -> tuple[Cut, Peaks]:
    """Latents that fire once in each of the first windows, less and less."""
    text = plain_tokens([[1] * 32] * n_windows)
    cut = Cut.of(text, 32)
    column = np.repeat(np.arange(n), n_active)
    position = np.tile(np.arange(n_active) * 32 + 5, n)
    act = np.tile(np.arange(n_active, 0, -1), n).astype(np.float32)
    return cut, Peaks.find(cut, position, column, act, n)


def test_detection_draws_alike_from_every_quantile() -> None:
    cut, peaks = many_peaks(107, 200)
    chosen = detection_windows(cut, peaks, Sizes(), np.random.default_rng(0))
    assert (np.diff(chosen.window) >= 0).all()
    for column in range(3):
        mine = chosen.active & (chosen.column == column)
        assert np.bincount(chosen.quantile[mine]).tolist() == [5] * 10
        # Ten windows a quantile; the seven of lowest peak are in none.
        assert (chosen.window[mine] // 10 == chosen.quantile[mine]).all()
        silent = ~chosen.active & (chosen.column == column)
        assert silent.sum() == 50 == len(np.unique(chosen.window[silent]))
        assert chosen.window[silent].min() >= 107
    drawn = [set(chosen.window[chosen.active & (chosen.column == one)]) for one in range(3)]
    assert drawn[0] != drawn[1]


def test_sums_of_windows_leave_padding_out() -> None:
    rng = np.random.default_rng(0)
    guess = rng.random((6, 5), dtype=np.float32)
    true = np.where(rng.random((6, 5)) < 0.5, rng.random((6, 5)), 0).astype(np.float32)
    real = np.arange(5) < np.array([5, 3, 5, 1, 4, 5])[:, None]
    true[~real] = 0
    column = np.array([1, 0, 1, 0, 0, 1])
    threshold = np.array([0.5, 0.2], np.float32)
    windows = Sums(2)
    windows.add(column, guess, true, real, true > 0, guess >= threshold[column][:, None])
    total = windows.total()
    for one in (0, 1):
        mine = real[column == one]
        flat = Sums(1)
        cells = (part[column == one][mine][:, None] for part in (guess, true))
        flat.add_all(*cells, threshold[one : one + 1])
        for name in ("f1", "precision", "recall", "pearson"):
            known = getattr(flat.total(), name)()[0, 0]
            assert getattr(total, name)()[0, one] == pytest.approx(known, rel=1e-5)


def test_silent_windows_are_without_padding() -> None:
    text = plain_tokens([[1] * 32] * 20 + [[1] * 31] * 30)
    cut = Cut.of(text, 32)
    position = np.arange(10) * 32
    peaks = Peaks.find(cut, position, position * 0, np.ones(10, np.float32), 1)
    chosen = detection_windows(cut, peaks, Sizes(), np.random.default_rng(0))
    assert chosen.window[~chosen.active].tolist() == list(range(10, 20))
    # A window that is not silent makes them too few.
    more = np.append(position, 15 * 32)
    peaks = Peaks.find(cut, more, more * 0, np.ones(11, np.float32), 1)
    assert not len(detection_windows(cut, peaks, Sizes(), np.random.default_rng(0)).column)


def test_wrong_marks_are_as_many_as_firings_and_hold_one_fixed_token() -> None:
    cut = Cut.of(plain_tokens([[1] * 32] * 30), 32)
    position = np.concatenate([np.arange(15) * 32, np.arange(8) * 32 + 1])
    position.sort()
    peaks = Peaks.find(cut, position, position * 0, np.ones(len(position), np.float32), 1)
    chosen = detection_windows(cut, peaks, Sizes(), np.random.default_rng(0))
    marks = wrong_marks(chosen, peaks, np.random.default_rng(1))
    assert not marks[chosen.active].any()
    silent = marks[~chosen.active]
    assert (silent.sum(axis=1) == 2).all()
    assert silent[:, 24].all()
    assert len(np.unique(silent.argsort(axis=1)[:, -2:], axis=0)) > 5


def test_simulation_scores_the_third_split_of_the_top_and_as_many_random() -> None:
    def shown(chosen: Chosen, column: int) -> list[int]:
        return np.sort(chosen.window[chosen.active & (chosen.column == column)]).tolist()

    cut, peaks = many_peaks(30, 200)
    chosen = simulation_windows(cut, peaks, Sizes(), np.random.default_rng(0))
    assert [shown(chosen, column) for column in range(3)] == [[2, 6, 10, 14, 18]] * 3
    assert np.bincount(chosen.column[~chosen.active]).tolist() == [5, 5, 5]
    cut, few = many_peaks(11, 200)
    assert shown(simulation_windows(cut, few, Sizes(), np.random.default_rng(0)), 0) == [2, 6]
    prompts = top_prompts(cut, peaks, Sizes())
    assert prompts.window[prompts.column == 1].tolist() == list(range(20))
    cut, fewer = many_peaks(9, 200)
    assert not len(simulation_windows(cut, fewer, Sizes(), np.random.default_rng(0)).column)
    assert not len(top_prompts(cut, fewer, Sizes()).column)


def test_pooled_means_are_over_latents_that_have_every_score() -> None:
    def columns(name: str, own: list[float], control: list[float]) -> dict[str, list[float]]:
        return {name: own, f"{name}_control": control}

    nan = float("nan")
    rows: dict[str, list[float]] = {"latent": [0, 1, 2]}
    for name in (*OTHERS, *OURS, "detection_tpr", "detection_tnr"):
        rows |= columns(name, [0.6, 0.8, 0.1], [0.5, 0.5, 0.5])
    rows |= columns("fuzzing", [0.6, 0.8, nan], [0.5, 0.5, 0.5])
    rows |= columns("precision", [0.4, nan, 0.1], [nan, 0.5, 0.5])
    found = pooled(pl.DataFrame(rows), seed=0)
    assert "intruder" not in found
    assert found["f1"]["n_latents"] == 2
    assert found["f1"]["own"] == pytest.approx(0.7)
    assert found["f1"]["difference"] == pytest.approx(0.2)
    assert (found["f1"]["own_low"], found["f1"]["own_high"]) == pytest.approx((0.6, 0.8))
    assert (found["f1"]["low"], found["f1"]["high"]) == pytest.approx((0.1, 0.3))
    assert found["precision"]["n_latents"] == 1
    assert found["precision"]["control"] is None
    empty = pooled(pl.DataFrame(rows).filter(pl.col("latent") == 2), seed=0)
    assert empty["detection"]["n_latents"] == 0
    assert empty["detection"]["own"] is None


def test_fitted_labels_score_as_on_the_whole_heldout_text(tmp_path: Path) -> None:
    tokens = make_tokens(3, n_docs=120, ctx_len=16)
    fit = tokens.fit
    made = material(tokens, ["unigram", "bigram"], random_acts(fit, 6))
    labels = save_fit(tmp_path, made, made.fitted())
    text = tokens.heldout
    firings = dense_firings(random_acts(text, 6, seed=0))
    latents = np.flatnonzero(labels.labeled)
    assert len(latents) >= 4
    scene = Scene.make(None, Claims(labels), fit, text, firings, latents, seed=1)  # type: ignore[arg-type]
    sizes = Sizes(window=8, sequence=8)
    frame = standard_scores(scene, sizes=sizes)
    whole = score_heldout(labels, text, firings, budgets=[100])[0].latents
    for name in OURS:
        known = whole[name].to_numpy()[latents]
        np.testing.assert_allclose(frame[name], known, rtol=1e-5)
    # By hand: the partner's label, with its own threshold, against this latent's firings.
    valid = text.valid.ravel()
    for row, latent in enumerate(latents.tolist()):
        true = firings.dense(0, text.ids.size)[valid, latent] > 0
        said = labels.label(int(scene.partner[latent])).fires(text).ravel()[valid]
        f1 = 2 * (true & said).sum() / (true.sum() + said.sum())
        assert frame["f1_control"][row] == pytest.approx(f1)
    assert (frame["detection"] > frame["detection_control"]).mean() >= 0.5
    known_nodes = labels.shared.find(text)
    assert frame.equals(standard_scores(scene, sizes=sizes, nodes=known_nodes), null_equal=True)
