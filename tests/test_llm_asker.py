"""Who answers questions: endpoints that misbehave, a model folder; what is kept, what it costs."""

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labeler.errors import CacheError, EndpointError, ModelError, OptionError, RunError
from labeler.eval.chat import Answer
from labeler.eval.endpoint import Usage
from labeler.eval.llm.ask import Answers, EndpointAsker, Question, open_asker
from labeler.eval.llm.config import ExplainConfig
from labeler.eval.llm.cost import Estimate, Prices, usage_kept
from labeler.eval.llm.local import LocalAsker
from labeler.eval.llm.simulate import Simulator
from tests.llm_servers import BadServer
from tests.synthetic import plain_tokens


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    """No key of whoever runs the tests may reach a server here."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "LABELER_LLM")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def wanted(n: int) -> list[Question]:
    """N questions, seeds 0 to n - 1, which is how the bad server tells them apart."""
    return [Question("You answer.", f"What is {i}?", 8, seed=i) for i in range(n)]


def make(server: BadServer, **options) -> EndpointAsker:
    """An asker with short patience."""
    return EndpointAsker(
        server.url, "m", **({"max_retries": 1, "timeout": 5.0, "concurrency": 4} | options)
    )


# -- endpoints -------------------------------------------------------------------------------------


def test_what_is_sent():
    with BadServer() as server:
        asker = make(server)
        ((question, answer),) = asker.ask(wanted(1))
    assert answer.text == "a text of the model"
    assert server.bodies == [
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "You answer."},
                {"role": "user", "content": "What is 0?"},
            ],
            "max_tokens": 8,
            "temperature": 0.0,
            "seed": 0,
        }
    ]
    assert asker.usage == Usage(1, 0, 7, 3)
    assert asker.name == "endpoint:m"
    assert asker.count(question) == (11 + 10 + 3) // 4
    assert replace(question, system="").messages == [{"role": "user", "content": "What is 0?"}]


@pytest.mark.slow
def test_failures_that_pass_are_asked_again_the_others_kept(tmp_path):
    """Hangs, 429 and 500 may pass; garbage and a refusal are answers of a kind."""
    bad = {1: "hang", 2: "429", 3: "500", 4: "garbage", 5: "refusal", 6: "content is empty"}
    path = tmp_path / "here" / "answers.jsonl"
    questions = wanted(10)
    failures = {
        1: "timeout", 2: "http 429", 3: "http 500", 4: "malformed", 5: "refused", 6: "empty",
    }  # fmt: skip
    with BadServer(bad) as server:
        for attempt in (1, 2):
            asker = make(server, max_retries=0, timeout=0.4)
            done: list[float] = []
            found = Answers(asker, path).to(questions, done.append)
            assert [one.failure for one in found] == [failures.get(i) for i in range(10)]
            assert [one.text is None for one in found] == [i in failures for i in range(10)]
            assert sum(done) == 10
            assert asker.usage.n_requests == (10 if attempt == 1 else 3)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == 7
        server.behaviour = {}
        found = Answers(make(server), path).to(questions)
        assert [one.failure for one in found[1:7]] == [None] * 3 + ["malformed", "refused", "empty"]


@pytest.mark.parametrize("mode", ["hang", "500", "garbage", "close"])
def test_a_server_that_never_answers_stops_the_run_and_leaves_nothing(tmp_path, mode):
    path = tmp_path / "answers.jsonl"
    with BadServer(dict.fromkeys(range(500), mode)) as server:
        answers = Answers(make(server, max_retries=0, timeout=0.1), path)
        with pytest.raises(EndpointError, match="requests in a row got no answer"):
            answers.to(wanted(500))
    assert not path.exists()


def test_nobody_there(tmp_path):
    with BadServer() as server:
        asker = make(server, max_retries=0)
    with pytest.raises(EndpointError, match="cannot be reached"):
        Answers(asker, tmp_path / "answers.jsonl").to(wanted(3))


def test_the_same_question_is_asked_once(tmp_path):
    with BadServer() as server:
        answers = Answers(make(server), tmp_path / "answers.jsonl")
        question, other = wanted(2)
        found = answers.to([question, other, question])
        assert (len(found), sum(server.calls.values())) == (3, 2)
        assert answers.missing([question, other]) == []
        assert answers.known(question) == found[0]
        answers.to([question])
    assert sum(server.calls.values()) == 2


def test_another_model_or_prompt_is_asked_anew(tmp_path):
    path = tmp_path / "answers.jsonl"
    (question,) = wanted(1)
    with BadServer() as server:
        Answers(make(server), path).to([question])
        for changed in ({"user": "?"}, {"system": "?"}, {"max_tokens": 9}, {"seed": 1}):
            assert Answers(make(server), path).missing([replace(question, **changed)])
        other = EndpointAsker(server.url, "n")
        assert Answers(other, path).missing([question])
        Answers(other, path).to([question])
        assert Answers(make(server), path).missing([question]) == []
    assert len(path.read_text().splitlines()) == 2


def test_a_torn_line_is_cut_off_and_a_wrong_one_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    with BadServer() as server:
        asker = make(server)
        Answers(asker, path).to(wanted(3))
        whole = path.read_bytes()
        path.write_bytes(whole + b'{"question": "ab')
        assert Answers(asker, path).missing(wanted(3)) == []
        assert path.read_bytes() == whole
        for line in (b"[]\n", b"nonsense\n", b'{"text": null, "failure": null}\n'):
            path.write_bytes(whole + line)
            with pytest.raises(
                CacheError, match=r"answers\.jsonl, line 4: no answer .*remove that"
            ):
                Answers(asker, path)
        good = json.loads(whole.splitlines()[0])
        for change in ({"text": 7}, {"tokens": ["many", 1]}, {"text": None, "failure": None}):
            path.write_bytes(json.dumps(good | change).encode() + b"\n")
            with pytest.raises(CacheError, match="line 1: no answer"):
                Answers(asker, path)


def test_ctrl_c_keeps_what_came(tmp_path):
    """The first two are answered, the others hang: two lines, and the rest is asked again."""
    path = tmp_path / "answers.jsonl"

    def press() -> None:
        while sum(server.calls.values()) < 2 + 4:
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with BadServer(dict.fromkeys(range(2, 20), "hang")) as server:
            asker = make(server, timeout=60)
            threading.Thread(target=press, daemon=True).start()
            with pytest.raises(KeyboardInterrupt):
                Answers(asker, path).to(wanted(20))
            server.behaviour = {}
            server.stopped.set()
            assert len(path.read_text().splitlines()) == 2
            assert len(Answers(asker, path).missing(wanted(20))) == 18
            assert all(one.text for one in Answers(asker, path).to(wanted(20)))
    finally:
        signal.signal(signal.SIGINT, usual)
    assert server.calls[0] == server.calls[1] == 1


# -- model folders ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_local_answers_are_the_greedy_ones(model_folder):
    """Against the model's own scores, one token at a time; alone and in a batch the same."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asker = LocalAsker(model_folder)
    questions = [Question("", text, n) for text, n in (("the cat", 6), ("one red bird sings", 9))]
    done: list[float] = []
    answers = dict(asker.ask(questions, done.append))
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    for question in questions:
        prompt = tokenizer(f"{question.user}\n\nAnswer:")["input_ids"]
        assert asker.count(question) == len(prompt)
        ids = list(prompt)
        for _ in range(question.max_tokens):
            with torch.inference_mode():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        answer = answers[question]
        kept = [one for one in ids[len(prompt) :] if one != tokenizer.eos_token_id]
        assert answer.text == tokenizer.decode(kept)
        assert answer.tokens == (len(prompt), len(ids) - len(prompt))
        ((_, alone),) = LocalAsker(model_folder).ask([question])
        assert alone == answer
    assert sum(done) == 2
    assert asker.usage.n_requests == 2
    assert asker.usage.sent == sum(asker.count(one) for one in questions)


@pytest.mark.slow
def test_local_chat_template(model_folder, tmp_path):
    """A template is used; one that knows no system message gets all in one turn."""
    folder = tmp_path / "chat"
    shutil.copytree(model_folder, folder)
    template = folder / "chat_template.jinja"
    turns = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    template.write_text(turns)
    plain = LocalAsker(model_folder)
    question = Question("sun", "rain", 4)
    encode = plain._lm.tokenizer
    assert LocalAsker(folder)._prompt(question) == encode("<system>sun<user>rain")["input_ids"]
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    template.write_text(refuse + turns)
    asker = LocalAsker(folder)
    assert asker._prompt(question) == encode("<user>sun\n\nrain")["input_ids"]
    assert asker.fingerprint != plain.fingerprint
    ((_, answer),) = asker.ask([question])
    assert (answer.text is None) == (answer.failure == "empty")


@pytest.mark.slow
def test_local_question_that_does_not_fit(model_folder, tmp_path):
    """The tiny model has room for 64 tokens; the failure is kept, for it does not pass."""
    answers = Answers(LocalAsker(model_folder), tmp_path / "answers.jsonl")
    long = Question("", "cat " * 60, 8)
    found = answers.to([long, Question("", "cat", 60), Question("", "cat", 4)])
    assert [one.failure for one in found[:2]] == ["too long", "too long"]
    assert found[2].failure in (None, "empty")
    assert answers.missing([long]) == []


@pytest.mark.slow
def test_local_batches_are_bounded(model_folder, monkeypatch):
    monkeypatch.setattr("labeler.eval.llm.local.BATCH_TOKENS", 40)
    asker, sizes = LocalAsker(model_folder), []
    whole = asker._answer
    monkeypatch.setattr(asker, "_answer", lambda batch: (sizes.append(len(batch)), whole(batch))[1])
    questions = [Question("", f"cat {i}", 4) for i in range(7)]
    assert {one for one, _ in asker.ask(questions)} == set(questions)
    room = max(asker.count(one) for one in questions) + 4
    assert sum(sizes) == 7
    assert max(sizes) <= max(40 // room, 1) < 7


@pytest.mark.slow
def test_local_model_with_broken_weights(model_folder, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(model_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        list(LocalAsker(folder).ask([Question("", "cat", 4)]))
    with pytest.raises(ModelError, match="does not exist"):
        LocalAsker(tmp_path / "nowhere")


# -- simulation for any text -----------------------------------------------------------------------


class Fixed:
    """Answers a question by a function of it; nothing is sent anywhere."""

    name, fingerprint = "fixed", "f"

    def __init__(self, answer) -> None:
        self.usage, self.answer, self.asked = Usage(), answer, []

    def count(self, question):
        return len(question.user)

    def ask(self, questions, advance=lambda n: None):
        for question in questions:
            self.asked.append(question)
            advance(1)
            yield question, self.answer(question)


def test_simulator_reads_every_context_in_pieces(tmp_path):
    """Contexts of 5, 2 and 3 tokens in pieces of 2: the number of a token is in its piece."""

    def answer(question: Question) -> Answer:
        rows = [line.split("\t") for line in question.user.split("\n")[1:]]
        return Answer("\n".join(f"{number}\t{json.loads(text)[1]}" for number, text in rows))

    tokens = plain_tokens([[1, 2, 3, 4, 5], [6, 7], [8, 9, 1]])
    asker = Fixed(answer)
    simulator = Simulator(Answers(asker, tmp_path / "answers.jsonl"), window=2)
    assert simulator.name == "fixed"
    np.testing.assert_array_equal(simulator.predict("numbers", tokens), tokens.ids)
    assert len(asker.asked) == 3 + 1 + 2
    simulator.predict("numbers", tokens)
    assert len(asker.asked) == 6


def test_simulator_says_what_failed(tmp_path):
    """A piece without an answer is NaN throughout, a token without a line by itself; no padding."""

    def answer(question: Question) -> Answer:
        if "<1>" in question.user:
            return Answer(None, "timeout", "no answer")
        return Answer("1\t3")

    tokens = plain_tokens([[1, 2], [3, 4], [5]])
    found = Simulator(Answers(Fixed(answer), tmp_path / "a.jsonl")).predict("numbers", tokens)
    wanted = np.array([[np.nan, np.nan], [3, np.nan], [3, 0]], dtype=np.float32)
    np.testing.assert_array_equal(found, wanted)


# -- cost ------------------------------------------------------------------------------------------


def test_estimate_by_hand(tmp_path):
    """Three questions of 30, 40 and 40 characters, one asked twice, one answered already."""
    questions = [Question("", "x" * n, 100) for n in (30, 40)] + [Question("s", "x" * 39, 50)]
    asker = Fixed(lambda question: Answer("yes"))
    answers = Answers(asker, tmp_path / "a.jsonl")
    answers.to(questions[:1])
    estimate = Estimate(Prices(1.0, 10.0))
    estimate.add("explain", [questions[0], questions[1], None, questions[1]], answers)
    estimate.add("detect", questions[2:], answers)
    assert estimate.total == Usage(2, 0, 79, 150)
    assert estimate.lines()[0] == (
        "explain: 1 requests, about 40 tokens to send, at most 100 to be written, at most about "
        "$0.00"
    )
    assert estimate.lines()[-1].startswith("together: 2 requests, about 79 tokens to send")
    assert "$" not in Estimate().lines()[0]
    assert Prices(0.15, 0.6).dollars(10_000_000, 1_000_000) == pytest.approx(2.1)
    assert Prices().dollars(1, 1) is None


def test_usage_adds_up_over_runs_however_they_end(tmp_path):
    path, asker = tmp_path / "usage.json", Fixed(lambda question: Answer("yes"))
    asker.usage.add((1000, 1000))  # spent elsewhere

    def spend() -> None:
        with usage_kept(path, asker, Prices(2.0, 4.0)):
            asker.usage.add((500_000, 250_000))
            asker.usage.add(None)
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            spend()
    found = json.loads(path.read_text())
    assert {name: found[name] for name in ("n_requests", "n_uncounted", "sent", "written")} == {
        "n_requests": 4, "n_uncounted": 2, "sent": 1_000_000, "written": 500_000,
    }  # fmt: skip
    assert found["dollars"] == pytest.approx(4.0)
    path.write_text("{}")
    with pytest.raises(RunError, match=r"usage\.json: no count"), usage_kept(path, asker, Prices()):
        pass


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either --llm-base-url or --llm-folder, not neither"),
        ({"llm_base_url": "http://a/v1", "llm_folder": "x"}, "not both"),
        ({"llm_folder": "x", "llm_model": "m"}, "--llm-model is for --llm-base-url"),
        ({"llm_base_url": "nowhere", "llm_model": "m"}, "is no address"),
        ({"latents": -1}, "--latents is -1; give at least 0"),
        ({"examples": 0}, "--examples is 0"),
        ({"windows": 1}, "--windows is 1; give at least 2"),
        ({"window": 1}, "--window is 1"),
        ({"price_in": 1.0}, "both --price-in and --price-out"),
        ({"price_in": -1.0, "price_out": 1.0}, "--price-in is -1.0"),
        ({"price_in": 1.0, "price_out": float("nan")}, "--price-out is nan"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(OptionError, match=message):
        ExplainConfig(**options).open_asker()


def test_what_results_depend_on():
    one = ExplainConfig(llm_base_url="http://a/v1", llm_concurrency=1, price_in=1.0, price_out=1.0)
    assert one.to_json() == ExplainConfig(llm_folder="b").to_json()
    assert one.to_json() != replace(one, windows=6).to_json()
    url = "http://127.0.0.1:9/v1"
    mine = open_asker(url, "m", concurrency=2).fingerprint
    assert mine == open_asker(url + "/", "m", timeout=3.0).fingerprint
    assert mine != open_asker(url, "n").fingerprint
    assert isinstance(open_asker(url, "m"), EndpointAsker)
    with pytest.raises(ModelError, match="does not exist"):
        open_asker(llm_folder=Path("nowhere"))
