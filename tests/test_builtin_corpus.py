"""The standard library as a corpus: rules on a hand-made folder, and the real one."""

from pathlib import Path

import pytest

from labeler.builtin import corpus
from labeler.builtin.corpus import is_heldout, stdlib_documents, topics_of
from labeler.errors import CorpusError

LONG = "x = 1\n" * 50


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(corpus, "stdlib_root", lambda: tmp_path)
    return tmp_path


def write(folder: Path, name: str, content: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_documents_are_sorted_with_topics_from_the_path(folder: Path) -> None:
    write(folder, "json/decoder.py", LONG + "a")
    write(folder, "argparse.py", LONG + "b")
    write(folder, "test/test_json/test_tool.py", LONG + "c")
    documents = stdlib_documents()
    assert [(document.id, document.topics) for document in documents] == [
        ("argparse.py", ("argparse", "")),
        ("json/decoder.py", ("json", "decoder")),
        ("test/test_json/test_tool.py", ("test", "test_json")),
    ]
    assert documents[0].text == LONG + "b"


@pytest.mark.parametrize(
    "name",
    [
        "site-packages/a.py",
        "dist-packages/a.py",
        "__pycache__/a.py",
        "encodings/cp1250.py",
        "pydoc_data/topics.py",
        "config-3.12-x86_64-linux-gnu/python-config.py",
        "_sysconfigdata__linux_x86_64-linux-gnu.py",
        "LICENSE.txt",
    ],
)
def test_what_is_not_source_is_skipped(folder: Path, name: str) -> None:
    write(folder, "kept.py", LONG)
    write(folder, name, LONG + "other")
    assert [document.id for document in stdlib_documents()] == ["kept.py"]


def test_short_undecodable_and_repeated_files_are_skipped(folder: Path) -> None:
    write(folder, "a.py", LONG)
    write(folder, "b.py", LONG)  # the same bytes again
    write(folder, "c.py", "x" * 199)
    write(folder, "d.py", "y" * 200)
    write(folder, "e.py", b"# \xff\xfe" + LONG.encode())
    assert [document.id for document in stdlib_documents()] == ["a.py", "d.py"]


def test_line_ends_are_kept(folder: Path) -> None:
    write(folder, "dos.py", "x = 1\r\n" * 50)
    assert stdlib_documents()[0].text == "x = 1\r\n" * 50


def test_a_library_without_sources_says_so(folder: Path) -> None:
    with pytest.raises(CorpusError, match="no Python sources under"):
        stdlib_documents()


def test_heldout_is_a_stable_tenth() -> None:
    # fixed answers: a changed hash would leak held-out text into the shipped model's training text
    assert [is_heldout(name) for name in ("abc.py", "argparse.py", "test/test_bool.py")] == [
        False,
        False,
        False,
    ]
    assert 150 < sum(is_heldout(f"module{i}.py") for i in range(2000)) < 250


def test_topics_have_two_levels() -> None:
    assert topics_of("a/b/c/d.py") == ("a", "b")
    assert topics_of("asyncio/__init__.py") == ("asyncio", "__init__")


@pytest.mark.slow
def test_the_running_python_has_a_usable_corpus() -> None:
    documents = stdlib_documents()
    ids = [document.id for document in documents]
    assert ids == sorted(set(ids))
    assert "argparse.py" in ids
    assert len(documents) > 100
    assert any(is_heldout(name) for name in ids)
    assert documents == stdlib_documents()
