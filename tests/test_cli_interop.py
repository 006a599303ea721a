"""The commands to and from the files of others, as a user types them."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from tiny_run import HOOKPOINTS, tiny_run
from typer.testing import CliRunner

from labeler.cli_interop import add_interop
from labeler.errors import CacheError, LabelerError, OptionError
from labeler.inputs import Run
from labeler.interop.delphi_files import find_files

Invoke = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run(tmp_path_factory.mktemp("run"), verified=False)


@pytest.fixture
def invoke() -> Invoke:
    """Run a command; its output, or the error it raised."""
    app = typer.Typer()
    add_interop(app)

    def call(*words: object) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if isinstance(result.exception, LabelerError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return call


def test_labels_as_csv(run: Run, invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    said = invoke(
        "export-labels", "--out", run.out, "--to", "csv", "--dest", path,
        "--hookpoint", HOOKPOINTS[1],
    )  # fmt: skip
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["hookpoint"] for row in rows} == {HOOKPOINTS[1]}
    assert {row["f1"] for row in rows} == {""}
    assert f"{len(rows)} labels of 1 hookpoints" in said
    assert f"{7 - len(rows)} latents have none" in said.replace("\n", " ")
    assert "no held-out scores" in said


def test_labels_for_neuronpedia_delphi_and_circuit_tracer(
    run: Run, invoke: Invoke, tmp_path: Path
) -> None:
    words = ("export-labels", "--out", run.out, "--to")
    said = invoke(*words, "neuronpedia", "--dest", tmp_path / "np", "--source-id", "{layer}-mine")
    assert "model a model, sources 0-mine, 1-mine" in said
    assert (tmp_path / "np" / "1-mine" / "explanations" / "batch-0.jsonl.gz").exists()
    invoke(*words, "delphi", "--dest", tmp_path / "d")
    assert list((tmp_path / "d" / "explanations").glob("layers.0.mlp_latent*.txt"))
    invoke(*words, "circuit-tracer", "--dest", tmp_path / "names.json")
    assert "0_0" in json.loads((tmp_path / "names.json").read_text())["clerps"]
    graph = {
        "metadata": {},
        "nodes": [{"node_id": "0_0_1", "feature_type": "cross layer transcoder", "clerp": ""}],
    }
    (tmp_path / "g.json").write_text(json.dumps(graph))
    said = invoke(
        *words, "circuit-tracer", "--graph", tmp_path / "g.json", "--dest", tmp_path / "h.json"
    )
    assert "named 1 of 1 feature nodes" in said
    assert json.loads((tmp_path / "h.json").read_text())["nodes"][0]["clerp"].startswith("fires on")


def test_options_that_do_not_go_together(run: Run, invoke: Invoke, tmp_path: Path) -> None:
    words = ("export-labels", "--out", run.out, "--dest", tmp_path / "x", "--to")
    for more, says in (
        (("excel",), "--to is 'excel'"),
        (("csv", "--graph", "g.json"), "needs --to circuit-tracer"),
        (("csv", "--model-id", "m"), "need --to neuronpedia"),
        (("csv", "--hookpoint", "layers.9.mlp"), r"no labels of layers\.9\.mlp"),
    ):
        with pytest.raises(OptionError, match=says):
            invoke(*words, *more)
    words = ("export-cache", "--out", run.out, "--dest", tmp_path / "x")
    for more, says in (
        (("--dtype", "float64"), "--dtype is 'float64'"),
        (("--split", "half"), "--split is 'half'"),
        (("--n-splits", "8"), "--n-splits is 8"),
        (("--hookpoint", "layers.9.mlp"), r"no cache of layers\.9\.mlp"),
    ):
        with pytest.raises(OptionError, match=says):
            invoke(*words, *more)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_cache_there_and_back(
    invoke: Invoke, tmp_path: Path, model_folder: Path, coder_folder: Path, text_folder: Path
) -> None:
    from labeler.config import RunConfig
    from labeler.steps import cache, start

    config = RunConfig(str(model_folder), str(coder_folder), str(text_folder), ctx_len=32)
    made = start(tmp_path / "run", config, quiet=True)
    cache(made)
    said = invoke(
        "export-cache", "--out", made.out, "--dest", tmp_path / "d", "--n-splits", "2",
        "--hookpoint", HOOKPOINTS[0], "--dtype", "float32",
    )  # fmt: skip
    assert "1 hookpoints in" in said
    assert [len(files) for files in find_files(tmp_path / "d").values()] == [2]
    words = ("--model", model_folder, "--coder", coder_folder, "--out", tmp_path / "again", "-q")
    said = invoke("import-cache", tmp_path / "d", *words)
    assert "documents; 1 coders" in said
    again = Run(tmp_path / "again", quiet=True)
    assert again.cache.n_firings(HOOKPOINTS[0]) == made.cache.n_firings(HOOKPOINTS[0]) > 0
    with pytest.raises(CacheError, match="already holds something"):
        invoke("import-cache", tmp_path / "d", *words)


def test_help_has_examples_and_loads_nothing_heavy(invoke: Invoke) -> None:
    for command in ("export-labels", "export-cache", "import-cache"):
        assert f"labeler {command}" in invoke(command, "--help")
    code = "import sys, labeler.cli_interop; print('torch' in sys.modules, 'polars' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
