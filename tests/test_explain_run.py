"""`labeler explain` from the command to its files, on latents of one token each."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from labeler.cli_explain import add_explain
from labeler.config import RunConfig
from labeler.errors import EndpointError, LabelerError, OptionError
from labeler.eval.heldout import load_heldout_firings
from labeler.eval.llm.ask import Answers, EndpointAsker
from labeler.eval.llm.config import ExplainConfig
from labeler.eval.llm.simulate import Simulator
from labeler.explain_run import estimate, explain_folder, explain_run
from labeler.inputs import Run
from labeler.interop.read import read_explanations
from labeler.tokens import Tokens
from labeler.windows import save_tokens
from tests.llm_servers import BadServer, serve_model
from tests.scripted_server import Body, ScriptedServer, honest, kind_of, liar
from tests.synthetic import make_tokens
from tests.tiny_run import write_cache

pytestmark = pytest.mark.slow

HOOKPOINTS = ("layers.0.mlp", "layers.1.mlp")
N = 12
"""Windows of each test of a latent, of `T` tokens."""

T = 8

FIRES_ON = {"layers.0.mlp": (3, 5, 8, 12), "layers.1.mlp": (4, 7)}
"""Token of each latent; one more latent of each hookpoint never fires."""


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of whoever runs the tests may reach a server here."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "LABELER_LLM")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens and a cache: activation 2 on a latent's token, where the text has them."""
    out = tmp_path_factory.mktemp("run")
    tokens = make_tokens(seed=3, n_docs=120, ctx_len=24, n_vocab=30, tilt=0.4)
    tokens = replace(tokens, vocab=tuple(f" w{number:02}" for number in range(30)))
    RunConfig(model="./a model", coder="owner/coders", corpus="stdlib", ctx_len=24).save(out)
    save_tokens(tokens, out / "tokens")
    ids, real = tokens.ids.ravel(), tokens.valid.ravel()
    acts = {
        name: np.stack([2.0 * ((ids == token) & real) for token in (*FIRES_ON[name], -1)], axis=1)
        for name in HOOKPOINTS
    }
    write_cache(out, tokens, {name: dense.astype(np.float32) for name, dense in acts.items()})
    return out


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Run:
    shutil.copytree(made, tmp_path / "run")
    return Run(tmp_path / "run", quiet=True)


def config_of(url: str, **changes: Any) -> ExplainConfig:
    """Small, and quick to give up."""
    plain = ExplainConfig(llm_base_url=url, examples=10, windows=N, window=T, llm_timeout=5.0)
    return replace(plain, **changes)


def explain(
    run: Run, answer: Callable[[Body], Any], **changes: Any
) -> tuple[Path, ScriptedServer, list[str]]:
    """Explain with a scripted server; the folder, the server, and what was said."""
    said: list[str] = []
    with ScriptedServer(answer) as server:
        folder = explain_run(run, config_of(server.url, **changes), said.append)
    return folder, server, said


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def scores_of(folder: Path, test: str) -> pl.DataFrame:
    return pl.read_parquet(folder / "scores.parquet").filter(pl.col("test") == test)


def window_tokens(tokens: Tokens, row: dict[str, Any]) -> list[str]:
    span = slice(row["offset"], row["offset"] + row["length"])
    return [tokens.vocab[one] for one in tokens.ids[row["context"], span]]


# -- an honest server ------------------------------------------------------------------------------


def test_right_explanations_score_one_and_controls_as_chance(run: Run) -> None:
    folder, server, said = explain(run, honest)
    assert folder == run.out / "explain" / "endpoint-scripted-model"
    explained = lines(folder / "explanations.jsonl")
    texts = {(one["hookpoint"], one["latent"]): one["text"] for one in explained}
    assert texts == {
        (name, latent): f'the token " w{token:02}"'
        for name in HOOKPOINTS
        for latent, token in enumerate(FIRES_ON[name])
    }
    assert (folder / "failures.jsonl").read_text() == ""
    for test in ("detect", "fuzz", "simulate", "natural"):
        mine = scores_of(folder, test)
        assert mine["own"].to_list() == pytest.approx([1.0] * 6)
        assert mine["failed"].sum() == mine["control_failed"].sum() == 0
        assert (mine["own_low"] <= mine["own"] + 1e-9).all()
        assert (mine["difference"] > 0.25).all()
        assert (mine["n"] == (N if test in ("detect", "fuzz") else mine["n"])).all()
    assert abs(scores_of(folder, "detect")["control"].mean() - 0.5) < 0.15
    assert abs(scores_of(folder, "simulate")["control"].mean()) < 0.3
    assert scores_of(folder, "natural")["n"].to_list() == [N * T] * 6
    # The published scores are those, by the names that others use.
    assert explained[0]["published"] == pytest.approx(
        {"detection": 1.0, "fuzzing": 1.0, "simulation": 1.0}
    )
    assert explained[0]["author"] == "endpoint:scripted/model"
    assert said[-2].startswith("layers.1.mlp: 2 of 2 latents explained, 0 of ")
    n = len(server.bodies)
    assert said[-1] == f"{n:,} requests, {7 * n:,} tokens sent, {3 * n:,} tokens written"


def test_answers_beside_the_text(run: Run) -> None:
    """Every answer, own and control's, is what the text says, read from the files alone."""
    folder, _, _ = explain(run, honest)
    heldout, rows = run.tokens.heldout, pl.read_parquet(folder / "windows.parquet").to_dicts()
    partner = {
        (one["hookpoint"], one["latent"]): one["partner"]
        for one in scores_of(folder, "detect").to_dicts()
    }
    assert len(rows) == 6 * 2 * N
    for row in rows:
        fires = FIRES_ON[row["hookpoint"]]
        token, other = (
            f" w{fires[one]:02}"
            for one in (row["latent"], partner[row["hookpoint"], row["latent"]])
        )
        shown = window_tokens(heldout, row)
        assert row["active"] == (token in shown)
        if row["test"] == "fuzz":
            shown = [shown[at] for at in row["marks"]]
            assert shown
            assert row["own"] == (set(shown) == {token})
            assert row["control"] == (set(shown) == {other})
        else:
            assert row["marks"] is None
            assert row["own"] == (token in shown)
            assert row["control"] == (other in shown)
    # The control's score, counted again.
    for one in scores_of(folder, "detect").to_dicts():
        mine = [
            row for row in rows
            if (row["hookpoint"], row["latent"], row["test"])
            == (one["hookpoint"], one["latent"], "detect")
        ]  # fmt: skip
        rates = [
            np.mean([row["control"] == active for row in mine if row["active"] == active])
            for active in (True, False)
        ]
        assert one["control"] == pytest.approx(np.mean(rates))


def test_simulated_activations(run: Run) -> None:
    folder, _, _ = explain(run, honest)
    heldout = run.tokens.heldout
    for name in HOOKPOINTS:
        with np.load(folder / "simulated" / f"{name}.npz") as stored:
            found = dict(stored)
        n = len(FIRES_ON[name])
        assert found["predicted"].shape == found["digits"].shape == (n, N, T)
        assert found["predicted"].dtype == np.float32
        assert found["scale"].tolist() == [2.0] * n
        fired = load_heldout_firings(run.cache, name, run.tokens)
        for at, (context, offset) in enumerate(zip(found["context"], found["offset"], strict=True)):
            begin = context * heldout.ctx_len + offset
            dense = fired.dense(begin, begin + T)[:, :n].T
            np.testing.assert_array_equal(found["act"][:, at], dense)
            np.testing.assert_array_equal(found["predicted"][:, at], dense)
            assert heldout.valid[context, offset : offset + T].all()
        assert not found["failed"].any()
        for latent, context, offset, act, digits in zip(
            *(found[f"top_{part}"] for part in ("latent", "context", "offset", "act", "digits")),
            strict=True,
        ):
            ids = heldout.ids[context, offset : offset + T]
            np.testing.assert_array_equal(act, 2.0 * (ids == FIRES_ON[name][latent]))
            np.testing.assert_array_equal(digits, 5 * act)
        # The control's correlation, from the arrays: the partner's predictions on shared windows.
        rows = scores_of(folder, "natural").filter(pl.col("hookpoint") == name)
        for latent, partner, r in rows.select("latent", "partner", "control").rows():
            pair = found["act"][latent].ravel(), found["digits"][partner].ravel()
            assert r == pytest.approx(np.corrcoef(*pair)[0, 1])
        # Top windows, each with a firing, and as many of the shared ones.
        rows = scores_of(folder, "simulate").filter(pl.col("hookpoint") == name)
        for latent, partner, r, size in rows.select("latent", "partner", "control", "n").rows():
            mine = found["top_latent"] == latent
            k = mine.sum()
            assert 1 <= k <= 5
            assert (found["top_act"][mine].max(axis=1) > 0).all()
            assert size == 2 * k * T
            true = np.concatenate([found["top_act"][mine], found["act"][latent, :k]])
            guess = [found["top_control_digits"][mine], found["digits"][partner, :k]]
            assert r == pytest.approx(
                np.corrcoef(true.ravel(), np.concatenate(guess).ravel())[0, 1]
            )


def test_a_liar_scores_low(run: Run) -> None:
    folder, _, _ = explain(run, liar)
    for test, low in (("detect", 0.0), ("fuzz", 0.0), ("simulate", -1.0), ("natural", -1.0)):
        assert scores_of(folder, test)["own"].to_list() == pytest.approx([low] * 6)


def test_the_audit_reads_the_folder(run: Run) -> None:
    folder, _, _ = explain(run, honest)
    found = read_explanations(folder)
    assert len(found.explanations) == 6
    first = found.explanations[0]
    assert (first.hookpoint, first.latent) == ("layers.0.mlp", 0)
    assert first.text == 'the token " w03"'
    assert first.author == "endpoint:scripted/model"
    assert first.published["detection"] == 1.0


# -- answers that are none -------------------------------------------------------------------------


def test_nonsense_throughout_is_a_failure_for_each_latent(run: Run) -> None:
    """No explanation, so nothing more is asked, and all predictions are 0, never the highest."""
    said: list[str] = []
    with BadServer() as server:
        folder = explain_run(run, config_of(server.url, llm_model="m"), said.append)
    assert sum(server.calls.values()) == 6
    assert (folder / "explanations.jsonl").read_text() == ""
    failed = lines(folder / "failures.jsonl")
    assert len(failed) == 6
    assert {one["failure"] for one in failed} == {"no explanation"}
    assert {one["reason"] for one in failed} == {"a text of the model"}
    for test, chance in (("detect", 0.5), ("fuzz", 0.5), ("simulate", 0.0), ("natural", 0.0)):
        mine = scores_of(folder, test)
        assert mine["own"].to_list() == [chance] * 6
        assert mine["failed"].to_list() == mine["n"].to_list()
        assert mine["control"].is_nan().all()
        assert mine["partner"].to_list() == [-1] * 6
    with np.load(folder / "simulated" / "layers.0.mlp.npz") as found:
        assert found["failed"].all()
        assert np.isnan(found["digits"]).all()
        assert (found["predicted"] == 0).all()
    done = json.loads((folder / "done.json").read_text())["hookpoints"]["layers.0.mlp"]
    assert (done["n_latents"], done["n_explained"]) == (4, 0)
    assert done["failures"] == {"no explanation": 4}
    assert done["tests"]["detect"]["failed"] == 4 * N
    assert "0 of 4 latents explained" in said[-3]


def test_some_failures_are_counted_where_they_fall(run: Run) -> None:
    """One hookpoint's second latent is not explained; lists too short; a token without a line."""

    def answer(body: Body) -> Any:
        right, kind, user = honest(body), kind_of(body), body["messages"][1]["content"]
        if kind == "explain" and " w05>>" in user:
            return "I do not know."
        if kind == "detect" and " w03" in user.split("\n")[0]:
            return right.replace("[", "[0, ")
        if kind == "fuzz" and " w08" in user.split("\n")[0]:
            return 400
        if kind == "simulate" and " w03" in user.split("\n")[0]:
            return right.split("\n", 1)[1]  # all but the first token
        return right

    folder, server, _ = explain(run, answer, hookpoints=("layers.0.mlp",))
    assert [one["latent"] for one in lines(folder / "failures.jsonl")] == [1]
    assert [one["latent"] for one in lines(folder / "explanations.jsonl")] == [0, 2, 3]
    assert not [body for body in server.bodies if '" w05' in body["messages"][1]["content"][:40]]
    detect, fuzz = scores_of(folder, "detect"), scores_of(folder, "fuzz")
    assert detect["own"].to_list() == [0.5, 0.5, 1.0, 1.0]
    assert detect["failed"].to_list() == [N, N, 0, 0]
    assert fuzz["own"].to_list() == [1.0, 0.5, 0.5, 1.0]
    assert fuzz["failed"].to_list() == [0, N, N, 0]
    # Who has the failing one for a partner has its failures as control.
    owners = dict(detect.select("latent", "partner").rows())
    assert detect["control_failed"].to_list() == [N * (owners[one] == 0) for one in range(4)]
    natural, simulate = scores_of(folder, "natural"), scores_of(folder, "simulate")
    assert natural["failed"].to_list() == [N, N * T, 0, 0]
    assert natural["own"][1:].to_list() == pytest.approx([0.0, 1.0, 1.0])
    assert 0 < natural["own"][0] < 1
    with np.load(folder / "simulated" / "layers.0.mlp.npz") as found:
        assert found["failed"][0, :, 0].all()
        assert not found["failed"][0, :, 1:].any()
        assert (found["predicted"][0, :, 0] == 0).all()
        assert found["failed"][1].all()
        guess, true = found["predicted"][0], found["act"][0]
        assert natural["own"][0] == pytest.approx(np.corrcoef(guess.ravel(), true.ravel())[0, 1])
    assert simulate["failed"][0] == simulate["n"][0] // T


def test_failures_that_pass_are_asked_again_by_the_same_command(run: Run) -> None:
    """A server that is busy, then not: counted as failures, and not the last word."""
    with ScriptedServer(lambda body: 503) as server:
        config, said = config_of(server.url), list[str]()
        folder = explain_run(run, config, said.append)
        assert {one["failure"] for one in lines(folder / "failures.jsonl")} == {"http 503"}
        assert said[-1] == "6 questions got no answer; the same command asks them again"
        assert json.loads((folder / "done.json").read_text())["n_open"] == 6
        assert not (folder / "answers.jsonl").exists()
        server.answer = honest
        explain_run(run, config, said.append)
        assert (folder / "failures.jsonl").read_text() == ""
        assert json.loads((folder / "done.json").read_text())["n_open"] == 0
        explain_run(run, config, said.append)
    assert said[-1].endswith("all answers are there already")


def test_nobody_there(run: Run) -> None:
    with ScriptedServer() as server:
        config = config_of(server.url, llm_model="m")
    with pytest.raises(EndpointError, match="cannot be reached"):
        explain_run(run, config)
    folder = explain_folder(run.out, "endpoint:m")
    assert [path.name for path in folder.iterdir()] == ["usage.json"]


def test_a_model_folder_without_room(run: Run, model_folder: Path) -> None:
    """The tiny model reads 64 tokens at most: every question is too long, and counted."""
    config = replace(config_of("x"), llm_base_url=None, llm_folder=str(model_folder))
    folder = explain_run(run, config)
    failed = lines(folder / "failures.jsonl")
    assert {one["failure"] for one in failed} == {"too long"}
    assert len(failed) == 6
    assert failed[0]["author"] == f"local:{model_folder.name}"
    assert estimate(run, config).total.n_requests == 0


def test_real_server(run: Run, model_folder: Path, tmp_path: Path) -> None:
    """A random model behind a server that is not ours: nonsense, all of it counted."""
    with serve_model(model_folder, tmp_path / "served") as url:
        said: list[str] = []
        config = config_of(url, hookpoints=("layers.1.mlp",), llm_timeout=60.0)
        folder = explain_run(run, config, said.append)
        asker = EndpointAsker(url, timeout=60.0)
        simulator = Simulator(Answers(asker, tmp_path / "answers.jsonl"))
        few = run.tokens.heldout.select(np.arange(2))
        assert np.isnan(simulator.predict("anything", few)[few.valid]).all()
    assert [one["failure"] for one in lines(folder / "failures.jsonl")] == ["no explanation"] * 2
    assert scores_of(folder, "detect")["own"].to_list() == [0.5, 0.5]
    assert "2 requests" in said[-1]
    usage = json.loads((folder / "usage.json").read_text())
    assert (usage["n_requests"], usage["n_uncounted"]) == (2, 0)
    assert usage["sent"] > 200


# -- resuming and cost -----------------------------------------------------------------------------


def test_a_second_run_asks_nothing(run: Run) -> None:
    said: list[str] = []
    with ScriptedServer() as server:
        config = config_of(server.url)
        folder = explain_run(run, config)
        n, marker = len(server.bodies), folder / "done.json"
        before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
        assert explain_run(run, replace(config, price_in=1.0, price_out=1.0), said.append) == folder
        assert said == [f"{folder}: all answers are there already"]
        # Results are made again from the answers.
        marker.unlink()
        explain_run(Run(run.out, quiet=True), config)
        assert len(server.bodies) == n
        assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before
        # Fewer latents: nothing new to ask, and no file of the hookpoint that is left out.
        explain_run(run, replace(config, hookpoints=("layers.1.mlp",)))
        assert len(server.bodies) == n
        assert [path.name for path in (folder / "simulated").iterdir()] == ["layers.1.mlp.npz"]
        assert len(scores_of(folder, "detect")) == 2


def test_interrupted_and_continued(run: Run, made: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle; the same command asks for the rest only, and ends the same."""
    shutil.copytree(made, tmp_path / "other")
    with ScriptedServer() as server:
        whole = explain_run(Run(tmp_path / "other", quiet=True), config_of(server.url))
        n_wanted = len(server.bodies)
        server.bodies.clear()

        once = threading.Semaphore(1)

        def press(body: Body) -> str:
            if len(server.bodies) >= n_wanted // 2 and once.acquire(blocking=False):
                os.kill(os.getpid(), signal.SIGINT)
            return honest(body)

        server.answer = press
        usual = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                explain_run(run, config_of(server.url))
        finally:
            signal.signal(signal.SIGINT, usual)
        folder = explain_folder(run.out, "endpoint:scripted/model")
        assert not (folder / "done.json").exists()
        kept = len(lines(folder / "answers.jsonl"))
        assert 0 < kept < n_wanted
        assert json.loads((folder / "usage.json").read_text())["n_requests"] >= kept
        server.bodies.clear()
        explain_run(run, config_of(server.url))
        assert len(server.bodies) == n_wanted - kept
    for name in ("explanations.jsonl", "scores.parquet", "windows.parquet", "done.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_the_estimate_is_what_is_asked(run: Run) -> None:
    """Explanations are not known beforehand, and still the number of requests is right."""
    with ScriptedServer() as server:
        config = config_of(server.url, price_in=2.0, price_out=8.0)
        before = estimate(run, config)
        assert server.bodies == []
        said: list[str] = []
        folder = explain_run(run, config, said.append)
        asked = {name: usage.n_requests for name, usage in before.stages.items()}
        assert dict(server.kinds) == asked
        assert asked["explain"] == 6
        assert said[: len(before.lines())] == before.lines()
        characters = sum(
            len(turn["content"]) for body in server.bodies for turn in body["messages"]
        )
        # Explanations are taken to be longer than these.
        assert characters / 4 < before.total.sent < 1.5 * characters / 4
        assert estimate(run, config).total.n_requests == 0
    total = before.total
    dollars = (2 * total.sent + 8 * total.written) / 1e6
    assert before.lines()[-1].endswith(f"at most about ${dollars:,.2f}")
    usage = json.loads((folder / "usage.json").read_text())
    n = len(server.bodies)
    assert usage["dollars"] == pytest.approx((2 * 7 * n + 8 * 3 * n) / 1e6)
    assert said[-1].endswith(f"; ${usage['dollars']:,.2f}")


# -- which latents ---------------------------------------------------------------------------------


def test_latents_are_live_ones_or_those_given(run: Run) -> None:
    folder, _, _ = explain(run, honest, latents=2)
    drawn = scores_of(folder, "detect")
    assert drawn.group_by("hookpoint").len()["len"].to_list() == [2, 2]
    folder, _, _ = explain(run, honest, given=(4, 0), hookpoints=("layers.0.mlp",))
    assert scores_of(folder, "detect")["latent"].to_list() == [0, 4]
    (failed,) = lines(folder / "failures.jsonl")
    assert (failed["latent"], failed["failure"]) == (4, "no text")
    assert scores_of(folder, "detect")["n"].to_list() == [N, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hookpoints": ("layers.7.mlp",)}, "has layers.0.mlp, layers.1.mlp"),
        ({"given": (5,)}, "latents 0 to 4"),
        ({"given": (-1, 2)}, "--latent -1"),
    ],
)
def test_what_does_not_exist_is_refused(run: Run, changes: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        explain(run, honest, **changes)


def test_names_of_folders() -> None:
    out = Path("run")
    assert explain_folder(out, "local:../../etc").parent == out / "explain"
    assert len(explain_folder(out, "endpoint:" + "x" * 500).name) == 100


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    add_explain(made)
    made.callback()(lambda: None)
    return made


def test_command(run: Run, app: typer.Typer) -> None:
    with ScriptedServer() as server:
        base = ["explain", "--out", str(run.out), "--llm-base-url", server.url, "-q"]
        base += ["--examples", "10", "--windows", "4", "--latent", "0", "--latent", "1"]
        base += ["--hookpoint", "layers.0.mlp", "--price-in", "1", "--price-out", "2"]
        dry = CliRunner().invoke(app, [*base, "--dry-run"])
        assert dry.exit_code == 0, dry.output
        assert "explain: 2 requests" in dry.output
        assert "at most about $0." in dry.output
        assert server.bodies == []
        done = CliRunner().invoke(app, base)
    assert done.exit_code == 0, done.output


def test_command_refuses_neither_and_both(run: Run, app: typer.Typer) -> None:
    found = CliRunner().invoke(app, ["explain", "--out", str(run.out)])
    assert isinstance(found.exception, LabelerError)
    assert "either --llm-base-url or --llm-folder" in str(found.exception)
    shown = CliRunner().invoke(app, ["explain", "--help"])
    assert "labeler explain --out runs/mine" in shown.output


def test_documented(run: Run) -> None:
    """docs/explanations.md names every file, column and array."""
    folder, _, _ = explain(run, honest, hookpoints=("layers.1.mlp",))
    text = (Path(__file__).parents[1] / "docs" / "explanations.md").read_text(encoding="utf-8")
    names = [path.name for path in folder.iterdir() if path.is_file()]
    names += pl.read_parquet_schema(folder / "scores.parquet")
    names += pl.read_parquet_schema(folder / "windows.parquet")
    names += json.loads((folder / "usage.json").read_text())
    done = json.loads((folder / "done.json").read_text())
    names += [*done["hookpoints"]["layers.1.mlp"], "n_open", "author", "config", "key"]
    with np.load(folder / "simulated" / "layers.1.mlp.npz") as found:
        names += found.files
    assert [name for name in names if f"`{name}`" not in text] == []
