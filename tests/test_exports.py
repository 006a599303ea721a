"""Labels in the formats of others: what is in them, that they read back, and what is never lost."""

import csv
import gzip
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tiny_run import HOOKPOINTS, HOSTILE, N_LATENTS, TOKEN, tiny_run

from labeler import __version__
from labeler.errors import ExplanationError, OptionError, RunError
from labeler.inputs import Run
from labeler.interop.export_circuit_tracer import export_names, feature_names, name_graph
from labeler.interop.export_delphi import export_delphi
from labeler.interop.export_files import write_files
from labeler.interop.export_labels import COLUMNS, ExportedLabels, gather
from labeler.interop.export_neuronpedia import export_neuronpedia, source_of
from labeler.interop.export_tables import export_table
from labeler.interop.read import read_explanations
from labeler.labels import LabelSet, label_folder
from labeler.provenance import mark_done
from labeler.steps import labels_key
from labeler.store import write_parquet


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A scored run; a verdict on one label of the first hookpoint."""
    run = tiny_run(tmp_path_factory.mktemp("run"))
    folder = run.out / "verify" / HOOKPOINTS[0]
    verdicts = {"latent": [TOKEN], "verdict": ["verified"], "reason": ["r"], "claimed": [0.9]}
    write_parquet(
        folder / "verdicts.parquet", pl.DataFrame(verdicts, schema_overrides={"latent": pl.Int32})
    )
    mark_done(folder / "tests.json", "k", labels=labels_key(run, HOOKPOINTS[0]))
    return run


@pytest.fixture
def labels(run: Run) -> list[ExportedLabels]:
    return gather(run)


@pytest.fixture
def expected(run: Run) -> dict[tuple[str, int], str]:
    """Text of every label, read from the label sets."""
    sets = [LabelSet.load(label_folder(run.out, name)) for name in HOOKPOINTS]
    return {
        (one.hookpoint, latent): one.label(latent).text
        for one in sets
        for latent in range(one.n_latents)
        if one.label(latent).status == "labeled"
    }


def texts(labels: list[ExportedLabels]) -> dict[tuple[str, int], str]:
    return {
        (row["hookpoint"], row["latent"]): row["text"]
        for one in labels
        for row in one.rows.iter_rows(named=True)
    }


def test_rows(run: Run, labels: list[ExportedLabels], expected: dict[Any, str]) -> None:
    assert [one.hookpoint for one in labels] == list(HOOKPOINTS)
    assert texts(labels) == expected
    assert all(one.n_unlabeled == N_LATENTS - len(one.rows) > 0 for one in labels)
    assert all(one.scored for one in labels)
    scores = pl.read_parquet(run.out / "verify" / HOOKPOINTS[0] / "latents.parquet")
    mine = labels[0].rows.row(0, named=True)
    of = scores.filter((pl.col("budget") == "100") & (pl.col("latent") == mine["latent"]))
    assert {name: mine[name] for name in ("f1", "f1_low", "recall", "n_heldout")} == {
        name: of[name][0] for name in ("f1", "f1_low", "recall", "n_heldout")
    }
    entries = LabelSet.load(label_folder(run.out, HOOKPOINTS[0])).entries
    n_keys = len(entries.filter((pl.col("budget") == 100) & (pl.col("latent") == TOKEN)))
    row = labels[0].rows.filter(pl.col("latent") == TOKEN).row(0, named=True)
    assert row["keys"] == n_keys > 0
    assert row["verdict"] == "verified"
    assert HOSTILE in row["text"]
    assert labels[1].rows["verdict"].null_count() == len(labels[1].rows)


def test_figures_are_those_of_the_label_that_is_read(run: Run, tmp_path: Path) -> None:
    """The label of 100 keys: its keys and scores, not those of 16 or of the whole table."""
    shutil.copytree(run.out, tmp_path / "run")
    again = Run(tmp_path / "run", quiet=True)
    entries = label_folder(again.out, HOOKPOINTS[0]) / "entries.parquet"
    frame = pl.read_parquet(entries)
    mine = frame.filter((pl.col("budget") == 100) & (pl.col("latent") == TOKEN))
    write_parquet(entries, pl.concat([frame, mine, mine]))
    scores = again.out / "verify" / HOOKPOINTS[0] / "latents.parquet"
    by_budget = {"16": 0.25, "100": 0.5, "unlimited": 0.75}
    f1 = pl.col("budget").replace_strict(by_budget, return_dtype=pl.Float64)
    write_parquet(scores, pl.read_parquet(scores).with_columns(f1=f1))
    (found,) = gather(again, [HOOKPOINTS[0]])
    row = found.rows.filter(pl.col("latent") == TOKEN).row(0, named=True)
    assert row["keys"] == 3 * len(mine)
    assert set(found.rows["f1"]) == {0.5}


def test_scores_of_other_labels_are_left_out(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.out, tmp_path / "run")
    again = Run(tmp_path / "run", quiet=True)
    marker = label_folder(again.out, HOOKPOINTS[0]) / "done.json"
    mark_done(marker, "fitted again")
    first, second = gather(again)
    assert not first.scored
    assert first.rows["f1"].null_count() == first.rows["verdict"].null_count() == len(first.rows)
    assert second.scored
    (again.out / "verify" / HOOKPOINTS[1] / "latents.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match="cannot be read"):
        gather(again, [HOOKPOINTS[1]])
    with pytest.raises(OptionError, match=r"has no labels of layers\.9\.mlp"):
        gather(again, ["layers.9.mlp"])
    (only,) = gather(again, ["blocks.0.hook_mlp_out"])
    assert only.hookpoint == HOOKPOINTS[0]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_tables(
    kind: Any, labels: list[ExportedLabels], expected: dict[Any, str], tmp_path: Path
) -> None:
    path = tmp_path / f"labels.{kind}"
    export_table(labels, path, kind)
    if kind == "parquet":
        rows = pl.read_parquet(path).to_dicts()
    else:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="," if kind == "csv" else "\t"))
    assert tuple(rows[0]) == COLUMNS
    assert {(row["hookpoint"], int(row["latent"])): row["text"] for row in rows} == expected
    ours = pl.concat([one.rows for one in labels])
    assert [float(row["f1"]) for row in rows] == ours["f1"].to_list()
    export_table(labels[:1], path, kind)  # one of ours is replaced
    other = tmp_path / f"other.{kind}"
    other.write_text("hookpoint,latent\n1,2\n")
    with pytest.raises(ExplanationError, match="was not written by labeler"):
        export_table(labels, other, kind)
    assert other.read_text() == "hookpoint,latent\n1,2\n"


def test_delphi_files(
    labels: list[ExportedLabels], expected: dict[Any, str], tmp_path: Path
) -> None:
    export_delphi(labels, tmp_path)
    files = {path.name: path for path in (tmp_path / "explanations").iterdir()}
    assert {name: json.loads(path.read_text()) for name, path in files.items()} == {
        f"{hookpoint}_latent{latent}.txt": text for (hookpoint, latent), text in expected.items()
    }


def test_neuronpedia_batches(
    labels: list[ExportedLabels], expected: dict[Any, str], tmp_path: Path
) -> None:
    sources = export_neuronpedia(labels, tmp_path, model_id="tiny")
    assert sources == ["0-labeler-mlp", "1-labeler-mlp"]
    found = {}
    for hookpoint, source in zip(HOOKPOINTS, sources, strict=True):
        with gzip.open(tmp_path / source / "explanations" / "batch-0.jsonl.gz", "rt") as stream:
            for record in map(json.loads, stream):
                assert (record["modelId"], record["layer"]) == ("tiny", source)
                assert isinstance(record["index"], str)
                assert record["explanationModelName"] == f"labeler {__version__}"
                assert len(record["id"]) == 25
                found[hookpoint, int(record["index"])] = record["description"]
                if (hookpoint, record["index"]) == (HOOKPOINTS[0], str(TOKEN)):
                    assert "held-out F1 " in record["notes"]
                    assert record["notes"].endswith("verdict verified")
    assert found == expected
    batch = tmp_path / "0-labeler-mlp" / "explanations" / "batch-0.jsonl.gz"
    before = batch.read_bytes()
    assert before[4:8] == bytes(4)  # gzip's time stamp
    export_neuronpedia(labels, tmp_path, model_id="tiny")
    assert batch.read_bytes() == before


def test_neuronpedia_batches_have_1024_lines(labels: list[ExportedLabels], tmp_path: Path) -> None:
    row = labels[0].rows.head(1)
    many = row.select(pl.all().repeat_by(2050).explode()).with_columns(
        latent=pl.int_range(2050, dtype=pl.Int64)
    )
    export_neuronpedia([replace(labels[0], rows=many)], tmp_path, model_id="m", zipped=False)
    folder = tmp_path / "0-labeler-mlp" / "explanations"
    sizes = [len((folder / f"batch-{n}.jsonl").read_text().splitlines()) for n in range(3)]
    assert sizes == [1024, 1024, 2]
    ids = {json.loads(line)["id"] for p in folder.iterdir() for line in p.read_text().splitlines()}
    assert len(ids) == 2050
    # Fewer labels: the batches that are no more needed go away.
    export_neuronpedia([replace(labels[0], rows=row)], tmp_path, model_id="m", zipped=False)
    assert [path.name for path in folder.iterdir()] == ["batch-0.jsonl"]


def test_source_ids(labels: list[ExportedLabels], tmp_path: Path) -> None:
    assert source_of("layers.12.self_attn", None) == "12-labeler-att"
    assert source_of("layers.3", "{layer}-{site}-x") == "3-res-x"
    with pytest.raises(OptionError, match="names 2 hookpoints alike"):
        export_neuronpedia(labels, tmp_path, model_id="m", source_id="mine")
    for bad in ("../x", "{other}", ".", "a/b"):
        with pytest.raises(OptionError, match="--source-id gives"):
            export_neuronpedia(labels, tmp_path, model_id="m", source_id=bad)
    assert not list(tmp_path.iterdir())


def test_files_of_others_stay(labels: list[ExportedLabels], tmp_path: Path) -> None:
    export_delphi(labels, tmp_path)
    first, second = sorted((tmp_path / "explanations").iterdir())[:2]
    first.write_text('"what a person wrote"')
    content = second.read_bytes()
    with pytest.raises(ExplanationError, match="is not as labeler wrote it"):
        export_delphi(labels, tmp_path)
    assert first.read_text() == '"what a person wrote"'
    assert second.read_bytes() == content


def test_stale_files_go_and_strangers_do_not(tmp_path: Path) -> None:
    (tmp_path / "x_9.txt").write_text("a stranger's")
    write_files(
        tmp_path, {"x_1.txt": b"1", "x_2.txt": b"2", "x_3.txt": b"3", "y_1.txt": b"y"}, ["x_"]
    )
    (tmp_path / "x_3.txt").write_text("changed since")
    write_files(tmp_path, {"x_1.txt": b"one"}, ["x_"])
    assert {path.name: path.read_text() for path in tmp_path.glob("*.txt")} == {
        "x_1.txt": "one", "x_3.txt": "changed since", "x_9.txt": "a stranger's", "y_1.txt": "y",
    }  # fmt: skip
    # Those of another set are still known, and may be replaced.
    write_files(tmp_path, {"y_1.txt": b"why"}, ["y_"])
    # What a killed export left is taken up.
    (tmp_path / "x_4.txt").write_text("4")
    write_files(tmp_path, {"x_4.txt": b"4"}, [])


def test_a_marker_cannot_point_elsewhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("v")
    folder = tmp_path / "dest"
    folder.mkdir()
    sha = hashlib.sha256(b"v").hexdigest()
    marker = folder / "labeler-export.json"
    marker.write_text(json.dumps({"format": 1, "files": {"../victim.txt": sha, str(victim): sha}}))
    write_files(folder, {"a.txt": b"a"}, ["../", "/"])
    assert victim.read_text() == "v"
    marker.write_text("[]")
    with pytest.raises(ExplanationError, match="is damaged"):
        write_files(folder, {"a.txt": b"a"}, [])


def graph(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "metadata": {"slug": "s", "scan": "x", "prompt_tokens": ["a"], "prompt": "a"},
        "qParams": {"supernodes": [["months", f"0_{TOKEN}_3"]]},
        "nodes": nodes,
        "links": [{"source": f"0_{TOKEN}_3", "target": "E_5_0", "weight": 0.1}],
    }


def node(identity: str, kind: str = "cross layer transcoder") -> dict[str, Any]:
    """A node; its `feature` says nothing, as it differs between versions of circuit-tracer."""
    return {
        "node_id": identity,
        "layer": identity.split("_")[0],
        "feature": 10**6 + 7,
        "ctx_idx": 0,
        "feature_type": kind,
        "jsNodeId": identity,
        "clerp": "before",
        "influence": 0.25,
    }


def test_graph_gets_our_names(
    labels: list[ExportedLabels], expected: dict[Any, str], tmp_path: Path
) -> None:
    nodes = [
        node(f"0_{TOKEN}_3"), node(f"1_{TOKEN}_0"), node("0_6_1"), node("17_0_2"),
        node("0_0_5", "mlp reconstruction error"), node("E_5_0", "embedding"),
        node("3_0_1", "logit"),
    ]  # fmt: skip
    path = tmp_path / "g.json"
    path.write_text(json.dumps(graph(nodes)))
    before = path.read_bytes()
    assert name_graph(labels, path, tmp_path / "named.json") == (2, 4)
    found = json.loads((tmp_path / "named.json").read_text())
    assert [one["clerp"] for one in found["nodes"]] == [
        expected[HOOKPOINTS[0], TOKEN], expected[HOOKPOINTS[1], TOKEN], *["before"] * 5,
    ]  # fmt: skip
    # Nothing else has changed, and the graph itself not at all.
    rest = [{**one, "clerp": "before"} for one in found["nodes"]]
    plain = graph(nodes)
    plain["metadata"]["labeler"] = __version__
    assert {**found, "nodes": rest} == plain
    assert path.read_bytes() == before
    name_graph(labels, path, tmp_path / "named.json")  # ours is replaced
    shutil.copy(path, tmp_path / "another.json")
    with pytest.raises(ExplanationError, match="was not written by labeler"):
        name_graph(labels, path, tmp_path / "another.json")
    with pytest.raises(OptionError, match="is the graph itself"):
        name_graph(labels, path, path)


BAD_GRAPHS = {
    "no json": ("{", "cannot be read as a graph"),
    "list": ("[]", "holds no JSON object"),
    "no nodes": ('{"metadata": {}}', "no nodes and metadata"),
    "no id": (json.dumps(graph([{"feature_type": "x"}])), "node 0 has no node_id"),
    "other id": (json.dumps(graph([{**node("0_1_2"), "node_id": "x"}])), "node_id 'x' is not"),
    "deep": ("[" * 200_000, "cannot be read as a graph"),
}


@pytest.mark.parametrize("kind", BAD_GRAPHS)
def test_bad_graphs(kind: str, labels: list[ExportedLabels], tmp_path: Path) -> None:
    content, says = BAD_GRAPHS[kind]
    (tmp_path / "g.json").write_text(content)
    with pytest.raises(ExplanationError, match=says):
        name_graph(labels, tmp_path / "g.json", tmp_path / "named.json")
    assert not (tmp_path / "named.json").exists()


def test_names_of_features(
    labels: list[ExportedLabels], expected: dict[Any, str], tmp_path: Path
) -> None:
    path = tmp_path / "names.json"
    assert export_names(labels, path) == len(expected)
    found = json.loads(path.read_text())["clerps"]
    assert found == {f"{name.split('.')[1]}_{i}": text for (name, i), text in expected.items()}
    export_names(labels[:1], path)
    path.write_text('{"clerps": {}}')
    with pytest.raises(ExplanationError, match="was not written by labeler"):
        export_names(labels, path)
    twice = [labels[0], replace(labels[0], hookpoint="layers.0")]
    with pytest.raises(OptionError, match="both of layer 0"):
        feature_names(twice)


@pytest.mark.parametrize("kind", ["csv", "tsv", "delphi", "neuronpedia"])
def test_our_files_are_read_back(
    kind: Any, labels: list[ExportedLabels], expected: dict[Any, str], tmp_path: Path
) -> None:
    at = tmp_path / "out"
    if kind == "delphi":
        export_delphi(labels, at)
    elif kind == "neuronpedia":
        export_neuronpedia(labels, at, model_id="tiny")
    else:
        at.mkdir()
        at = at / f"labels.{kind}"
        export_table(labels, at, kind)
    hookpoint = "layers.{layer}.mlp" if kind == "neuronpedia" else None
    found = read_explanations(at, hookpoint=hookpoint)
    assert {(e.hookpoint, e.latent): e.text for e in found.explanations} == expected
