"""The unigram table of every latent: what the token alone says, the baseline of all labels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from labeler.arrays import Floats
from labeler.labels import LabelSet
from labeler.level import Nodes
from labeler.predict import Table
from labeler.shards import Firings
from labeler.tokens import Tokens

_SHRINKAGE = 1.0
"""Positions that a latent's mean counts for, where no unigram type was fitted."""


@dataclass(frozen=True, eq=False)
class UnigramTable:
    """Shrunk mean activation of every latent after each token, with or without a label.

        prediction = (S + lam * mean) / (n + lam)

    with S the sum of the latent's activations at the token and n the token's positions, both of
    the fit split, and lam the shrinkage of the run's unigram type.

    Attributes
    ----------
    mean : float32 [n_latents]
        Mean activation on the fit split.
    table : Table
        By token id.
    """

    mean: Floats
    table: Table

    @classmethod
    def make(cls, labels: LabelSet, fit: Tokens, firings: Iterable[Firings]) -> "UnigramTable":
        """Add up the firings of the fit split, whose contexts come first in the cache."""
        token = fit.ids.ravel()
        n = np.bincount(fit.ids[fit.valid], minlength=fit.n_vocab)
        shape = (fit.n_vocab, labels.n_latents)
        total = sparse.csr_matrix(shape, dtype=np.float64)
        for found in firings:
            cells = (found.act.astype(np.float64), (token[found.position], found.latent))
            total = total + sparse.coo_matrix(cells, shape=shape).tocsr()
        stored = labels.manifest["shrinkage"].get("unigram", {"mean": _SHRINKAGE})
        lam = float(stored["mean"])
        total.data /= np.repeat(n + lam, np.diff(total.indptr))
        scale = (lam / (n + lam)).astype(np.float32)
        return cls(labels.mean, Table.from_csr(total, scale))

    def predict(self, tokens: Tokens, nodes: Mapping[str, Nodes] | None = None) -> Floats:
        """Activations, float32 [n_ctx, ctx_len, n_latents]; `nodes` are not needed."""
        out = np.empty((tokens.ids.size, len(self.mean)), dtype=np.float32)
        out[:] = self.mean
        self.table.add_to(out, tokens.ids.ravel())
        return out.reshape(*tokens.ids.shape, -1)
