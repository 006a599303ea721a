"""A topic of the document, inferred from the tokens so far: shared by topic and subtopic."""

import base64
import zlib
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.contract import NO_KEY, FunctionType, Keys, State
from labeler.functions.text import one_line
from labeler.tokens import Tokens

UNITS_PER_NAT = 256
"""Log-probabilities are kept in 1/256 nats: sums of integers are the same on every machine."""

LEAD = 2 * UNITS_PER_NAT
"""How far the best topic must lead the second, in 1/256 nats, before it is named."""

MAX_TOPICS = 256
"""Topics with the most tokens are kept; further ones never win."""

_CONTEXTS_AT_ONCE = 64


class TopicModel(FunctionType):
    """The topic that naive Bayes infers from the tokens of the context up to and including t.

    Counts come from the fit split, one topic per document at one level of its metadata; the key
    itself never reads the metadata, so it is defined on unseen text and is causal. No key until
    the best topic leads the second by two nats.
    """

    level: ClassVar[int]

    def __init__(self) -> None:
        self._score: npt.NDArray[np.int16] = np.zeros((0, 0), dtype=np.int16)  # [n_vocab, n_topics]
        self._prior: npt.NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._names: tuple[str, ...] = ()

    def prepare(self, tokens: Tokens) -> None:
        """Count tokens per topic, add-half smoothing towards the corpus."""
        if len(tokens.topic_levels) <= self.level:
            raise NotApplicableError(
                f"the corpus has {len(tokens.topic_levels)} topic level(s), level "
                f"{self.level + 1} is needed; name metadata columns with --topic-column, or give "
                "a folder whose sub-folders are topics"
            )
        names = [topics[self.level] for topics in tokens.topics]
        lengths = np.bincount(tokens.doc, weights=tokens.length, minlength=len(names))
        size: dict[str, float] = {}
        for name, length in zip(names, lengths, strict=True):
            if name and length:
                size[name] = size.get(name, 0.0) + float(length)
        self._names = tuple(sorted(sorted(size, key=lambda name: -size[name])[:MAX_TOPICS]))
        if len(self._names) < 2:
            raise NotApplicableError(
                f"the fit split has {len(self._names)} topic(s) at level "
                f"{tokens.topic_levels[self.level]!r}, at least two are needed to tell apart"
            )
        index = {name: number for number, name in enumerate(self._names)}
        topic_of_doc = np.array([index.get(name, -1) for name in names])
        topic = np.broadcast_to(topic_of_doc[tokens.doc][:, None], tokens.ids.shape)
        use = tokens.valid & (topic >= 0)
        n_topics = len(self._names)
        flat = tokens.ids[use].astype(np.int64) * n_topics + topic[use]
        count = np.bincount(flat, minlength=tokens.n_vocab * n_topics)
        count = count.reshape(tokens.n_vocab, n_topics).astype(np.float64)
        corpus = (count.sum(axis=1) + 0.5) / (count.sum() + 0.5 * tokens.n_vocab)
        # A topic's own counts, smoothed by one pseudo-token per ten of the vocabulary.
        weight = tokens.n_vocab / 10
        chance = (count + weight * corpus[:, None]) / (count.sum(axis=0) + weight)
        score = np.log(chance) - np.log(corpus)[:, None]
        self._score = np.round(score * UNITS_PER_NAT).astype(np.int16)
        share = np.array([size[name] for name in self._names])
        self._prior = np.round(np.log(share / share.sum()) * UNITS_PER_NAT).astype(np.int32)

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
        out = np.full(tokens.ids.shape, NO_KEY, dtype=np.int64)
        for start in range(0, tokens.n_ctx, _CONTEXTS_AT_ONCE):
            ids = tokens.ids[start : start + _CONTEXTS_AT_ONCE]
            total = np.cumsum(self._score[ids], axis=1, dtype=np.int32) + self._prior
            top = np.partition(total, -2, axis=2)[:, :, -2:]
            lead = top[:, :, 1] - top[:, :, 0] >= LEAD
            out[start : start + _CONTEXTS_AT_ONCE] = np.where(lead, total.argmax(axis=2), NO_KEY)
        return out

    def render(self, key: int) -> str:
        """The topic's name."""
        return f"topic {one_line(self._names[key])}"

    def source(self) -> str | None:
        """Python for exported labels, the scores packed in text."""
        packed = base64.b64encode(zlib.compress(self._score.astype("<i2").tobytes(), 9)).decode()
        return (
            f"def keys_{self.name}(ids):\n"
            f'    """Topic by naive Bayes, leading by {LEAD} units; -1 = none."""\n'
            "    import base64, zlib\n"
            f'    packed = "{packed}"\n'
            '    score = np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype="<i2")\n'
            f"    score = score.reshape({self._score.shape[0]}, {self._score.shape[1]})\n"
            f"    prior = np.array({self._prior.tolist()}, dtype=np.int32)\n"
            "    total = np.cumsum(score[ids], axis=1, dtype=np.int32) + prior\n"
            "    top = np.partition(total, -2, axis=2)[:, :, -2:]\n"
            f"    lead = top[:, :, 1] - top[:, :, 0] >= {LEAD}\n"
            "    return np.where(lead, total.argmax(axis=2), -1).astype(np.int64)\n"
        )
