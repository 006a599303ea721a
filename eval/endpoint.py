"""Texts written by a language model behind an OpenAI-compatible chat endpoint (design.md, 7.3).

Whatever an endpoint does wrong costs the text that was asked for, as a failure that is counted;
only what no repetition cures stops the run.
"""

import asyncio
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar, cast, get_args

from labeler.errors import EndpointError, OptionError
from labeler.eval.chat import Answer, ChatEndpoint
from labeler.eval.chat_key import clean
from labeler.eval.generate import Kind, Reply, Request
from labeler.eval.prompts import messages
from labeler.store import hash_json

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

PATIENCE = 8
"""Requests in a row without an answer, per one under way, after which asking on is pointless."""


@dataclass
class Usage:
    """Tokens of the requests so far, as the endpoint counts them: what a bill is made from.

    Attributes
    ----------
    n_requests : int
        Requests, failed ones included.
    n_uncounted : int
        Those without a count, mostly for want of an answer; they may cost all the same.
    sent, written : int
        Tokens of prompts and of answers.
    """

    n_requests: int = 0
    n_uncounted: int = 0
    sent: int = 0
    written: int = 0

    def add(self, tokens: tuple[int, int] | None) -> None:
        """Add a request: tokens sent and written, or None where they were not counted."""
        self.n_requests += 1
        self.n_uncounted += tokens is None
        sent, written = tokens or (0, 0)
        self.sent += sent
        self.written += written

    def __str__(self) -> str:
        """One line for people.

        >>> print(Usage(12, 2, 1500, 700))
        12 requests, 1,500 tokens sent, 700 tokens written; 2 requests without a count
        """
        counts = (
            f"{self.n_requests:,} requests, {self.sent:,} tokens sent, "
            f"{self.written:,} tokens written"
        )
        uncounted = f"; {self.n_uncounted:,} requests without a count" if self.n_uncounted else ""
        return counts + uncounted


@dataclass(frozen=True)
class Prompt:
    """What is sent for one answer.

    Attributes
    ----------
    messages : sequence of mapping
        Each with role and content.
    max_tokens : int
        Of the answer.
    seed : int
    """

    messages: Sequence[Mapping[str, str]]
    max_tokens: int
    seed: int


class ChatPool:
    """Asks a chat endpoint, many requests at a time.

    Parameters
    ----------
    base_url : str
        Where the endpoint is, as ``http://localhost:8000/v1``.
    model : str, optional
        Its name at the endpoint; without it, the only one that the endpoint lists.
    temperature : float
        Passed on.
    concurrency : int
        Requests under way at a time.
    max_retries, timeout
        See `labeler.eval.chat.ChatEndpoint`.

    Attributes
    ----------
    usage : Usage
        Tokens so far.

    Raises
    ------
    OptionError
        If an option or the key cannot be used, or `model` is needed.
    EndpointError
        If openai is not installed, or nobody lists the models where `model` is not given.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        temperature: float = 1.0,
        concurrency: int = 8,
        max_retries: int = 4,
        timeout: float = 60.0,
    ) -> None:
        if concurrency < 1:
            raise OptionError(f"concurrency must be 1 or more, not {concurrency}")
        if not 0 <= temperature <= 2:
            raise OptionError(f"temperature must be from 0 to 2, not {temperature}")
        self.endpoint = ChatEndpoint(base_url.rstrip("/"), max_retries, timeout)
        self.temperature = temperature
        self.concurrency = concurrency
        self.usage = Usage()
        self.model = model or self._only_model()

    @property
    def name(self) -> str:
        """``endpoint:<model>``."""
        return f"endpoint:{self.model}"

    def answers(
        self, wanted: Sequence[tuple[T, Prompt]]
    ) -> Generator[tuple[T, Answer], None, None]:
        """Yield the answer to every prompt, with what was given beside it, as they come.

        Requests without an answer are held back until an answer shows that the endpoint works.
        Too many in a row (see `_is_hopeless`) raise instead, so that an endpoint that is down
        leaves no failures behind. Close the generator to stop.

        Raises
        ------
        EndpointError
            If the endpoint is not there, refuses the key, has no such model, or answers no more.
        """
        held: list[tuple[T, Answer]] = []
        answered = False
        with closing(self._stream(wanted)) as stream:
            for item, answer in stream:
                self.usage.add(answer.tokens)
                held.append((item, answer))
                if not answer.is_silence:
                    answered = True
                    yield from held
                    held.clear()
                elif self._is_hopeless([one for _, one in held], answered):
                    raise EndpointError(
                        f"--llm-base-url {self.endpoint.base_url}: {len(held)} requests in a row "
                        f"got no answer (the last: {answer.failure}: {answer.reason}); see to the "
                        "server and run the same command again, it continues where it stopped"
                    )
        yield from held

    def _is_hopeless(self, silent: Sequence[Answer], answered: bool) -> bool:
        """Whether to stop after as many requests in a row without an answer.

        A server that is there, or was, gets more patience: a few requests that it always fails on
        may be all that an earlier run has left to ask for.
        """
        lost = all(answer.failure in ("connection", "timeout") for answer in silent)
        rounds = 1 if lost and not answered else self.concurrency
        return len(silent) >= PATIENCE * rounds

    def _stream(
        self, wanted: Sequence[tuple[T, Prompt]]
    ) -> Generator[tuple[T, Answer], None, None]:
        """Answers as they come. The event loop has a thread of its own: notebooks run one too."""
        if not wanted:
            return
        from anyio.from_thread import start_blocking_portal

        come: SimpleQueue[tuple[T, Answer] | EndpointError | None] = SimpleQueue()
        # Left by an error, by Ctrl-C or by being closed, the portal drops what is under way.
        with start_blocking_portal() as portal:
            asking = portal.start_task_soon(self._ask_all, wanted, come.put)
            asking.add_done_callback(lambda _: come.put(None))
            while (item := come.get()) is not None:
                if isinstance(item, EndpointError):
                    raise item
                yield item
            asking.result()

    async def _ask_all(
        self,
        wanted: Sequence[tuple[T, Prompt]],
        put: Callable[[tuple[T, Answer] | EndpointError], None],
    ) -> None:
        waiting = iter(wanted)

        async def ask_on(client: "AsyncOpenAI") -> None:
            for item, prompt in waiting:
                answer = await self.endpoint.ask(
                    client,
                    self.model,
                    prompt.messages,
                    max_tokens=prompt.max_tokens,
                    temperature=self.temperature,
                    seed=prompt.seed,
                )
                put((item, answer))

        try:
            async with self.endpoint.open() as client:
                await self.endpoint.models(client)  # tells at once whether anybody is there
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.concurrency, len(wanted))):
                        group.create_task(ask_on(client))
        except* EndpointError as errors:
            put(cast(EndpointError, errors.exceptions[0]))

    def _only_model(self) -> str:
        from anyio.from_thread import start_blocking_portal

        async def ask() -> list[str]:
            async with self.endpoint.open() as client:
                return await self.endpoint.models(client)

        with start_blocking_portal() as portal:
            found = portal.call(ask)
        if len(found) != 1:
            names = ", ".join(clean(name) for name in found[:10]) or "none"
            raise OptionError(
                f"--llm-model is needed: {self.endpoint.base_url} lists {len(found)} models "
                f"({names})"
            )
        return found[0]


class EndpointGenerator(ChatPool):
    """A generator that asks a chat endpoint, many requests at a time."""

    @property
    def fingerprint(self) -> str:
        """Hash of where the texts come from and of the wording of the prompts."""
        samples = [
            Request("", 0, 0, kind, "key", "about", "before", 1, 0) for kind in get_args(Kind)
        ]
        wording = [messages(sample) for sample in samples]
        return hash_json([self.endpoint.base_url, self.model, self.temperature, wording])

    def generate(
        self,
        requests: Sequence[Request],
        advance: Callable[[float], None] = lambda n: None,
    ) -> Iterator[tuple[Request, Reply]]:
        """Yield a reply to every request, in the order in which they come.

        Close the generator to stop.

        Raises
        ------
        EndpointError
            As `answers` does.
        """
        wanted = [(one, Prompt(messages(one), one.max_tokens, one.seed)) for one in requests]
        with closing(self.answers(wanted)) as answers:
            for request, answer in answers:
                advance(1)
                yield request, Reply(answer.text, answer.failure)
