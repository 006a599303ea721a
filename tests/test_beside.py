"""Explanations beside rules: measures by hand, rewriting written out slowly, a whole run."""

import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from labeler import steps
from labeler.beside_run import beside, read_beside
from labeler.config import RunConfig
from labeler.errors import ExplanationError, RunError
from labeler.eval.bootstrap import document_weights
from labeler.eval.heldout import load_heldout_firings
from labeler.eval.llm import rewrite_beside
from labeler.eval.llm.beside import MEASURES, STANDS, Beside, mean_of, stands
from labeler.eval.llm.config import ExplainConfig
from labeler.eval.llm.results import write_arrays
from labeler.eval.llm.rewrite_beside import (
    cost_summary,
    scaled_by_others,
    stand_ins,
    window_cross_entropies,
    window_variants,
)
from labeler.eval.llm.shared import Rules, Shared
from labeler.eval.rewrite import CrossEntropies
from labeler.explain_run import explain_run
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from labeler.tokens import Tokens
from tests.conftest import K, write_coder
from tests.rewriting import Slow, slow_decode, slow_encode
from tests.scripted_server import Body, ScriptedServer, honest, kind_of
from tests.synthetic import make_tokens

NAN = float("nan")

MLP = "layers.0.mlp"


def shared_of(act: Any, digits: Any, **changes: Any) -> Shared:
    """Windows one after another in one context each, a document each."""
    act, digits = np.array(act, np.float32), np.array(digits, np.float32)
    n, m, _ = act.shape
    plain = Shared(
        latents=np.arange(n) * 2,
        partner=np.roll(np.arange(n), -1),
        explained=np.ones(n, dtype=bool),
        scale=np.full(n, 10, np.float32),
        context=np.arange(m),
        offset=np.zeros(m, dtype=np.int64),
        document=np.arange(m),
        digits=digits,
        act=act,
    )
    return replace(plain, **changes)


def rules_of(predicted: Any, threshold: Any, labeled: Any) -> Rules:
    return Rules(
        np.array(predicted, np.float32), np.array(threshold, np.float32), np.array(labeled)
    )


# -- measures --------------------------------------------------------------------------------------

ACT = [
    [[4, 0, 0, 0], [0, 2, 0, 0]],
    [[0, 0, 3, 0], [0, 0, 0, 0]],
    [[0, 0, 0, 0], [0, 0, 0, 0]],
]
DIGITS = [
    [[8, 0, 1, 0], [0, 0, 0, NAN]],
    [[0, 0, 9, 0], [0, NAN, 0, 0]],
    [[NAN] * 4, [NAN] * 4],
]
SAID = [
    [[3, 0, 0, 0.5], [0, 1, 0, 0]],
    [[0.1] * 4, [0.1] * 4],
    [[0, 0, 5, 0], [0, 0, 0, 0]],
]


@pytest.fixture(scope="module")
def by_hand() -> Beside:
    """The first has a rule and an explanation, the second none of ours, the third none of theirs.

    Partners are 1, 2 and 0, so that the third's failed answers are the second's control.
    """
    shared = shared_of(ACT, DIGITS, explained=np.array([True, True, False]))
    return Beside.make(shared, rules_of(SAID, [1, np.inf, 1], [True, False, True]), 0)


def row_of(found: Beside, latent: int, stand: str) -> dict[str, Any]:
    (row,) = found.frame().filter(latent=latent, stand=stand).to_dicts()
    return row


def test_measures_by_hand(by_hand: Beside) -> None:
    """Latent 0 fires at 0 (4) and 5 (2) of 8; the answers are 8 at 0 and 1 at 2, 0 elsewhere."""
    one = row_of(by_hand, 0, "explanation")
    assert (one["n"], one["n_firings"], one["n_called"], one["failed"]) == (8, 2, 2, 1)
    assert (one["precision"], one["recall"], one["f1"]) == (0.5, 0.5, 0.5)
    # The first firing is above all 6 silent positions; the second is below one, level with five.
    assert one["auroc"] == pytest.approx((6 + 2.5) / 12)
    assert one["average_precision"] == pytest.approx((1 + 2 / 8) / 2)
    said, true = [8, 0, 1, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 2, 0, 0]
    assert one["pearson"] == pytest.approx(np.corrcoef(said, true)[0, 1])
    rule = row_of(by_hand, 0, "rule")
    assert (rule["precision"], rule["recall"], rule["f1"]) == (1, 1, 1)
    assert (rule["auroc"], rule["average_precision"]) == (1, 1)
    assert rule["failed"] == 0


def test_the_partner_is_the_control(by_hand: Beside) -> None:
    """The second's answers on the first's firings: one call, at position 2, where it is silent."""
    one = row_of(by_hand, 0, "control")
    assert (one["partner"], one["n_called"], one["failed"]) == (2, 1, 1)
    assert (one["precision"], one["recall"], one["f1"]) == (0, 0, 0)
    # The second has no rule to be the first's control.
    assert by_hand.frame().filter(latent=0, stand="rule_control").is_empty()
    # The third's answers failed, all of them, and say nothing about the second.
    other = row_of(by_hand, 2, "control")
    assert (other["n_called"], other["failed"], other["f1"], other["auroc"]) == (0, 8, 0, 0.5)
    assert np.isnan(other["precision"])


def test_who_has_no_rule_shows_the_explanation_alone(by_hand: Beside) -> None:
    frame = by_hand.frame()
    assert frame.filter(latent=2)["stand"].to_list() == ["explanation", "control"]
    # Without an explanation the rule alone; it never fires here, so that nothing is measured.
    alone = frame.filter(latent=4)
    assert alone["stand"].to_list() == ["rule", "rule_control"]
    assert alone["f1"].is_nan().all()
    assert set(frame["stand"]) == set(STANDS)


def test_a_failed_answer_is_activation_zero_and_counted(by_hand: Beside) -> None:
    """The published rewriting code turned answers that could not be read into the maximum."""
    found = stands(by_hand.shared, by_hand.rules)["explanation"]
    failed = by_hand.shared.failed
    assert failed.sum() == 10
    assert (found.predicted[failed] == 0).all()
    assert not found.called[failed].any()
    assert found.failed.tolist() == [1, 1, 8]
    values = stand_ins(by_hand.shared, by_hand.rules, np.ones(3, np.float32))
    for name in ("explanation", "explanation_scaled"):
        assert (values[name][failed] == 0).all()
    assert values["explanation"][0, 0].tolist() == [8, 0, 1, 0]
    assert (values["control"][1] == 0).all()


def test_means_count_who_says_nothing_as_silent(by_hand: Beside) -> None:
    means = by_hand.means()
    assert {name: one["n_latents"] for name, one in means.items()} == {
        "both": 1, "all": 3, "no_rule": 1
    }  # fmt: skip
    assert {name: one["n_firing"] for name, one in means.items()} == {
        "both": 1, "all": 2, "no_rule": 1
    }  # fmt: skip
    # The first's rule is right, the second's silent; the third does not fire.
    assert means["all"]["rule"]["f1"]["value"] == 0.5
    assert means["all"]["rule"]["f1"]["n"] == 2
    assert means["all"]["rule"]["precision"] == {**means["all"]["rule"]["precision"], "n": 1}
    assert means["all"]["rule"]["auroc"]["value"] == pytest.approx(0.75)
    r = row_of(by_hand, 0, "rule")["pearson"]
    assert means["all"]["rule"]["pearson"]["value"] == pytest.approx(r / 2)
    assert means["all"]["explanation"]["f1"]["value"] == pytest.approx((0.5 + 1) / 2)
    assert means["both"]["difference"]["f1"]["value"] == 0.5
    assert "rule" not in means["no_rule"]
    assert means["no_rule"]["explanation"]["f1"]["value"] == 1
    json.dumps(means, allow_nan=False)


def test_f1_by_digit(by_hand: Beside) -> None:
    """Latent 0: from 1 an F1 of 1/2, from 2 one call, a hit: 2/3, from 9 none. Latent 1: one."""
    found = by_hand.f1_by_digit()
    assert found == pytest.approx([0.75, *[(2 / 3 + 1) / 2] * 7, 0.5, 0.0])


def test_resamples_are_documents(by_hand: Beside) -> None:
    """A resample measured as text in which documents occur as often as they were drawn."""
    rng = np.random.default_rng(5)
    act = rng.exponential(1, (2, 7, 5)) * (rng.random((2, 7, 5)) < 0.3)
    digits = np.where(act > 0, rng.integers(0, 11, act.shape), rng.integers(0, 3, act.shape))
    document = np.array([3, 3, 4, 6, 6, 6, 9])
    shared = shared_of(act, digits, document=document)
    rules = rules_of(act * 0, [1, 1], [True, True])
    found = Beside.make(shared, rules, 8).found["explanation"].values
    for resample, drawn in enumerate(document_weights(4, 8)[:6], 1):
        counts = dict(zip(np.unique(document), drawn.astype(int), strict=True))
        rows = [at for at, doc in enumerate(document) for _ in range(counts[doc])]
        again = shared_of(act[:, rows], digits[:, rows])
        plain = Beside.make(again, rules_of(act[:, rows] * 0, [1, 1], [True, True]), 0)
        for measure in MEASURES:
            np.testing.assert_allclose(
                found[measure][resample],
                plain.found["explanation"].values[measure][0],
                rtol=1e-12,
                err_msg=measure,
            )


def test_means_of_nothing() -> None:
    assert mean_of(np.zeros((5, 0))) == {"value": None, "low": None, "high": None, "n": 0}
    drawn = np.array([[1.0, 3.0], [NAN, 2.0], [4.0, NAN]])
    found = mean_of(drawn)
    assert (found["value"], found["n"]) == (2.0, 2)
    assert (found["low"], found["high"]) == pytest.approx((2.05, 3.95))


# -- files -----------------------------------------------------------------------------------------


def arrays_of(shared: Shared) -> dict[str, Any]:
    return {
        "latent": shared.latents,
        "partner": np.where(shared.partner < 0, -1, shared.latents[shared.partner]),
        "scale": shared.scale,
        "context": shared.context,
        "offset": shared.offset,
        "digits": shared.digits,
        "act": shared.act,
    }


def test_the_file_is_read_as_written(tmp_path: Path) -> None:
    heldout = make_tokens(seed=1).heldout
    shared = shared_of(ACT, DIGITS, partner=np.array([1, -1, 0]))
    write_arrays(tmp_path / "a.npz", arrays_of(shared))
    found = Shared.read(tmp_path / "a.npz", heldout, {0, 2})
    assert found.latents.tolist() == [0, 2, 4]
    assert found.partner.tolist() == [1, -1, 0]
    assert found.explained.tolist() == [True, True, False]
    np.testing.assert_array_equal(found.digits, shared.digits)
    np.testing.assert_array_equal(found.act, shared.act)
    assert found.document.tolist() == heldout.doc[[0, 1]].tolist()
    assert not found.of_partner(found.said)[1].any()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("digits", np.zeros((3, 2, 5), np.float32), "digits has shape"),
        ("act", np.zeros((2, 2, 4), np.float32), "act has shape"),
        ("partner", np.zeros(2, int), "partner has shape"),
        ("context", np.array([0, 10**6]), "outside"),
        ("context", np.array([0, -1]), "outside"),
        ("offset", np.array([0, 15]), "beyond the end"),
        ("act", np.array([{"a": 1}]), "Object arrays"),
        ("act", None, "act"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, value: Any, says: str) -> None:
    heldout = make_tokens(seed=1).heldout
    arrays = arrays_of(shared_of(ACT, DIGITS)) | {name: value}
    np.savez(tmp_path / "a.npz", **{key: one for key, one in arrays.items() if one is not None})
    with pytest.raises(ExplanationError, match=rf"a\.npz: cannot be read .*{says}.*explain"):
        Shared.read(tmp_path / "a.npz", heldout, set())
    (tmp_path / "a.npz").write_bytes(b"PK no")
    with pytest.raises(ExplanationError, match=r"a\.npz"):
        Shared.read(tmp_path / "a.npz", heldout, set())


# -- rewriting -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from labeler.coders import load_coders

    folder = tmp_path_factory.mktemp("coder")
    tensors = write_coder(folder / MLP, seed=7)
    return load_coders(folder, model=model)[MLP], tensors


@pytest.fixture(scope="module")
def windows(model: Any, coder: Any, tokens: Tokens) -> tuple[Tokens, Shared]:
    """Six windows of 5 tokens in four contexts, two in one of them; the true activations there.

    One window ends with its context: its last token is followed by none.
    """
    from labeler.eval.subject import ModelSubject

    heldout = tokens.heldout
    firings = ModelSubject(model, {MLP: coder[0]}).firings(heldout, [MLP])[MLP]
    long = np.flatnonzero(heldout.length >= 20)[[0, 2, 3, 5]]
    context = long[[2, 0, 0, 1, 2, 3]]  # in no order
    offset = np.array([11, 9, 2, 0, 4, int(heldout.length[long[3]]) - 5])
    latents = np.flatnonzero(firings.count > 20)[:12]
    at = (context * heldout.ctx_len + offset)[:, None] + np.arange(5)
    act = np.stack([firings.at(at.ravel(), np.full(at.size, one)) for one in latents])
    act = act.reshape(len(latents), 6, 5)
    assert ((act > 0).sum(axis=(1, 2)) > 0).sum() > 6
    scale = 2 * act.max(axis=(1, 2)) + 1
    shared = shared_of(
        act,
        10 * act / scale[:, None, None],
        latents=latents,
        scale=scale.astype(np.float32),
        context=context,
        offset=offset,
        document=heldout.doc[context],
    )
    return heldout, shared


def run_all(
    model: Any, coder: Any, heldout: Tokens, shared: Shared, rules: Rules, mean: Any, rows: Any
) -> CrossEntropies:
    contexts = np.unique(shared.context)
    values = stand_ins(shared, rules, mean)
    wanted = window_variants(MLP, shared, values, rows, contexts, heldout.ctx_len)
    return window_cross_entropies(model, coder[0], shared, heldout.select(contexts), wanted)


def test_a_perfect_simulation_is_the_truth(
    model: Any, coder: Any, windows: tuple[Tokens, Shared]
) -> None:
    """Correlation 1, and the coder's cross-entropy; a partner's answers are not as good."""
    heldout, shared = windows
    n = len(shared.latents)
    rules = rules_of(shared.act, np.full(n, 1e-6), np.ones(n, dtype=bool))
    found = Beside.make(shared, rules, 0)
    fires = (shared.act > 0).any(axis=(1, 2))
    for name in ("rule", "explanation"):
        values = found.found[name].values
        assert values["pearson"][0, fires] == pytest.approx(1)
        assert values["auroc"][0, fires] == pytest.approx(1)
    assert found.means()["all"]["control"]["pearson"]["value"] < 0.9
    mean = np.full(n, 0.2, np.float32)
    ce = run_all(model, coder, heldout, shared, rules, mean, np.ones(n, dtype=bool)).mean()
    assert ce["explanation"] == pytest.approx(ce["coder"], abs=1e-5)
    assert ce["rule"] == pytest.approx(ce["coder"], abs=1e-5)
    assert abs(ce["control"] - ce["coder"]) > 1e-3
    assert abs(ce["rule_control"] - ce["coder"]) > 1e-3
    assert abs(ce["zero"] - ce["coder"]) > 1e-3


def test_failed_answers_are_silence_and_never_the_highest_activation(
    model: Any, coder: Any, windows: tuple[Tokens, Shared]
) -> None:
    """The published rewriting code turned answers that could not be read into the maximum."""
    heldout, shared = windows
    n, every = len(shared.latents), np.ones(len(shared.latents), dtype=bool)
    rules = Rules.none(shared, np.full(n, 0.2, np.float32))
    mean = np.full(n, 0.2, np.float32)
    lost = replace(shared, digits=np.full_like(shared.digits, np.nan))
    ce = run_all(model, coder, heldout, lost, rules, mean, every).mean()
    assert ce["explanation"] == ce["explanation_scaled"] == ce["control"] == ce["zero"]
    assert ce["rule"] == ce["mean"]
    assert lost.failed.sum() == shared.act.size
    highest = replace(shared, digits=np.full_like(shared.digits, 10))
    loud = run_all(model, coder, heldout, highest, rules, mean, every).mean()
    assert abs(loud["explanation"] - ce["explanation"]) > 0.1


def test_variants_against_a_slow_computation(
    model: Any,
    model_folder: Path,
    coder: Any,
    windows: tuple[Tokens, Shared],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Modules replaced in transformers' own model, a context and a position at a time."""
    monkeypatch.setattr(rewrite_beside, "BATCH", 3)
    heldout, shared = windows
    rng = np.random.default_rng(2)
    digits = rng.integers(0, 11, shared.digits.shape).astype(np.float32)
    digits[rng.random(digits.shape) < 0.2] = np.nan
    shared = replace(shared, digits=digits)
    n = len(shared.latents)
    said = rng.exponential(0.5, shared.act.shape).astype(np.float32)
    rules = rules_of(said, np.ones(n), np.ones(n, dtype=bool))
    mean = rng.exponential(0.3, n).astype(np.float32)
    rows = np.arange(n) % 3 > 0
    found = run_all(model, coder, heldout, shared, rules, mean, rows)
    ratio = mean / mean[shared.partner]
    slow_values = {
        "mean": np.broadcast_to(mean[:, None, None], said.shape),
        "zero": np.zeros_like(said),
        "rule": said,
        "rule_control": said[shared.partner] * ratio[:, None, None],
        "explanation": np.nan_to_num(digits) / 10 * shared.scale[:, None, None],
        "control": np.nan_to_num(digits)[shared.partner] / 10 * shared.scale[:, None, None],
    }
    slow, tensors = Slow(model_folder), coder[1]
    for name, values in slow_values.items():
        losses: dict[int, list[float]] = {}
        for context in np.unique(shared.context):
            length = int(heldout.length[context])
            instead = {}
            for window in np.flatnonzero(shared.context == context):
                for step in range(shared.length):
                    instead[int(shared.offset[window]) + step] = values[rows, window, step]

            def mlp(x: Any, out: Any, instead: dict[int, Any] = instead) -> Any:
                made = []
                for at, one in enumerate(x.double().numpy()):
                    acts = slow_encode(one, tensors, K, sae=False)
                    if at in instead:
                        acts[shared.latents[rows]] = instead[at]
                    made.append(slow_decode(acts, one, tensors))
                return out.new_tensor(np.array(made))

            every = slow.losses(heldout.ids[context, :length], {(0, "mlp"): mlp})
            document = int(heldout.doc[context])
            losses.setdefault(document, [])
            losses[document] += [every[at] for at in sorted(instead) if at < length - 1]
        column = found.names.index(name)
        assert found.n.tolist() == [len(one) for one in losses.values()]
        assert found.n.sum() == shared.act[0].size - 1
        np.testing.assert_allclose(
            found.total[:, column], [sum(one) for one in losses.values()], rtol=2e-5
        )


def test_scaled_by_other_documents() -> None:
    """Two documents: the factor of each is what fits the other; 1 where it says nothing."""
    said = np.array([[[1, 0], [2, 2]], [[0, 0], [1, 0]]], np.float32)
    act = np.array([[[3, 0], [1, 0]], [[5, 0], [4, 0]]], np.float32)
    found = scaled_by_others(said, act, np.array([4, 9]))
    assert found[0].tolist() == [[0.25, 0], [6, 6]]  # (2 * 1) / (4 + 4); 3 / 1
    assert found[1].tolist() == [[0, 0], [1, 0]]
    only = scaled_by_others(said, act, np.array([4, 4]))
    np.testing.assert_array_equal(only, said)


def test_recovered_only_where_there_is_something_to_recover() -> None:
    total = np.array([[20.0, 21.0, 20.5], [30.0, 31.5, 30.6], [10.0, 10.5, 10.3]])
    found = CrossEntropies(["coder", "mean", "rule"], total, np.array([10.0, 15.0, 5.0]))
    clear = cost_summary(found, 0)
    assert (clear["n_tokens"], clear["n_documents"]) == (30, 3)
    assert clear["above_coder"]["mean"]["value"] == pytest.approx(3 / 30)
    assert clear["recovered"]["rule"]["value"] == pytest.approx((3 - 1.4) / 3)
    total[2, 1] = 9.5  # less than the coder's in one document of three
    unclear = cost_summary(CrossEntropies(found.names, total, found.n), 0)
    assert unclear["recovered"] is None
    above = unclear["above_coder"]["mean"]
    assert above["low"] < 0 < above["value"] < above["high"]


# -- a whole run -----------------------------------------------------------------------------------


def answer(body: Body) -> Any:
    """The token that is strong most often as explanation; none where that is a single letter."""
    if kind_of(body) != "explain":
        return honest(body)
    lines = re.findall("^Strength: (.*)$", body["messages"][1]["content"], re.MULTILINE)
    token, _ = Counter(json.JSONDecoder().raw_decode(line)[0] for line in lines).most_common(1)[0]
    if len(token) == 1:
        return "I cannot tell."
    return f"[EXPLANATION]: the token {json.dumps(token)}"


@pytest.fixture(scope="module")
def made(
    text_folder: Path,
    model_folder: Path,
    coder_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run with labels, explained by a server."""
    for name in list(os.environ):
        assert not name.startswith("LABELER_LLM")
    out = tmp_path_factory.mktemp("run")
    config = RunConfig(
        model=str(model_folder),
        coder=str(coder_folder),
        corpus=str(text_folder),
        tokens=3000,
        heldout_tokens=1500,
        ctx_len=40,
    )
    run = steps.start(out, config, quiet=True)
    steps.cache(run)
    with ScriptedServer(answer) as server:
        asked = ExplainConfig(
            llm_base_url=server.url, examples=8, windows=12, window=8, latents=12, llm_timeout=5.0
        )
        explain_run(run, asked)
    steps.fit(run, ["unigram"], corrections=[])
    beside(run, folder_of(run))
    return out


def folder_of(run: Run) -> Path:
    return run.out / "explain" / "endpoint-scripted-model"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Run:
    shutil.copytree(made, tmp_path / "run")
    return Run(tmp_path / "run", quiet=True)


@pytest.mark.slow
def test_a_whole_run(made: Path) -> None:
    run = Run(made, quiet=True)
    folder, heldout = folder_of(run), run.tokens.heldout
    found, frame = read_beside(folder), pl.read_parquet(folder / "beside.parquet")
    assert (found["author"], found["budget"], found["notes"]) == (
        "endpoint:scripted/model",
        100,
        [],
    )
    assert list(found["hookpoints"]) == list(run.hookpoints)
    failed = (folder / "failures.jsonl").read_text().splitlines()
    assert failed
    for name, facts in found["hookpoints"].items():
        with np.load(folder / "simulated" / f"{name}.npz") as stored:
            npz = dict(stored)
        assert facts["n_latents"] == len(npz["latent"]) == 12
        assert facts["failed"] == npz["failed"].sum()
        labels = LabelSet.load(label_folder(run.out, name))
        rules = labels.predictor(100)
        said = rules.predict(heldout)
        true = load_heldout_firings(run.cache, name, run.tokens)
        mine = frame.filter(hookpoint=name)
        rows = {(row["latent"], row["stand"]): row for row in mine.to_dicts()}
        checked = 0
        for place, latent in enumerate(npz["latent"].tolist()):
            assert ((latent, "rule") in rows) == bool(labels.labeled[latent])
            row = rows.get((latent, "rule"))
            fires, called, activation, predicted = [], [], [], []
            for context, offset in zip(npz["context"], npz["offset"], strict=True):
                for at in range(offset, offset + 8):
                    position = np.array([context * heldout.ctx_len + at])
                    act = true.at(position, np.array([latent]))[0]
                    activation.append(act)
                    fires.append(act > 0)
                    predicted.append(said[context, at, latent])
                    called.append(said[context, at, latent] >= rules.threshold[latent])
            if row is None or not any(fires):
                continue
            checked += 1
            assert row["n_firings"] == sum(fires)
            hits = sum(a and b for a, b in zip(fires, called, strict=True))
            assert row["f1"] == pytest.approx(2 * hits / (sum(fires) + sum(called)))
            if np.ptp(predicted) > 1e-3:
                r = np.corrcoef(np.array(activation, float), np.array(predicted, float))[0, 1]
                assert row["pearson"] == pytest.approx(r, abs=1e-6)
            theirs = rows.get((latent, "explanation"))
            if theirs is not None:
                digits = np.nan_to_num(npz["digits"][place]).ravel()
                assert theirs["n_called"] == (digits >= 1).sum()
                assert theirs["n_firings"] == sum(fires)
        assert checked > 2
        cost = facts["rewritten"]["all"]
        assert cost["n_latents"] == 12
        assert set(cost["ce"]) == {
            *("coder", "mean", "zero", "rule", "rule_control"),
            *("explanation", "explanation_scaled", "control"),
        }
        assert len(set(cost["ce"].values())) == 8
        counted = facts["means"]["both"]["n_latents"]
        assert facts["rewritten"].get("both", cost)["n_latents"] == counted


@pytest.mark.slow
def test_nothing_is_done_twice_and_other_labels_are_noticed(copy: Run) -> None:
    folder = folder_of(copy)
    before = (folder / "beside.json").stat().st_mtime_ns
    said: list[str] = []
    beside(copy, folder, said.append)
    assert (folder / "beside.json").stat().st_mtime_ns == before
    assert said == []
    old = read_beside(folder)
    steps.fit(copy, ["bigram"], corrections=[])
    beside(copy, folder, said.append)
    new = read_beside(folder)
    assert len(said) == 2
    assert said[0].startswith("layers.0.mlp: F1 on the shared windows")
    assert new["labels"] != old["labels"]
    for name in copy.hookpoints:
        theirs = [one["hookpoints"][name]["rewritten"]["all"]["ce"] for one in (old, new)]
        assert theirs[0]["explanation"] == theirs[1]["explanation"]
    (folder / "beside.parquet").unlink()
    beside(copy, folder)
    assert (folder / "beside.parquet").exists()


@pytest.mark.slow
def test_without_labels_the_explanation_alone(copy: Run) -> None:
    shutil.rmtree(copy.out / "labels")
    folder, said = folder_of(copy), list[str]()
    beside(copy, folder, said.append)
    frame, found = pl.read_parquet(folder / "beside.parquet"), read_beside(folder)
    assert set(frame["stand"]) == {"explanation", "control"}
    assert said[0].endswith("nothing to compare")
    for facts in found["hookpoints"].values():
        assert facts["n_rules"] == facts["means"]["both"]["n_latents"] == 0
        assert facts["means"]["no_rule"]["n_latents"] == facts["n_explained"]
        ce = facts["rewritten"]["all"]["ce"]
        assert ce["rule"] == pytest.approx(ce["mean"], abs=1e-12)


@pytest.mark.slow
def test_without_the_model_nothing_is_rewritten_until_there_is_one(
    copy: Run, model_folder: Path
) -> None:
    folder, said = folder_of(copy), list[str]()
    marker = folder / "beside.json"
    marker.unlink()
    settings = json.loads((copy.out / "run.json").read_text())
    (copy.out / "run.json").write_text(json.dumps(settings | {"model": "./gone"}))
    beside(Run(copy.out, quiet=True), folder, said.append)
    found = read_beside(folder)
    assert found["notes"] == said[-1:]
    assert said[-1].startswith("not rewritten: model folder gone does not exist")
    assert all(one["rewritten"] is None for one in found["hookpoints"].values())
    beside(copy, folder)
    assert all(one["rewritten"] for one in read_beside(folder)["hookpoints"].values())


@pytest.mark.slow
def test_missing_and_damaged_files_are_named(copy: Run) -> None:
    folder = folder_of(copy)
    with (folder / "explanations.jsonl").open("a") as stream:
        stream.write("[]\n")
    with pytest.raises(ExplanationError, match=r"explanations\.jsonl: cannot be read"):
        beside(copy, folder)
    assert not (folder / "beside.json").exists()
    (folder / "simulated" / "layers.1.mlp.npz").unlink()
    with pytest.raises(RunError, match=r"beside\.json does not exist"):
        read_beside(folder)
    (folder / "done.json").unlink()
    with pytest.raises(RunError, match="run `labeler explain` first"):
        beside(copy, folder)
