"""Vectors of tokens, learned from the fit split.

A token's vector comes from the tokens one and two places before and after it: their positive
pointwise mutual information, with the neighbours' probabilities smoothed by the power 0.75,
factored by a truncated SVD as ``U sqrt(S)`` (Levy, Goldberg and Dagan 2015, "Improving
distributional similarity with lessons learned from word embeddings"), then scaled to length 1.
"""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from labeler.tokens import Tokens

Floats = npt.NDArray[np.float32]

DIMS = 64
"""Length of a token's vector, in order of strength."""

_N_FEATURES = 4096  # the commonest tokens count as neighbours: it bounds memory, others add little
_OFFSETS = (-2, -1, 1, 2)
_POWER = 0.75
_SEED = 0

_known: WeakKeyDictionary[Tokens, Floats] = WeakKeyDictionary()


def token_vectors(fit: Tokens) -> Floats:
    """A vector of every token, float32 [n_vocab, DIMS]; zeros for one that has no neighbours.

    Computed once for each object `fit`: several function types use the same vectors.
    """
    if fit not in _known:
        _known[fit] = _learn(fit)
    return _known[fit]


def _learn(fit: Tokens) -> Floats:
    from scipy import sparse
    from sklearn.utils.extmath import randomized_svd

    count = np.bincount(fit.ids[fit.valid], minlength=fit.n_vocab)
    common = np.argsort(-count, kind="stable")[:_N_FEATURES]
    feature = np.full(fit.n_vocab, -1, dtype=np.int64)
    feature[common] = np.arange(len(common))
    blocks = [_information(fit, feature, offset) for offset in _OFFSETS]
    matrix = sparse.hstack(blocks, format="csr", dtype=np.float32)
    left, strength, _ = randomized_svd(
        matrix, min(DIMS, *matrix.shape), n_iter=4, random_state=_SEED
    )
    vectors = np.zeros((fit.n_vocab, DIMS), dtype=np.float32)
    vectors[:, : len(strength)] = left * np.sqrt(strength)
    return unit(vectors)


def _information(fit: Tokens, feature: npt.NDArray[np.int64], offset: int) -> Any:
    """Positive pointwise mutual information with a neighbour, csr [n_vocab, n_features]."""
    from scipy import sparse

    before, after = max(-offset, 0), max(offset, 0)
    width = max(fit.ctx_len - before - after, 0)
    here, there = slice(before, before + width), slice(after, after + width)
    neighbour = feature[fit.ids[:, there]]
    use = fit.valid[:, here] & fit.valid[:, there] & (neighbour >= 0)
    shape = (fit.n_vocab, int(feature.max()) + 1)
    pairs = sparse.csr_matrix(
        (np.ones(int(use.sum())), (fit.ids[:, here][use], neighbour[use])), shape=shape
    ).tocoo()
    token = np.bincount(pairs.row, weights=pairs.data, minlength=shape[0])
    share = np.bincount(pairs.col, weights=pairs.data, minlength=shape[1]) ** _POWER
    expected = token[pairs.row] * share[pairs.col] / share.sum()
    information = np.maximum(np.log(pairs.data / expected), 0)
    return sparse.csr_matrix((information, (pairs.row, pairs.col)), shape=shape)


def unit(vectors: npt.NDArray[np.floating[Any]]) -> Floats:
    """Each row divided by its length, float32 [n, n_dims]; rows of zeros stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = (vectors / np.where(length > 0, length, 1)).astype(np.float32)
    return scaled


def quantised(vectors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int16]:
    """Vectors as integers, their largest number as 32767, int16 [n, n_dims].

    What is computed from integers is the same on every machine.
    """
    largest = float(np.abs(vectors).max(initial=0.0))
    return np.round(vectors * (32767 / (largest or 1.0))).astype(np.int16)
