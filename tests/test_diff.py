"""Two runs compared: matching, agreement by hand and by a plain loop, whole runs, errors."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import tiny_run as tiny
from typer.testing import CliRunner

from labeler.cli import app
from labeler.diff import compare, diff_runs, figures, firing_keys, most_different
from labeler.errors import OptionError, RunError
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from labeler.matching import Matching, match_by_cosine, match_by_number, shuffled

LAYER = tiny.HOOKPOINTS[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny.tiny_run(tmp_path_factory.mktemp("diff"), verified=False)


@pytest.fixture(scope="module")
def labels(run: Run) -> LabelSet:
    return LabelSet.load(label_folder(run.out, LAYER))


def pairs_of(a: list[int], b: list[int]) -> Matching:
    return Matching(np.array(a), np.array(b), np.full(len(a), np.nan))


# -- matching --------------------------------------------------------------------------------------


def test_cosine_finds_a_permutation_whatever_the_lengths() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(50, 16)).astype(np.float32)
    order = rng.permutation(50)
    b = 3 * a[order] + 0.05 * rng.normal(size=a.shape).astype(np.float32)
    b[np.flatnonzero(order == 7)] *= -1  # the opposite direction is no match
    found = match_by_cosine(a, b, 0.9, "h")
    assert found.a.tolist() == [latent for latent in range(50) if latent != 7]
    assert order[found.b].tolist() == found.a.tolist()
    assert found.cosine.min() > 0.9


def test_each_latent_is_matched_once_the_most_similar_first() -> None:
    # Cosines: a0-b0 .8, a0-b1 .28, a1-b0 1, a1-b1 .8. b0 is a1's, so that a0 goes without.
    a = np.array([[0.8, 0.6], [1, 0]], dtype=np.float32)
    b = np.array([[1, 0], [0.8, -0.6]], dtype=np.float32)
    found = match_by_cosine(a, b, 0.7, "h")
    assert (found.a.tolist(), found.b.tolist()) == ([1], [0])
    both = match_by_cosine(a, b, 0.2, "h")
    assert (both.a.tolist(), both.b.tolist()) == ([0, 1], [1, 0])
    assert both.cosine == pytest.approx([0.28, 1], abs=1e-6)
    assert len(match_by_cosine(a, -b, 0.99, "h").a) == 0


def test_what_cannot_be_matched_is_refused() -> None:
    with pytest.raises(OptionError, match=r"h: 3 latents.*4.*--match cosine"):
        match_by_number(3, 4, "h")
    with pytest.raises(OptionError, match="5 and 6 numbers"):
        match_by_cosine(np.ones((3, 5), np.float32), np.ones((3, 6), np.float32), 0.7, "h")


def test_the_random_matching_has_the_same_latents_and_no_true_pair() -> None:
    matching = match_by_number(20, 20, "h")
    random = shuffled(matching, 0)
    assert sorted(random.b.tolist()) == matching.b.tolist()
    assert not (random.b == matching.b).any()
    assert shuffled(matching, 0).b.tolist() == random.b.tolist()
    assert shuffled(pairs_of([3], [5]), 0).b.tolist() == [5]
    assert len(shuffled(pairs_of([], []), 0).b) == 0


# -- agreement -------------------------------------------------------------------------------------


def altered(labels: LabelSet) -> LabelSet:
    """The labels renumbered one up, that of BREAK without its line ends."""
    n = labels.n_latents
    lost = (pl.col("latent") == tiny.BREAK) & (pl.col("text") == "`↵`")
    return LabelSet(
        labels.hookpoint,
        labels.folder,
        labels.tree,
        labels.latents[np.roll(np.arange(n), 1)].with_columns(latent=pl.Series(range(n))),
        labels.entries.filter(~lost).with_columns((pl.col("latent") + 1) % n),
        labels.manifest,
    )


def test_agreement_is_that_of_a_plain_computation(run: Run, labels: LabelSet) -> None:
    changed = altered(labels)
    firsts = [tiny.TOKEN, tiny.BREAK, tiny.PAIR, tiny.LOOSE, tiny.TOKEN, tiny.NOISE]
    seconds = [tiny.TOKEN, tiny.BREAK, tiny.PAIR, tiny.LOOSE, tiny.LOOSE, tiny.TOKEN]
    matching = pairs_of(firsts, [latent + 1 for latent in seconds])
    tokens = run.tokens.heldout
    done: list[float] = []
    (found,) = compare(labels, changed, [matching], tokens, done.append)
    assert sum(done) == tokens.n_ctx
    keys = [firing_keys(labels), firing_keys(changed)]
    for a, b, row in zip(matching.a, matching.b, found.iter_rows(named=True), strict=True):
        one, other = labels.label(int(a)), changed.label(int(b))
        assert (row["type_a"], row["text_b"]) == (one.function_type, other.text)
        if a == tiny.NOISE:
            assert (row["labeled_a"], row["jaccard"], row["f1"]) == (False, None, None)
            continue
        x, y = (label.predict(tokens)[tokens.valid] for label in (one, other))
        fires, called = (label.fires(tokens)[tokens.valid] for label in (one, other))
        f1 = 2 * (fires & called).sum() / (fires.sum() + called.sum())
        assert row["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-4)
        assert row["f1"] == pytest.approx(f1)
        texts = [
            set(mine.filter(pl.col("latent") == latent)["text"])
            for mine, latent in zip(keys, (a, b), strict=True)
        ]
        assert row["jaccard"] == len(texts[0] & texts[1]) / len(texts[0] | texts[1])
    f1 = found["f1"].to_list()
    assert [f1[0], *f1[2:5]] == [1, 1, 1, 0]
    assert 0.3 < f1[1] < 0.9
    assert found["jaccard"].to_list() == [1, 0.5, 1, 1, 0, None]


def test_firing_keys_by_hand() -> None:
    latents = pl.DataFrame({"latent": [0, 1], "threshold_100": [1.0, 2.0]})
    entries = pl.DataFrame(
        [
            (100, 0, 0.5, 1.0, "at the threshold"),
            (100, 0, 0.5, 0.9, "a hint below it"),
            (100, 0, -0.5, 1.5, "weaker, but still firing"),
            (100, 0, 0.5, 3.0, "at the threshold"),
            (16, 0, 0.5, 3.0, "of the shorter label"),
            (100, 1, 0.5, 1.9, "below its own threshold"),
        ],
        orient="row",
        schema=["budget", "latent", "weight", "value", "text"],
    )
    labels = SimpleNamespace(latents=latents, entries=entries)
    assert firing_keys(labels).rows() == [(0, "at the threshold")]  # type: ignore[arg-type]


def frame(**changes: Any) -> pl.DataFrame:
    columns = {
        "a": [0, 1, 2, 3],
        "b": [0, 1, 2, 3],
        "cosine": [None] * 4,
        "labeled_a": [True, True, True, False],
        "labeled_b": [True, True, False, False],
        "type_a": ["unigram", "bigram", "topic", None],
        "type_b": ["unigram", "unigram", None, None],
        "jaccard": [1.0, 0.5, None, None],
        "pearson": [1.0, 0.0, None, None],
        "f1": [1.0, None, None, None],
    }
    return pl.DataFrame(columns | changes)


def test_figures_by_hand() -> None:
    assert figures(frame()) == {
        "pairs": 4,
        "labeled_a": 3,
        "labeled_b": 2,
        "both": 2,
        "same_type": 0.5,
        "jaccard": 0.75,
        "pearson": 0.5,
        "f1": 1.0,  # undefined where neither fires: left out
    }
    nothing = figures(frame(labeled_a=[False] * 4))
    assert (nothing["both"], nothing["same_type"], nothing["f1"]) == (0, None, None)


# -- runs ------------------------------------------------------------------------------------------


def test_a_run_agrees_with_itself_and_not_at_random(run: Run) -> None:
    found = diff_runs(run, Run(run.out, quiet=True))
    assert [one.hookpoint for one in found] == list(tiny.HOOKPOINTS)
    for one in found:
        assert (one.how, one.same_coder, one.n_a, one.n_b) == ("number", True, 7, 7)
        same, random = figures(one.pairs), figures(one.random)
        assert [same[name] for name in ("pairs", "both", "same_type", "jaccard")] == [7, 4, 1, 1]
        assert [same["pearson"], same["f1"]] == pytest.approx([1, 1])
        assert random["f1"] < 0.5
        assert random["jaccard"] < 0.5
    assert len(most_different(found, 5)) == 0


@pytest.fixture
def other(run: Run, tmp_path: Path) -> Run:
    """The run with the labels of latents TOKEN and BREAK exchanged in the first layer."""
    shutil.copytree(run.out, tmp_path / "other")
    folder = label_folder(tmp_path / "other", LAYER)
    swap = {tiny.TOKEN: tiny.BREAK, tiny.BREAK: tiny.TOKEN}
    for name in ("latents", "entries"):
        path = folder / f"{name}.parquet"
        read = pl.read_parquet(path)
        read.with_columns(pl.col("latent").replace(swap)).sort(
            "latent", maintain_order=True
        ).write_parquet(path)
    return Run(tmp_path / "other", quiet=True)


def test_exchanged_labels_are_the_most_different(run: Run, other: Run) -> None:
    found = diff_runs(run, other)
    worst = most_different(found, 5)
    assert worst.select("hookpoint", "a", "b", "f1", "jaccard").rows() == [
        (LAYER, tiny.TOKEN, tiny.TOKEN, 0, 0),
        (LAYER, tiny.BREAK, tiny.BREAK, 0, 0),
    ]
    assert figures(found[0].pairs)["f1"] == pytest.approx(0.5)
    assert figures(found[1].pairs)["f1"] == pytest.approx(1)


def test_by_decoder_direction_the_exchange_is_undone(run: Run, other: Run) -> None:
    import torch

    order = np.arange(7)
    order[[tiny.TOKEN, tiny.BREAK]] = [tiny.BREAK, tiny.TOKEN]
    directions = torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
    run = Run(run.out, quiet=True)  # not the one that other tests share
    for one, mine in ((run, directions), (other, directions[order])):
        coder = SimpleNamespace(W_dec=mine)
        one.__dict__["coders"] = dict.fromkeys(tiny.HOOKPOINTS, coder)
    first, second = diff_runs(run, other, "cosine", 0.9)
    assert first.pairs["b"].to_list() == order.tolist()
    assert figures(first.pairs)["f1"] == pytest.approx(1)
    assert first.pairs["cosine"].to_list() == pytest.approx([1] * 7)
    # The second layer's labels were not exchanged, but its directions were.
    assert figures(second.pairs)["f1"] == pytest.approx(0.5)


def test_other_vocabularies_are_compared_by_text_only(run: Run, other: Run) -> None:
    tokens = other.tokens
    other.__dict__["tokens"] = replace(tokens, vocab=(*tokens.vocab, "more"))
    found = diff_runs(run, other)
    assert figures(found[1].pairs)["f1"] is None
    assert figures(found[1].pairs)["jaccard"] == 1
    assert most_different(found, 5)["a"].to_list() == [tiny.TOKEN, tiny.BREAK]


def test_the_command_prints_and_writes(run: Run, other: Run, tmp_path: Path) -> None:
    words = ["diff", str(run.out), str(other.out), "--out"]
    runner = CliRunner(env={"COLUMNS": "80"})
    shown = runner.invoke(app, [*words, str(tmp_path / "pairs.json")]).output
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "at random" in shown
    assert f"{LAYER} {tiny.TOKEN} and {tiny.TOKEN}: F1 0.00" in shown
    assert "\x1b" not in shown
    written = json.loads((tmp_path / "pairs.json").read_text())
    assert written["hookpoints"][LAYER]["matched"]["f1"] == pytest.approx(0.5)
    assert len(written["pairs"]) == 14
    runner.invoke(app, [*words, str(tmp_path / "pairs.parquet")])
    assert len(pl.read_parquet(tmp_path / "pairs.parquet")) == 14
    refused = runner.invoke(app, [*words, str(tmp_path / "pairs.txt")])
    assert isinstance(refused.exception, OptionError)
    refused = runner.invoke(app, [*words[:-1], "--match", "name"])
    assert isinstance(refused.exception, OptionError)


def test_what_cannot_be_compared_is_refused(run: Run, other: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run\.json"):
        Run(tmp_path / "nothing")
    for name in tiny.HOOKPOINTS:
        shutil.move(
            label_folder(other.out, name), label_folder(other.out, f"{name[:-4]}.self_attn")
        )
    with pytest.raises(OptionError, match=r"share no hookpoint: layers\.0\.mlp.*self_attn"):
        diff_runs(run, other)
    shutil.rmtree(other.out / "labels")
    with pytest.raises(RunError, match="has no labels"):
        diff_runs(run, other)
