"""Probes of the seed study: the tokens and topics of a latent's top sequences, and texts of them.

After get_data.py, get_eval_inputs.py and eval.py of
DanielJamesDavies/Explaining-Latents-with-Function-Types (2024).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from labeler.arrays import Floats, Longs
from labeler.eval.standard_windows import Cut, Peaks
from labeler.statistics import LatentFirings
from labeler.tokens import Tokens

KINDS = ("specific token", "connecting tokens", "dataset topic")
"""The study's SpecificToken(), ConnectingTokens() and DetectingDatasetTopic()."""

LENGTH = 64
"""Tokens of a sequence and of a probe."""

N_TOP = 24
"""Top sequences of a latent. The study takes pairs from 24; how many it sums tokens over is in its
data, not in its code."""

_LEAST_TOKENS = (6, 3)
"""Different firing tokens in the top sequences that specific and connecting tokens need."""

_TESTED = 2
"""Tokens and pairs that are tested, of the six and three kept."""

_SENTENCES = 2
"""Sentences for a specific token: in the study one plain, one steered towards the topics."""

_TOPICS = 6
"""Topics that a sentence is asked to be about."""


@dataclass(frozen=True)
class Want:
    """A sentence wanted for a probe.

    Attributes
    ----------
    latent : int
    kind : str
        One of `KINDS`.
    tokens : tuple of int
        Target tokens: one, two, or none for a topic.
    topics : tuple of (int, str)
        Level and name of the topics that the sentence should be about.
    """

    latent: int
    kind: str
    tokens: tuple[int, ...] = ()
    topics: tuple[tuple[int, str], ...] = ()


class Sentences(Protocol):
    """Where sentences come from."""

    def write(self, wants: Sequence[Want]) -> list[Longs | None]:
        """Token ids of a sentence for each want; None where there is none."""
        ...


@dataclass(frozen=True, eq=False)
class Probes:
    """Texts that a latent is tried on.

    Attributes
    ----------
    wants : tuple of Want
    text : Tokens
        A context for each.
    read : int64 [n, 2]
        Where in it the activation is read, the mean of two; -1 for the maximum over all of it.
    """

    wants: tuple[Want, ...]
    text: Tokens
    read: Longs


def wants_of(fit: Tokens, fired: LatentFirings, latents: Longs) -> list[Want]:
    """What the study tests of each latent, up to seven probes, latent by latent.

    Two tokens with the largest sum of activations (two sentences each), the two pairs of firing
    tokens that share most sequences, adjacent or not, and the topics of the documents.
    """
    cut = Cut.of(fit, LENGTH)
    spans = [slice(*fired.start[one - fired.first :][:2].tolist()) for one in latents.tolist()]
    number = np.repeat(np.arange(len(latents)), [span.stop - span.start for span in spans])
    position = np.concatenate([fired.position[span] for span in spans]).astype(np.int64)
    act = np.concatenate([fired.act[span] for span in spans])
    peaks = Peaks.find(cut, position, number, act, len(latents))
    edges = np.searchsorted(peaks.column, np.arange(len(latents) + 1))
    ids = fit.ids.ravel()
    wants: list[Want] = []
    for latent, span, found in zip(
        latents.tolist(), spans, map(slice, edges[:-1], edges[1:]), strict=True
    ):
        best = peaks.window[found][peaks.rank[found] < N_TOP]
        where = fired.position[span].astype(np.int64)
        window = cut.window_of(where)
        kept = np.isin(window, best)
        tokens = ids[where[kept]].astype(np.int64)
        for token in _specific(tokens, fired.act[span][kept]):
            wants += [Want(latent, KINDS[0], (token,))] * _SENTENCES
        for pair in _connecting(tokens, window[kept]):
            wants.append(Want(latent, KINDS[1], pair))
        topics = _topics(fit, best // cut.per_context)
        if topics:
            wants.append(Want(latent, KINDS[2], topics=topics))
    return wants


def build(wants: Sequence[Want], sentences: Sentences, tokens: Tokens, max_ctx: int) -> Probes:
    """Tile each sentence to 64 tokens and put the targets at the end, whatever it says.

    Parameters
    ----------
    wants : sequence of Want
        Those without a sentence are left out.
    sentences : Sentences
    tokens : Tokens
        Of this vocabulary; a token that is a space goes before each target, if there is one.
    max_ctx : int
        Longest text that the subject takes.
    """
    length = min(LENGTH, max_ctx)
    space = [tokens.vocab.index(" ")] if " " in tokens.vocab else []
    kept: list[Want] = []
    rows: list[Longs] = []
    for want, sentence in zip(wants, sentences.write(wants), strict=True):
        if sentence is None or not len(sentence):
            continue
        tail = np.array([part for token in want.tokens for part in (*space, token)], dtype=np.int64)
        tiled = np.resize(sentence[:length], length)
        kept.append(want)
        rows.append(np.concatenate([tiled[: length - len(tail)], tail]))
    ids = np.array(rows, dtype=np.int64).reshape(len(rows), length)
    # The study reads the first occurrence of a target, which may be one in the sentence.
    read = np.full((len(rows), 2), -1)
    for row, want in enumerate(kept):
        for place, token in enumerate(want.tokens):
            read[row, place:] = np.flatnonzero(ids[row] == token)[0]
    return Probes(tuple(kept), tokens.with_ids(ids, np.full(len(rows), length)), read)


def _specific(tokens: Longs, act: Floats) -> list[int]:
    """Tokens with the largest sum of activations; none if the latent fires on too few."""
    different, index = np.unique(tokens, return_inverse=True)
    if len(different) < _LEAST_TOKENS[0]:
        return []
    total = np.bincount(index, weights=act)
    chosen: list[int] = different[np.argsort(-total, kind="stable")[:_TESTED]].tolist()
    return chosen


def _connecting(tokens: Longs, window: Longs) -> Iterator[tuple[int, int]]:
    """Pairs of firing tokens by the number of sequences that hold both, which may be none."""
    different, index = np.unique(tokens, return_inverse=True)
    if len(different) < _LEAST_TOKENS[1]:
        return
    _, sequence = np.unique(window, return_inverse=True)
    present = np.zeros((sequence.max() + 1, len(different)), dtype=np.int64)
    present[sequence, index] = 1
    # As in the study, cells below the diagonal are 0, not left out: with fewer than two pairs that
    # meet anywhere, the next one is a cell of the first row, at worst a token with itself.
    together = np.triu(present.T @ present, k=1).ravel()
    for cell in np.argsort(-together, kind="stable")[:_TESTED].tolist():
        first, second = divmod(cell, len(different))
        yield int(different[first]), int(different[second])


def _topics(fit: Tokens, contexts: Longs) -> tuple[tuple[int, str], ...]:
    """The topics that most of the contexts' documents have, of any level."""
    if not fit.topic_levels:
        return ()
    count = Counter(
        (level, name)
        for document in fit.doc[contexts].tolist()
        for level, name in enumerate(fit.topics[document])
    )
    return tuple(topic for topic, _ in count.most_common(_TOPICS))
