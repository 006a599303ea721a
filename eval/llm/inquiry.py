"""What a language model is asked about the latents of one hookpoint, in order.

    examples -> explain -> texts -> detect, fuzz, simulate -> answers by window

A latent whose explanation failed is asked nothing more: all its answers are failures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from labeler.arrays import Doubles, Longs
from labeler.eval.chat import Answer
from labeler.eval.llm.ask import Answers, Question
from labeler.eval.llm.parse import read_choices, read_explanation
from labeler.eval.llm.prompts import (
    detect_question,
    explain_question,
    fuzz_question,
    mark,
    simulate_question,
)
from labeler.eval.llm.scores import Said
from labeler.eval.llm.windows import HeldoutWindows, Windows, texts_at
from labeler.tokens import Tokens

PER_QUESTION = 5
"""Windows of detection or fuzzing in a question (delphi: num_examples_per_scorer_prompt)."""

Texts = Sequence[str | None]
"""Explanation of each latent; None where it failed."""


@dataclass(frozen=True)
class Outcome:
    """What came of the question for an explanation.

    Attributes
    ----------
    latent : int
    text : str or None
        The explanation.
    failure : str or None
        Why there is none: "no text" where the latent fires in no window of the fit split,
        "no explanation" where the answer has none, or as in `labeler.eval.chat.Answer`.
    reason : str
        The failure at more length: the beginning of the answer, or the endpoint's words.
    """

    latent: int
    text: str | None
    failure: str | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Batch:
    """One question about several windows.

    Attributes
    ----------
    rows : int64 [n]
        Of `HeldoutWindows.detection`, in the order of the question.
    question : Question or None
        None where there is no explanation to ask about.
    """

    rows: Longs
    question: Question | None


@dataclass(frozen=True, eq=False)
class Inquiry:
    """The latents of a hookpoint, and the text that a language model is shown of them.

    Attributes
    ----------
    hookpoint : str
    latents : int64 [n]
    count : int64 [n]
        Firings on the fit split.
    highest : float64 [n]
        Highest activation there.
    fit : Tokens
    examples : Windows
        Of `fit`, to explain from.
    heldout : Tokens
    tested : HeldoutWindows
        Windows of `heldout`, to score on.
    window : int
        Tokens of a window.
    seed : int
    """

    hookpoint: str
    latents: Longs
    count: Longs
    highest: Doubles
    fit: Tokens
    examples: Windows
    heldout: Tokens
    tested: HeldoutWindows
    window: int
    seed: int

    def explain(self) -> list[Question | None]:
        """Ask what each latent responds to; None for one without a window to show."""
        shown, found = self.examples, list[Question | None]()
        for number, highest in enumerate(self.highest.tolist()):
            rows = np.flatnonzero(shown.column == number)
            windows = [
                (texts_at(self.fit, start, self.window), act)
                for start, act in zip(shown.start[rows].tolist(), shown.act[rows], strict=True)
            ]
            found.append(explain_question(windows, highest) if windows else None)
        return found

    def outcomes(self, answers: Sequence[Answer | None]) -> list[Outcome]:
        """Explanations and failures from the answers to `explain`."""
        return [
            outcome_of(latent, answer)
            for latent, answer in zip(self.latents.tolist(), answers, strict=True)
        ]

    def partners(self, texts: Texts) -> Longs:
        """Whose explanation is each latent's control, by place, int64 [n]; -1 where none is left.

        The explained latent nearest in rank by firing rate whose explanation reads otherwise; of
        two as near the more frequent one.
        """
        n = len(texts)
        rng = np.random.default_rng(self.seed)
        order = np.lexsort((rng.random(n), self.count))
        explained = [one for one in order.tolist() if texts[one] is not None]
        place = {one: at for at, one in enumerate(order.tolist())}
        partner = np.full(n, -1, dtype=np.int64)
        for one, text in enumerate(texts):
            others = [other for other in explained if other != one and texts[other] != text]
            near = [(abs(place[o] - place[one]), place[o] < place[one], o) for o in others]
            partner[one] = min(near)[2] if near else -1
        return partner

    def classify(self, texts: Texts, *, fuzz: bool) -> list[Batch]:
        """Ask about all windows of detection, or of fuzzing, a few of a latent at a time."""
        tested, batches = self.tested.detection, []
        for number, text in enumerate(texts):
            mine = np.flatnonzero(tested.column == number)
            for begin in range(0, len(mine), PER_QUESTION):
                rows = mine[begin : begin + PER_QUESTION]
                question = None
                if text is not None:
                    shown = [self._shown(row, fuzz=fuzz) for row in rows.tolist()]
                    question = (fuzz_question if fuzz else detect_question)(text, shown)
                batches.append(Batch(rows, question))
        return batches

    def said(self, batches: Sequence[Batch], answers: Sequence[Answer | None]) -> Said:
        """Yes or no to each window; no where an answer cannot be read."""
        yes = np.zeros(len(self.tested.detection), dtype=bool)
        failed = np.ones_like(yes)
        for batch, answer in zip(batches, answers, strict=True):
            if answer is None or answer.text is None:
                continue
            choices = read_choices(answer.text, len(batch.rows))
            if choices is not None:
                yes[batch.rows], failed[batch.rows] = choices, False
        return Said(yes, failed)

    def simulate_top(self, texts: Texts) -> list[Question | None]:
        """Ask for activations in the windows of `HeldoutWindows.top`."""
        top = self.tested.top
        return [
            self._simulate(texts[column], start)
            for column, start in zip(top.column.tolist(), top.start.tolist(), strict=True)
        ]

    def simulate_shared(self, texts: Texts) -> list[Question | None]:
        """Ask for activations in the windows that all latents share, latent by latent."""
        shared = self.tested.shared.tolist()
        return [self._simulate(text, start) for text in texts for start in shared]

    def _shown(self, row: int, *, fuzz: bool) -> str:
        tokens = texts_at(self.heldout, int(self.tested.detection.start[row]), self.window)
        return mark(tokens, self.tested.marks[row]) if fuzz else "".join(tokens)

    def _simulate(self, text: str | None, start: int) -> Question | None:
        if text is None:
            return None
        return simulate_question(text, texts_at(self.heldout, start, self.window))


def ask_some(
    answers: Answers,
    questions: Sequence[Question | None],
    advance: Callable[[float], None] = lambda n: None,
) -> list[Answer | None]:
    """Answers in the order of the questions, None to None."""
    found = iter(answers.to([one for one in questions if one is not None], advance))
    return [None if one is None else next(found) for one in questions]


def outcome_of(latent: int, answer: Answer | None) -> Outcome:
    """The explanation of a latent in an answer, or why there is none."""
    if answer is None:
        reason = "it fires in no whole window of the fit split"
        return Outcome(latent, None, "no text", reason)
    if answer.text is None:
        return Outcome(latent, None, answer.failure, answer.reason)
    text = read_explanation(answer.text)
    if text is None:
        return Outcome(latent, None, "no explanation", answer.text[:500])
    return Outcome(latent, text)
