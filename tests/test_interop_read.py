"""Reading explanations: which format a file is, places, tables; records passed over are counted."""

import csv
import gzip
import json
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from labeler.errors import ExplanationError, OptionError
from labeler.explanations import Context
from labeler.interop.bounded import keys_of
from labeler.interop.checks import latent_of
from labeler.interop.collect import Collector, spread
from labeler.interop.read import FORMATS, read_explanations

ROWS = [
    ("layers.0.mlp", 3, 'months, "January", <b>May</b>', "gpt-4o", 0.75),
    ("layers.0.mlp", 4, "a line\nbreak, and a comma", "gpt-4o", 0.5),
    ("layers.1", 0, "", "gpt-4o", 0.25),
]
NAMES = ("hookpoint", "latent", "text", "author", "detection score")


def write_csv(path: Path, names: tuple[str, ...], rows: list[tuple[object, ...]]) -> Path:
    """Write a table with the standard library, the outside oracle of what CSV is."""
    dialect = "excel-tab" if path.suffix == ".tsv" else "excel"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, dialect)
        writer.writerow(names)
        writer.writerows(rows)
    return path


def write_lines(path: Path, records: list[object]) -> Path:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.jsonl.gz", "t.json", "t.parquet"])
def test_tables_of_every_kind_say_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    records = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
    if path.suffix in (".csv", ".tsv"):
        write_csv(path, NAMES, list(ROWS))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records), encoding="utf-8")
    elif path.suffix == ".parquet":
        pl.DataFrame(records).write_parquet(path)
    else:
        write_lines(path, list(records))
    for where in (path, tmp_path):
        found = read_explanations(where)
        assert found.format == "table"
        assert [
            (e.hookpoint, e.latent, e.text, e.author, e.published["detection score"])
            for e in found.explanations
        ] == ROWS
        assert found.contexts == {}
        assert found.notes == ()
    assert str(path) in found.explanations[0].origin


@pytest.mark.parametrize(
    ("hookpoint", "latent", "text"),
    [
        ("layer", "feature", "label"),
        ("site", "index", "description"),
        ("Source", "Latent Index", "Annotation"),
        ("hookpoint", "feature_id", "explanation"),
    ],
)
def test_common_names_of_columns(tmp_path: Path, hookpoint: str, latent: str, text: str) -> None:
    rows: list[tuple[object, ...]] = [("model.layers.2.mlp", "7.0", "dogs", "x")]
    path = write_csv(tmp_path / "t.csv", (hookpoint, latent, text, "n"), rows)
    (one,) = read_explanations(path).explanations
    assert (one.hookpoint, one.latent, one.text) == ("layers.2.mlp", 7, "dogs")


def test_columns_that_are_missing_or_could_be_either_are_named(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [("layers.0", 1, "a", "b")]
    path = write_csv(tmp_path / "t.csv", ("hookpoint", "latent", "label", "explanation"), rows)
    with pytest.raises(ExplanationError, match=r"explanation and label could each be the text"):
        read_explanations(path)
    path = write_csv(tmp_path / "u.csv", ("hookpoint", "latent", "words", "n"), rows)
    with pytest.raises(ExplanationError, match=r"no column for the text.*columns: .*words"):
        read_explanations(path)
    path = write_csv(tmp_path / "v.csv", ("hookpoint", "number", "text", "n"), rows)
    with pytest.raises(ExplanationError, match=r"no column for the latent; name one latent"):
        read_explanations(path)
    # With all of our own names there is no doubt, whatever else is there.
    path = write_csv(tmp_path / "w.csv", ("hookpoint", "latent", "text", "label"), rows)
    assert read_explanations(path).explanations[0].text == "a"


def test_a_table_without_places_takes_the_users(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ("latent", "text"), [(1, "dogs")])
    with pytest.raises(ExplanationError, match=r"name one with --hookpoint, as in layers\.3\.mlp"):
        read_explanations(path)
    found = read_explanations(path, hookpoint="blocks.4.hook_mlp_out")
    assert found.explanations[0].hookpoint == "layers.4.mlp"


def test_numbers_of_layers_need_a_site(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [(3, 1, "dogs"), (12, 1, "cats")]
    path = write_csv(tmp_path / "t.csv", ("layer", "latent", "text"), rows)
    with pytest.raises(ExplanationError, match=r"numbers of layers.*--hookpoint layers\.\{layer\}"):
        read_explanations(path)
    found = read_explanations(path, hookpoint="layers.{layer}.mlp")
    assert [e.hookpoint for e in found.explanations] == ["layers.3.mlp", "layers.12.mlp"]
    with pytest.raises(ExplanationError, match=r"several places \(3, 12\)"):
        read_explanations(path, hookpoint="layers.3.mlp")


def test_a_hookpoint_that_files_name_themselves_is_said_not_to_be_used(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", NAMES, list(ROWS))
    found = read_explanations(path, hookpoint="layers.9")
    assert found.explanations[0].hookpoint == "layers.0.mlp"
    assert any("layers.9 was not needed" in note for note in found.notes)


def test_what_labeler_explain_writes_is_read_back(tmp_path: Path) -> None:
    record = {
        "hookpoint": "layers.0.mlp",
        "latent": 5,
        "text": "verbs",
        "author": "model",
        "published": {"detection accuracy": 0.9, "note": "none", "bad": None},
        "origin": "somewhere",
    }
    (one,) = read_explanations(write_lines(tmp_path / "e.jsonl", [record])).explanations
    assert (one.text, one.author, dict(one.published)) == (
        "verbs",
        "model",
        {"detection accuracy": 0.9},
    )
    # The same as a column of JSON, as tables have it.
    row = tuple(record[name] for name in ("hookpoint", "latent", "text"))
    published = json.dumps(record["published"])
    names = ("hookpoint", "latent", "text", "published")
    path = write_csv(tmp_path / "e.csv", names, [(*row, published)])
    assert read_explanations(path).explanations[0].published == {"detection accuracy": 0.9}


def test_score_columns_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    names = ("hookpoint", "latent", "text", "f1_score", "score_type", "score_auc")
    rows: list[tuple[object, ...]] = [
        ("layers.0", 1, "a", "0.5", "fuzz", ""),
        ("layers.0", 2, "b", "nan", "fuzz", "0.7"),
    ]
    one, other = read_explanations(write_csv(tmp_path / "t.csv", names, rows)).explanations
    assert one.published == {"f1_score": 0.5}
    assert other.published == {"score_auc": 0.7}


def test_damaged_records_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    good = {"hookpoint": "layers.0", "latent": 1, "text": "dogs"}
    records: list[object] = [
        good,
        good | {"latent": -1},
        good | {"latent": 1.5},
        good | {"latent": 2**40},
        good | {"latent": True},
        good | {"latent": float("nan")},
        good | {"text": ["a", "list"]},
        good | {"hookpoint": None},
        {"unlike": "the others"},
        ["no object"],
        good,
        good | {"text": None},
    ]
    path = write_lines(tmp_path / "t.jsonl", records)
    found = read_explanations(path)
    assert [e.text for e in found.explanations] == ["dogs", ""]
    notes = "\n".join(found.notes)
    assert f"5 records passed over: latent that is no whole number from 0 on (first: {path}, " in (
        notes
    )
    assert "line 2: -1)" in notes
    assert "text that is no text" in notes
    assert "record without a hookpoint" in notes
    assert "1 records passed over: record without the columns of the first" in notes
    assert "1 explanations given twice, one kept" in notes


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    records = [{"hookpoint": "layers.0", "latent": -index, "text": "a"} for index in (1, 2)]
    path = write_lines(tmp_path / "t.jsonl", list(records))
    with pytest.raises(ExplanationError, match=r"none of 2 records.*t\.jsonl, line 1: -1"):
        read_explanations(path)


def test_latents_are_whole_numbers() -> None:
    assert [latent_of(value) for value in (0, "12", 12.0, " 3 ", "12.0")] == [0, 12, 12, 3, 12]
    for value in ("-1", "1e3", "", "1.5", "९", None, [1], float("inf"), 2**31, False):
        with pytest.raises(ExplanationError):
            latent_of(value)


def test_the_format_is_forced_or_listed(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", NAMES, list(ROWS))
    assert read_explanations(path, format="table").format == "table"
    with pytest.raises(OptionError, match="delphi, neuronpedia, openai, seed, annotations, table"):
        read_explanations(path, format="csv")
    with pytest.raises(ExplanationError, match="nothing of format seed, which is eval_results"):
        read_explanations(tmp_path, format="seed")


def test_a_folder_of_nothing_known_lists_the_layouts(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(ExplanationError, match="no explanations that are known") as caught:
        read_explanations(tmp_path)
    for name, one in FORMATS.items():
        assert f"{name}: {one.layout}" in str(caught.value)
    with pytest.raises(ExplanationError, match="does not exist"):
        read_explanations(tmp_path / "gone")


def test_files_of_one_format_merge_and_two_formats_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", NAMES, list(ROWS))
    write_lines(tmp_path / "b.jsonl", [{"layer": "layers.5", "latent": 1, "explanation": "x"}])
    assert len(read_explanations(tmp_path).explanations) == 4
    write_lines(tmp_path / "c.jsonl", [{"Name": "resid_0/1", "Annotation": "dogs"}])
    found = read_explanations(tmp_path)
    assert found.format == "annotations"
    assert any("2 tables in the folder were left aside" in note for note in found.notes)
    record = {"modelId": "m", "layer": "1-res-x", "index": "1", "description": "d"}
    write_lines(tmp_path / "d.jsonl", [record])
    with pytest.raises(ExplanationError, match=r"several formats: annotations .* neuronpedia"):
        read_explanations(tmp_path)


def test_fields_are_found_in_the_beginning_of_a_file_only(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    text = r'{"text": "he said \"modelId\": 1", "nested": {"index": 1}}'
    path.write_text(text + "\n" + " " * (1 << 16) + '{"late": 1}', encoding="utf-8")
    assert keys_of(path) == {"text", "nested", "index"}


def context(peak: float, chosen: str) -> Context:
    return Context((f"{chosen}{peak}",), np.array([peak], dtype=np.float32), chosen)


def test_contexts_are_thinned_evenly_by_kind_and_strength() -> None:
    top = tuple(context(peak, "top") for peak in (9, 5, 7, 8, 6))
    random = (context(0, "random"), context(1, "random"))
    # Two of each kind: the strongest and the weakest of the top ones; both random ones.
    assert spread(top + random, 4) == (top[0], top[1], *random)
    # Random ones are used up: what is left goes to the others.
    assert len(spread(top + random, 6)) == 6
    assert spread(top, 1) == (top[0],)
    assert spread(top, 0) == ()


def test_contexts_of_a_latent_are_bounded(tmp_path: Path) -> None:
    into = Collector(tmp_path, contexts_per_latent=2)
    for peak in range(20):
        into.add_context(("layers.0", 1), context(peak, "top"))
        into.add_context(("layers.0", 1), context(0, "top"))
    found = into.finish("test")
    assert [c.acts[0] for c in found.contexts["layers.0", 1]] == [0, 7]
    assert any("18 contexts beyond 2 a latent" in note for note in found.notes)
    assert any("20 contexts given twice" in note for note in found.notes)
    with pytest.raises(OptionError, match="use 0 or more"):
        Collector(tmp_path, contexts_per_latent=-1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["big.parquet", "big.jsonl"])
def test_a_hundred_thousand_explanations_take_seconds(tmp_path: Path, name: str) -> None:
    n = 100_000
    frame = pl.DataFrame(
        {
            "hookpoint": ["layers.0.mlp"] * n,
            "latent": range(n),
            "text": [f"explanation number {index}" for index in range(n)],
            "score": [0.5] * n,
        }
    )
    path = tmp_path / name
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_ndjson(path)
    started = time.process_time()
    found = read_explanations(path)
    assert len(found.explanations) == n
    assert time.process_time() - started < 10
