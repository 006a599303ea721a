"""Left-out tokens: which of them a latent needs, and which its label reads."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from edit_rules import (
    BROAD,
    GRADED,
    LABELS,
    LEVELS,
    N_VOCAB,
    NOBODY,
    PAIR,
    PLACE,
    TOKEN,
    Rules,
    label_set,
    partners,
    scene_of,
    text,
)

from labeler.eval.ablation import NEAR, ablation
from labeler.eval.scene import Scene
from labeler.keytree import KeyTree
from labeler.labels import LabelSet
from labeler.tokens import Tokens

CYCLE = {TOKEN: PAIR, PAIR: BROAD, BROAD: TOKEN, GRADED: TOKEN}


@pytest.fixture(scope="module")
def fit() -> Tokens:
    return text().fit


@pytest.fixture(scope="module")
def tree(fit: Tokens) -> KeyTree:
    return KeyTree.build(fit, LEVELS)[0]


@pytest.fixture(scope="module")
def labels(tree: KeyTree) -> LabelSet:
    return label_set(tree)


def ending(fit: Tokens, *ends: list[int], n_before: int = 10) -> Tokens:
    """Held-out contexts of tokens that no label reads, with these ends."""
    rng = np.random.default_rng(0)
    rows = [[*rng.integers(0, 3, n_before).tolist(), *end] for end in ends]
    longest = max(map(len, rows))
    return fit.with_ids(
        np.array([row + [0] * (longest - len(row)) for row in rows]),
        np.array([len(row) for row in rows]),
    )


def rows_of(scene: Scene, n: int = 4) -> dict[int, dict[str, float]]:
    return {row["latent"]: row for row in ablation(scene, n)[0].iter_rows(named=True)}


def correlation(one: list[float], other: list[float]) -> float:
    """Of ranks written out by hand."""
    return float(np.corrcoef(one, other)[0, 1])


def test_right_labels_read_what_matters(fit: Tokens, labels: LabelSet) -> None:
    heldout = ending(fit, *[[5], [3, 4], [16, 15], [8, 9]] * 4)
    scene = scene_of(fit, heldout, labels, tuple(CYCLE), partner=CYCLE)
    rows = rows_of(scene)
    for latent in (TOKEN, PAIR, GRADED):
        assert rows[latent]["n"] == 4
        assert rows[latent]["same"] == 1
        assert rows[latent]["spearman"] == pytest.approx(1)
        # To the partner's label all tokens are alike: the latent's are a few of as many.
        n_tokens = 10 if latent == TOKEN else 11
        n_top = 2 if latent == PAIR else 1
        assert rows[latent]["same_control"] == pytest.approx(n_top / n_tokens)
        assert rows[latent]["spearman_control"] == 0
    # The latent needs both tokens of the pair, its label one: ranks of 11 tokens.
    assert rows[BROAD]["same"] == 0.5
    assert rows[BROAD]["spearman"] == pytest.approx(
        correlation([10.5, 10.5, *[5] * 9], [11, *[5.5] * 10])
    )


def test_importance_is_graded(fit: Tokens, tree: KeyTree) -> None:
    # The token before doubles the activation, but a label of the token alone does not know.
    labels = label_set(tree, LABELS | {GRADED: [("unigram", (15,))]})
    heldout = ending(fit, *[[16, 15]] * 3)
    scene = scene_of(fit, heldout, labels, (GRADED, TOKEN), partner={GRADED: TOKEN, TOKEN: GRADED})
    row = rows_of(scene)[GRADED]
    assert row["same"] == 1
    assert row["spearman"] == pytest.approx(correlation([11, 10, *[5] * 9], [11, *[5.5] * 10]))
    assert TOKEN not in rows_of(scene)  # it fires nowhere


def test_one_token_is_left_out_at_a_time(fit: Tokens, labels: LabelSet) -> None:
    heldout = ending(fit, [5], n_before=20)
    scene = scene_of(fit, heldout, labels, (TOKEN,))
    told: list[float] = []
    frame, summary = ablation(scene, advance=told.append)
    assert sum(told) == pytest.approx(1)
    assert isinstance(scene.subject, Rules)
    row = heldout.ids[0].tolist()
    whole, *shorter = scene.subject.contexts
    assert whole == row
    assert sorted(shorter) == sorted(row[:at] + row[at + 1 :] for at in range(21 - NEAR, 21))
    # Without a partner there is no control, and nothing to pool.
    assert frame["same"].to_list() == [1]
    assert np.isnan(frame["same_control"][0])
    assert summary["same"]["difference"] is None
    # In short contexts the first token stays.
    scene = scene_of(fit, ending(fit, [5], n_before=3), labels, (TOKEN,))
    ablation(scene)
    assert isinstance(scene.subject, Rules)
    row = scene.heldout.ids[0].tolist()
    assert sorted(scene.subject.contexts[1:]) == sorted(
        row[:at] + row[at + 1 :] for at in range(1, 4)
    )


def test_nothing_to_compare(fit: Tokens, labels: LabelSet) -> None:
    heldout = ending(fit, [5], [3, 4])
    scene = scene_of(fit, heldout, labels, (NOBODY, TOKEN), partner={NOBODY: TOKEN, TOKEN: NOBODY})
    assert rows_of(replace(scene, latents=np.array([NOBODY]))) == {}
    # A position is the same whichever token is left out, until it is another one.
    held = ending(fit, [0], n_before=9)
    moved = rows_of(scene_of(fit, held, labels, (PLACE,), partner={PLACE: PLACE}))[PLACE]
    assert np.isnan(moved["spearman"])


def test_figures_are_pooled_over_latents(fit: Tokens, labels: LabelSet) -> None:
    heldout = ending(fit, *[[5], [3, 4], [8, 9]] * 4)
    scene = scene_of(fit, heldout, labels, (TOKEN, PAIR, BROAD), partner=CYCLE)
    frame, summary = ablation(scene, 3)
    assert frame["n"].to_list() == [3, 3, 3]
    assert (summary["n_latents"], summary["n"]) == (3, 9)
    for name in ("same", "spearman"):
        found = summary[name]
        own, control = frame[name].to_numpy(), frame[f"{name}_control"].to_numpy()
        assert found["own"] == pytest.approx(own.mean())
        assert found["control"] == pytest.approx(control.mean())
        assert found["difference"] == pytest.approx((own - control).mean())
        assert (own - control).min() <= found["low"] < found["difference"] < found["high"]
        assert found["high"] <= (own - control).max()
    assert ablation(scene, 3)[0].equals(frame)
    few, _ = ablation(scene, 3, most=2)
    assert len(few) == 2
    assert few.equals(frame.filter(pl.col("latent").is_in(few["latent"].to_list())))
    none = replace(scene, partner=partners({}))
    assert ablation(none, 3)[0]["same"].to_list() == frame["same"].to_list()
    assert fit.n_vocab == N_VOCAB
