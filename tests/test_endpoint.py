import os
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from labeler.errors import EndpointError, LabelerError, OptionError
from labeler.eval.chat import read_answer
from labeler.eval.endpoint import EndpointGenerator, Usage
from labeler.eval.generate import Request, replies
from labeler.eval.prompts import messages
from tests.llm_servers import MODEL, BadServer, serve_model

KEY = "sk-a-secret-of-the-tests"

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    """No key of whoever runs the tests may reach a server here."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "LABELER_LLM")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def wanted(n: int, max_tokens: int = 8) -> list[Request]:
    """N requests, seeds 0 to n - 1."""
    return [
        Request("layers.0.mlp", i, 0, "contain", "river", "rivers", "The", max_tokens, seed=i)
        for i in range(n)
    ]


def make(server: BadServer, **options) -> EndpointGenerator:
    """A generator with short patience."""
    return EndpointGenerator(
        server.url, "m", **({"max_retries": 1, "timeout": 5.0, "concurrency": 4} | options)
    )


def failures(generator: EndpointGenerator, requests: list[Request]) -> dict[int, str]:
    """Failure by seed; every request must get exactly one reply, with a text or a failure."""
    came = list(generator.generate(requests))
    assert Counter(request for request, _ in came) == Counter(requests)
    for _, reply in came:
        assert (reply.text is None) != (reply.failure is None)
        assert reply.text in (None, "a text of the model")
        assert reply.n_before == 0
    return {request.seed: reply.failure for request, reply in came if reply.failure}


# -- a real server ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_url(model_folder, tmp_path_factory):
    """``transformers serve`` over the tiny Llama."""
    with serve_model(model_folder, tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.mark.slow
def test_real_server(real_url):
    """Texts, counts and the only model's name, from a server that is not ours."""
    generator = EndpointGenerator(real_url, concurrency=3, max_retries=1)
    assert (generator.model, generator.name) == (MODEL, f"endpoint:{MODEL}")
    requests, done = wanted(6, max_tokens=12), []
    came = dict(generator.generate(requests, done.append))
    assert set(came) == set(requests)
    assert sum(done) == len(requests)
    texts = [came[request].text for request in requests]
    assert all(texts), came
    assert len(set(texts)) > 1  # the seed is passed on
    assert generator.usage.n_requests == 6
    assert generator.usage.n_uncounted == 0
    assert 6 <= generator.usage.written <= 6 * 12
    assert generator.usage.sent >= 6


@pytest.mark.slow
def test_real_server_repeats_itself_for_a_seed(real_url):
    generator = EndpointGenerator(real_url, MODEL, concurrency=1)
    request = wanted(1, max_tokens=12)
    (first,), (second,) = (list(generator.generate(request)) for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_real_server_refuses_another_model(real_url):
    """It answers 400 to each request; as nothing else ever came, that stops the run."""
    generator = EndpointGenerator(real_url, "some/other", concurrency=1, max_retries=0)
    with pytest.raises(EndpointError, match=r"8 requests .*http 400.*pinned to 'tiny/llama'"):
        list(generator.generate(wanted(20)))


# -- what is sent ----------------------------------------------------------------------------------


def test_sends_prompt_options_and_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-other")
    monkeypatch.setenv("LABELER_LLM_KEY", f"{KEY}\n")
    with BadServer() as server:
        request = wanted(1, max_tokens=9)
        assert failures(make(server, temperature=0.5), request) == {}
    (body,), (headers,) = server.bodies, server.headers
    assert body == {
        "model": "m",
        "messages": messages(request[0]),
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 0,
    }
    assert headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(("key", "sent"), [("sk-the-other", "sk-the-other"), ("", "none")])
def test_key_of_openai_or_a_placeholder(monkeypatch, key, sent):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with BadServer() as server:
        failures(make(server), wanted(1))
    assert server.headers[0]["authorization"] == f"Bearer {sent}"


def test_bounded_concurrency():
    with BadServer(dict.fromkeys(range(9), "slow")) as server:
        assert failures(make(server, concurrency=3), wanted(9)) == {}
    assert server.most_under_way == 3


# -- a server that misbehaves ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "failure"),
    [
        ("400", "http 400"),
        ("redirect", "http 307"),
        ("huge", "malformed"),
        ("garbage", "malformed"),
        ("not utf-8", "malformed"),
        ("nothing", "malformed"),
        ("deep", "malformed"),
        ("null", "malformed"),
        ("list", "malformed"),
        ("no choices", "malformed"),
        ("choices empty", "malformed"),
        ("choices are text", "malformed"),
        ("message is a number", "malformed"),
        ("content is a number", "malformed"),
        ("content is a list", "malformed"),
        ("half a character", "malformed"),
        ("content is null", "empty"),
        ("content is empty", "empty"),
        ("content is blank", "empty"),
        ("refusal", "refused"),
        ("filtered", "refused"),
        ("filtered by status", "refused"),
    ],
)
def test_bad_answers_cost_their_sequences_only(mode, failure):
    """Three of ten, asked once each: no repetition makes a better answer of a bad one."""
    bad = dict.fromkeys((2, 3, 7), mode)
    with BadServer(bad) as server:
        generator = make(server)
        assert failures(generator, wanted(10)) == dict.fromkeys(bad, failure)
    assert server.calls == Counter(range(10))
    counted = 10 if failure in ("empty", "refused") and "status" not in mode else 7
    counted += 3 * (mode in ("content is a number", "content is a list", "half a character"))
    assert generator.usage == Usage(10, 10 - counted, 7 * counted, 3 * counted)


def test_an_answer_without_a_count_is_an_answer():
    with BadServer({1: "usage is text", 2: "usage is negative"}) as server:
        generator = make(server)
        assert failures(generator, wanted(4)) == {}
    assert generator.usage == Usage(4, 2, 14, 6)


@pytest.mark.parametrize(
    ("mode", "failure"), [("429", "http 429"), ("500", "http 500"), ("503", "http 503")]
)
def test_statuses_are_repeated(mode, failure):
    """Healed by the third attempt, or a failure after as many attempts as were promised."""
    bad = {1: (mode, mode, "ok"), 4: mode}
    with BadServer(bad) as server:
        assert failures(make(server, max_retries=2), wanted(8)) == {4: failure}
    assert server.calls == Counter(range(8)) + Counter({1: 2, 4: 2})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "failure"),
    [
        ("hang", "timeout"),
        ("close", "connection"),
        ("cut", "connection"),
        ("not http", "connection"),
        ("429 bare", "http 429"),
    ],
)
def test_lost_connections_are_repeated(mode, failure):
    """One heals by a repetition, one does not; the time is bounded."""
    bad = {1: (mode, "ok"), 4: mode}
    begun = time.monotonic()
    with BadServer(bad) as server:
        assert failures(make(server, timeout=0.4), wanted(8)) == {4: failure}
    assert server.calls == Counter(range(8)) + Counter({1: 1, 4: 1})
    assert time.monotonic() - begun < 5


@pytest.mark.slow
def test_endless_answers_end():
    """Each byte comes in time, the last never: the deadline of the whole request ends it."""
    begun = time.monotonic()
    with BadServer({1: "drip"}) as server:
        assert failures(make(server, timeout=0.5, max_retries=0), wanted(4)) == {1: "timeout"}
    assert 0.5 <= time.monotonic() - begun < 3


def test_pauses_longer_than_the_deadline_end(monkeypatch):
    """A server that wants a minute's pause is not waited for longer than was agreed."""
    monkeypatch.setattr("labeler.eval.chat.LONGEST_PAUSE", 0.1)
    with BadServer({1: "429 for a minute"}) as server:
        assert failures(make(server, timeout=0.1), wanted(4)) == {1: "http 429"}
    assert server.calls[1] == 1


def test_huge_answers_are_not_read():
    with BadServer({0: "huge"}) as server:
        generator = make(server)
        tracemalloc.start()
        try:
            assert failures(generator, wanted(2)) == {0: "malformed"}
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 32 << 20  # of 64 sent


@pytest.mark.slow
def test_everything_at_once():
    """Every third of sixty requests in trouble, of ten kinds by turns, two of which heal."""
    kinds = {
        "garbage": "malformed",
        "429": "http 429",
        "500": "http 500",
        "refusal": "refused",
        "content is null": "empty",
        "400": "http 400",
        "cut": "connection",
        "deep": "malformed",
        ("429", "ok"): None,
        ("503", "ok"): None,
    }
    bad = {seed: list(kinds)[seed // 3 % 10] for seed in range(2, 60, 3)}
    with BadServer(bad) as server:
        found = failures(make(server), wanted(60))
    assert found == {seed: kinds[mode] for seed, mode in bad.items() if kinds[mode]}
    assert len(found) == 16


# -- what stops the run ----------------------------------------------------------------------------


def test_nobody_there():
    """No request is tried where not even the address answers."""
    with BadServer() as server:
        url = server.url
    generator = EndpointGenerator(url, "m", max_retries=0)
    with pytest.raises(EndpointError, match=rf"--llm-base-url {url} cannot be reached.*start the"):
        list(generator.generate(wanted(1000)))
    with pytest.raises(EndpointError, match="cannot be reached"):
        EndpointGenerator(url, max_retries=0)


def test_a_later_run_asks_again_for_what_may_pass_only(tmp_path):
    """Ten that the server always fails on are no reason to think that it is down."""
    bad = dict.fromkeys(range(10), "500") | {10: "refusal", 11: "garbage"}
    requests = wanted(20)
    with BadServer(bad) as server:
        for _ in range(2):
            found = replies(make(server, max_retries=0), requests, tmp_path / "replies.jsonl")
            assert [reply.failure for reply in found] == (
                ["http 500"] * 10 + ["refused", "malformed"] + [None] * 8
            )
    assert server.calls == Counter(range(20)) + Counter(range(10))


def test_nothing_asked_needs_no_server():
    generator = EndpointGenerator("http://127.0.0.1:9/v1", "m")
    assert list(generator.generate([])) == []


@pytest.mark.parametrize(
    ("mode", "n_asked"), [("close", 8), ("hang", 8), ("500", 32), ("garbage", 32)]
)
def test_stops_when_nothing_works(mode, n_asked):
    """Soon, where nothing came at all; and no failure is yielded that a cache would keep."""
    with BadServer(dict.fromkeys(range(2000), mode)) as server:
        generator, came = make(server, max_retries=0, timeout=0.1), []
        with pytest.raises(EndpointError, match=rf"{n_asked} requests in a row got no answer \("):
            came.extend(generator.generate(wanted(2000)))
    assert came == []
    assert n_asked <= sum(server.calls.values()) < 2000


def test_stops_when_the_server_dies_on_the_way():
    """Answers so far are kept; the patience is greater where there was an answer before.

    A few failures may overtake the last answers.
    """
    with BadServer(dict.fromkeys(range(20, 500), "close")) as server:
        came = []
        with pytest.raises(EndpointError, match="32 requests in a row"):
            came.extend(make(server, max_retries=0).generate(wanted(500)))
    assert {request.seed for request, reply in came if reply.text} == set(range(20))
    assert len(came) < 20 + 32


def test_a_bad_patch_stops_nothing():
    """Thirty failures in a row, then answers again: thirty failures."""
    bad = dict.fromkeys(range(10, 40), "500")
    with BadServer(bad) as server:
        assert failures(make(server, max_retries=0), wanted(60)) == dict.fromkeys(bad, "http 500")


def test_empty_answers_stop_nothing():
    """A model with nothing to say is there all the same."""
    bad = dict.fromkeys(range(40), "content is empty")
    with BadServer(bad) as server:
        assert failures(make(server), wanted(40)) == dict.fromkeys(bad, "empty")


@pytest.mark.parametrize(
    ("mode", "cure"), [("401", "set LABELER_LLM_KEY"), ("404", "check --llm-model, and --llm-base")]
)
def test_what_no_repetition_cures_stops_at_once(mode, cure):
    with BadServer(dict.fromkeys(range(5, 100), mode)) as server:
        with pytest.raises(EndpointError, match=rf"status {mode} .*sorry, {mode}.*: {cure}"):
            list(make(server, concurrency=1).generate(wanted(100)))
        time.sleep(0.05)
    assert sum(server.calls.values()) == 6


def test_refused_list_of_models_stops_at_once():
    with BadServer(models=401) as server, pytest.raises(EndpointError, match="status 401"):
        list(make(server).generate(wanted(3)))
    assert server.bodies == []


@pytest.mark.parametrize("models", [404, 500, b"", b"<html>", b'{"data": 3}', b'{"data": [3, {}]}'])
def test_a_server_without_a_list_of_models_serves(models):
    with BadServer(models=models) as server:
        assert failures(make(server, max_retries=0), wanted(3)) == {}
        with pytest.raises(OptionError, match=r"--llm-model is needed: .* lists 0 models \(none\)"):
            EndpointGenerator(server.url, max_retries=0)


def test_default_model_is_the_only_one():
    with BadServer(models=b'{"data": [{"id": "one"}]}') as server:
        assert EndpointGenerator(server.url).name == "endpoint:one"
    two = BadServer(models=b'{"data": [{"id": "one"}, {"id": "two"}]}')
    with two, pytest.raises(OptionError, match=r"lists 2 models \(one, two\)"):
        EndpointGenerator(two.url)


def test_ctrl_c_stops_quickly():
    """Once all that is under way hangs: the two answers before are there."""
    pressed = []

    def press() -> None:
        while sum(server.calls.values()) < 2 + 4:
            time.sleep(0.01)
        time.sleep(0.2)
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    # A shell ignores Ctrl-C for what it runs in the background: then so would this process.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with BadServer(dict.fromkeys(range(2, 50), "hang")) as server:
            generator, came = make(server, timeout=60), []
            threading.Thread(target=press, daemon=True).start()
            with pytest.raises(KeyboardInterrupt):
                came.extend(generator.generate(wanted(50)))
            assert time.monotonic() - pressed[0] < 2
    finally:
        signal.signal(signal.SIGINT, usual)
    assert len(came) == 2
    assert not [thread for thread in threading.enumerate() if "portal" in thread.name]


def test_may_be_left_early():
    with BadServer(dict.fromkeys(range(2, 50), "hang")) as server:
        begun = time.monotonic()
        came = make(server, timeout=60).generate(wanted(50))
        assert len(list(islice(came, 2))) == 2
        came.close()
        assert time.monotonic() - begun < 2
    assert sum(server.calls.values()) <= 2 + 4


# -- keys, options, packages -----------------------------------------------------------------------


def test_key_is_shown_nowhere(monkeypatch):
    """Not in errors (though the server says it), nor in what a cache keeps, nor in the object."""
    monkeypatch.setenv("LABELER_LLM_KEY", KEY)
    with BadServer({0: "401 with the key"}) as server:
        generator = make(server)
        with pytest.raises(EndpointError, match=r"bad key: Bearer \*\*\*") as caught:
            list(generator.generate(wanted(1)))
        error: BaseException | None = caught.value
        while error is not None:
            assert KEY not in str(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in repr([vars(generator), generator.name, generator.fingerprint])


@pytest.mark.parametrize("key", ["sk-a\nb", "sk-\x00", "schlüssel"])
def test_unusable_key_is_refused_unseen(monkeypatch, key):
    monkeypatch.setattr(os, "environ", {"LABELER_LLM_KEY": key})
    with pytest.raises(OptionError, match="LABELER_LLM_KEY holds characters") as caught:
        EndpointGenerator("http://127.0.0.1:9/v1", "m")
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000"}, "'localhost:8000' is no address"),
        ({"base_url": "http://"}, "is no address"),
        ({"base_url": "http://a b/v1"}, "is no address"),
        ({"base_url": "http://host:99999999"}, "is no address"),
        ({"base_url": "http://host\n/v1"}, "is no address"),
        ({"base_url": "http://me:hush@host/v1"}, "not hold a user"),
        ({"base_url": "http://host/v1?key=hush"}, "not hold a user"),
        ({"concurrency": 0}, "concurrency must be 1 or more, not 0"),
        ({"max_retries": -1}, "max_retries must be 0 or more, not -1"),
        ({"timeout": 0.0}, "timeout must be above 0"),
        ({"timeout": float("nan")}, "timeout must be above 0"),
        ({"temperature": -0.1}, "temperature must be from 0 to 2"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(OptionError, match=message) as caught:
        EndpointGenerator(**({"base_url": "http://127.0.0.1:9/v1", "model": "m"} | options))
    assert "hush" not in str(caught.value)


def test_fingerprint_depends_on_what_the_texts_depend_on():
    url = "http://127.0.0.1:9/v1"
    one = EndpointGenerator(url, "m")
    assert one.fingerprint == EndpointGenerator(url + "/", "m", concurrency=2).fingerprint
    others = [
        EndpointGenerator(url, "n"),
        EndpointGenerator("http://127.0.0.1:9/v2", "m"),
        EndpointGenerator(url, "m", temperature=0.5),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4


@pytest.mark.slow
def test_openai_is_needed_only_when_used():
    """Importing the module does not import the package; without it, the error names the extra."""
    code = (
        "import sys; sys.modules['openai'] = None\n"
        "from labeler.eval.endpoint import EndpointGenerator\n"
        "EndpointGenerator('http://127.0.0.1:9/v1', 'm')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "EndpointError: --llm-base-url needs the openai package" in done.stderr
    assert "pip install 'labeler[llm]'" in done.stderr


def test_bodies_at_random_are_never_texts_nor_crashes():
    """Every prefix and many single-byte changes of a good answer: read, or a failure."""
    good = b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1}}'
    assert read_answer(good).text == "x"
    for end in range(len(good)):
        assert read_answer(good[:end]).failure == "malformed"
    for at in range(len(good)):
        for byte in b'\x00"{}[]1n,\xff':
            answer = read_answer(good[:at] + bytes([byte]) + good[at + 1 :])
            assert (answer.text is None) != (answer.failure is None)


def test_documented():
    """docs/llm.md names every failure class and variable."""
    text = (Path(__file__).parents[1] / "docs" / "llm.md").read_text(encoding="utf-8")
    for word in ["timeout", "connection", "http 429", "malformed", "empty", "refused"]:
        assert f"`{word}`" in text
    assert re.search(r"LABELER_LLM_KEY.*OPENAI_API_KEY", text, re.S)
    assert issubclass(EndpointError, LabelerError)
