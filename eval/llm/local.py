"""A causal language model on this machine that answers questions."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from labeler.errors import ModelError
from labeler.eval.chat import Answer
from labeler.eval.endpoint import Usage
from labeler.eval.llm.ask import Question
from labeler.model import check_folder, quiet, weights_fingerprint
from labeler.store import hash_file, hash_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = 16_384
"""Tokens of questions and answers, padding included, that are worked on at once."""

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Files that answers depend on besides the weights."""


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
        self.folder, self.device = Path(folder).expanduser(), device
        self._weights = check_folder(self.folder)
        self.usage = Usage()

    @property
    def name(self) -> str:
        """``local:<folder>``."""
        return f"local:{self.folder.resolve().name}"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights and the tokenizer."""
        files = [self.folder / name for name in _TOKENIZER]
        hashes = [hash_file(path) for path in files if path.is_file()]
        return hash_json(["greedy", weights_fingerprint(self.folder, self._weights), hashes])

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
            if len(prompt) + question.max_tokens <= self._longest:
                fitting.append((question, prompt))
            else:
                self.usage.add((0, 0))
                advance(1)
                reason = f"{len(prompt)} + {question.max_tokens} tokens, room for {self._longest}"
                yield question, Answer(None, "too long", reason)
        # Rows of a batch take as long as the longest.
        fitting.sort(key=lambda pair: (pair[0].max_tokens, len(pair[1])))
        for batch in _batches(fitting):
            for (question, prompt), answer in zip(batch, self._answer(batch), strict=True):
                self.usage.add(answer.tokens or (len(prompt), 0))
                advance(1)
                yield question, answer

    def _prompt(self, question: Question) -> list[int]:
        if self._tokenizer.chat_template is None:
            plain = "\n\n".join([*(turn["content"] for turn in question.messages), "Answer:"])
            return [int(one) for one in self._tokenizer(plain, verbose=False)["input_ids"]]
        try:
            return self._chat(question.messages)
        except TemplateError:
            # Some templates know no system message.
            whole = "\n\n".join(turn["content"] for turn in question.messages)
            return self._chat([{"role": "user", "content": whole}])

    def _chat(self, turns: list[dict[str, str]]) -> list[int]:
        made = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return [int(one) for one in made["input_ids"]]

    def _answer(self, batch: Sequence[tuple[Question, list[int]]]) -> Iterator[Answer]:
        from transformers import GenerationConfig

        model, ends = self._model_and_ends
        width = max(len(prompt) for _, prompt in batch)
        ids = torch.zeros((len(batch), width), dtype=torch.long, device=self.device)
        mask = torch.zeros_like(ids)
        for row, (_, prompt) in enumerate(batch):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        config = GenerationConfig(
            max_new_tokens=max(question.max_tokens for question, _ in batch),
            do_sample=False,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
        )
        with quiet(), torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=[self._check_finite],
            )
        for (question, prompt), new in zip(batch, out[:, width:].tolist(), strict=True):
            new = new[: question.max_tokens]
            end = next((at for at, one in enumerate(new) if one in ends), len(new))
            text = str(self._tokenizer.decode(new[:end], skip_special_tokens=True))
            counted = (len(prompt), min(end + 1, len(new)))
            if text.strip():
                yield Answer(text, tokens=counted)
            else:
                yield Answer(None, "empty", tokens=counted)

    def _check_finite(self, ids: Tensor, scores: Tensor) -> Tensor:
        if bool(scores.isnan().any()):
            raise ModelError(
                f"model {self.folder} gives values that are not finite; check its weights"
            )
        return scores

    @cached_property
    def _tokenizer(self) -> Any:
        return self._loaded("AutoTokenizer")

    @cached_property
    def _model_and_ends(self) -> "tuple[PreTrainedModel, list[int]]":
        """The model, and the tokens that end an answer."""
        from transformers import GenerationConfig

        model = self._loaded("AutoModelForCausalLM", dtype=torch.float32)
        ends = model.generation_config.eos_token_id
        if ends is None:
            ends = self._tokenizer.eos_token_id
        # What `_answer` leaves unset would come from here: sampling, penalties.
        model.generation_config = GenerationConfig()
        as_list = ends if isinstance(ends, list) else [ends] if ends is not None else []
        return model.to(self.device).eval(), as_list

    @property
    def _longest(self) -> int:
        """Tokens of question and answer together."""
        config = self._model_and_ends[0].config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or sys.maxsize)

    def _loaded(self, kind: str, **options: Any) -> Any:
        import transformers

        try:
            with quiet():
                return getattr(transformers, kind).from_pretrained(self.folder, **options)
        except Exception as error:  # transformers raises a dozen unrelated types here
            first = next(iter(str(error).strip().splitlines()), "no reason given")
            raise ModelError(
                f"cannot load --llm-folder {self.folder}: {type(error).__name__}: {first}; it "
                "must be a causal language model that transformers knows"
            ) from error


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
