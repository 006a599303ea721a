"""A chat endpoint that understands what `labeler explain` asks, and answers from a rule.

Explanations are of the form ``the token " w05"``: it names the token that is marked most often,
finds it in pieces of text, checks marks, and gives it 10. So every score follows by hand.
"""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.llm_servers import completion

Body = dict[str, Any]


def kind_of(body: Body) -> str:
    """What is asked: explain, detect, fuzz or simulate."""
    system = body["messages"][0]["content"]
    words = {"You find out": "explain", "You predict": "simulate", "all marks are": "fuzz"}
    return next((kind for word, kind in words.items() if word in system), "detect")


def honest(body: Body) -> str:
    """The right answer to any question about a latent of one token."""
    kind, user = kind_of(body), body["messages"][1]["content"]
    if kind == "explain":
        marked = Counter(re.findall(r"<<(.*?)>>", user))
        token = marked.most_common(1)[0][0][:4]  # a run of the same token is marked as one
        return f"They have it in common.\n[EXPLANATION]: the token {json.dumps(token)}"
    first, *lines = user.split("\n")
    said = json.loads(first.removeprefix("Explanation: "))
    token = json.loads(said.removeprefix("the token "))
    if kind == "simulate":
        tokens = [json.loads(line.split("\t")[1]) for line in lines]
        return "\n".join(f"{n}\t{10 * (one == token)}" for n, one in enumerate(tokens, 1))
    pieces = [json.loads(line.split(": ", 1)[1]) for line in lines]
    if kind == "detect":
        return json.dumps([int(token in piece) for piece in pieces])
    marks = [re.findall(r"<<(.*?)>>", piece) for piece in pieces]
    right = [all(run == token * (len(run) // len(token)) for run in runs) for runs in marks]
    return f"I think: {json.dumps([int(one) for one in right])}"


def liar(body: Body) -> str:
    """Explains well, and answers the contrary of what is right after that."""
    answer, kind = honest(body), kind_of(body)
    if kind == "explain":
        return answer
    if kind == "simulate":
        lines = [line.split("\t") for line in answer.split("\n")]
        return "\n".join(f"{number}\t{10 - int(digit)}" for number, digit in lines)
    return answer.translate(str.maketrans("01", "10"))


class ScriptedServer(ThreadingHTTPServer):
    """Answers by a function of the request; bodies keeps what was asked."""

    daemon_threads = True

    def __init__(self, answer: Callable[[Body], Any] = honest) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.bodies: list[Body] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def kinds(self) -> Counter[str]:
        """How often each kind of question was asked."""
        return Counter(kind_of(body) for body in self.bodies)

    def __enter__(self) -> "ScriptedServer":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Clients that left are expected here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ScriptedServer

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.send({"data": [{"id": "scripted/model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.bodies.append(body)
        content = self.server.answer(body)
        if isinstance(content, int):
            self.send({"error": {"message": "sorry"}}, content)
        else:
            self.send(completion(content))

    def send(self, body: object, status: int = 200) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("retry-after-ms", "5")
        self.end_headers()
        self.wfile.write(content)
