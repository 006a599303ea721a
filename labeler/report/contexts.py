"""Real held-out text around a latent: what it does there, and what its label says.

Excerpts are drawn evenly over the range of activation, not from the top: the strongest firings
are the ones that every label gets right. Then one false alarm and one missed firing, if any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt
import polars as pl

from labeler.arrays import Bools, Floats, Longs
from labeler.eval.firings import TextFirings
from labeler.keytree import KeyTree
from labeler.labels import READABLE, LabelSet
from labeler.level import Nodes
from labeler.report.glyphs import visible
from labeler.tokens import Tokens

MAX_CONTEXTS = 1024
"""Held-out contexts searched for excerpts; evenly spread where there are more."""

N_BINS = 5
"""Bins of activation, of equal width from 0 to the latent's maximum."""

BEFORE, AFTER = 16, 6
"""Tokens shown before and after the position that an excerpt is about."""

TRUE_STEPS, CALLED_STEPS = 8, 4
"""Steps of intensity of the true and the predicted activation."""


class Piece(TypedDict):
    """A token, or a run of tokens where the latent and its label are silent."""

    lead: str
    """Spaces that the token starts with: shown outside its highlight."""
    text: str
    act: float
    predicted: float
    true_step: int
    """0 silent, to TRUE_STEPS for the latent's maximum."""
    called_step: int
    """0 where the label does not say that it fires, else 1 to CALLED_STEPS."""
    focus: bool


class _Around(TypedDict):
    act: float
    predicted: float
    called: bool
    document: str
    cut_before: bool
    cut_after: bool
    pieces: list[Piece]


class Excerpt(_Around):
    """A stretch of held-out text about one position."""

    kind: Literal["bin", "false", "missed"]
    low: float
    """Bounds of the bin of activation; 0 for the other kinds."""
    high: float
    n: int
    """Positions of this kind in the text searched."""
    n_called: int
    """Of these, positions where the label says that it fires."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Held-out contexts to take excerpts from, with the nodes of their positions.

    Attributes
    ----------
    tokens : Tokens
        The chosen contexts.
    context : int64 [n_ctx]
        Their numbers in the held-out split.
    nodes : dict of str to int32 [n_ctx, ctx_len]
        By function type: found once, used for every hookpoint.
    """

    tokens: Tokens
    context: Longs
    nodes: dict[str, Nodes]

    @classmethod
    def take(cls, heldout: Tokens, tree: KeyTree, most: int = MAX_CONTEXTS) -> "Sample":
        """At most `most` contexts, evenly spread."""
        chosen = np.unique(np.linspace(0, heldout.n_ctx - 1, min(most, heldout.n_ctx)).astype(int))
        tokens = heldout.select(chosen)
        return cls(tokens, chosen.astype(np.int64), tree.find(tokens))


@dataclass(frozen=True, eq=False)
class Responses:
    """What some latents of a hookpoint and their labels do on a sample.

    Attributes
    ----------
    act, predicted : float32 [n_latents, n_positions]
        By flat position of the sample.
    called : bool [n_latents, n_positions]
        Where the label says that the latent fires.
    """

    act: Floats
    predicted: Floats
    called: Bools


def respond(
    labels: LabelSet, firings: TextFirings, sample: Sample, latents: Sequence[int]
) -> Responses:
    """True and predicted activations of ascending `latents` on the sample."""
    few = _only(labels, latents).predictor(READABLE)
    # Calls of earlier labels are the hookpoint's own: the other nodes are found once for all.
    nodes = labels.tree.complete(sample.nodes)
    predicted = few.at_nodes(nodes, sample.tokens.ids.size).T
    valid = sample.tokens.valid.ravel()
    called: Bools = (predicted >= few.threshold[:, None]) & valid
    return Responses(_true(firings, sample, latents), predicted, called)


def _only(labels: LabelSet, latents: Sequence[int]) -> LabelSet:
    """The labels of some latents, renumbered from 0: a few columns are cheap to predict."""
    chosen = np.asarray(latents)
    entries = labels.entries.filter(pl.col("latent").is_in(latents))
    row = np.searchsorted(chosen, entries["latent"].to_numpy()).astype(np.int32)
    return LabelSet(
        labels.hookpoint,
        labels.folder,
        labels.tree,
        labels.latents[chosen],
        entries.with_columns(pl.Series("latent", row)),
        labels.manifest,
    )


def _true(firings: TextFirings, sample: Sample, latents: Sequence[int]) -> Floats:
    ctx_len = sample.tokens.ctx_len
    row = np.full(firings.n_latents, -1)
    row[np.asarray(latents)] = np.arange(len(latents))
    context = np.full((len(firings.start) - 1) // ctx_len, -1)
    context[sample.context] = np.arange(len(sample.context))
    mine = np.flatnonzero(row[firings.latent] >= 0)
    position = np.searchsorted(firings.start, mine, side="right") - 1
    at = context[position // ctx_len]
    mine, position, at = mine[at >= 0], position[at >= 0], at[at >= 0]
    out = np.zeros((len(latents), sample.tokens.ids.size), dtype=np.float32)
    out[row[firings.latent[mine]], at * ctx_len + position % ctx_len] = firings.act[mine]
    return out


def excerpts(
    sample: Sample, responses: Responses, row: int, *, labeled: bool, seed: tuple[int, int]
) -> list[Excerpt]:
    """Excerpts for one latent, strongest bin first; empty where it never fires in the sample.

    Parameters
    ----------
    sample, responses : Sample, Responses
    row : int
        Of the latent among the responses.
    labeled : bool
        An unlabeled latent has neither false alarms nor missed firings.
    seed : (int, int)
        Of the draw within a bin.
    """
    act, called = responses.act[row], responses.called[row]
    most = float(act.max(initial=0))
    draw = _Draw(sample.tokens, np.random.default_rng(seed))
    found: list[Excerpt] = []

    def add(kind: Literal["bin", "false", "missed"], where: Bools, low: float, high: float) -> None:
        position = draw.one(where)
        if position is not None:
            found.append(
                Excerpt(
                    kind=kind,
                    low=low,
                    high=high,
                    n=int(where.sum()),
                    n_called=int((where & called).sum()),
                    **_around(sample.tokens, responses, row, position, most),
                )
            )

    if most > 0:
        # float32 ratios may round up to N_BINS itself.
        number = np.minimum((act / most * N_BINS).astype(int), N_BINS - 1)
        for index in range(N_BINS - 1, -1, -1):
            edges = (most * index / N_BINS, most * (index + 1) / N_BINS)
            add("bin", (act > 0) & (number == index), *edges)
    if labeled:
        add("false", called & (act <= 0), 0.0, 0.0)
        add("missed", ~called & (act > 0), 0.0, 0.0)
    return found


class _Draw:
    """Draws positions, from documents not drawn before where there are such."""

    def __init__(self, tokens: Tokens, rng: np.random.Generator) -> None:
        self.document = np.repeat(tokens.doc, tokens.ctx_len)
        self.context = np.repeat(np.arange(tokens.n_ctx), tokens.ctx_len)
        self.rng = rng
        self.documents: list[int] = []
        self.contexts: list[int] = []

    def one(self, where: Bools) -> int | None:
        at = np.flatnonzero(where)
        if not len(at):
            return None
        for used, of in ((self.contexts, self.context), (self.documents, self.document)):
            fresh = at[~np.isin(of[at], used)]
            at = fresh if len(fresh) else at
        position = int(self.rng.choice(at))
        self.documents.append(int(self.document[position]))
        self.contexts.append(int(self.context[position]))
        return position


def _around(tokens: Tokens, responses: Responses, row: int, position: int, most: float) -> _Around:
    context, offset = divmod(position, tokens.ctx_len)
    length = int(tokens.length[context])
    begin, end = max(offset - BEFORE, 0), min(offset + AFTER + 1, length)
    span = slice(context * tokens.ctx_len + begin, context * tokens.ctx_len + end)
    texts = [visible(tokens.vocab[token]) for token in tokens.ids[context, begin:end]]
    act, predicted = responses.act[row, span], responses.predicted[row, span]
    called = responses.called[row, span]
    return _Around(
        act=float(act[offset - begin]),
        predicted=float(predicted[offset - begin]),
        called=bool(called[offset - begin]),
        document=tokens.doc_ids[tokens.doc[context]],
        cut_before=begin > 0,
        cut_after=end < length,
        pieces=_pieces(texts, act, predicted, called, offset - begin, most),
    )


def _pieces(
    texts: list[str],
    act: Floats,
    predicted: Floats,
    called: npt.NDArray[np.bool_],
    focus: int,
    most: float,
) -> list[Piece]:
    pieces: list[Piece] = []
    scale = max(most, 1e-9)
    was_quiet = False
    for index, text in enumerate(texts):
        quiet = act[index] <= 0 and not called[index] and index != focus
        if quiet and was_quiet:
            pieces[-1]["text"] += text
            continue
        was_quiet = quiet
        # A token of spaces only keeps them, or nothing would be left to highlight.
        bare = text.lstrip(" ") or text
        pieces.append(
            Piece(
                lead=text[: len(text) - len(bare)],
                text=bare,
                act=float(act[index]),
                predicted=float(predicted[index]),
                true_step=_step(float(act[index]) / scale, TRUE_STEPS) if act[index] > 0 else 0,
                called_step=(
                    _step(float(predicted[index]) / scale, CALLED_STEPS) if called[index] else 0
                ),
                focus=index == focus,
            )
        )
    return pieces


def _step(share: float, steps: int) -> int:
    """A share of the maximum as a step from 1 to `steps`."""
    return int(min(max(np.ceil(share * steps), 1), steps))
