"""Questions to a language model, who answers them, and the file that keeps the answers.

An `Asker` is a chat endpoint or a model folder on this machine. Whatever goes wrong with a question
is an answer without a text, and a class of failure that is counted; it is never a score.
"""

import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from labeler.errors import CacheError, DiskError, OptionError
from labeler.eval.chat import Answer
from labeler.eval.endpoint import ChatPool, Prompt, Usage
from labeler.eval.generate import Reply
from labeler.store import hash_json

CHARACTERS_PER_TOKEN = 4
"""Of English text, a rule of thumb; what an endpoint's tokenizer makes of a prompt is not known."""


@dataclass(frozen=True)
class Question:
    """One question, and how long its answer may be.

    Attributes
    ----------
    system, user : str
    max_tokens : int
    seed : int
        Passed on to an endpoint; an answer that depends on chance is another for another seed.
    """

    system: str
    user: str
    max_tokens: int
    seed: int = 0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all fields, in hex."""
        return hash_json(asdict(self))

    @property
    def messages(self) -> list[dict[str, str]]:
        """As a chat, each message with role and content."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]


class Asker(Protocol):
    """Somebody who answers questions.

    Attributes
    ----------
    name : str
        ``endpoint:<model>`` or ``local:<folder>``.
    fingerprint : str
        What answers depend on, the question apart: model and sampling.
    usage : Usage
        Tokens so far.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    @property
    def usage(self) -> Usage: ...  # noqa: D102

    def count(self, question: Question) -> int:
        """Tokens of a question, about."""
        ...

    def ask(
        self,
        questions: Sequence[Question],
        advance: Callable[[float], None] = lambda n: None,
    ) -> Iterator[tuple[Question, Answer]]:
        """Yield the answer to each question, in any order; `advance` is told the answers come."""
        ...


class EndpointAsker(ChatPool):
    """An OpenAI-compatible chat endpoint, asked at temperature 0.

    Parameters
    ----------
    base_url, model, concurrency, max_retries, timeout
        See `labeler.eval.endpoint.ChatPool`.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        concurrency: int = 8,
        max_retries: int = 4,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(
            base_url,
            model,
            temperature=0.0,
            concurrency=concurrency,
            max_retries=max_retries,
            timeout=timeout,
        )

    @property
    def fingerprint(self) -> str:
        """Hash of address, model and temperature."""
        return hash_json([self.endpoint.base_url, self.model, self.temperature])

    def count(self, question: Question) -> int:
        """Tokens of a question by `CHARACTERS_PER_TOKEN`."""
        return -(-(len(question.system) + len(question.user)) // CHARACTERS_PER_TOKEN)

    def ask(
        self,
        questions: Sequence[Question],
        advance: Callable[[float], None] = lambda n: None,
    ) -> Iterator[tuple[Question, Answer]]:
        """Yield the answer to each question, in the order in which they come.

        Raises
        ------
        EndpointError
            If the endpoint is not there, refuses the key, has no such model, or answers no more.
        """
        wanted = [(one, Prompt(one.messages, one.max_tokens, one.seed)) for one in questions]
        with closing(self.answers(wanted)) as answers:
            for question, answer in answers:
                advance(1)
                yield question, answer


class Answers:
    """Answers of one asker, kept in a file of JSON lines as they come.

    A line holds the digest of the question, the asker's fingerprint, and the answer. Failures that
    another try may cure are not kept: the next run asks again.

    Parameters
    ----------
    asker : Asker
    path : Path
        Made where absent. Lines of other askers are left alone.

    Attributes
    ----------
    n_open : int
        Questions so far whose failure is not kept.

    Raises
    ------
    CacheError
        If a line of the file is no answer.
    """

    def __init__(self, asker: Asker, path: Path) -> None:
        self.asker, self.path = asker, path
        self.n_open = 0
        self._known = _read(path, asker.fingerprint)

    def known(self, question: Question) -> Answer | None:
        """The answer that is kept, or None."""
        return self._known.get(question.digest)

    def missing(self, questions: Sequence[Question]) -> list[Question]:
        """Those without an answer, each once."""
        return list({one.digest: one for one in questions if self.known(one) is None}.values())

    def to(
        self,
        questions: Sequence[Question],
        advance: Callable[[float], None] = lambda n: None,
    ) -> list[Answer]:
        """Answers in the order of the questions; those not known yet are asked for and kept.

        `advance` is told the different questions that are answered, those known before included.

        Raises
        ------
        EndpointError, ModelError
            What the asker raises; answers that came before are kept.
        DiskError
            If the file cannot be written.
        """
        missing = self.missing(questions)
        advance(len({one.digest for one in questions}) - len(missing))
        passing = {}
        for question, answer in self.asker.ask(missing, advance) if missing else ():
            if Reply(answer.text, answer.failure).is_final:
                self._append(question, answer)
                self._known[question.digest] = answer
            else:
                passing[question.digest] = answer
        self.n_open += len(passing)
        return [self.known(one) or passing[one.digest] for one in questions]

    def _append(self, question: Question, answer: Answer) -> None:
        """Write a line after the last whole one."""
        line = {"question": question.digest, "asker": self.asker.fingerprint} | asdict(answer)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as stream:
                stream.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            cure = "choose another --out"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                cure = "free some space and run the same command again, it continues"
            raise DiskError(f"cannot write {self.path}: {error.strerror}; {cure}") from error


def _read(path: Path, fingerprint: str) -> dict[str, Answer]:
    """Answers of one asker by digest; a last line without an end is cut off."""
    if not path.exists():
        return {}
    known = {}
    whole = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                digest, asker, answer = _parse(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise CacheError(
                    f"{path}, line {number}: no answer of a language model ({error}); remove that "
                    "line, the question is then asked again"
                ) from error
            if asker == fingerprint:
                known[digest] = answer
    if whole < path.stat().st_size:
        os.truncate(path, whole)
    return known


def _parse(row: Any) -> tuple[str, str, Answer]:
    text, failure, tokens = row["text"], row["failure"], row["tokens"]
    if (text is None) == (failure is None):
        raise ValueError("either text or failure must be given")
    if not all(one is None or isinstance(one, str) for one in (text, failure)):
        raise TypeError("text and failure must be strings")
    counted = None if tokens is None else (int(tokens[0]), int(tokens[1]))
    return str(row["question"]), str(row["asker"]), Answer(text, failure, row["reason"], counted)


def open_asker(
    llm_base_url: str | None = None,
    llm_model: str | None = None,
    llm_folder: str | Path | None = None,
    *,
    concurrency: int = 8,
    timeout: float = 60.0,
) -> Asker:
    """An endpoint or a model folder, whichever is given.

    Parameters
    ----------
    llm_base_url, llm_model : str, optional
        Endpoint, and the model to ask there; the only one that it lists where None.
    llm_folder : str or Path, optional
        A causal language model in Hugging Face layout.
    concurrency : int
        Requests to an endpoint under way at a time.
    timeout : float
        Seconds that one try of a request may take.

    Raises
    ------
    OptionError
        If not exactly one of the two is given, or an option cannot be used.
    EndpointError, ModelError
        If the endpoint lists no models where it must, or the folder is incomplete.
    """
    if (llm_base_url is None) == (llm_folder is None):
        given = "both" if llm_folder is not None else "neither"
        raise OptionError(f"give either --llm-base-url or --llm-folder, not {given}")
    if llm_folder is not None:
        if llm_model is not None:
            raise OptionError("--llm-model is for --llm-base-url; a folder holds one model")
        from labeler.eval.llm.local import LocalAsker

        return LocalAsker(llm_folder)
    return EndpointAsker(str(llm_base_url), llm_model, concurrency=concurrency, timeout=timeout)
