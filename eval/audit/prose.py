"""Scorers of prose: what cannot be read as a claim is put to one of these, if one is given.

A scorer says how well a text fits contexts, or predicts activations from it. It never sees what
fires: the driver (`labeler.eval.audit.judge`) compares its scores with the firings.
"""

from collections.abc import Sequence
from typing import Protocol

from labeler.arrays import Floats
from labeler.tokens import Tokens


class ContextScorer(Protocol):
    """Says how well texts fit contexts: sentence embeddings.

    Attributes
    ----------
    name : str
        What the column `method` says: ``embedding``.
    """

    name: str

    def scores(self, texts: Sequence[str], contexts: Sequence[str]) -> Floats:
        """How well each text fits each context, float32 [n_texts, n_contexts].

        Higher fits better; only the order of a row counts. Called for each explanation with its
        controls, mostly with texts and contexts that were shown before: keep what they cost.
        """
        ...


class TokenScorer(Protocol):
    """Predicts activations from a text: a language model that simulates the latent.

    Attributes
    ----------
    name : str
        What the column `method` says: ``simulator``.
    """

    name: str

    def predict(self, text: str, tokens: Tokens) -> Floats:
        """Predicted activations, float32 [n_ctx, ctx_len]; NaN where it failed."""
        ...
