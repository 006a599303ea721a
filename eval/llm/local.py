"""A causal language model on this machine that answers questions."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from labeler.errors import ModelError
from labeler.eval.causal_lm import CausalLM
from labeler.eval.chat import Answer
from labeler.eval.endpoint import Usage
from labeler.eval.llm.ask import Question
from labeler.model import quiet
from labeler.store import hash_json

BATCH_TOKENS = 16_384
"""Tokens of questions and answers, padding included, that are worked on at once."""


class LocalAsker:
    """A causal language model that transformers can load, asked greedily: no answer is drawn.

    One with a chat template gets a chat. A base model gets the question as text, and ``Answer:``
    to go on from.

    Parameters
    ----------
    folder : str or Path
        In Hugging Face layout.
    device : str

    Attributes
    ----------
    usage : Usage
        Tokens so far.

    Raises
    ------
    ModelError
        If the folder is missing or incomplete, or a weight file truncated.
    """

    def __init__(self, folder: str | Path, *, device: str = "cpu") -> None:
        # Absolute: a folder that is not there is no hub name.
        path = Path(folder).expanduser().absolute()
        self._lm = CausalLM(path, called="--llm-folder", device=device)
        self.usage = Usage()

    @property
    def name(self) -> str:
        """``local:<folder>``."""
        return self._lm.name

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights and the tokenizer."""
        return hash_json(["greedy", self._lm.fingerprint])

    def count(self, question: Question) -> int:
        """Tokens of a question."""
        return len(self._prompt(question))

    def ask(
        self,
        questions: Sequence[Question],
        advance: Callable[[float], None] = lambda n: None,
    ) -> Iterator[tuple[Question, Answer]]:
        """Yield the answer to each question, those of similar length together.

        A question and its answer that are longer than the model's context are a failure, "too
        long".

        Raises
        ------
        ModelError
            If the model cannot be loaded, or gives values that are not finite.
        """
        fitting = []
        for question in questions:
            prompt = self._prompt(question)
            if len(prompt) + question.max_tokens <= self._lm.longest:
                fitting.append((question, prompt))
            else:
                self.usage.add((0, 0))
                advance(1)
                reason = (
                    f"{len(prompt)} + {question.max_tokens} tokens, room for {self._lm.longest}"
                )
                yield question, Answer(None, "too long", reason)
        # Rows of a batch take as long as the longest.
        fitting.sort(key=lambda pair: (pair[0].max_tokens, len(pair[1])))
        for batch in _batches(fitting):
            for (question, prompt), answer in zip(batch, self._answer(batch), strict=True):
                self.usage.add(answer.tokens or (len(prompt), 0))
                advance(1)
                yield question, answer

    def _prompt(self, question: Question) -> list[int]:
        tokenizer = self._lm.tokenizer
        if tokenizer.chat_template is not None:
            return self._lm.chat(question.messages)
        plain = "\n\n".join([*(turn["content"] for turn in question.messages), "Answer:"])
        return [int(one) for one in tokenizer(plain, verbose=False)["input_ids"]]

    def _answer(self, batch: Sequence[tuple[Question, list[int]]]) -> Iterator[Answer]:
        from transformers import GenerationConfig

        ends = self._lm.ends
        ids, mask = self._lm.padded([prompt for _, prompt in batch])
        config = GenerationConfig(
            max_new_tokens=max(question.max_tokens for question, _ in batch),
            do_sample=False,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
        )
        with quiet(), torch.inference_mode():
            out = self._lm.network.generate(
                ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=[self._check_finite],
            )
        for (question, prompt), new in zip(batch, out[:, ids.shape[1] :].tolist(), strict=True):
            new = new[: question.max_tokens]
            end = next((at for at, one in enumerate(new) if one in ends), len(new))
            text = str(self._lm.tokenizer.decode(new[:end], skip_special_tokens=True))
            counted = (len(prompt), min(end + 1, len(new)))
            if text.strip():
                yield Answer(text, tokens=counted)
            else:
                yield Answer(None, "empty", tokens=counted)

    def _check_finite(self, ids: Tensor, scores: Tensor) -> Tensor:
        if bool(scores.isnan().any()):
            raise ModelError(
                f"model {self._lm.source} gives values that are not finite; check its weights"
            )
        return scores


def _batches(
    fitting: Sequence[tuple[Question, list[int]]],
) -> Iterator[list[tuple[Question, list[int]]]]:
    """Consecutive ones that together stay below `BATCH_TOKENS`, one at least."""
    batch: list[tuple[Question, list[int]]] = []
    widest = 0
    for question, prompt in fitting:
        widest = max(widest, len(prompt) + question.max_tokens)
        if batch and (len(batch) + 1) * widest > BATCH_TOKENS:
            yield batch
            batch, widest = [], len(prompt) + question.max_tokens
        batch.append((question, prompt))
    if batch:
        yield batch
