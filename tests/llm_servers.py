"""Chat endpoints to test with: a real one over a small model folder, and one that misbehaves."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODEL = "tiny/llama"
"""Name of the model that `serve_model` serves."""

TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


@contextmanager
def serve_model(model_folder: Path, place: Path) -> Iterator[str]:
    """Run ``transformers serve`` over a model folder; yields the base URL.

    The folder is laid out as a hub cache below `place`, for the server lists the models of its
    cache; and gets a chat template, and the leave to sample.
    """
    repository = place / "hub" / f"models--{MODEL.replace('/', '--')}"
    snapshot = repository / "snapshots" / "0"
    shutil.copytree(model_folder, snapshot)
    (snapshot / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    sampling = {"do_sample": True, "min_new_tokens": 4, "eos_token_id": 0}
    (snapshot / "generation_config.json").write_text(json.dumps(sampling), encoding="utf-8")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0", encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["-c", "from transformers.cli.transformers import main; main()", "serve", MODEL]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HOME": str(place), "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    with (place / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=log, stderr=log
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, place / "server.log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def _wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(1200):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.1)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")


def completion(content: Any = "a text of the model", **choice: Any) -> dict[str, Any]:
    """Body of a chat completion that used 7 tokens for the prompt and 3 for the answer."""
    message = {"role": "assistant", "content": content, **choice.pop("message", {})}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message, **choice}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


class BadServer(ThreadingHTTPServer):
    """An endpoint that behaves as told, by the seed of a request and the number of its attempt.

    Parameters
    ----------
    behaviour : mapping from int to str or sequence of str
        Modes of a seed's attempts, the last for all that follow; seeds not named get "ok".
    models : bytes or int
        What GET /models answers: a body, or a status.

    Attributes
    ----------
    calls : Counter
        Attempts by seed.
    bodies, headers : list
        What was received.
    """

    daemon_threads = True

    def __init__(
        self, behaviour: Mapping[int, Any] | None = None, models: bytes | int = 404
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = dict(behaviour or {})
        self.models = models
        self.calls: Counter[int] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.lock = threading.Lock()
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> "BadServer":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Clients that left are expected here."""

    def mode(self, seed: int) -> str:
        """How to answer the attempt that has just come."""
        with self.lock:
            modes = self.behaviour.get(seed, "ok")
            modes = [modes] if isinstance(modes, str) else modes
            self.calls[seed] += 1
            return modes[min(self.calls[seed], len(modes)) - 1]


class _Handler(BaseHTTPRequestHandler):
    """Answers in one of the modes of `MODES`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for its second packet
    server: BadServer

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if isinstance(self.server.models, int):
            self.send(b"{}", self.server.models)
        else:
            self.send(self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        with server.lock:
            server.bodies.append(body)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            MODES[server.mode(body["seed"])](self)
        finally:
            with server.lock:
                server.under_way -= 1

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        """Answer properly."""
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, body: object) -> None:
        """Answer with status 200."""
        self.send(json.dumps(body).encode())

    def hang(self) -> None:
        """Say nothing until the test is over."""
        self.server.stopped.wait(30)
        self.close_connection = True

    def slow(self) -> None:
        """Answer after a while."""
        time.sleep(0.05)
        self.send_json(completion())

    def close(self) -> None:
        """Hang up without a word."""
        self.close_connection = True

    def cut(self) -> None:
        """Hang up in the middle of the body."""
        self.send_response(200)
        self.send_header("content-length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')
        self.close_connection = True

    def drip(self) -> None:
        """Send a byte every 50 ms, never the last (for five seconds, should nobody hang up)."""
        self.send_response(200)
        self.send_header("content-length", "100000")
        self.end_headers()
        for _ in range(100):
            if not self.server.stopped.wait(0.05):
                self.wfile.write(b" ")
        self.close_connection = True

    def huge(self) -> None:
        """Send 64 MB, of which only the first may be read."""
        self.send_response(200)
        self.send_header("content-length", str(64 << 20))
        self.end_headers()
        for _ in range(64):
            self.wfile.write(b" " * (1 << 20))

    def not_http(self) -> None:
        """Send what is no HTTP at all."""
        self.wfile.write(b"\x00\xff nonsense\r\n\r\n")
        self.close_connection = True


def _error(status: int, **headers: str) -> Callable[[_Handler], None]:
    body = json.dumps({"error": {"message": f"sorry, {status}", "code": None}}).encode()
    return lambda handler: handler.send(body, status, **headers)


def _echo_key(handler: _Handler) -> None:
    said = {"error": {"message": f"bad key: {handler.headers['authorization']}"}}
    handler.send(json.dumps(said).encode(), 401)


def _json(body: object) -> Callable[[_Handler], None]:
    return lambda handler: handler.send_json(body)


def _bytes(body: bytes) -> Callable[[_Handler], None]:
    return lambda handler: handler.send(body)


_QUICK = {"retry_after_ms": "5"}
"""Lets the client repeat a request at once: its own pauses are from half a second up."""

MODES: dict[str, Callable[[_Handler], None]] = {
    "ok": _json(completion()),
    "slow": _Handler.slow,
    "hang": _Handler.hang,
    "close": _Handler.close,
    "cut": _Handler.cut,
    "drip": _Handler.drip,
    "huge": _Handler.huge,
    "not http": _Handler.not_http,
    "400": _error(400),
    "401": _error(401),
    "401 with the key": _echo_key,
    "404": _error(404),
    "429": _error(429, **_QUICK),
    "429 bare": _error(429),
    "429 for a minute": _error(429, retry_after="60"),
    "500": _error(500, **_QUICK),
    "503": _error(503, **_QUICK),
    "redirect": lambda handler: handler.send(b"", 307, location="http://127.0.0.1:9/"),
    "filtered by status": lambda handler: handler.send(
        b'{"error": {"code": "content_filter", "message": "no"}}', 400
    ),
    "garbage": _bytes(b"<html>Bad gateway</html>"),
    "not utf-8": _bytes(b'{"choices": "\xff\xfe"}'),
    "nothing": _bytes(b""),
    "deep": _bytes(b"[" * 200_000),
    "null": _json(None),
    "list": _json([1, 2]),
    "no choices": _json({"id": "x"}),
    "choices empty": _json({"choices": []}),
    "choices are text": _json({"choices": "ok"}),
    "message is a number": _json({"choices": [{"message": 7}]}),
    "content is a number": _json(completion(7)),
    "content is a list": _json(completion([{"type": "text", "text": "x"}])),
    "half a character": _bytes(json.dumps(completion("\ud800")).encode()),
    "usage is text": _json({**completion(), "usage": {"prompt_tokens": "many"}}),
    "usage is negative": _json(
        {**completion(), "usage": {"prompt_tokens": 7, "completion_tokens": -1}}
    ),
    "content is null": _json(completion(None)),
    "content is empty": _json(completion("")),
    "content is blank": _json(completion(" \n")),
    "refusal": _json(completion(None, message={"refusal": "I would rather not"})),
    "filtered": _json(completion("Hel", finish_reason="content_filter")),
}
