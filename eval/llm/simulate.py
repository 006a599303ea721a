"""Activations that a language model predicts from an explanation (Bills et al. 2023, simulation).

The model says a number for each token instead of a distribution over numbers: chat endpoints give
no probabilities of prompts.
"""

from collections.abc import Callable, Sequence

import numpy as np

from labeler.arrays import Floats
from labeler.eval.chat import Answer
from labeler.eval.llm.ask import Answers
from labeler.eval.llm.parse import read_activations
from labeler.eval.llm.prompts import simulate_question
from labeler.tokens import Tokens


class Simulator:
    """Predicts activations from explanations, for any text.

    Parameters
    ----------
    answers : Answers
        Who is asked, and what has been answered.
    window : int
        Tokens asked for at once. Of longer contexts, each piece is shown by itself.
    advance : callable
        Told the pieces done.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        window: int = 64,
        advance: Callable[[float], None] = lambda n: None,
    ) -> None:
        self.answers, self.window, self.advance = answers, window, advance

    @property
    def name(self) -> str:
        """Name of the asker."""
        return self.answers.asker.name

    def predict(self, text: str, tokens: Tokens) -> Floats:
        """How strong a latent is by its explanation, float32 [n_ctx, ctx_len] from 0 to 10.

        NaN where the answer failed: count it, and take it as 0. 0 on padding.

        Raises
        ------
        EndpointError, ModelError
            What the asker raises; answers that came before are kept.
        """
        pieces = [
            (context, slice(begin, min(begin + self.window, length)))
            for context, length in enumerate(tokens.length.tolist())
            for begin in range(0, length, self.window)
        ]
        shown = [
            [tokens.vocab[one] for one in tokens.ids[context, span].tolist()]
            for context, span in pieces
        ]
        questions = [simulate_question(text, piece) for piece in shown]
        out = np.zeros(tokens.ids.shape, dtype=np.float32)
        found = self.answers.to(questions, self.advance)
        for (context, span), answer in zip(pieces, found, strict=True):
            out[context, span] = simulated(answer, span.stop - span.start)
        return out


def simulated(answer: Answer | None, n: int) -> Floats:
    """Predictions for `n` tokens from an answer, float32 [n]; NaN where there is none."""
    if answer is None or answer.text is None:
        return np.full(n, np.nan, dtype=np.float32)
    return read_activations(answer.text, n)


def stacked(answers: Sequence[Answer | None], n: int) -> Floats:
    """Predictions from several answers, float32 [n_answers, n]."""
    return np.array([simulated(one, n) for one in answers], dtype=np.float32).reshape(-1, n)
