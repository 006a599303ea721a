"""Corpora of every kind: what is read, in which order, into which split, and what is refused."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from labeler.corpus import Corpus, Document, corpus_of, hashed_split, load_corpus
from labeler.errors import CorpusError


def texts(corpus: Corpus, seed: int = 0) -> set[str]:
    return {document.text for document in corpus.documents(seed)}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


ROWS = [
    {"text": f"text {i}", "subject": "math" if i % 2 else "art", "n": i, "part": part}
    for i, part in enumerate(["train", "fit", "heldout", "test", "validation", "valid", "held-out"])
]


# --- folders


def test_folder_reads_every_text_with_topics_from_its_path(tmp_path: Path) -> None:
    for name in ("a/b/one.txt", "a/two.md", "top.txt", "a/b/c/deep.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}")
    corpus = load_corpus(tmp_path)
    assert corpus.topic_levels == ("level_1", "level_2")
    assert {d.id: (d.text, d.topics) for d in corpus.documents()} == {
        "a/b/one.txt": ("content of a/b/one.txt", ("a", "a/b")),
        "a/two.md": ("content of a/two.md", ("a", "")),
        "top.txt": ("content of top.txt", ("", "")),
        "a/b/c/deep.txt": ("content of a/b/c/deep.txt", ("a", "a/b")),
    }


def test_folder_without_sub_folders_has_no_topics(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one")
    assert load_corpus(tmp_path).topic_levels == ()


def test_folder_skips_and_counts_binary_undecodable_and_blank_files(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("naïve", encoding="utf-8")
    (tmp_path / "binary.bin").write_bytes(b"abc\0def")
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / ".hidden").write_text("not a document")
    corpus = load_corpus(tmp_path)
    assert texts(corpus) == {"naïve"}
    assert corpus.n_skipped == 3


def test_folder_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    for name in ("x", "y", "z"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f.txt").write_text("same" if name != "z" else "other")
    x, y, z = (load_corpus(tmp_path / name).fingerprint for name in ("x", "y", "z"))
    assert x == y != z


@pytest.mark.parametrize("prepare", ["empty", "binary"])
def test_empty_folder_is_an_error(tmp_path: Path, prepare: str) -> None:
    if prepare == "binary":
        (tmp_path / "x.bin").write_bytes(b"\0")
    with pytest.raises(CorpusError, match="no text"):
        load_corpus(tmp_path)


# --- text files


def test_txt_is_split_at_end_of_text_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    path.write_bytes(
        b"first\n\nstill first\n<|endoftext|>\n\n<|endoftext|>\r\nsecond <|endoftext|> inline\n"
        b"<|endoftext|>\nlast, without an end"
    )
    corpus = load_corpus(path)
    assert {d.id: d.text for d in corpus.documents()} == {
        "stories.txt:0": "first\n\nstill first",
        "stories.txt:1": "second <|endoftext|> inline",
        "stories.txt:2": "last, without an end",
    }


def test_txt_without_markers_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("a\n\nb\n\nc")
    assert texts(load_corpus(path)) == {"a\n\nb\n\nc"}


def test_txt_of_another_encoding_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("naïve".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"latin\.txt is not UTF-8"):
        load_corpus(path)


@pytest.mark.shared
def test_tinystories_are_many_documents(shared_data: Path) -> None:
    corpus = load_corpus(shared_data / "tinystories-text" / "validation.txt")
    assert len(corpus) == 1911
    assert not any("endoftext" in document.text for document in corpus.documents())


# --- files with columns


def table(tmp_path: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    if kind == "jsonl":
        return write_jsonl(tmp_path / "data.jsonl", rows)
    path = tmp_path / "data.parquet"
    pl.DataFrame(rows).write_parquet(path, row_group_size=2)
    return path


both = pytest.mark.parametrize("kind", ["jsonl", "parquet"])


@both
def test_columns_give_text_topics_and_split(tmp_path: Path, kind: str) -> None:
    corpus = load_corpus(
        table(tmp_path, kind, ROWS), topic_columns=["subject", "n"], split_column="part"
    )
    assert corpus.topic_levels == ("subject", "n")
    found = {d.text: (d.topics, d.split) for d in corpus.documents()}
    assert found["text 1"] == (("math", "1"), "fit")
    assert [found[f"text {i}"][1] for i in range(7)] == ["fit"] * 2 + ["heldout"] * 5


@both
def test_order_is_seeded_and_splits_do_not_depend_on_it(tmp_path: Path, kind: str) -> None:
    rows = [{"text": f"text {i}"} for i in range(600)]
    corpus = load_corpus(table(tmp_path, kind, rows))
    first, again, other = (
        [(d.text, d.split) for d in corpus.documents(seed)] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert first != sorted(first)
    assert dict(first) == dict(other)
    assert {d.text for d in corpus.documents(0)} == {row["text"] for row in rows}
    assert 0.05 < sum(split == "heldout" for _, split in first) / 600 < 0.15


@both
def test_split_filter_reads_only_that_split(tmp_path: Path, kind: str) -> None:
    corpus = load_corpus(table(tmp_path, kind, ROWS), split_column="part")
    assert {d.text for d in corpus.documents(split="fit")} == {"text 0", "text 1"}
    assert len(list(corpus.documents(split="heldout"))) == 5


@both
def test_missing_columns_are_named_with_those_that_exist(tmp_path: Path, kind: str) -> None:
    path = table(tmp_path, kind, ROWS)
    for options in (
        {"text_column": "body"},
        {"topic_columns": ["body"]},
        {"split_column": "body"},
    ):
        with pytest.raises(CorpusError, match=r"body.*text, subject, n, part"):
            load_corpus(path, **options)


@both
def test_unknown_split_value_is_named(tmp_path: Path, kind: str) -> None:
    path = table(tmp_path, kind, [*ROWS, {**ROWS[0], "part": "dev"}])
    with pytest.raises(CorpusError, match="'dev' is unknown; known: train"):
        load_corpus(path, split_column="part")


@both
def test_rows_without_text_are_counted_and_missing_topics_are_empty(
    tmp_path: Path, kind: str
) -> None:
    rows = [{"text": t, "topic": None if t == "b" else "x"} for t in ("a", "", None, "  ", "b")]
    corpus = load_corpus(table(tmp_path, kind, rows), topic_columns=["topic"])
    assert {d.text: d.topics for d in corpus.documents()} == {"a": ("x",), "b": ("",)}
    assert corpus.n_skipped == 3


@both
def test_text_column_of_numbers_is_an_error(tmp_path: Path, kind: str) -> None:
    with pytest.raises(CorpusError, match=r"expected (a string|text)"):
        load_corpus(table(tmp_path, kind, ROWS), text_column="n")


@both
def test_empty_table_is_an_error(tmp_path: Path, kind: str) -> None:
    if kind == "jsonl":
        path = write_jsonl(tmp_path / "data.jsonl", [])
    else:
        path = tmp_path / "data.parquet"
        pl.DataFrame({"text": []}, schema={"text": pl.String}).write_parquet(path)
    with pytest.raises(CorpusError, match="holds no text"):
        load_corpus(path)


def test_broken_json_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(CorpusError, match="line 2 is not JSON"):
        load_corpus(path)


def test_truncated_parquet_is_an_error(tmp_path: Path) -> None:
    path = table(tmp_path, "parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorpusError, match=r"data\.parquet"):
        load_corpus(path)


def test_nested_topic_column_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pl.DataFrame({"text": ["a", "b"], "topic": [["x"], ["y"]]}).write_parquet(path)
    with pytest.raises(CorpusError, match="topic columns must hold text"):
        list(load_corpus(path, topic_columns=["topic"]).documents())


@pytest.mark.shared
def test_openstax_has_topics_and_its_own_split(shared_data: Path) -> None:
    corpus = load_corpus(
        shared_data / "openstax" / "openstax.parquet",
        topic_columns=["subject", "book"],
        split_column="split",
    )
    assert len(corpus) == 3778
    heldout = list(corpus.documents(split="heldout"))
    assert heldout
    assert all(len(d.topics) == 2 and all(d.topics) for d in heldout)


# --- data sets of the hub


class FakeSplit:
    """The part of `datasets.Dataset` that the reader uses."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.column_names = list(rows[0])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        return self.rows[key] if isinstance(key, int) else [row[key] for row in self.rows]


def fake_datasets(monkeypatch: pytest.MonkeyPatch, **parts: list[dict[str, Any]]) -> list[Any]:
    calls: list[Any] = []
    module = ModuleType("datasets")

    def load_dataset(name: str, config: str | None) -> dict[str, FakeSplit]:
        calls.append((name, config))
        return {key: FakeSplit(rows) for key, rows in parts.items()}

    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_data_set_uses_its_own_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_datasets(monkeypatch, train=ROWS[:4], test=ROWS[4:])
    corpus = load_corpus("owner/name:small", topic_columns=["subject"])
    assert calls == [("owner/name", "small")]
    found = {d.text: (d.id, d.split, d.topics) for d in corpus.documents()}
    assert found["text 3"] == ("owner/name:small:train:3", "fit", ("math",))
    assert found["text 4"] == ("owner/name:small:test:0", "heldout", ("art",))


def test_data_set_with_one_split_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_datasets(monkeypatch, train=ROWS)
    for document in load_corpus("owner/name").documents():
        assert document.split == hashed_split(document.id)


def test_data_set_split_column_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_datasets(monkeypatch, train=ROWS[:3], test=ROWS[3:])
    corpus = load_corpus("owner/name", split_column="part")
    assert {d.text for d in corpus.documents(split="fit")} == {"text 0", "text 1"}


def test_without_the_datasets_library_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r'pip install "labeler\[datasets\]"'):
        load_corpus("owner/name")


# --- all of them


@pytest.mark.parametrize("name", ["missing.txt", "missing.parquet", "./missing", "/no/such/folder"])
def test_missing_source_is_an_error(name: str) -> None:
    with pytest.raises(CorpusError, match=f"{name} does not exist"):
        load_corpus(name)


def test_unknown_ending_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text\na\n")
    with pytest.raises(CorpusError, match=r"'\.csv'; files that can be read: \.txt"):
        load_corpus(tmp_path / "data.csv")


@pytest.mark.parametrize("option", [{"topic_columns": ["a"]}, {"split_column": "a"}])
def test_columns_for_a_folder_are_refused(text_folder: Path, option: dict[str, Any]) -> None:
    with pytest.raises(CorpusError, match="has no columns"):
        load_corpus(text_folder, **option)


def test_documents_in_memory_keep_their_split() -> None:
    documents = [Document(str(i), f"text {i}", ("t",), "heldout") for i in range(5)]
    corpus = corpus_of(documents, name="mine", topic_levels=("level",))
    assert sorted(corpus.documents(), key=lambda d: d.id) == documents
    with pytest.raises(CorpusError, match="two documents have the id '0'"):
        corpus_of([documents[0], documents[0]], name="mine", topic_levels=("level",))
    with pytest.raises(CorpusError, match="has 1 topics"):
        corpus_of(documents, name="mine")


@pytest.mark.slow
def test_stdlib_corpus_has_topics_and_both_splits() -> None:
    corpus = load_corpus("stdlib")
    assert len(corpus.topic_levels) == 2
    found = {d.id: d for d in corpus.documents()}
    assert found["asyncio/events.py"].topics == ("asyncio", "events")
    assert {d.split for d in found.values()} == {"fit", "heldout"}
