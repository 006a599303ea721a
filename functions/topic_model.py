"""A topic of the document, inferred from the tokens so far: shared by all types of topic."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.contract import NO_KEY, FunctionType, Keys, State
from labeler.functions.fill import filled
from labeler.functions.source import export_source
from labeler.functions.text import one_line
from labeler.tokens import N_FOLDS, Tokens

UNITS_PER_NAT = 256
"""Log-probabilities are kept in 1/256 nats: sums of integers are the same on every machine."""

LEAD = 2 * UNITS_PER_NAT
"""How far the best topic must lead the second, in 1/256 nats, before it is named."""

MAX_TOPICS = 256
"""Topics with the most tokens are kept; further ones never win."""

_N_CONSIDERED, _N_WRITTEN = 64, 4
"""Tokens that `write` chooses from, and different ones that it puts in."""

_NEVER = -(1 << 29)
"""Prior of a topic without text in the folds counted, in units."""

Scores = npt.NDArray[np.int16]
Priors = npt.NDArray[np.int32]


def topic_keys(ids: npt.NDArray[np.integer], score: Scores, prior: Priors, lead: int) -> Keys:
    """Number of the topic that leads by `lead` units at each position, -1 = none.

    Parameters
    ----------
    ids : int [n_ctx, ctx_len]
    score : int16 [n_vocab, n_topics]
        Log-probability of each token in each topic, in units, less a number of the token.
    prior : int32 [n_topics]
        Log-probability of each topic before anything is read, in units.
    """
    out = np.full(ids.shape, -1, dtype=np.int64)
    at_once = 64  # contexts, to bound the memory
    for start in range(0, len(ids), at_once):
        some = slice(start, start + at_once)
        total = np.cumsum(score[ids[some]], axis=1, dtype=np.int32) + prior
        top = np.partition(total, -2, axis=2)[:, :, -2:]
        out[some] = np.where(top[:, :, 1] - top[:, :, 0] >= lead, total.argmax(axis=2), -1)
    return out


class TopicModel(FunctionType):
    """The topic that naive Bayes infers from the tokens of the context up to and including t.

    Counts come from the fit split, one topic per document; the key itself never reads where that
    came from, so it is defined on unseen text and is causal. No key until the best topic leads the
    second by two nats.
    """

    def __init__(self) -> None:
        self._score: Scores = np.zeros((0, 0), dtype=np.int16)
        self._prior: Priors = np.zeros(0, dtype=np.int32)
        self._names: tuple[str, ...] = ()
        self._topic_of_doc: npt.NDArray[np.int64] | None = None

    @abstractmethod
    def topics_of_documents(self, fit: Tokens) -> Sequence[str]:
        """Name of the topic of each document of `fit.doc_ids`; "" = none.

        Raises
        ------
        NotApplicableError
            If the documents have no topics.
        """

    def prepare(self, tokens: Tokens) -> None:
        """Count tokens per topic."""
        names = self.topics_of_documents(tokens)
        lengths = np.bincount(tokens.doc, weights=tokens.length, minlength=len(names))
        size: dict[str, float] = {}
        for name, length in zip(names, lengths, strict=True):
            if name and length:
                size[name] = size.get(name, 0.0) + float(length)
        self._names = tuple(sorted(sorted(size, key=lambda name: -size[name])[:MAX_TOPICS]))
        if len(self._names) < 2:
            raise NotApplicableError(
                f"the fit split has {len(self._names)} topic(s){self.at_level(tokens)}, at least "
                "two are needed to tell apart"
            )
        index = {name: number for number, name in enumerate(self._names)}
        self._topic_of_doc = np.array([index.get(name, -1) for name in names])
        self._score, self._prior = self._count(tokens, self._topic_of_doc)

    def at_level(self, tokens: Tokens) -> str:
        """Where the topics come from, for a message."""
        return ""

    def _count(self, tokens: Tokens, topic_of_doc: npt.NDArray[np.int64]) -> tuple[Scores, Priors]:
        """Scores and priors, a topic's tokens smoothed towards the corpus."""
        topic = np.broadcast_to(topic_of_doc[tokens.doc][:, None], tokens.ids.shape)
        use = tokens.valid & (topic >= 0)
        n_topics = len(self._names)
        flat = tokens.ids[use].astype(np.int64) * n_topics + topic[use]
        cells = np.bincount(flat, minlength=tokens.n_vocab * n_topics)
        count = cells.reshape(tokens.n_vocab, n_topics).astype(np.float64)
        size = count.sum(axis=0)
        corpus = (count.sum(axis=1) + 0.5) / (size.sum() + 0.5 * tokens.n_vocab)
        # A topic's own counts, smoothed by one pseudo-token per ten of the vocabulary.
        weight = tokens.n_vocab / 10
        chance = (count + weight * corpus[:, None]) / (size + weight)
        score = np.log(chance) - np.log(corpus)[:, None]
        share = np.maximum(size, 1) / max(size.sum(), 1)
        prior = np.where(size > 0, np.round(np.log(share) * UNITS_PER_NAT), _NEVER)
        return np.round(score * UNITS_PER_NAT).astype(np.int16), prior.astype(np.int32)

    def state(self) -> State:
        """Scores [n_vocab, n_topics], priors, names."""
        return {
            "score": self._score,
            "prior": self._prior,
            "names": np.array(self._names, dtype=np.str_),
        }

    def load_state(self, state: State) -> None:
        """Restore scores, priors and names."""
        self._score = state["score"].astype(np.int16)
        self._prior = state["prior"].astype(np.int32)
        self._names = tuple(str(name) for name in state["names"])

    def keys(self, tokens: Tokens) -> Keys:
        """Number of the leading topic at each position, or -1."""
        return topic_keys(tokens.ids, self._score, self._prior, LEAD)

    def fit_keys(self, fit: Tokens) -> Keys:
        """Keys by the tokens that the other folds have of each topic.

        The topics of the documents are those that `prepare` found, so an instance restored from its
        state cannot tell them, and gives the same as `keys`.
        """
        if self._topic_of_doc is None:
            return self.keys(fit)
        out = np.full(fit.ids.shape, NO_KEY, dtype=np.int64)
        for fold in range(N_FOLDS):
            mine = fit.fold == fold
            if mine.any():
                score, prior = self._count(fit.select(~mine), self._topic_of_doc)
                out[mine] = topic_keys(fit.ids[mine], score, prior, LEAD)
        return out

    def render(self, key: int) -> str:
        """The topic's name."""
        return f"topic {one_line(self._names[key])}"

    def source(self) -> str | None:
        """Python for exported labels."""
        return export_source(
            self.name, topic_keys, {"score": self._score, "prior": self._prior, "lead": LEAD}
        )

    def write(self, ids: npt.NDArray[np.int32], pos: int, key: int) -> npt.NDArray[np.int32] | None:
        """Put tokens that speak for the topic up to `pos`, as few as do it."""
        own = np.argsort(-self._score[:, key], kind="stable")[:_N_CONSIDERED]
        # Of its own tokens those by which it leads the next best topic most.
        score = self._score[own].astype(np.int64)
        lead = score[:, key] - np.delete(score, key, axis=1).max(axis=1)
        best = own[np.argsort(-lead, kind="stable")[:_N_WRITTEN]]
        for edited in filled(ids, pos, best):
            if topic_keys(edited[None], self._score, self._prior, LEAD)[0, pos] == key:
                return edited
        return None
