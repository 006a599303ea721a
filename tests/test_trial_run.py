"""`labeler verify --all` on the tiny model: files, counts, what is kept, what is refused."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from labeler import steps
from labeler.cli import app
from labeler.config import RunConfig
from labeler.errors import ModelError, OptionError, RunError
from labeler.eval.verdict import VERDICTS, judge
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from labeler.trial_config import TrialConfig
from labeler.trial_run import drawn
from tests.llm_servers import BadServer
from tests.scripted_server import Body, ScriptedServer, honest, kind_of

pytestmark = pytest.mark.slow

TRIALS = TrialConfig(
    latents=10, trials=6, texts=3, ablated=3, generators=("subject", "edit"), seed_protocol=True,
    intruder=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def fitted(model_folder: Path, coder_folder: Path, text_folder: Path, tmp_path_factory: Any) -> Run:
    config = RunConfig(
        model=str(model_folder), coder=str(coder_folder), corpus=str(text_folder),
        tokens=4000, heldout_tokens=1000, ctx_len=32,
    )  # fmt: skip
    run = steps.start(tmp_path_factory.mktemp("run"), config, quiet=True)
    steps.cache(run)
    steps.fit(run, ["bigram", "previous_token"], corrections=[])
    return run


@pytest.fixture(scope="module")
def tried(fitted: Run) -> Run:
    said: list[str] = []
    steps.verify(fitted, said.append, TRIALS)
    assert said[-1].startswith("layers.1.mlp: of 10 labels ")
    return fitted


@pytest.fixture
def copy(tried: Run, tmp_path: Path) -> Run:
    shutil.copytree(tried.out, tmp_path / "copy")
    return Run(tmp_path / "copy", tried.config, quiet=True)


def facts(run: Run, hookpoint: str = "layers.1.mlp") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.out / "verify" / hookpoint / "tests.json").read_text())
    return found


def test_one_verdict_for_each_label_drawn(tried: Run) -> None:
    for hookpoint in tried.hookpoints:
        folder = tried.out / "verify" / hookpoint
        labels = LabelSet.load(label_folder(tried.out, hookpoint))
        verdicts = pl.read_parquet(folder / "verdicts.parquet")
        counts = facts(tried, hookpoint)
        assert verdicts["latent"].to_list() == drawn(labels, 10, 0).tolist()
        assert labels.labeled[verdicts["latent"].to_numpy()].all()
        assert list(counts["verdicts"]) == list(VERDICTS)
        assert sum(counts["verdicts"].values()) == counts["n_tested"] == 10
        assert counts["n_labeled"] == labels.labeled.sum()
        # The verdicts are those of the evidence beside them.
        evidence = pl.read_parquet(folder / "evidence.parquet")
        claimed = labels.latents["f1_fit_100"].to_numpy()
        again = judge(evidence, claimed, verdicts["latent"].to_numpy())
        assert again.equals(verdicts)
        names = ["heldout", "sufficiency", "necessity", "unseen:subject", "unseen:edit"]
        assert evidence["test"].unique(maintain_order=True).to_list() == names
        assert list(counts["tests"]) == names


def test_counts_are_those_of_the_files(tried: Run) -> None:
    found, folder = facts(tried), tried.out / "verify" / "layers.1.mlp"
    evidence = pl.read_parquet(folder / "evidence.parquet")
    mine = evidence.filter(pl.col("test") == "sufficiency")
    assert found["tests"]["sufficiency"]["n"] == mine["n"].sum()
    # Every trial wanted was made or counted as failed.
    assert (mine["n"] + mine["failed"] == TRIALS.trials).all()
    assert found["tests"]["sufficiency"]["own"] == pytest.approx(
        mine.filter(pl.col("n") > 0)["own"].mean()
    )
    for generator in ("subject", "edit"):
        texts = found["texts"][generator]
        assert texts["requests"] == 10 * (3 + 1)
        assert 0 <= texts["precision"] <= 1
    lines = (tried.out / "generated" / "subject.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 10 * (3 + 1)
    assert {"detection", "fuzzing", "simulation_r", "n2g_f1"} <= set(found["standard"])
    scores = pl.read_parquet(folder / "standard.parquet")
    assert "intruder" in scores.columns
    assert found["ablation"]["n_latents"] <= 3
    assert found["seed_protocol"]["n_tested"] == 10
    assert found["actives"]["false_per_token"] <= found["actives"]["called_per_token"]


def test_labels_of_an_untrained_model_hold_where_they_are_tried(tried: Run) -> None:
    tests = facts(tried, "layers.0.mlp")["tests"]
    # Far from explained, and better than another latent's label all the same.
    assert tests["heldout"]["low"] > 0.05
    assert tests["necessity"]["low"] > 0.2


def test_a_second_call_makes_nothing(copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("made again")

    for name in ("Scene.make", "sufficiency", "replies"):
        monkeypatch.setattr(f"labeler.trial_run.{name}", fail)
    before = facts(copy)
    steps.verify(copy, trials=TRIALS)
    assert facts(copy) == before
    with pytest.raises(AssertionError, match="made again"):
        steps.verify(copy, trials=replace(TRIALS, trials=7))


def test_tests_that_are_done_are_kept(copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy.out / "verify" / "layers.1.mlp"
    evidence, before = pl.read_parquet(folder / "evidence.parquet"), facts(copy)
    (folder / "tests.json").unlink()
    (folder / "parts" / "necessity.json").unlink()

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("labeler.trial_run.sufficiency", fail)
    monkeypatch.setattr("labeler.eval.generate_local.LocalGenerator.generate", fail)
    steps.verify(copy, trials=TRIALS)
    assert pl.read_parquet(folder / "evidence.parquet").equals(evidence)
    assert facts(copy) == before


def test_a_label_that_lies_is_refuted(copy: Run) -> None:
    # Every label gets the entries and threshold of another one that calls elsewhere.
    folder = label_folder(copy.out, "layers.0.mlp")
    paths = [folder / f"{name}.parquet" for name in ("latents", "entries")]
    latents, entries = (pl.read_parquet(path) for path in paths)
    labeled = latents.filter(pl.col("status") == "labeled")["latent"].to_numpy()
    other = np.arange(len(latents))
    other[labeled] = np.roll(labeled, 5)
    moved = [name for name in latents.columns if name.startswith(("threshold_", "default_"))]
    latents.with_columns([latents[name][other] for name in moved]).write_parquet(paths[0])
    back = np.argsort(other)
    entries.with_columns(
        pl.Series("latent", back[entries["latent"].to_numpy()], dtype=pl.Int32)
    ).sort("budget", "latent", maintain_order=True).write_parquet(paths[1])
    before = facts(copy, "layers.0.mlp")["verdicts"]
    steps.verify(copy, trials=replace(TRIALS, latents=0, texts=0))
    found = facts(copy, "layers.0.mlp")
    assert found["tests"]["heldout"]["high"] < 0.2
    assert found["verdicts"]["verified"] == 0
    assert found["verdicts"]["refuted"] / found["n_tested"] > before["refuted"] / 10


@pytest.mark.parametrize("budget", [16, "unlimited"])
def test_labels_of_every_budget_can_be_tried(copy: Run, budget: Any) -> None:
    config = TrialConfig(latents=4, trials=6, texts=0, ablated=0, budget=budget)
    steps.verify(copy, trials=config)
    found = facts(copy)
    assert found["budget"] == budget
    assert sum(found["verdicts"].values()) == 4
    assert found["texts"] == {}
    # What is called is what was scored under this budget.
    scores = pl.read_parquet(copy.out / "verify" / "layers.1.mlp" / "latents.parquet")
    mine = scores.filter(pl.col("budget") == str(budget))
    evidence = pl.read_parquet(copy.out / "verify" / "layers.1.mlp" / "evidence.parquet")
    heldout = evidence.filter(pl.col("test") == "heldout").join(mine, on="latent")
    assert np.allclose(heldout["own"], heldout["f1"])


def test_verdicts_on_other_labels_are_not_shown(copy: Run) -> None:
    steps.rewrite(copy, 500)
    from labeler.analysis import labeled_hookpoints

    assert labeled_hookpoints(copy.out)
    steps.fit(copy, ["bigram"], corrections=[])
    steps.verify(copy)
    steps.rewrite(copy, 500)
    with pytest.raises(RunError, match=r"verdicts on other labels.*labeler verify --all"):
        steps.report(copy)


def strongest(body: Body) -> str:
    """Names a token that is marked; answers honestly after that."""
    if kind_of(body) != "explain":
        return honest(body)
    marked = re.findall(r"<<(.*?)>>", body["messages"][1]["content"])
    return f"[EXPLANATION]: the token {json.dumps(marked[0])}"


def test_a_run_with_every_option_is_reported(copy: Run) -> None:
    steps.rewrite(copy, 500, curves_tokens=200)
    with ScriptedServer(strongest) as server:
        explain = f"explain --out {copy.out} --latents 3 --windows 10 --llm-base-url {server.url}"
        explained = CliRunner().invoke(app, [*explain.split(), "--quiet"])
    assert explained.exit_code == 0, explained.output
    audit = f"audit --labels {copy.out}/explain/endpoint-scripted-model --run {copy.out} --quiet"
    audited = CliRunner().invoke(app, audit.split())
    assert audited.exit_code == 0, audited.output
    steps.report(copy)
    html = (copy.out / "report.html").read_text(encoding="utf-8")
    for words in (
        "Do the labels hold?",
        "seed criterion, with a control",
        "intruder",
        "unseen:edit",
        "Explanations by a language model",
        "Explanations of others",
    ):
        assert words in html
    summary = json.loads((copy.out / "summary.json").read_text())
    baseline = summary["explanations"]["endpoint:scripted/model"]["layers.1.mlp"]
    assert baseline["rewritten"]["all"]["ce"]["explanation"] > 0
    entry = summary["hookpoints"]["layers.1.mlp"]
    found = facts(copy)
    assert entry["verdicts"] == found["verdicts"]
    for name in ("actives", "standard", "seed_protocol", "ablation"):
        assert entry[name] == found[name]


def test_an_endpoint_costs_at_most_the_texts_it_spoils(
    copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    said: list[str] = []
    # All requests have the run's seed: its first ten attempts come back as garbage.
    with BadServer({copy.config.seed: ["garbage"] * 10 + ["ok"]}) as server:
        config = replace(
            TRIALS,
            generators=("edit", copy.config.model),
            seed_protocol=False,
            llm_base_url=server.url,
            llm_model="m",
        )
        steps.verify(copy, said.append, config)
    assert server.calls[copy.config.seed] == 2 * 10 * (3 + 1)
    assert "80 requests, 490 tokens sent, 210 tokens written" in said[-1]
    failures = [facts(copy, name)["texts"]["endpoint:m"]["failures"] for name in copy.hookpoints]
    assert sum(found.get("malformed", 0) for found in failures) == 10
    for name in copy.hookpoints:
        found = facts(copy, name)["tests"]["unseen:endpoint:m"]
        assert found["n"] + found["failed"] == 10 * 3
        # The other generators and the edits are what they were; a folder is named after itself.
        assert facts(copy, name)["tests"]["unseen:edit"]["n"] > 0
        folder = Path(copy.config.model).name
        assert facts(copy, name)["tests"][f"unseen:local:{folder}"]["n"] > 0
    assert (copy.out / "generated" / "endpoint-m.jsonl").exists()


def test_options_are_checked(tried: Run) -> None:
    out = str(tried.out)
    wrong: dict[str, list[str]] = {
        "need --all": ["--latents", "10"],
        "--trials is 3; give at least 6": ["--all", "--trials", "3"],
        "--budget is 'many'": ["--all", "--budget", "many"],
        "--budget is 17; there are 16, 100": ["--all", "--budget", "17"],
        "--llm-model needs --llm-base-url": ["--all", "--llm-model", "m"],
    }
    for message, options in wrong.items():
        found = CliRunner().invoke(app, ["verify", "--out", out, *options])
        assert isinstance(found.exception, OptionError), options
        assert message in str(found.exception)
    with pytest.raises(ModelError, match="no-such-model"):
        steps.verify(tried, trials=replace(TRIALS, generators=("./no-such-model",)))
