"""docs/function-types.md runs as it stands there, and its plug-ins win where they should.

The blocks are run in order, in a folder with a run whose text and latents are made up: the latents
fire on prepositions, on years, on metals, and on metals but for two.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

from labeler.cli import app
from labeler.config import RunConfig
from labeler.functions import check_function_type, function_types, registry
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from labeler.plugins import load_plugin
from labeler.provenance import mark_done
from labeler.tokens import HELDOUT, N_FOLDS, Tokens
from labeler.windows import save_tokens
from tests.tiny_run import write_cache

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "function-types.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.M | re.S)
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))

PREPOSITIONS = ["of", "in", "to", "for", "with", "on", "at", "from", "by", "about"]
DETERMINERS = ["the", "a", "this", "that", "every", "some"]
TERMS = [
    line.split(",")
    for line in (ROOT / "docs/examples/lexicon.csv").read_text(encoding="utf-8").splitlines()[1:]
]
METALS = [term for term, field in TERMS if field == "metal"]
SILENT = METALS[:2]
CLASS, PATTERN, FIELD, TERM = range(4)
N_DOCS, CTX_LEN = 150, 64


class Word(NamedTuple):
    """A word as the tokenizer splits it, and the latents that fire at its last token."""

    pieces: tuple[str, ...]
    latents: tuple[int, ...] = ()


def words() -> list[tuple[Word, float]]:
    """Words and how often each occurs, in the mean."""
    found = [(Word((f" {word}",), (CLASS,)), 1.5) for word in PREPOSITIONS]
    found += [(Word((f" {word}",)), 2.5) for word in DETERMINERS]
    for tens in range(20, 60):
        found.append((Word((" 19", str(tens))), 0.15))
        # The same second token, where it is no year, after others and after the same first one.
        found.append((Word((" 37", str(tens))), 0.15))
        found.append((Word((" 19", str(tens), "0")), 0.15))
    for term, field in TERMS:
        latents = (FIELD,) if field == "metal" else ()
        if latents and term not in SILENT:
            latents += (TERM,)
        found.append((Word((f" {term[:-3]}", term[-3:]), latents), 0.7))
        found.append((Word((f" {term[:-3]}", "ly")), 0.3))
    found += [(Word((f" thing{number}",)), 1.0) for number in range(40)]
    return [*found, (Word((".",)), 4.0)]


def corpus() -> tuple[Tokens, np.ndarray]:
    """Text of these words, and activations [n_ctx * ctx_len, 4] with noise."""
    rng = np.random.default_rng(0)
    known, often = zip(*words(), strict=True)
    vocab = tuple(dict.fromkeys(piece for word in known for piece in word.pieces))
    number = {piece: index for index, piece in enumerate(vocab)}
    chance = np.array(often) / sum(often)
    ids, fires = [], np.zeros((N_DOCS, CTX_LEN, 4), dtype=bool)
    for doc in range(N_DOCS):
        row: list[int] = []
        for index in rng.choice(len(known), CTX_LEN, p=chance):
            row += [number[piece] for piece in known[index].pieces]
            if len(row) <= CTX_LEN:
                fires[doc, len(row) - 1, list(known[index].latents)] = True
        ids.append(row[:CTX_LEN])
    # 19300 is a year as far as 1930: the latent has not read on either.
    last = np.array(ids)
    for tens in range(20, 60):
        fires[:, 1:, PATTERN] |= (last[:, 1:] == number[str(tens)]) & (
            last[:, :-1] == number[" 19"]
        )
    fires &= rng.random(fires.shape) > 0.1
    fires |= rng.random(fires.shape) < 0.003
    acts = np.where(fires, rng.uniform(1, 3, fires.shape), 0).astype(np.float32)
    doc = np.arange(N_DOCS)
    tokens = Tokens(
        ids=last.astype(np.int32),
        length=np.full(N_DOCS, CTX_LEN, dtype=np.int32),
        doc=doc.astype(np.int32),
        fold=np.where(doc < N_DOCS - 25, doc % N_FOLDS, HELDOUT).astype(np.int8),
        doc_ids=tuple(f"doc{number}" for number in range(N_DOCS)),
        topics=((),) * N_DOCS,
        topic_levels=(),
        vocab=vocab,
    )
    return tokens, acts.reshape(-1, 4)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the plug-ins and the run, in which every block of the page was run."""
    folder = tmp_path_factory.mktemp("tutorial")
    for example in (ROOT / "docs" / "examples").glob("*.*"):
        shutil.copy(example, folder)
    out = folder / "runs" / "mine"
    tokens, acts = corpus()
    RunConfig(model="./none", coder="./none", corpus="stdlib", ctx_len=CTX_LEN).save(out)
    save_tokens(tokens, out / "tokens")
    mark_done(out / "tokens" / "done.json", "made up", corpus="d" * 64)
    write_cache(out, tokens, {"layers.0.mlp": acts})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_registry", dict(function_types()))
        patch.chdir(folder)
        space: dict[str, object] = {}
        for language, block in BLOCKS:
            if language == "console":
                run_console(block)
            elif language == "python" and block not in texts_of_examples():
                exec(compile(block, "function-types.md", "exec"), space)
        yield folder


def texts_of_examples() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in EXAMPLES]


def run_console(block: str) -> None:
    """Run each command of a block; where the block shows its output, it is that."""
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, _, shown = part.partition("\n")
        program, *arguments = shlex.split(command)
        if program == "python":
            done = subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
            assert done.returncode == 0, done.stdout.decode()
            continue
        assert program == "labeler"
        result = CliRunner().invoke(app, arguments)
        assert result.exception is None, (command, result.exception, result.output)
        assert shown in ("", result.output)


def test_the_page_shows_the_files_as_they_are() -> None:
    shown = [block for language, block in BLOCKS if language == "python"]
    assert len(EXAMPLES) == 3
    assert [path.name for path in EXAMPLES if path.read_text(encoding="utf-8") not in shown] == []
    for path in EXAMPLES:
        assert f"`{path.name}`:\n" in PAGE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("latent", "name", "text"),
    [
        (CLASS, "closed_class", "fires on a preposition"),
        (PATTERN, "word_pattern", "fires on a year"),
        (FIELD, "lexicon_field", "fires on a term of the field `metal`"),
        (TERM, "lexicon_term", "fires on a term of the field `metal`"),
    ],
)
def test_each_plug_in_wins_on_the_latent_it_explains(
    place: Path, latent: int, name: str, text: str
) -> None:
    labels = LabelSet.load(label_folder(Run(place / "runs" / "mine").out, "layers.0.mlp"))
    label = labels.label(latent)
    assert (label.function_type, label.text[: len(text)]) == (name, text)


@pytest.mark.slow
def test_the_labels_fire_where_the_latents_do_on_held_out_text(place: Path) -> None:
    run = Run(place / "runs" / "mine")
    labels = LabelSet.load(label_folder(run.out, "layers.0.mlp"))
    heldout = run.tokens.heldout
    acts = corpus()[1].reshape(N_DOCS, CTX_LEN, 4)[run.tokens.fold == HELDOUT]
    for latent in range(4):
        said, true = labels.label(latent).fires(heldout), acts[:, :, latent] > 0
        # A tenth of the firings is left out, and there are some at random.
        assert 2 * (said & true).sum() / (said.sum() + true.sum()) > 0.8


@pytest.mark.slow
def test_an_exported_label_of_each_plug_in_predicts_the_same(place: Path) -> None:
    run = Run(place / "runs" / "mine")
    labels = LabelSet.load(label_folder(run.out, "layers.0.mlp"))
    ids = run.tokens.heldout.ids
    for latent in range(4):
        names: dict[str, object] = {}
        exec(labels.label(latent).source(16), names)
        wanted = labels.label(latent).predict(run.tokens.heldout, 16)
        assert np.array_equal(names["predict"](ids), wanted)  # type: ignore[operator]


def test_the_plug_ins_keep_the_contract_on_text_that_has_their_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_registry", dict(function_types()))
    tokens = corpus()[0].select(np.arange(0, N_DOCS, 4))
    for path in EXAMPLES:
        for kind in load_plugin(path).types:
            check_function_type(kind, tokens)
            instance = kind()
            instance.prepare(tokens.fit)
            assert len(np.unique(instance.keys(tokens))) > 2
