"""One question to an OpenAI-compatible chat endpoint, and every way in which it can go wrong.

The client is the official ``openai`` package, which also repeats what is worth repeating.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from labeler.errors import EndpointError, OptionError
from labeler.eval.chat_key import check_url, clean, find_key

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

MAX_BYTES = 2**20
"""Longer answers are not read to their end; those asked for take a few kilobytes."""

LONGEST_PAUSE = 8.0
"""Seconds the client waits at most before it repeats a request, unless the server says longer."""

_CURES = {
    401: "set LABELER_LLM_KEY (or OPENAI_API_KEY) to a key of this server",
    404: "check --llm-model, and --llm-base-url, which mostly ends in /v1",
}
"""Statuses that no repetition and no other question cures."""

_latest_status: ContextVar[int] = ContextVar("latest_status", default=0)
"""Status of the latest response in this task, to a request or to its repetition."""


class _TooLargeError(Exception):
    """An answer above `MAX_BYTES`."""


@dataclass(frozen=True)
class Answer:
    """What came of a question.

    Attributes
    ----------
    text : str or None
        The text, as it came.
    failure : str or None
        Why there is none: "timeout", "connection", "http <status>", "malformed", "empty" or
        "refused".
    reason : str
        The failure at more length, for messages.
    tokens : (int, int) or None
        Tokens sent and tokens written, where the endpoint counts them.
    """

    text: str | None
    failure: str | None = None
    reason: str = ""
    tokens: tuple[int, int] | None = None

    @property
    def is_silence(self) -> bool:
        """Whether the endpoint gave no answer, not even an empty one or a refusal."""
        return self.failure not in (None, "empty", "refused")


@dataclass(frozen=True)
class ChatEndpoint:
    """Where to ask, and how patiently.

    Attributes
    ----------
    base_url : str
        As ``http://localhost:8000/v1``.
    max_retries : int
        Repetitions of a request that timed out, lost its connection, or got status 408, 409, 429
        or 5xx; with growing pauses, or those the server asks for.
    timeout : float
        Seconds that each attempt may wait for the next bytes.

    Raises
    ------
    OptionError
        If one of them, or the key, cannot be used.
    EndpointError
        If openai is not installed.
    """

    base_url: str
    max_retries: int
    timeout: float

    def __post_init__(self) -> None:
        check_url(self.base_url)
        if self.max_retries < 0:
            raise OptionError(f"max_retries must be 0 or more, not {self.max_retries}")
        if not self.timeout > 0:
            raise OptionError(f"timeout must be above 0 seconds, not {self.timeout}")
        find_key()
        try:
            import openai  # noqa: F401
        except ImportError as error:
            raise EndpointError(
                "--llm-base-url needs the openai package: pip install 'labeler[llm]'"
            ) from error

    @property
    def deadline(self) -> float:
        """Seconds that a question may take with all its repetitions, however the server drips."""
        return (self.max_retries + 1) * self.timeout + self.max_retries * LONGEST_PAUSE

    def open(self) -> "AsyncOpenAI":
        """Return a client that reads no answer beyond `MAX_BYTES`, unpacked, nor a redirect."""
        import openai

        class Bounded(openai.DefaultAsyncHttpxClient):
            async def send(self, request: Any, **options: Any) -> Any:
                response = await super().send(request, **(options | {"stream": True}))
                _latest_status.set(response.status_code)
                content = bytearray()
                try:
                    async for part in response.aiter_bytes():
                        content += part
                        if len(content) > MAX_BYTES:
                            raise _TooLargeError
                finally:
                    await response.aclose()
                # What described the bytes on the wire is not true of these.
                wire = ("content-encoding", "content-length", "transfer-encoding")
                headers = [pair for pair in response.headers.multi_items() if pair[0] not in wire]
                return type(response)(
                    response.status_code,
                    headers=headers,
                    content=bytes(content),
                    request=response.request,
                )

        return openai.AsyncOpenAI(
            api_key=find_key(),
            base_url=self.base_url,
            max_retries=self.max_retries,
            timeout=self.timeout,
            http_client=Bounded(follow_redirects=False),
        )

    async def ask(
        self,
        client: "AsyncOpenAI",
        model: str,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> Answer:
        """Ask once, the client's repetitions apart.

        Raises
        ------
        EndpointError
            If the endpoint refuses the key, or has no such model.
        """
        import openai

        _latest_status.set(0)
        try:
            async with asyncio.timeout(self.deadline):
                response = await client.chat.completions.with_raw_response.create(
                    model=model,
                    messages=cast(Any, messages),
                    max_tokens=max_tokens,
                    temperature=temperature,
                    seed=seed,
                )
        except openai.APITimeoutError:
            return Answer(None, "timeout", f"no answer in {self.timeout:g} s")
        except TimeoutError:
            # The time went by in pauses that the server asked for, or in an endless answer.
            status = _latest_status.get()
            failure = f"http {status}" if status >= 400 else "timeout"
            return Answer(None, failure, f"no answer in {self.deadline:g} s, repetitions included")
        except openai.APIConnectionError as error:
            return Answer(None, "connection", clean(str(error.__cause__)))
        except openai.APIStatusError as error:
            if error.code == "content_filter":
                return Answer(None, "refused")
            self._stop_if_hopeless(error)
            return Answer(None, f"http {error.status_code}", clean(error.response.text))
        except _TooLargeError:
            return Answer(None, "malformed", f"the answer has more than {MAX_BYTES} bytes")
        return read_answer(response.http_response.content)

    async def models(self, client: "AsyncOpenAI") -> list[str]:
        """Return the names that the endpoint lists; none where it lists nothing.

        Raises
        ------
        EndpointError
            If nobody answers, or the key is refused.
        """
        import openai

        hurried = client.with_options(max_retries=min(self.max_retries, 1))
        try:
            async with asyncio.timeout(self.deadline):
                response = await hurried.models.with_raw_response.list()
        except (TimeoutError, openai.APIConnectionError) as error:
            reason = clean(str(error.__cause__ or "")) or f"no answer in {self.timeout:g} s"
            raise EndpointError(
                f"--llm-base-url {self.base_url} cannot be reached ({reason}); "
                "start the server, or correct the address"
            ) from None
        except openai.APIStatusError as error:
            if error.status_code != 404:  # many servers have no list
                self._stop_if_hopeless(error)
            return []
        except _TooLargeError:
            return []
        match _parse(response.http_response.content):
            case {"data": list(entries)}:
                named = [entry.get("id") for entry in entries if isinstance(entry, dict)]
                return [name for name in named if isinstance(name, str)]
        return []

    def _stop_if_hopeless(self, error: "APIStatusError") -> None:
        if error.status_code in _CURES:
            raise EndpointError(
                f"--llm-base-url {self.base_url} answers with status {error.status_code} "
                f"({clean(error.response.text)}): {_CURES[error.status_code]}"
            ) from None


def read_answer(content: bytes) -> Answer:
    """Read the body of a chat completion, whatever it holds.

    >>> read_answer(b'{"choices": [{"message": {"content": "a story"}}]}').text
    'a story'
    >>> read_answer(b'{"error": "busy"}').failure
    'malformed'
    """
    body = _parse(content)
    tokens = _tokens(body)
    match body:
        case {"choices": [{"finish_reason": "content_filter"}, *_]}:
            return Answer(None, "refused", tokens=tokens)
        case {"choices": [{"message": {"refusal": str(why)}}, *_]} if why:
            return Answer(None, "refused", tokens=tokens)
        case {"choices": [{"message": {"content": None}}, *_]}:
            return Answer(None, "empty", tokens=tokens)
        case {"choices": [{"message": {"content": str(text)}}, *_]} if _is_text(text):
            failure = None if text.strip() else "empty"
            return Answer(None if failure else text, failure, tokens=tokens)
    return Answer(None, "malformed", clean(content.decode(errors="replace")), tokens)


def _tokens(body: object) -> tuple[int, int] | None:
    match body:
        case {"usage": {"prompt_tokens": int(sent), "completion_tokens": int(written)}}:
            return (sent, written) if min(sent, written) >= 0 else None
    return None


def _parse(content: bytes) -> object:
    """JSON, or None for what is none."""
    try:
        return cast(object, json.loads(content))
    except (ValueError, RecursionError):
        return None


def _is_text(text: str) -> bool:
    """Whether it can be written to a file: JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
