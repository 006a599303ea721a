"""The driver of the audit: where text comes from, what is written, and what is refused."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tiny_run as tiny
from test_audit_embedding import save_lsa

from labeler.audit_prose import Simulation
from labeler.audit_run import audit
from labeler.config import RunConfig
from labeler.errors import (
    CacheError,
    CoderError,
    DiskError,
    ExplanationError,
    LabelerError,
    ModelError,
    OptionError,
    RunError,
)
from labeler.eval.audit.grounds import ContextGrounds, RunGrounds, match_places
from labeler.eval.audit.rows import SCHEMA
from labeler.eval.claims import Claims
from labeler.explanations import Context
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder

FIRST, SECOND = tiny.HOOKPOINTS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny.tiny_run(tmp_path_factory.mktemp("run"), verified=False)


def test_places_are_matched() -> None:
    known = ("layers.0.mlp", "layers.1.mlp")
    assert match_places(["layers.1.mlp"], known, None) == {"layers.1.mlp": "layers.1.mlp"}
    # One that the run has is enough; the other is unverifiable there.
    assert match_places(["a", "layers.1.mlp"], known, None) == {
        "a": "a",
        "layers.1.mlp": "layers.1.mlp",
    }
    # Where the only place belongs, in any spelling; or one of several.
    assert match_places(["6-res-jb"], known, "blocks.1.hook_mlp_out") == {
        "6-res-jb": "layers.1.mlp"
    }
    assert match_places(["layers.0.mlp", "layers.1.mlp"], known, "layers.1.mlp") == {
        "layers.1.mlp": "layers.1.mlp"
    }
    assert match_places(["6-res-jb", "b"], None, "6-res-jb") == {"6-res-jb": "6-res-jb"}
    assert match_places(["b", "a"], None, None) == {"b": "b", "a": "a"}


@pytest.mark.parametrize(
    ("named", "known", "wanted", "message"),
    [
        (["6-res-jb"], ("layers.0.mlp",), None, "are of 6-res-jb, the run has layers.0.mlp; give"),
        (["a"], ("layers.0.mlp",), "layers.3", "--hookpoint is layers.3, the run has layers.0.mlp"),
        (["a", "b"], ("layers.0",), "layers.0", "layers.0, the explanations are of a, b; name one"),
        (["a", "b"], None, "layers.0", "the explanations are of a, b"),
        ([f"p{n}" for n in range(11)], ("layers.0",), None, "p7 and 3 more, the run"),
        (["x" * 1000], ("layers.0",), None, "x…, the run has"),
    ],
)
def test_places_that_do_not_match(
    named: list[str], known: tuple[str, ...] | None, wanted: str | None, message: str
) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        match_places(named, known, wanted)
    assert len(str(caught.value)) < 400
    assert match_places(["a"], None, "layers.0") == {"a": "layers.0"}


def test_no_name_of_a_place() -> None:
    with pytest.raises(CoderError, match="unknown hookpoint 'nowhere'"):
        match_places(["a"], None, "nowhere")


def test_the_ground_of_a_run_is_its_heldout_text(run: Run) -> None:
    grounds = RunGrounds(run)
    ground = grounds.ground(SECOND)
    assert ground is not None
    heldout = run.tokens.heldout
    np.testing.assert_array_equal(ground.tokens.ids, heldout.ids)
    # Planted: this latent fires on token 0 and nowhere else.
    wanted = np.flatnonzero((heldout.ids == 0) & heldout.valid)
    np.testing.assert_array_equal(ground.fires_in[tiny.TOKEN], wanted)
    assert ground.owner is None
    assert grounds.ground("layers.9") is None
    assert grounds.facts() == {
        "kind": "run",
        "run": str(run.out),
        "model": "./a model",
        "coder": "owner/coders",
        "corpus": "stdlib",
        "tokens": heldout.n_positions,
        "documents": len(np.unique(heldout.doc)),
    }


def test_what_a_run_lacks_is_said(run: Run) -> None:
    grounds = RunGrounds(run)
    assert grounds.missing(FIRST, 6) is None
    assert grounds.missing(FIRST, 7) == f"the coder at {FIRST} has latents 0 to 6, no 7"
    assert grounds.missing(FIRST, -1) is not None
    reason = grounds.missing("layers.9", 0)
    assert reason == f"the run has no layers.9, only {FIRST}, {SECOND}"


def test_rules_are_the_runs_labels(run: Run) -> None:
    rules = RunGrounds(run).rules(FIRST, [tiny.TOKEN, tiny.DEAD, tiny.TOKEN, tiny.PAIR, 99, -1])
    assert rules is not None
    labels = LabelSet.load(label_folder(run.out, FIRST))
    # The dead one has no label, 99 and -1 do not exist.
    assert list(rules.lines) == [tiny.TOKEN, tiny.PAIR]
    assert rules.lines[tiny.PAIR] == labels.label(tiny.PAIR).text
    every = Claims(labels).calls(run.tokens.heldout).by_latent([tiny.TOKEN, tiny.PAIR])
    mine = rules.calls.by_latent([tiny.TOKEN, tiny.PAIR])
    for latent in rules.lines:
        assert len(mine[latent])
        np.testing.assert_array_equal(mine[latent], every[latent])
    assert RunGrounds(run).rules(FIRST, [tiny.DEAD]) is None


def test_a_run_without_labels_has_no_rules(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.out, tmp_path / "run")
    shutil.rmtree(label_folder(tmp_path / "run", FIRST))
    assert RunGrounds(Run(tmp_path / "run", quiet=True)).rules(FIRST, [0]) is None


def test_grounds_of_contexts() -> None:
    context = Context(("a", " b"), np.array([0, 2], np.float32))
    grounds = ContextGrounds({("x", 3): (context, context), ("y", 1): ()})
    ground = grounds.ground("x")
    assert ground is not None
    assert ground.latents.tolist() == [3]
    # A place whose latents came with no contexts is as good as bare text.
    assert grounds.ground("y") is None
    assert grounds.ground("z") is None
    assert grounds.facts() == {
        "kind": "contexts",
        "contexts": 2,
        "latents_with_contexts": 1,
        "tokens": 4,
    }
    assert grounds.missing("z", 0) is None
    assert grounds.rules("x", [3]) is None
    assert ContextGrounds({}).facts() == {"kind": "none"}


TEXTS = {
    tiny.TOKEN: f'the text "{tiny.HOSTILE}"',
    tiny.BREAK: "line breaks",
    tiny.PAIR: 'the token "w9"',
    tiny.NOISE: "random things",
    tiny.LOOSE: 'the word "w6"',
    tiny.RARE: "nothing at all",
    tiny.DEAD: "",
    98: "connection error: failed",
    99: f"far away {tiny.HOSTILE}",
}
"""What somebody wrote about the latents of the tiny run; two of them it has not."""


def write_table(path: Path, texts: dict[int, str] = TEXTS, place: str = FIRST) -> Path:
    rows = [{"hookpoint": place, "latent": key, "text": text} for key, text in texts.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def verdicts(frame: pl.DataFrame) -> dict[int, str]:
    return dict(frame.select("latent", "verdict").iter_rows())


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("labels") / "mine.jsonl")


def test_on_a_run(run: Run, labels: Path, tmp_path: Path) -> None:
    found = audit(labels, tmp_path / "out", run=run.out, quiet=True)
    assert verdicts(found.frame) == {
        tiny.TOKEN: "supported",
        tiny.BREAK: "supported",
        tiny.PAIR: "contradicted",
        tiny.NOISE: "unverifiable",
        tiny.LOOSE: "supported",
        tiny.RARE: "unverifiable",
        tiny.DEAD: "failed",
        98: "failed",
        99: "unverifiable",
    }
    rows = {row["latent"]: row for row in found.frame.iter_rows(named=True)}
    heldout = run.tokens.heldout
    n = int(((heldout.ids == 0) & heldout.valid).sum())
    assert (rows[tiny.TOKEN]["n_firings"], rows[tiny.TOKEN]["f1"]) == (n, 1.0)
    # The rule stands beside it, on the same text: the pair that the explanation missed.
    label = LabelSet.load(label_folder(run.out, FIRST)).label(tiny.PAIR)
    assert rows[tiny.PAIR]["rule"] == label.text
    assert rows[tiny.PAIR]["rule_f1"] > 0.8 > 0.0 == rows[tiny.PAIR]["f1"]
    assert rows[99]["reason"] == f"the coder at {FIRST} has latents 0 to 6, no 99"
    assert rows[98]["reason"] == "the text is an error message"


def test_files_say_what_was_returned(run: Run, labels: Path, tmp_path: Path) -> None:
    found = audit(labels, tmp_path / "out", run=run.out, quiet=True)
    out = tmp_path / "out"
    names = sorted(path.name for path in out.iterdir())
    assert names == ["audit.html", "audit.json", "audit.parquet"]
    table = pl.read_parquet(out / "audit.parquet")
    assert dict(table.schema) == SCHEMA
    assert table.equals(found.frame)
    facts = json.loads((out / "audit.json").read_text())
    assert facts == found.facts
    assert facts["verdicts"] == {
        "supported": 3,
        "unverifiable": 3,
        "failed": 2,
        "contradicted": 1,
    }
    assert (facts["source"], facts["read_as"], facts["n"]) == (str(labels), "table", 9)
    assert facts["text"]["kind"] == "run"
    f1 = table.filter(pl.col("method") == "words")["f1"]
    assert facts["means"]["words"]["f1"] == {"n": 4, "mean": pytest.approx(f1.mean())}
    html = (out / "audit.html").read_text()
    assert html.count("<article") == 9
    assert "<script>alert" not in html
    assert "far away &lt;script&gt;" in html
    # Firings of the run's text are shown; the token is its most hostile one.
    assert 'title="' in html
    assert found.n == 9


@pytest.mark.slow
def test_again_is_the_same(run: Run, labels: Path, tmp_path: Path) -> None:
    first = audit(labels, tmp_path / "one", run=run.out, seed=3, quiet=True)
    audit(labels, tmp_path / "two", run=run.out, seed=3, quiet=True)
    for name in ("audit.html", "audit.json", "audit.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    # The same explanations may be audited again in the same place, others may not.
    audit(labels, tmp_path / "one", run=run.out, seed=4, quiet=True)
    other = write_table(tmp_path / "other.jsonl", {0: "commas"})
    before = (tmp_path / "one" / "audit.json").read_bytes()
    with pytest.raises(OptionError, match=r"one holds the audit of .*mine.jsonl; choose another"):
        audit(other, tmp_path / "one", run=run.out, quiet=True)
    assert (tmp_path / "one" / "audit.json").read_bytes() == before
    assert first.out == tmp_path / "one"


def test_the_run_is_the_place_by_default(run: Run, labels: Path) -> None:
    found = audit(labels, run=run.out, quiet=True)
    assert found.out == run.out / "audit" / "mine.jsonl"
    assert (found.out / "audit.json").exists()
    shutil.rmtree(run.out / "audit")
    with pytest.raises(OptionError, match="give --out, or --run"):
        audit(labels)


@pytest.mark.slow
def test_one_of_the_places_is_unknown(run: Run, tmp_path: Path) -> None:
    write_table(tmp_path / "in" / "a.jsonl", {tiny.TOKEN: TEXTS[tiny.TOKEN]})
    write_table(tmp_path / "in" / "b.jsonl", {1: "commas", 2: ""}, place="layers.7")
    found = audit(tmp_path / "in", tmp_path / "out", run=run.out, quiet=True)
    assert found.frame["verdict"].to_list() == ["supported", "unverifiable", "failed"]
    assert "the run has no layers.7" in found.frame["reason"][1]
    # Only the place that is known, if asked for.
    found = audit(tmp_path / "in", tmp_path / "x", run=run.out, hookpoint=FIRST, quiet=True)
    assert found.n == 1
    assert "2 explanations of other places were left out (--hookpoint)" in found.facts["notes"]


def test_each_place_has_its_own_text_on_the_page(run: Run, tmp_path: Path) -> None:
    write_table(tmp_path / "in" / "a.jsonl", {tiny.TOKEN: "one", tiny.PAIR: "two"})
    write_table(tmp_path / "in" / "b.jsonl", {tiny.LOOSE: "three", tiny.DEAD: "four"}, SECOND)
    found = audit(tmp_path / "in", tmp_path / "out", run=run.out, quiet=True)
    assert found.frame["latent"].to_list() == [tiny.TOKEN, tiny.PAIR, tiny.LOOSE, tiny.DEAD]
    html = (tmp_path / "out" / "audit.html").read_text()
    cards = html.split("<article")[1:]
    assert [card.count("strongest, ") for card in cards] == [1, 1, 1, 0]
    assert re.search(r'<span class="a8" title="[\d.]+">w6</span>', cards[2])


def test_a_place_by_another_name(run: Run, tmp_path: Path) -> None:
    labels = write_table(tmp_path / "a.jsonl", {tiny.TOKEN: TEXTS[tiny.TOKEN]}, "layers.5.mlp")
    with pytest.raises(OptionError, match=r"are of layers.5.mlp, the run has layers.0.mlp"):
        audit(labels, tmp_path / "out", run=run.out, quiet=True)
    assert not (tmp_path / "out").exists()
    found = audit(labels, tmp_path / "out", run=run.out, hookpoint=SECOND, quiet=True)
    assert found.frame.select("hookpoint", "verdict").row(0) == (SECOND, "supported")
    assert f"layers.5.mlp was taken for {SECOND} (--hookpoint)" in found.facts["notes"]


def test_nothing_known_is_an_error(run: Run, tmp_path: Path) -> None:
    labels = write_table(tmp_path / "a.jsonl", {70: "commas", 71: "semicolons"})
    with pytest.raises(OptionError, match=r"none of the 2 explanations .* 0 to 6, no 70; are they"):
        audit(labels, tmp_path / "out", run=run.out, quiet=True)
    assert not (tmp_path / "out").exists()


def write_contexts(path: Path) -> Path:
    """Annotations with contexts: one latent fires on May at a bank, one on butter in cooking."""
    rng = np.random.default_rng(0)
    finance, cooking = (" bank", " market", " shares"), (" oven", " salt", " flour")
    lines = []
    for latent, text, cue, words in (
        (3, '"May"', " May", finance),
        (4, "cooking with butter", " butter", cooking),
    ):
        contexts = []
        for _ in range(12):
            tokens = [words[one] for one in rng.integers(len(words), size=9)] + [cue, "."]
            contexts.append([tokens, [2.0 * (token == cue) for token in tokens]])
        lines.append({"name": f"mlp_1/{latent}", "annotation": text, "top_contexts": contexts})
    lines.append({"name": "mlp_1/5", "annotation": "no contexts", "top_contexts": []})
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_on_contexts_of_the_files(tmp_path: Path) -> None:
    labels = write_contexts(tmp_path / "annotations.jsonl")
    found = audit(labels, tmp_path / "out", quiet=True)
    assert found.facts["text"]["kind"] == "contexts"
    assert found.facts["text"]["contexts"] == 24
    assert verdicts(found.frame)[3] == "supported"
    assert verdicts(found.frame)[5] == "unverifiable"
    assert found.frame["rule"].null_count() == 3
    html = (tmp_path / "out" / "audit.html").read_text()
    assert '<span class="a8" title="2.00">May</span>' in html


def test_contexts_move_with_their_place(tmp_path: Path) -> None:
    labels = write_contexts(tmp_path / "annotations.jsonl")
    found = audit(labels, tmp_path / "out", hookpoint="layers.4", quiet=True)
    assert set(found.frame["hookpoint"]) == {"layers.4"}
    assert verdicts(found.frame)[3] == "supported"


def test_bare_text(tmp_path: Path) -> None:
    texts = dict.fromkeys(range(8), "plural nouns") | {8: "", 9: "commas"}
    found = audit(write_table(tmp_path / "a.jsonl", texts), tmp_path / "out", quiet=True)
    assert found.facts["text"] == {"kind": "none"}
    assert verdicts(found.frame) == dict.fromkeys(range(8), "duplicate") | {
        8: "failed",
        9: "unverifiable",
    }
    assert [one["kind"] for one in found.facts["suspicious"]] == ["copied"]
    assert found.facts["suspicious"][0]["n"] == 8


@pytest.mark.slow
def test_prose_by_embeddings(tmp_path: Path) -> None:
    model = save_lsa(tmp_path / "lsa")
    labels = write_contexts(tmp_path / "annotations.jsonl")
    found = audit(labels, tmp_path / "out", embedding=model, quiet=True)
    row = found.frame.row(1, named=True)
    assert row["method"] == "embedding"
    # Its own contexts are of cooking, those of the other latent of banks.
    assert row["auroc"] > 0.95
    assert row["verdict"] == "supported"
    assert found.facts["prose_by"] == {"embedding": str(model), "simulator": None}


@pytest.mark.slow
def test_prose_by_a_simulator(model_folder: Path, tmp_path: Path) -> None:
    labels = write_contexts(tmp_path / "annotations.jsonl")
    simulation = Simulation(folder=model_folder)
    found = audit(labels, tmp_path / "out", simulation=simulation, quiet=True)
    row = found.frame.row(1, named=True)
    assert row["method"] == "simulator"
    # An untrained model knows nothing.
    assert row["verdict"] == "unverifiable"
    assert found.facts["prose_by"]["simulator"] == f"local:{model_folder.name}"
    kept = (tmp_path / "out" / "answers.jsonl").read_bytes()
    assert kept.count(b"\n") > 0
    again = audit(labels, tmp_path / "out", simulation=simulation, quiet=True)
    assert (tmp_path / "out" / "answers.jsonl").read_bytes() == kept
    assert again.frame.equals(found.frame)


@pytest.mark.slow
def test_on_a_corpus(
    model_folder: Path, coder_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    config = RunConfig(
        model=str(model_folder),
        coder=str(coder_folder),
        corpus=str(text_folder),
        tokens=1000,
        heldout_tokens=800,
        ctx_len=32,
    )
    texts = dict.fromkeys(range(4), "commas") | {48: "beyond the coder"}
    labels = write_table(tmp_path / "a.jsonl", texts, SECOND)
    said: list[str] = []
    found = audit(labels, tmp_path / "out", config=config, say=said.append, quiet=True)
    cached = Run(tmp_path / "out" / "run", quiet=True)
    # Only the place that is explained is cached, and nothing is fitted.
    assert cached.hookpoints == (SECOND,)
    assert not (cached.out / "labels").exists()
    assert found.facts["text"]["kind"] == "model"
    ground = RunGrounds(cached).ground(SECOND)
    assert ground is not None
    assert found.frame["n_firings"].to_list()[:4] == [len(ground.fires_in[one]) for one in range(4)]
    assert found.frame["reason"][4] == f"the coder at {SECOND} has latents 0 to 47, no 48"
    assert len(said) == 1
    # The cache is kept: another audit of the same text does not make it again.
    marker = cached.out / "cache" / SECOND / "shard-00000.parquet"
    before = marker.stat().st_mtime_ns
    audit(labels, tmp_path / "out", config=config, quiet=True)
    assert marker.stat().st_mtime_ns == before
    other = replace(config, heldout_tokens=900)
    with pytest.raises(RunError, match="heldout_tokens is 800 there, 900 now"):
        audit(labels, tmp_path / "out", config=other, quiet=True)


def pickled(path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, (f"open({str(path.with_suffix('.ran'))!r}, 'w')",)

    path.write_bytes(pickle.dumps(Evil()))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(range(256)) * 40),
        lambda path: path.write_text('{"hookpoint": "layers.0.mlp"}\n'),
        lambda path: path.write_text('[{"hookpoint": {"a": 1}, "latent": [], "text": 3}]'),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.mkdir(),
        pickled,
    ],
)
def test_bad_files_leave_out_untouched(make: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    make(path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "audit.html").write_text("kept")
    with pytest.raises(ExplanationError, match=r"bad\.jsonl"):
        audit(path, out, quiet=True)
    assert [one.name for one in out.iterdir()] == ["audit.html"]
    assert (out / "audit.html").read_text() == "kept"
    assert not path.with_suffix(".ran").exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"run": "nowhere"}, RunError),
        ({"embedding": Path("nowhere")}, ModelError),
        ({"simulation": Simulation()}, OptionError),
        ({"simulation": Simulation(folder=Path("nowhere"))}, ModelError),
        ({"simulation": Simulation(base_url="x", folder=Path("y"))}, OptionError),
        ({"file_format": "nothing"}, OptionError),
        ({"hookpoint": "nowhere at all"}, CoderError),
    ],
)
def test_bad_options_leave_out_untouched(
    options: dict[str, Any], error: type[LabelerError], labels: Path, tmp_path: Path
) -> None:
    if "run" in options:
        options = {"run": tmp_path / "nowhere"}
    with pytest.raises(error):
        audit(labels, tmp_path / "out", quiet=True, **options)
    assert not (tmp_path / "out").exists()


def test_a_damaged_audit_is_not_overwritten(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text("{")
    with pytest.raises(OptionError, match=r"audit\.json: cannot be read .* delete it, or choose"):
        audit(labels, tmp_path, quiet=True)
    assert (tmp_path / "audit.json").read_text() == "{"


def test_a_full_or_forbidden_disk(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit(labels, tmp_path / "out", quiet=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DiskError, match="no space left while writing"):
        audit(labels, tmp_path / "out", seed=1, quiet=True)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_damaged_answers_are_named(labels: Path, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text("no\n")
    with pytest.raises(CacheError, match=r"answers\.jsonl, line 1"):
        audit(labels, tmp_path, simulation=Simulation(folder=model_folder), quiet=True)
