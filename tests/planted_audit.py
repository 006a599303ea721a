"""Cases of a planted audit: latents, what is known of them, and true explanations of it."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import polars as pl

from labeler.eval.audit.ground import Ground
from labeler.eval.audit.judge import audit_hookpoint
from labeler.eval.audit.verdicts import MIN_CONTEXTS, MIN_FIRINGS
from labeler.explanations import Explanation
from labeler.tokens import Tokens
from tests.planted import Planter, Truth
from tests.planted_explanations import Told, said_by, told_truly
from tests.planted_facts import Fired, Statement, TextCount
from tests.planted_pairs import Pairs
from tests.planted_subject import HOOKPOINT, Planted, PlantedSubject, more_heldout
from tests.planted_text import Text
from tests.planted_wordings import Wording

LEVELS = (
    *("unigram", "bigram", "previous_token", "word", "previous_word"),
    *("suffix", "prefix", "punctuation"),
)
UNIONS = (("unigram", "previous_token"), ("word", "suffix"), ("previous_word", "suffix"))

ACCUSED = ("too broad", "too narrow", "contradicted", "failed", "duplicate")
"""Verdicts that accuse."""

HELDOUT = 0.4
"""Share of the documents that is held out."""


@dataclass(frozen=True, eq=False)
class Case:
    """Latents of a hookpoint of which something is known.

    Attributes
    ----------
    ground : Ground
        Held-out text.
    count : TextCount
        Of the fit split.
    fired : dict of int to Fired
        On the fit split, by latent.
    said : dict of int to Statement
        What is known; None where words cannot say it.
    kinds : dict of int to str
        What was planted.
    most : int
        True explanations that are written at most.
    """

    ground: Ground
    count: TextCount
    fired: Mapping[int, Fired]
    said: Mapping[int, Statement | None]
    kinds: Mapping[int, str]
    most: int

    def testable(self, latent: int) -> bool:
        """Whether it fires on held-out text as often as the audit asks for."""
        found = self.ground.fires_in[self.ground.column[latent]]
        contexts = np.unique(found // self.ground.tokens.ctx_len)
        return len(found) >= MIN_FIRINGS and len(contexts) >= MIN_CONTEXTS


def planted_case(tokens: Tokens, each: int) -> Case:
    """Latents planted in a text, explained by what they were made of."""
    names = list(LEVELS)
    text = Text.make(more_heldout(tokens, HELDOUT), names)
    truths = planted_truths(Planter(text, names, 1), each)
    planted = Planted(text, PlantedSubject.make(text, truths, 1), names)
    positions = planted.fit.by_latent(range(len(truths)))
    fired = {
        latent: Fired(found, planted.fit.at(found, np.full(len(found), latent)))
        for latent, found in positions.items()
    }
    said = {latent: said_by(planted, truth) for latent, truth in enumerate(truths)}
    ground = Ground(HOOKPOINT, text.heldout, np.arange(len(truths)), planted.heldout)
    kinds = {latent: truth.kind for latent, truth in enumerate(truths)}
    return Case(ground, TextCount(text.fit), fired, said, kinds, len(truths))


def planted_truths(planter: Planter, each: int) -> list[Truth]:
    """Latents of every kind that words can express."""
    pairs = Pairs(planter)
    draws = [(name, lambda name=name: planter.simple(name)) for name in LEVELS]
    draws += [(f"{a} or {b}", lambda a=a, b=b: pairs.union(a, b)) for a, b in UNIONS]
    draws.append(("token unless token", lambda: pairs.unless("token")))
    truths: list[Truth] = []
    for _name, draw in draws:
        found: list[Truth] = []
        # A text may have keys for fewer.
        with suppress(ValueError):
            while len(found) < each:
                found.append(draw())
        truths += found
    return truths


def explained(
    case: Case, wording: Wording
) -> tuple[dict[int, Told], dict[int, Told], Counter[str]]:
    """Those that are true in every reading, those that are in one, and why others have none."""
    dropped: Counter[str] = Counter()
    told: dict[int, Told] = {}
    doubtful: dict[int, Told] = {}
    for latent, said in case.said.items():
        if len(told) == case.most:
            break
        if said is None:
            dropped["words cannot say it"] += 1
            continue
        if not case.testable(latent):
            dropped["fires too rarely on held-out text"] += 1
            continue
        rng = np.random.default_rng(latent)
        written, careful = told_truly(case.count, case.fired[latent], said, rng, wording)
        if written is None:
            dropped["not what it does"] += 1
        else:
            (told if careful else doubtful)[latent] = written
    return told, doubtful, dropped


def audited(ground: Ground, texts: Mapping[int, str]) -> pl.DataFrame:
    """The audit's table of one explanation per latent."""
    said = [Explanation(ground.hookpoint, one, texts[one], "planted") for one in sorted(texts)]
    return audit_hookpoint(said, ground)
