"""A topic learned from the documents themselves, where the metadata has none."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.letters import is_telling, n_letters
from labeler.functions.registry import register
from labeler.functions.text import quote
from labeler.functions.topic_model import TopicModel
from labeler.tokens import Tokens

MIN_DOCUMENTS = 64
"""Fewer documents have no topics in common that could be told."""

N_TOPICS = 32
"""Most topics; with few documents one for every 16."""

_N_NAMED = 3
_SEED = 0


@register
class LearnedTopic(TopicModel):
    """The topic, of 32 learned from the documents, inferred from the tokens so far.

    Learned by non-negative matrix factorisation (Lee and Seung 1999) of the documents' tf-idf over
    tokens with a letter; a document has the topic with the largest weight. From there on it is as
    `topic`. A topic's name is its three tokens of the largest weight (topics of one name are one).
    """

    name = "learned_topic"

    def topics_of_documents(self, fit: Tokens) -> Sequence[str]:
        """The topic with the largest weight in each document, by its tokens."""
        docs, row = np.unique(fit.doc, return_inverse=True)
        if len(docs) < MIN_DOCUMENTS:
            raise NotApplicableError(
                f"the fit split has {len(docs)} documents, learning topics takes {MIN_DOCUMENTS}"
            )
        frequency, tokens = _tf_idf(fit, row, len(docs))
        weight, part = _factors(frequency, min(N_TOPICS, len(docs) // 16, len(tokens)))
        names = _names(part, [fit.vocab[token] for token in tokens])
        out = [""] * len(fit.doc_ids)
        for number, doc in enumerate(docs):
            topic = int(weight[number].argmax())
            out[doc] = names[topic] if weight[number, topic] > 0 else ""
        return out


def _tf_idf(
    fit: Tokens, row: npt.NDArray[np.int64], n_docs: int
) -> tuple[Any, npt.NDArray[np.int64]]:
    """Rows of length 1, csr [n_docs, n_used], and the tokens with a letter in two documents."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfTransformer

    doc = np.broadcast_to(row[:, None], fit.ids.shape)
    counts = sparse.csr_matrix(
        (np.ones(fit.n_positions), (doc[fit.valid], fit.ids[fit.valid])),
        shape=(n_docs, fit.n_vocab),
    )
    in_docs = np.bincount(counts.indices, minlength=fit.n_vocab)
    used = np.flatnonzero(in_docs > 1)
    used = used[[n_letters(fit.vocab[token]) > 0 for token in used]]
    if not len(used):
        raise NotApplicableError("no two documents share a token with a letter")
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts[:, used]), used


def _factors(frequency: Any, n_topics: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Weights [n_docs, n_topics] and parts [n_topics, n_vocab], both at least 0."""
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    model = NMF(n_topics, init="nndsvda", random_state=_SEED, max_iter=100, tol=1e-3)
    with warnings.catch_warnings():
        # A topic need not be exact to name a document's.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit_transform(frequency), model.components_


def _names(part: npt.NDArray[np.float64], texts: Sequence[str]) -> list[str]:
    """The three heaviest tokens of each topic, those that start a word if it has any."""
    telling = part * np.array([is_telling(text) for text in texts])
    chosen = np.where(telling.any(axis=1)[:, None], telling, part)
    best = np.argsort(-chosen, axis=1, kind="stable")[:, :_N_NAMED]
    return [
        ", ".join(quote(texts[token]) for token in tokens if chosen[topic, token] > 0)
        for topic, tokens in enumerate(best)
    ]
