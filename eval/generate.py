"""Texts wanted of a generator, what it replies, and the file that keeps the replies.

A generator is anything that writes text for a label: a language model, an endpoint, an editor of
held-out text (design.md, 7.3).
"""

import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from labeler.errors import CacheError, DiskError
from labeler.store import hash_json

Kind = Literal["contain", "like", "avoid"]

_PASSING = ("timeout", "connection", "http 408", "http 409", "http 425", "http 429", "http 5")
"""How failures begin that another try may cure."""


@dataclass(frozen=True)
class Request:
    """One text wanted of a generator.

    Attributes
    ----------
    hookpoint : str
    latent : int
    number : int
        0, 1, ... of this latent and kind.
    kind : {"contain", "like", "avoid"}
        The text must contain `key`, be like `about`, or not contain `key`.
    key : str
        "" for "like".
    about : str
        What the label says, one line.
    before : str
        A beginning that a base model may continue; taken from text, never scored.
    max_tokens : int
        Tokens of the text wanted.
    seed : int
    """

    hookpoint: str
    latent: int
    number: int
    kind: Kind
    key: str
    about: str
    before: str
    max_tokens: int
    seed: int

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all fields, in hex."""
        return hash_json(asdict(self))


@dataclass(frozen=True)
class Reply:
    """A text, or why there is none.

    Attributes
    ----------
    text : str or None
    failure : str or None
        None, or a short class: "timeout", "connection", "http 429", "refused", "malformed",
        "empty", "too long", ...
    n_before : int
        Leading characters of `text` that were given, not generated.
    """

    text: str | None
    failure: str | None = None
    n_before: int = 0

    @property
    def is_final(self) -> bool:
        """Whether asking again would be to ask for another answer."""
        return self.failure is None or not self.failure.startswith(_PASSING)


class Generator(Protocol):
    """Something that writes texts.

    Attributes
    ----------
    name : str
        "subject", "local:<folder>", "endpoint:<model>", "edit".
    fingerprint : str
        What the texts depend on, the requests apart.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def generate(
        self,
        requests: Sequence[Request],
        advance: Callable[[float], None] = lambda n: None,
    ) -> Iterator[tuple[Request, Reply]]:
        """Yield a reply to every request, in any order; `advance` is told the replies made."""
        ...


def replies(
    generator: Generator,
    requests: Sequence[Request],
    cache_path: Path,
    advance: Callable[[float], None] = lambda n: None,
) -> list[Reply]:
    """Replies to the requests, in their order; those not known yet are asked for and kept.

    Each reply is written as it comes, so that an interrupted run continues where it stopped.
    Failures that another try may cure are not kept: the next run asks again.

    Parameters
    ----------
    generator : Generator
    requests : sequence of Request
    cache_path : Path
        Lines of JSON; made where absent.
    advance : callable
        Told the replies done, those known already included.

    Raises
    ------
    CacheError
        If a line of the file is no reply.
    DiskError
        If the file cannot be written.
    """
    known = _read(cache_path, generator.fingerprint)
    missing = {one.digest: one for one in requests if one.digest not in known}
    advance(sum(one.digest not in missing for one in requests))
    if missing:
        for request, reply in generator.generate(list(missing.values()), advance):
            known[request.digest] = reply
            if reply.is_final:
                line = {"request": request.digest, "generator": generator.fingerprint}
                _append(cache_path, line | asdict(reply))
    return [known[one.digest] for one in requests]


def _read(path: Path, fingerprint: str) -> dict[str, Reply]:
    """Replies of one generator by digest; a last line without an end is cut off."""
    if not path.exists():
        return {}
    *lines, torn = path.read_bytes().split(b"\n")
    if torn:
        os.truncate(path, path.stat().st_size - len(torn))
    known = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            reply = Reply(row["text"], row["failure"], int(row["n_before"]))
            if (reply.text is None) == (reply.failure is None):
                raise ValueError("either text or failure must be given")
            if row["generator"] == fingerprint:
                known[str(row["request"])] = reply
        except (ValueError, KeyError, TypeError) as error:
            raise CacheError(
                f"{path}, line {number}: no reply of a generator ({error}); remove that line, the "
                "text is then generated again"
            ) from error
    return known


def _append(path: Path, line: dict[str, Any]) -> None:
    """Write a line after the last whole one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(json.dumps(line).encode() + b"\n")
    except OSError as error:
        cure = "choose another --out"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cure = "free some space and run the same command again, it continues where it stopped"
        raise DiskError(f"cannot write {path}: {error.strerror}; {cure}") from error
