"""What asking will cost, and what it has cost: requests, tokens, dollars."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from labeler.errors import RunError
from labeler.eval.endpoint import Usage
from labeler.eval.llm.ask import Answers, Asker, Question
from labeler.store import read_json, write_json

_MILLION = 1_000_000


@dataclass(frozen=True)
class Prices:
    """Dollars for a million tokens.

    Attributes
    ----------
    sent, written : float or None
        None where not known.
    """

    sent: float | None = None
    written: float | None = None

    def dollars(self, sent: int, written: int) -> float | None:
        """Price of some tokens; None where prices are not known.

        >>> Prices(0.5, 2.0).dollars(2_000_000, 500_000)
        2.0
        """
        if self.sent is None or self.written is None:
            return None
        return (sent * self.sent + written * self.written) / _MILLION


@dataclass
class Estimate:
    """Requests still to be made, by stage.

    Attributes
    ----------
    prices : Prices
    stages : dict of str to Usage
        Tokens sent are counted by the asker, exactly or about; tokens written are what the answers
        may have at most.
    """

    prices: Prices = field(default_factory=Prices)
    stages: dict[str, Usage] = field(default_factory=dict)

    def add(self, stage: str, questions: Iterable[Question | None], answers: Answers) -> None:
        """Add questions to a stage, without those that are answered."""
        usage = self.stages.setdefault(stage, Usage())
        for one in answers.missing([one for one in questions if one is not None]):
            usage.add((answers.asker.count(one), one.max_tokens))

    @property
    def total(self) -> Usage:
        """All stages together."""
        total = Usage()
        for one in self.stages.values():
            total.n_requests += one.n_requests
            total.sent += one.sent
            total.written += one.written
        return total

    def lines(self) -> list[str]:
        """For people: a line for each stage, and one for all."""
        rows = [*self.stages.items(), ("together", self.total)]
        return [
            f"{name}: {one.n_requests:,} requests, about {one.sent:,} tokens to send, at most "
            f"{one.written:,} to be written{self._price(one)}"
            for name, one in rows
        ]

    def _price(self, usage: Usage) -> str:
        dollars = self.prices.dollars(usage.sent, usage.written)
        return "" if dollars is None else f", at most about ${dollars:,.2f}"


@contextmanager
def usage_kept(path: Path, asker: Asker, prices: Prices) -> Iterator[None]:
    """Add what the block asks for to a JSON file, however the block ends.

    The file adds up over runs: asker, n_requests, n_uncounted, sent, written, price_in, price_out,
    dollars (at the latest prices; null where they are not known).

    Raises
    ------
    RunError
        If the file is broken; before the block.
    """
    before = Usage()
    if path.exists():
        known = read_json(path, RunError, f"delete {path}; what was spent is then forgotten")
        try:
            before = Usage(*(int(known[name]) for name in _COUNTS))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}: no count of tokens ({error}); delete it") from error
    begun = Usage(*(getattr(asker.usage, name) for name in _COUNTS))
    try:
        yield
    finally:
        spent = {
            name: getattr(before, name) + getattr(asker.usage, name) - getattr(begun, name)
            for name in _COUNTS
        }
        facts = {
            "price_in": prices.sent,
            "price_out": prices.written,
            "dollars": prices.dollars(spent["sent"], spent["written"]),
        }
        write_json(path, {"asker": asker.name, **spent, **facts})


_COUNTS = ("n_requests", "n_uncounted", "sent", "written")
