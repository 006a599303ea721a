"""Function types compared: counts by hand, pooling, files, the command."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny_run as tiny
from typer.testing import CliRunner

from labeler.analysis import (
    TypeScores,
    analyse_types,
    choose_hookpoints,
    count_types,
    family_of,
    labeled_hookpoints,
    looks_ahead,
    pool,
    type_shares,
)
from labeler.cli import app
from labeler.errors import LabelError, OptionError, RunError
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder

TYPES = ["unigram", "bigram", "topic", "previous_token"]


def by_hand() -> pl.DataFrame:
    """Three labeled latents, one abstained, one too rare to count."""
    net_bits = np.array(
        [
            [100.0, 0, 0, 5, 50],
            [150.0, 0, 0, 5, 60],
            [0.0, 30, 40, 0, 0],
            [20.0, 40, 0, 0, 0],
        ]
    )
    latents = pl.DataFrame(
        {
            "status": ["labeled", "labeled", "labeled", "abstained", "too_rare"],
            "function_type": ["bigram", "previous_token", "topic", "topic", "bigram"],
        }
    )
    entries = pl.DataFrame(
        {
            "budget": [100, 100, 100, 16],
            "level": ["bigram", "unigram", "topic", "topic"],
            "weight": [2.0, -1.0, 1.0, 5.0],
            "n": [10, 20, 60, 1000],
        }
    )
    return count_types(TypeScores(TYPES, net_bits, net_bits), latents, entries)


# Four latents are fitted and three labeled. Unigram and bigram are one family: on latent 0 they
# overlap with previous_token only, and bigram's win contradicts neither. On latent 3 the bigram
# adds nothing to the unigram, and the topic that came close won nothing. Of |weight| * n, which is
# 20 + 20 + 60, the topic has 60.
BY_HAND = {
    "unigram": (2 / 4, 2 / 4, 1 / 2, 0, 0, 1 / 3, 0.2),
    "bigram": (2 / 4, 1 / 4, 1 / 2, 0, 1 / 3, 1 / 3, 0.2),
    "topic": (2 / 4, 2 / 4, 1 / 2, 1 / 2, 1 / 3, 1 / 3, 0.6),
    "previous_token": (2 / 4, 2 / 4, 1, 1 / 2, 1 / 3, 0, 0),
}


def test_shares_by_hand() -> None:
    shares = type_shares(by_hand())
    found = {row[0]: row[2:] for row in shares.iter_rows()}
    assert found.keys() == BY_HAND.keys()
    for name, expected in BY_HAND.items():
        assert found[name] == pytest.approx(expected), name
    assert shares["type"].to_list() == ["bigram", "previous_token", "topic", "unigram"]
    assert shares["family"].to_list() == ["unigram", "previous_token", "topic", "unigram"]


def test_pooling_adds_latents_up() -> None:
    once = by_hand()
    # At the second hookpoint the topic was not scored.
    twice = pool([once, once.filter(pl.col("type") != "topic")])
    rows = {row["type"]: row for row in twice.iter_rows(named=True)}
    assert (rows["bigram"]["n_fitted"], rows["bigram"]["n_wins"]) == (8, 2)
    assert (rows["topic"]["n_fitted"], rows["topic"]["n_wins"]) == (4, 1)
    assert type_shares(twice).sort("type").equals(type_shares(once).sort("type"))


def test_nothing_to_take_a_share_of_is_null() -> None:
    nothing = np.zeros((1, 1))
    latents = pl.DataFrame({"status": ["too_rare"], "function_type": ["unigram"]})
    entries = pl.DataFrame(
        schema={"budget": pl.Int32, "level": pl.String, "weight": pl.Float32, "n": pl.Int64}
    )
    counts = count_types(TypeScores(["unigram"], nothing, nothing), latents, entries)
    assert type_shares(counts).row(0)[2:] == (None,) * 7


def test_families_and_look_ahead() -> None:
    assert family_of("fourgram") == family_of("unigram+subtopic") == "unigram"
    assert family_of("subtopic") == "topic"
    assert looks_ahead("next_token")
    assert not looks_ahead("unigram+topic")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny.tiny_run(tmp_path_factory.mktemp("analysis"), verified=False)


def test_a_run_is_counted_as_its_labels_say(run: Run) -> None:
    names = labeled_hookpoints(run.out)
    assert names == list(tiny.HOOKPOINTS)
    for name, counts in analyse_types(run.out, names).items():
        latents = LabelSet.load_latents(label_folder(run.out, name))
        labeled = latents.filter(pl.col("status") == "labeled")
        wins = dict(labeled["function_type"].value_counts().iter_rows())
        assert {row["type"]: row["n_wins"] for row in counts.to_dicts() if row["n_wins"]} == wins
        # The planted latents: on tokens, on line ends, on a pair, on a token half of the time.
        covered = {row["type"]: row["n_covered"] for row in counts.to_dicts()}
        assert covered["unigram"] == 4
        assert counts["n_keys"].sum() == counts["all_keys"][0]


def test_the_command_fits_80_columns_and_prints_json(run: Run) -> None:
    runner = CliRunner(env={"COLUMNS": "80"})
    shown = runner.invoke(app, ["types", "--out", str(run.out)])
    lines = shown.output.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert [line.split()[0] for line in lines[1:4]] == ["unigram", "bigram", "topic"]
    words = ["types", "blocks.0.hook_mlp_out", "--json", "--out", str(run.out)]
    found = json.loads(runner.invoke(app, words).output)
    assert list(found) == [tiny.HOOKPOINTS[0]]
    assert found[tiny.HOOKPOINTS[0]][0]["wins"] == 0.75


def test_what_is_missing_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="labeler fit"):
        labeled_hookpoints(tmp_path)
    with pytest.raises(OptionError, match=r"layers\.7\.mlp.*it has layers\.0\.mlp"):
        choose_hookpoints(run.out, "layers.7.mlp")
    with pytest.raises(LabelError, match=r"types\.parquet.*labeler fit"):
        TypeScores.load(tmp_path)
    frame = pl.read_parquet(label_folder(run.out, tiny.HOOKPOINTS[0]) / "types.parquet")
    frame[1:].write_parquet(tmp_path / "types.parquet")
    with pytest.raises(LabelError, match="lacks rows"):
        TypeScores.load(tmp_path)
