"""True explanations made of what is known of latents, and the same corrupted.

An explanation is true where a simple count on the fit split (`tests.planted_facts`) finds that its
words hold, in each way they can be read. A corruption counts only where that count finds it wrong.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tests.planted import Truth
from tests.planted_facts import (
    EXACT,
    LOOSE,
    Fact,
    Fired,
    Statement,
    TextCount,
    facts_of,
    is_true,
    is_wrong,
    sayable,
)
from tests.planted_phrases import Style, drawn_style, written
from tests.planted_subject import Planted
from tests.planted_wordings import FIRST, Wording

BROADER = 5
"""Times as many places that a broadened explanation claims."""

KEPT = 0.15
"""Share of the activation that a narrowed explanation keeps at most."""

_MOST_KEYS = 8
_TRIES = 20
_FREQUENT = 60
_WORDS = ("word", "after word", "next word")
_SYLLABLES = ("blor", "ptan", "quix", "zem", "vrog", "ulth", "dask", "nib", "yorp", "fleg", "wumb")


class Told(NamedTuple):
    """An explanation, and what it says."""

    said: Statement
    style: Style
    text: str


# -- true ones -------------------------------------------------------------------------------------


def said_by(planted: Planted, truth: Truth) -> Statement | None:
    """What a planted latent was made of, if words can say it."""
    facts: list[Fact] = []
    unless: list[Fact] = []
    for group in truth.parts:
        part = group[0]
        found = facts_of(planted.text.tree, part.level, part.nodes)
        if found is None:
            return None
        (facts if part.sign > 0 else unless).extend(found)
    return Statement(tuple(facts), tuple(unless))


def told_truly(
    count: TextCount,
    fired: Fired,
    said: Statement,
    rng: np.random.Generator,
    wording: Wording = FIRST,
) -> tuple[Told | None, bool]:
    """A true explanation, and whether it is true however it is read.

    Blanks of tokens are shown within the quotes or left out, tokens that are words are called
    words, and so on, as long as it remains true; None where none of it is.
    """
    ways = [(other, shown) for other in _ways(said) for shown in (True, False)]
    order = rng.permutation(len(ways))
    for careful in (True, False):
        for number in order:
            other, shown = ways[number]
            tokens_only = all(one.kind in ("token", "pair", "after") for one in other.facts)
            readings = (EXACT,) if not careful or (shown and tokens_only) else (EXACT, LOOSE)
            if is_true(count, fired, other, readings):
                style = drawn_style(rng, shown, wording)
                return Told(other, style, written(other, style, rng)), careful
    return None, False


def _ways(said: Statement) -> list[Statement]:
    """The same said of tokens or of words."""
    kinds = {fact.kind for fact in said.facts}
    ways = [said]
    if said.unless:
        return ways
    for kind, other in (("token", "word"), ("after", "after word"), ("next word", "after word")):
        mine = [fact.text.strip(" ") for fact in said.facts if fact.kind == kind]
        if kind in kinds and all(text.isalpha() and len(text) > 1 for text in mine):
            changed = [
                Fact(other, fact.text.strip(" ")) if fact.kind == kind else fact
                for fact in said.facts
            ]
            ways.append(Statement(tuple(dict.fromkeys(changed))))
    return ways


# -- corrupted ones --------------------------------------------------------------------------------


class Corruptor:
    """Makes wrong explanations of true ones.

    Parameters
    ----------
    count : TextCount
        Of the fit split.
    fired : mapping of int to Fired
        On the fit split, of each latent that has an explanation.
    told : mapping of int to Told
        True explanations.
    seed : int

    Attributes
    ----------
    dropped : Counter of (kind, reason)
        What could not be corrupted, and why.
    """

    def __init__(
        self, count: TextCount, fired: Mapping[int, Fired], told: Mapping[int, Told], seed: int
    ) -> None:
        self.count, self.fired, self.told, self.seed = count, fired, told, seed
        self.dropped: Counter[tuple[str, str]] = Counter()
        order = np.argsort(-count.counts, kind="stable")
        usable = [int(one) for one in order if sayable(count.vocab[one]) and count.counts[one]]
        self._tokens = [count.vocab[one] for one in usable]
        self._rare = [count.vocab[one] for one in usable if 20 <= count.counts[one] <= 2000]
        words = np.argsort(-count.word_counts, kind="stable")
        self._words = [count.words[3][one] for one in words if count.word_counts[one] >= 20]

    def corrupt(self, kind: str, latent: int) -> str | None:
        """A wrong explanation; None, and counted in `dropped`, where there is none."""
        rng = np.random.default_rng([self.seed, list(CORRUPTIONS).index(kind), latent])
        found = CORRUPTIONS[kind](self, latent, rng)
        if found is None:
            self.dropped[kind, "no such corruption"] += 1
            return None
        said, text = found
        if said is not None and not is_wrong(self.count, self.fired[latent], said):
            self.dropped[kind, "not wrong"] += 1
            return None
        return text

    def _write(
        self, said: Statement, latent: int, rng: np.random.Generator, *, closed: bool = False
    ) -> tuple[Statement, str]:
        return said, written(said, self.told[latent].style, rng, closed=closed)

    def swapped(self, latent: int, rng: np.random.Generator) -> tuple[Statement | None, str] | None:
        """Another latent's explanation."""
        other = self._partner.get(latent)
        return None if other is None else (self.told[other].said, self.told[other].text)

    @cached_property
    def _partner(self) -> dict[int, int]:
        """Whose explanation each latent gets where they are swapped: each goes to one other."""
        rng = np.random.default_rng([self.seed, len(self.told)])
        free = rng.permutation(list(self.told)).tolist()
        partner: dict[int, int] = {}
        for latent in rng.permutation(list(self.told)).tolist():
            for other in free[:_TRIES]:
                said = self.told[other].said
                if other != latent and is_wrong(self.count, self.fired[latent], said):
                    partner[latent] = other
                    free.remove(other)
                    break
        return partner

    def broadened(
        self, latent: int, rng: np.random.Generator
    ) -> tuple[Statement | None, str] | None:
        """A condition less, or frequent tokens or words more."""
        said = self.told[latent].said
        least = BROADER * len(self.count.spans(said, EXACT))
        wider = [one for one in _wider(said) if len(self.count.spans(one, EXACT)) >= least]
        if wider and rng.random() < 0.5:
            return self._write(wider[int(rng.integers(len(wider)))], latent, rng)
        facts = list(dict.fromkeys(said.facts))
        for more in self._frequent(facts[0], rng):
            if more in facts:
                continue
            facts.append(more)
            made = Statement(tuple(facts))
            if len(self.count.spans(made, EXACT)) >= least:
                return self._write(made, latent, rng)
            if len(facts) >= len(said.facts) + _MOST_KEYS:
                break
        return self._write(wider[0], latent, rng) if wider else None

    def _frequent(self, like: Fact, rng: np.random.Generator) -> list[Fact]:
        """What holds often, of a kind."""
        if like.kind in _WORDS:
            texts, kind = self._words[:_FREQUENT], like.kind
        elif like.kind in ("suffix", "prefix"):
            long = [text.lower() for text in self._words if len(text) > 4 and text.isalpha()]
            part = slice(-3, None) if like.kind == "suffix" else slice(3)
            texts, kind = [text[part] for text in long[:_FREQUENT]], like.kind
        else:
            texts, kind = self._tokens[:_FREQUENT], "after" if like.kind == "after" else "token"
        return [Fact(kind, texts[one]) for one in rng.permutation(len(texts))]

    def narrowed(
        self, latent: int, rng: np.random.Generator
    ) -> tuple[Statement | None, str] | None:
        """Some of its keys that hold little, or all of them under a rare condition."""
        said = self.told[latent].said
        ways = [one for one in (self._few_keys(latent), self._condition(latent, rng)) if one]
        for number in rng.permutation(len(ways)):
            made = ways[number]
            spans = self.count.spans(made, EXACT)
            if 0 < self.fired[latent].score(spans)[1] <= KEPT and made != said:
                return self._write(made, latent, rng, closed=True)
        return None

    def _few_keys(self, latent: int) -> Statement | None:
        said, fired = self.told[latent].said, self.fired[latent]
        share = {
            fact: fired.score(self.count.spans(Statement((fact,)), EXACT))[1] for fact in said.facts
        }
        kept: list[Fact] = []
        for fact in sorted(share, key=lambda one: share[one]):
            if sum(share[one] for one in kept) + share[fact] <= KEPT:
                kept.append(fact)
        return Statement(tuple(kept), said.unless) if kept else None

    def _condition(self, latent: int, rng: np.random.Generator) -> Statement | None:
        """What it says, only where a rare token stands before."""
        said, fired, vocab = self.told[latent].said, self.fired[latent], self.count.vocab
        spans = self.count.spans(said, EXACT)
        first = said.facts[0]
        if first.kind in ("after", "after word", "next word"):
            where = self.count.ids[spans[:, 0]]
        elif first.kind == "pair":
            at = spans[:, 0] - 2
            where = np.where(spans[:, 0] % self.count.tokens.ctx_len > 1, self.count.ids[at], -1)
        else:
            where = self.count.before[spans[:, 0]]
        total = np.concatenate([[0], np.cumsum(fired.act, dtype=np.float64)])
        low, high = np.searchsorted(fired.position, spans + np.arange(2)).T
        held = total[high] - total[low]
        ids, which, often = np.unique(where, return_inverse=True, return_counts=True)
        share = np.bincount(which, weights=held) / fired.act.sum()
        fine = [
            vocab[token]
            for token, one, n in zip(ids.tolist(), share.tolist(), often.tolist(), strict=True)
            if token >= 0 and n >= 3 and 0 < one <= KEPT and sayable(vocab[token])
        ]
        if not fine:
            return None
        rare = fine[int(rng.integers(len(fine)))]
        facts = [_only(fact, rare, vocab) for fact in said.facts]
        known = tuple(one for one in facts if one is not None)
        return Statement(known) if known else None

    def negated(self, latent: int, rng: np.random.Generator) -> tuple[Statement | None, str] | None:
        """Anything else."""
        said = replace(self.told[latent].said, negated=True, unless=())
        return self._write(said, latent, rng)

    def made_up(self, latent: int, rng: np.random.Generator) -> tuple[Statement | None, str] | None:
        """Words that the text has but its rule has not, or that nobody has."""
        kind = self.told[latent].said.facts[0].kind
        n = int(rng.integers(1, 4))
        if rng.random() < 1 / 3:
            texts = ["".join(rng.choice(_SYLLABLES, 2, replace=False)) for _ in range(n)]
            chosen = kind if kind in ("token", *_WORDS, "after") else "word"
            return self._write(Statement(tuple(Fact(chosen, t) for t in texts)), latent, rng)
        mine = {fact.text.strip(" ").lower() for fact in self.told[latent].said.facts}
        for _ in range(_TRIES):
            facts = [self._plausible(kind, rng) for _ in range(n)]
            made = Statement(tuple(dict.fromkeys(facts)))
            met = {fact.text.strip(" ").lower() for fact in facts} & mine
            if not met and is_wrong(self.count, self.fired[latent], made):
                return self._write(made, latent, rng)
        return None

    def _plausible(self, kind: str, rng: np.random.Generator) -> Fact:
        token = self._rare[int(rng.integers(len(self._rare)))]
        word = self._words[int(rng.integers(len(self._words)))]
        if kind == "pair":
            return Fact("pair", token, self._rare[int(rng.integers(len(self._rare)))])
        if kind in ("token", "after"):
            return Fact(kind, token)
        if kind in ("suffix", "prefix") and len(word) > 4 and word.isalpha():
            return Fact(kind, word.lower()[-3:] if kind == "suffix" else word.lower()[:3])
        return Fact(kind if kind in _WORDS else "word", word)

    def error_text(
        self, latent: int, rng: np.random.Generator
    ) -> tuple[Statement | None, str] | None:
        """What is left where an explainer failed."""
        return None, str(rng.choice(self.told[latent].style.wording.errors))


CORRUPTIONS: dict[
    str,
    Callable[[Corruptor, int, np.random.Generator], tuple[Statement | None, str] | None],
] = {
    "swapped": Corruptor.swapped,
    "broadened": Corruptor.broadened,
    "narrowed": Corruptor.narrowed,
    "negated": Corruptor.negated,
    "made up": Corruptor.made_up,
    "error text": Corruptor.error_text,
}
"""Kinds of corruption, by name."""


def _only(fact: Fact, rare: str, vocab: Sequence[str]) -> Fact | None:
    """A fact under the condition that a token stands before; of what follows, that it is it."""
    if fact.kind == "after":
        return Fact("pair", rare, fact.text)
    if fact.kind == "pair":
        return Fact("phrase", fact.text, parts=(rare, fact.before, fact.text))
    if fact.kind in ("after word", "next word"):
        before = next((one for one in (" " + fact.text, fact.text) if one in vocab), None)
        return Fact("pair", rare, before) if before else None
    return replace(fact, before=rare)


def _wider(said: Statement) -> list[Statement]:
    """Statements that follow from one."""
    facts = said.facts
    made = [said.without_condition()]
    if all(fact.kind in ("suffix", "prefix", "word") for fact in facts):
        for n in (2, 1):
            kinds = [(fact, "suffix" if fact.kind == "suffix" else "prefix") for fact in facts]
            cut = [
                Fact(kind, fact.text.lower()[-n:] if kind == "suffix" else fact.text.lower()[:n])
                for fact, kind in kinds
            ]
            made.append(Statement(tuple(dict.fromkeys(cut))))
    if all(fact.kind == "mark" for fact in facts):
        made.append(Statement((Fact("class", "punctuation"),)))
    return made
