"""Gathering what readers find: records are checked one by one, damaged ones counted and named."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from labeler.errors import CoderError, ExplanationError, OptionError
from labeler.explanations import Context, Explanation, Explanations, Place
from labeler.hookpoints import EXAMPLES, parse_hookpoint
from labeler.interop.bounded import Damage, Json, records, stored_size
from labeler.interop.checks import DamagedError, fields_of

MAX_ALL_TOKENS = 50_000_000
"""Tokens of all contexts that are kept, about a gigabyte."""

_SPARE = 4
"""Contexts of a latent held while reading, for each one kept at the end."""


def canonical(said: str) -> str | None:
    """Canonical name of a hookpoint; None where it is not known as one."""
    try:
        return parse_hookpoint(said).name
    except CoderError:
        return None


class Collector:
    """What readers fill: explanations, contexts, what was passed over and what must be told.

    Parameters
    ----------
    path : Path
        What is being read, for messages.
    hookpoint : str or None
        Where the latents sit, for files that do not say it; ``{layer}`` in it stands for the layer
        that they do give.
    contexts_per_latent : int
        Contexts kept of a latent.
    advance : callable
        Told the bytes read.
    """

    def __init__(
        self,
        path: Path,
        *,
        hookpoint: str | None = None,
        contexts_per_latent: int = 40,
        advance: Callable[[float], None] = lambda n: None,
    ) -> None:
        if contexts_per_latent < 0:
            raise OptionError(f"contexts_per_latent is {contexts_per_latent}; use 0 or more")
        if hookpoint is not None and not hookpoint.strip():
            raise OptionError(f"hookpoint is empty; examples of names: {EXAMPLES}")
        self.path = path
        self._hookpoint = hookpoint
        self._filled: dict[str, str] = {}
        self._kept_names: dict[str, None] = {}
        self._cap = contexts_per_latent
        self._advance = advance
        self._explanations: dict[tuple[object, ...], Explanation] = {}
        self._contexts: dict[Place, dict[tuple[str, ...], Context]] = {}
        self._words: dict[str, str] = {}
        self._n_tokens = 0
        self._damaged: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._left: Counter[str] = Counter()
        self._notes: dict[str, None] = {}

    def through(self, files: Iterable[Path]) -> Iterator[Path]:
        """Yield files and tell the progress bar of each that is done."""
        for file in files:
            yield file
            self._advance(stored_size(file))

    def each(self, file: Path, take: Callable[[dict[str, Json], str], None]) -> None:
        """Give every record of a JSON or JSONL file to `take`; count those that are damaged."""
        for where, record in records(file):
            with self.counting(where):
                take(fields_of(_sound(record)), where)

    @contextmanager
    def counting(self, where: str) -> Iterator[None]:
        """Do the block; where it finds a damaged record, count it and go on."""
        try:
            yield
        except DamagedError as damage:
            self._damaged[damage.reason] += 1
            detail = f": {damage.detail}" if damage.detail else ""
            self._first.setdefault(damage.reason, f"{where}{detail}")

    def place_of(self, said: str, known: str | None = None) -> str:
        """Name a hookpoint by what a file calls it.

        Canonical where that can be read, or where the format knows it (`known`); else the user's
        ``--hookpoint``; else as it stands.

        Raises
        ------
        ExplanationError
            If the user names one hookpoint where the files have several.
        """
        name = known or canonical(said)
        if name is not None:
            return name
        if self._hookpoint is None:
            if not said.strip():
                raise DamagedError("record without a hookpoint")
            self._kept_names.setdefault(said)
            return said
        if said not in self._filled:
            self._filled[said] = self._fill(said)
        return self._filled[said]

    def default_place(self, columns: str) -> str:
        """Name the hookpoint of records that say nothing of one: the user's.

        Raises
        ------
        ExplanationError
            If the user has named none.
        """
        if self._hookpoint is None or "{layer}" in self._hookpoint:
            raise ExplanationError(
                f"{self.path} does not say at which hookpoint the latents are ({columns}); name "
                f"one with --hookpoint, as in {EXAMPLES}"
            )
        return self._filled.setdefault("", canonical(self._hookpoint) or self._hookpoint)

    def layer_place(self, number: str, column: str) -> str:
        """Name the hookpoint of records that give the number of a layer: the user's.

        Raises
        ------
        ExplanationError
            If the user has named none, or one for several layers.
        """
        if self._hookpoint is None:
            raise ExplanationError(
                f"{self.path}: column {column} holds the numbers of layers, which do not say at "
                "which site; add --hookpoint layers.{layer}.mlp, or layers.{layer} for the "
                "residual stream"
            )
        return self.place_of(number)

    def _fill(self, said: str) -> str:
        wanted = self._hookpoint or ""
        if "{layer}" in wanted:
            number = re.search(r"\d+", said)
            if number is None:
                raise DamagedError("hookpoint without the number of a layer", said)
            wanted = wanted.replace("{layer}", str(int(number[0])))
        elif self._filled:
            raise ExplanationError(
                f"{self.path} has latents of several places ({', '.join([*self._filled, said])}), "
                f"and --hookpoint {wanted} names one; write {{layer}} for the number in their "
                "names, as in layers.{layer}.mlp, or give one file at a time"
            )
        return canonical(wanted) or wanted

    def add(
        self,
        hookpoint: str,
        latent: int,
        text: str,
        *,
        author: str = "",
        published: Mapping[str, float] | None = None,
        origin: str,
    ) -> None:
        """Take an explanation, unless the very same was given before."""
        scores = dict(published or {})
        key = (hookpoint, latent, text, author, *sorted(scores.items()))
        if key in self._explanations:
            self._left["explanations given twice, one kept"] += 1
            return
        self._explanations[key] = Explanation(hookpoint, latent, text, author, scores, origin)

    def add_context(self, place: Place, context: Context) -> None:
        """Take a context, unless the latent has the same text already or more than enough."""
        held = self._contexts.get(place, {})
        if context.tokens in held:
            self._left["contexts given twice for a latent, one kept"] += 1
        elif len(held) >= _SPARE * self._cap:
            self._left[_BEYOND.format(self._cap)] += 1
        elif self._n_tokens + len(context.tokens) > MAX_ALL_TOKENS:
            self._left[f"contexts beyond {MAX_ALL_TOKENS:,} tokens in all"] += 1
        else:
            # Each token text is held once: exports repeat the same few thousand.
            tokens = tuple(self._words.setdefault(token, token) for token in context.tokens)
            self._n_tokens += len(tokens)
            held[tokens] = Context(tokens, context.acts, context.chosen)
            self._contexts[place] = held

    def note(self, text: str) -> None:
        """Add what a reader must be told, once."""
        self._notes.setdefault(text)

    def finish(self, read_as: str) -> Explanations:
        """Everything taken.

        Raises
        ------
        ExplanationError
            If there is nothing, or nothing but damaged records.
        """
        n_damaged = self._damaged.total()
        if not self._explanations and not self._contexts:
            if n_damaged:
                reason, count = self._damaged.most_common(1)[0]
                raise ExplanationError(
                    f"{self.path}: none of {n_damaged:,} records can be used as {read_as}; of "
                    f"{count:,} the fault is: {reason} (first: {self._first[reason]}); repair the "
                    "file, or name its format with --format"
                )
            raise ExplanationError(
                f"{self.path} holds no explanation and no context (read as {read_as}); check that "
                "it is complete"
            )
        contexts = {place: self._thinned(held) for place, held in sorted(self._contexts.items())}
        for reason, count in self._damaged.most_common():
            self.note(f"{count:,} records passed over: {reason} (first: {self._first[reason]})")
        for what, count in self._left.items():
            self.note(f"{count:,} {what}")
        if self._kept_names:
            self.note(
                f"places that are none of labeler's hookpoints, kept as they stand: "
                f"{_listed(self._kept_names)}; --hookpoint says where they are"
            )
        if self._hookpoint is not None and not self._filled:
            self.note(
                f"--hookpoint {self._hookpoint} was not needed: the files say where latents are"
            )
        return Explanations(
            tuple(self._explanations.values()), contexts, read_as, tuple(self._notes)
        )

    def _thinned(self, held: Mapping[tuple[str, ...], Context]) -> tuple[Context, ...]:
        contexts = tuple(held.values())
        kept = spread(contexts, self._cap)
        if len(kept) < len(contexts):
            self._left[_BEYOND.format(self._cap)] += len(contexts) - len(kept)
        return kept


_BEYOND = "contexts beyond {} a latent, left out evenly"


def _sound(record: "Json | Damage") -> Json:
    if isinstance(record, Damage):
        raise DamagedError(f"line that is {record.reason}", record.detail)
    return record


def _listed(names: Iterable[str], at_most: int = 6) -> str:
    shown = list(names)
    more = f" and {len(shown) - at_most} more" if len(shown) > at_most else ""
    return ", ".join(shown[:at_most]) + more


def spread(contexts: tuple[Context, ...], at_most: int) -> tuple[Context, ...]:
    """Choose contexts: the same number of each kind where there are enough, from strong to weak.

    Kinds are the values of `Context.chosen`. Within one, they are taken at even steps in the order
    of their largest activation.
    """
    if len(contexts) <= at_most:
        return contexts
    kinds: dict[str, list[int]] = {}
    for index, context in enumerate(contexts):
        kinds.setdefault(context.chosen, []).append(index)
    quota = dict.fromkeys(kinds, 0)
    while sum(quota.values()) < at_most:
        # The kind that has least, of those that have any left.
        open_kinds = [kind for kind in kinds if quota[kind] < len(kinds[kind])]
        quota[min(open_kinds, key=quota.__getitem__)] += 1
    chosen: list[int] = []
    for kind, members in kinds.items():
        ranked = sorted(members, key=lambda index: -float(contexts[index].acts.max()))
        steps = np.linspace(0, len(ranked) - 1, quota[kind]).round().astype(int)
        chosen += [ranked[step] for step in steps]
    return tuple(contexts[index] for index in sorted(chosen))
