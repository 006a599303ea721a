"""The whole pipeline on the tiny model: figures, definitions, interruptions, bad input."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import write_coder

from labeler import cli, steps
from labeler.config import RunConfig
from labeler.errors import OptionError, RunError
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from labeler.trial_config import TrialConfig

pytestmark = pytest.mark.slow

FUNCTIONS = ["bigram", "previous_token", "topic"]
CORRECTIONS = ["unigram+topic"]
TRIALS = TrialConfig(latents=12, trials=6, texts=3, ablated=3, generators=("subject", "edit"))


def make_config(model_folder: Path, coder_folder: Path, text_folder: Path) -> RunConfig:
    return RunConfig(
        model=str(model_folder),
        coder=str(coder_folder),
        corpus=str(text_folder),
        tokens=4000,
        heldout_tokens=1000,
        ctx_len=32,
    )


def everything(run: Run) -> None:
    steps.run_all(run, FUNCTIONS, 1000, corrections=CORRECTIONS, trials=TRIALS, curves_tokens=200)


@pytest.fixture(scope="module")
def config(model_folder: Path, coder_folder: Path, text_folder: Path) -> RunConfig:
    return make_config(model_folder, coder_folder, text_folder)


@pytest.fixture(scope="module")
def run(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = steps.start(tmp_path_factory.mktemp("run"), config, quiet=True)
    everything(run)
    return run


@pytest.fixture
def copy(run: Run, config: RunConfig, tmp_path: Path) -> Run:
    """A copy of the finished run that a test may spoil."""
    shutil.copytree(run.out, tmp_path / "copy")
    return Run(tmp_path / "copy", config, quiet=True)


def summary_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.out / "summary.json").read_text())
    return found


def test_summary_has_the_documented_fields_and_no_others_missing(run: Run) -> None:
    summary = summary_of(run)
    assert summary["format"] == 1
    assert summary["n_tokens"] == {
        "fit": run.tokens.fit.n_positions,
        "heldout": run.tokens.heldout.n_positions,
    }
    assert list(summary["hookpoints"]) == ["layers.0.mlp", "layers.1.mlp"]
    for entry in summary["hookpoints"].values():
        assert entry["n_latents"] == 48
        assert entry["n_labeled"] + entry["n_abstained"] == entry["n_live"]
        assert set(entry["explained"]) == {"0.5", "0.7"}
        assert set(entry["by_budget"]) == {"16", "100", "unlimited"}
        assert {"base", "zero", "mean", "skip", "coder", "labels"} <= set(entry["ce"])
        assert entry["recovered"] == entry["by_budget"]["unlimited"]["recovered"]
        assert entry["explained"] == entry["by_budget"]["unlimited"]["explained"]
        assert sum(entry["function_types"].values()) == entry["n_labeled"]
    assert set(summary["timing_s"]) == {"cache", "fit", "verify", "verdicts", "rewrite", "report"}
    assert {"ce", "recovered"} <= set(summary["all_layers"])


def test_recovered_is_its_definition(run: Run) -> None:
    for entry in [*summary_of(run)["hookpoints"].values(), summary_of(run)["all_layers"]]:
        ce = entry["ce"]
        expected = (ce["mean"] - ce["labels"]) / (ce["mean"] - ce["coder"])
        assert entry["recovered"] == pytest.approx(expected)


def test_explained_is_its_definition(run: Run) -> None:
    for name, entry in summary_of(run)["hookpoints"].items():
        rows = pl.read_parquet(run.out / "verify" / name / "latents.parquet")
        latents = LabelSet.load_latents(label_folder(run.out, name))
        for budget in ("16", "100", "unlimited"):
            mine = rows.filter(pl.col("budget") == budget)
            live = (latents["n_fit"] >= 30) & (mine["n_heldout"] >= 5)
            good = live & (latents["status"] == "labeled") & (mine["f1"] >= 0.7)
            share = good.sum() / live.sum()
            assert entry["by_budget"][budget]["explained"]["0.7"] == pytest.approx(share)


def test_labels_predict_held_out_activations(run: Run) -> None:
    rows = pl.read_parquet(run.out / "verify" / "layers.0.mlp" / "latents.parquet")
    whole = rows.filter((pl.col("budget") == "unlimited") & (pl.col("n_heldout") >= 5))
    # An untrained model on 4,000 tokens: far from explained, far above chance.
    assert whole["auroc"].median() > 0.7
    assert whole["r2"].median() > 0.05


def test_cross_entropies_are_those_of_a_literal_rewrite(run: Run) -> None:
    import torch

    name = "layers.1.mlp"
    heldout = steps.first_positions(run.tokens.heldout, 1000)
    coder, model = run.coders[name], run.model
    labels = LabelSet.load(label_folder(run.out, name))
    predicted = labels.predictor(16).predict(heldout)
    seen: list[torch.Tensor] = []

    def replace(value: torch.Tensor) -> torch.Tensor:
        x = seen.pop().reshape(-1, coder.d_in)
        acts = torch.from_numpy(predicted).reshape(len(x), -1)
        return (acts @ coder.W_dec + coder.decode(acts * 0) + coder.skip(x)).reshape(value.shape)

    hooks = {coder.hookpoint.hook_in: seen.append, coder.hookpoint.hook_out: replace}
    losses = model.cross_entropy(heldout.ids, heldout.length, hooks)
    expected = float(torch.nanmean(losses.double()))
    assert summary_of(run)["hookpoints"][name]["by_budget"]["16"]["ce"] == pytest.approx(
        expected, abs=1e-5
    )


def test_a_second_run_does_nothing_again(copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr("labeler.fit_run.fit_hookpoint", fail)
    monkeypatch.setattr("labeler.score_run.score_heldout", fail)
    monkeypatch.setattr("labeler.trial_run.Scene.make", fail)
    monkeypatch.setattr("labeler.eval.rewrite.cross_entropies", fail)
    monkeypatch.setattr("labeler.windows.tokenize_corpus", fail)
    before = summary_of(copy)
    everything(copy)
    after = summary_of(copy)
    assert before.pop("timing_s") != after.pop("timing_s")
    assert before == after


def test_the_manifest_says_what_corrects_the_tables(run: Run) -> None:
    for hookpoint in run.hookpoints:
        labels = LabelSet.load(label_folder(run.out, hookpoint))
        assert labels.manifest["types"] == ["unigram", *FUNCTIONS]
        for one in labels.manifest["corrections"]:
            assert one["level"] in CORRECTIONS
            assert one["shrinkage"] > 0
        levels = {one["level"] for one in labels.manifest["corrections"]}
        # A correction of which no latent has a cell has a table all the same.
        assert set(labels.predictor("unlimited").extra) == levels


def test_fitting_with_other_corrections_or_functions_fits_again(copy: Run) -> None:
    folder = label_folder(copy.out, "layers.0.mlp")
    before = (folder / "done.json").read_text()
    steps.fit(copy, FUNCTIONS, corrections=CORRECTIONS)
    assert (folder / "done.json").read_text() == before
    steps.fit(copy, FUNCTIONS, corrections=[])
    assert (folder / "done.json").read_text() != before
    assert not LabelSet.load(folder).predictor("unlimited").extra
    # The same levels, but one of them competes.
    steps.fit(copy, [*FUNCTIONS, *CORRECTIONS], corrections=[])
    assert LabelSet.load(folder).manifest["types"] == ["unigram", *FUNCTIONS, *CORRECTIONS]
    with pytest.raises(RunError, match="run `labeler verify"):
        steps.report(copy)


INTERRUPTED = {
    "cache": "labeler.cache.write_shard",
    "fit": "labeler.fit_run.write_tables",
    "verify": "labeler.score_run.score_heldout",
    "verdicts": "labeler.trial_run.necessity",
    "texts": "labeler.trial_run.replies",
    "rewrite": "labeler.eval.rewrite.cross_entropies",
    "report": "labeler.report.page.write_report",
}


@pytest.mark.parametrize("step", INTERRUPTED)
def test_ctrl_c_in_a_step_and_the_same_command_again(
    step: str, run: Run, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = INTERRUPTED[step].rsplit(".", 1)
    original = getattr(__import__(module, fromlist=[name]), name)
    calls = []

    def interrupt(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 or step == "report":
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{name}", interrupt)
        with pytest.raises(KeyboardInterrupt):
            everything(steps.start(tmp_path / "run", config, quiet=True))
    assert not (tmp_path / "run" / "summary.json").exists()
    again = steps.start(tmp_path / "run", config, quiet=True)
    everything(again)
    one, other = summary_of(run), summary_of(again)
    one.pop("timing_s"), other.pop("timing_s")
    assert one == other
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_other_settings_need_another_folder(copy: Run) -> None:
    from dataclasses import replace

    with pytest.raises(RunError, match=r"ctx_len is 32 there, 16 now.*another --out"):
        steps.start(copy.out, replace(copy.config, ctx_len=16))
    assert Run(copy.out).config == copy.config


def test_a_context_longer_than_the_model_knows(config: RunConfig, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(OptionError, match=r"--ctx-len is 999.*at most 64"):
        steps.cache(steps.start(tmp_path, replace(config, ctx_len=999), quiet=True))


def test_without_topics_the_topic_type_says_why(
    config: RunConfig, tmp_path: Path, text_folder: Path
) -> None:
    from dataclasses import replace

    flat = tmp_path / "flat"
    flat.mkdir()
    for path in text_folder.rglob("*.txt"):
        shutil.copy(path, flat / path.name)
    run = steps.start(tmp_path / "run", replace(config, corpus=str(flat)), quiet=True)
    said: list[str] = []
    steps.cache(run)
    steps.fit(run, ["unigram", "topic", "subtopic"], said.append, CORRECTIONS)
    text = "\n".join(said)
    assert "topic abstains" in text
    assert "--topic-column" in text or "at least two" in text
    assert "subtopic abstains" in text
    assert not run.out.joinpath("labels", "tree", "topic.npz").exists()
    # That a correction makes a level of unigrams gives the topics no labels.
    with pytest.raises(OptionError, match="--functions: none of the function types applies"):
        steps.fit(run, ["topic", "subtopic"], corrections=CORRECTIONS)


def damaged_cache(copy: Run) -> None:
    shard = copy.out / "cache" / "layers.0.mlp" / "shard-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    shutil.rmtree(copy.out / "labels")


def damaged_labels(copy: Run) -> None:
    (copy.out / "labels" / "layers.0.mlp" / "latents.parquet").write_bytes(b"PAR1")
    shutil.rmtree(copy.out / "verify")


@pytest.mark.parametrize(
    ("damage", "step", "message"),
    [
        (damaged_cache, "fit", "shard-00000.parquet"),
        (damaged_labels, "verify", "latents.parquet.*labeler fit"),
    ],
)
def test_a_damaged_file_is_named(
    copy: Run, capsys: pytest.CaptureFixture[str], damage: Callable[[Run], None], step: str,
    message: str,
) -> None:  # fmt: skip
    import re

    damage(copy)
    assert command(step, "--out", str(copy.out)) == 2
    assert re.search(message, capsys.readouterr().err, re.S)


def test_a_rerun_mends_a_damaged_shard(run: Run, copy: Run) -> None:
    damaged_cache(copy)
    everything(copy)
    one, other = summary_of(run), summary_of(copy)
    one.pop("timing_s"), other.pop("timing_s")
    assert one == other


def command(*words: str) -> int:
    """Exit status of the command line."""
    import sys

    old = sys.argv
    sys.argv = ["labeler", *words]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = old
    return 0


def test_the_command_line_says_what_is_wrong_in_one_line(
    model_folder: Path, coder_folder: Path, text_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    good = {
        "--model": str(model_folder),
        "--coder": str(coder_folder),
        "--corpus": str(text_folder),
    }
    empty = tmp_path / "empty"
    empty.mkdir()
    wide = tmp_path / "wide"
    write_coder(wide / "layers.0.mlp", seed=0, d_in=16)
    short = tmp_path / "short"
    shutil.copytree(coder_folder, short)
    weights = short / "layers.0.mlp" / "sae.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    cases = [
        ({"--corpus": str(tmp_path / "nothing.parquet")}, "nothing.parquet"),
        ({"--corpus": str(empty)}, "empty"),
        ({"--coder": str(wide)}, "d_in"),
        ({"--coder": str(short)}, "sae.safetensors"),
        ({"--hookpoint": "layers.7.mlp"}, "layers.7.mlp"),
        ({"--hookpoint": "elsewhere"}, "elsewhere"),
        ({"--functions": "unigram,bigrm"}, "bigrm.*bigram"),
        ({"--tokens": "3"}, "--tokens is 3"),
        ({"--model": str(tmp_path / "gone")}, "gone"),
    ]
    for number, (changes, message) in enumerate(cases):
        options = {**good, "--ctx-len": "32", "--tokens": "4000", **changes}
        words = [word for pair in options.items() for word in pair]
        assert command("run", *words, "--quiet", "--out", str(tmp_path / f"out{number}")) == 2
        err = capsys.readouterr().err.strip()
        import re

        assert re.search(message, err.splitlines()[-1]), err
        assert err.startswith("labeler: ")


def test_steps_out_of_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in ("fit", "verify", "rewrite", "report"):
        assert command(step, "--out", str(tmp_path)) == 2
        assert "labeler cache" in capsys.readouterr().err


def test_export_and_show_from_the_command_line(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = LabelSet.load(label_folder(run.out, "layers.0.mlp"))
    latent = int(np.flatnonzero(labels.labeled)[0])
    assert command("export", "layers.0.mlp", str(latent), "--out", str(run.out)) == 0
    source = capsys.readouterr().out
    space: dict[str, Any] = {}
    exec(compile(source, "label.py", "exec"), space)
    ids = run.tokens.heldout.ids
    assert np.array_equal(space["predict"](ids), labels.label(latent).predict(run.tokens.heldout))
    assert command("show", "blocks.0.hook_mlp_out", str(latent), "--out", str(run.out)) == 0
    assert "fires on" in capsys.readouterr().out
    assert command("show", "layers.0.mlp", "4711", "--out", str(run.out)) == 2
    assert "0 to 47" in capsys.readouterr().err


def test_functions_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("functions") == 0
    assert "bigram -> unigram" in capsys.readouterr().out
