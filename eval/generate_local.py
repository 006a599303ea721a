"""Texts written by a language model on this machine: the subject itself, or any other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from labeler.errors import ModelError
from labeler.eval.causal_lm import CausalLM
from labeler.eval.generate import Kind, Reply, Request
from labeler.eval.generate_codec import TokenizerCodec
from labeler.eval.prompts import messages
from labeler.model import quiet
from labeler.store import hash_json

BATCH = 64
"""Texts written at once."""

_KINDS: tuple[Kind, ...] = get_args(Kind)


class LocalGenerator:
    """A causal language model that transformers can load, sampled at temperature 1.

    One with a chat template is asked for a text. A base model continues the request's beginning;
    where the text must contain a key, the model writes some tokens, then gets the key, then writes
    on.

    Parameters
    ----------
    source : str or Path
        A folder in Hugging Face layout, or a hub name.
    name : str, optional
        ``local:<folder>`` where None.
    device : str

    Raises
    ------
    ModelError
        If the folder is missing or incomplete, or a weight file truncated.
    """

    def __init__(self, source: str | Path, *, name: str | None = None, device: str = "cpu") -> None:
        self._lm = CausalLM(source, called="the generator", device=device)
        self.name = name or self._lm.name

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights, the tokenizer and the wording of the prompts."""
        samples = [Request("", 0, 0, kind, "key", "about", "before", 1, 0) for kind in _KINDS]
        wording = [messages(sample) for sample in samples]
        return hash_json([self._lm.fingerprint, wording])

    def generate(
        self,
        requests: Sequence[Request],
        advance: Callable[[float], None] = lambda n: None,
    ) -> Iterator[tuple[Request, Reply]]:
        """Yield a reply to every request, those with prompts of similar length together.

        A text depends on its request alone, up to rounding: its random numbers are its own, and a
        sum rounded otherwise in another batch changes the choice of about one token in a million.

        Raises
        ------
        ModelError
            If the model cannot be loaded, or gives values that are not finite.
        """
        fitting = []
        for request in requests:
            draft = self._draft(request)
            if len(draft.prompt) + draft.n_new <= self._lm.longest:
                fitting.append(draft)
            else:
                advance(1)
                yield request, Reply(None, "too long")
        # Rows of a batch take as long as the longest.
        fitting.sort(key=lambda draft: (draft.n_new, len(draft.prompt)))
        for start in range(0, len(fitting), BATCH):
            batch = fitting[start : start + BATCH]
            for draft, reply in zip(batch, self._write(batch), strict=True):
                advance(1)
                yield draft.request, reply

    def _draft(self, request: Request) -> "_Draft":
        tokenizer = self._lm.tokenizer
        if tokenizer.chat_template is not None:
            return _Draft(request, self._lm.chat(messages(request)), request.max_tokens, {}, "")
        key = self._codec.encode(request.key).tolist() if request.kind == "contain" else []
        n_new = max(request.max_tokens, len(key))
        marks = [tokenizer.bos_token_id, tokenizer.eos_token_id, 0]
        mark = next(one for one in marks if one is not None)
        before = self._codec.encode(request.before).tolist()
        room = self._lm.longest - n_new - 1
        prompt = [mark, *before[max(len(before) - room, 0) :]]
        forced = dict(enumerate(key, (n_new - len(key)) // 2))
        return _Draft(request, prompt, n_new, forced, request.before)

    def _write(self, drafts: "Sequence[_Draft]") -> Iterator[Reply]:
        from transformers import GenerationConfig

        ends = self._lm.ends
        ids, mask = self._lm.padded([draft.prompt for draft in drafts])
        width = ids.shape[1]
        with quiet(), torch.inference_mode():
            out = self._lm.network.generate(
                ids,
                attention_mask=mask,
                generation_config=GenerationConfig(
                    max_new_tokens=max(draft.n_new for draft in drafts),
                    do_sample=False,  # `_Draw` makes the highest score a random draw
                ),
                logits_processor=[_Draw(self.name, drafts, width, ends)],
            )
        special = {*ends, *self._lm.tokenizer.all_special_ids}
        for draft, new in zip(drafts, out[:, width:].tolist(), strict=True):
            new = new[: draft.n_new]
            free = [at for at in range(len(new)) if at not in draft.forced]
            end = next((at for at in free if new[at] in ends), len(new))
            unwanted = {at for at in free if new[at] in special or at > end}
            text = self._codec.decode([one for at, one in enumerate(new) if at not in unwanted])
            if text.strip() or draft.forced:
                yield Reply(draft.given + text, n_before=len(draft.given))
            else:
                yield Reply(None, "empty")

    @cached_property
    def _codec(self) -> TokenizerCodec:
        return TokenizerCodec(self._lm.tokenizer)


@dataclass(frozen=True, eq=False)
class _Draft:
    """What the model is given for a text.

    Attributes
    ----------
    request : Request
    prompt : list of int
        Token ids.
    n_new : int
        Tokens to write.
    forced : dict of int to int
        The token of some steps: those of the key.
    given : str
        Text of the prompt that the reply begins with.
    """

    request: Request
    prompt: list[int]
    n_new: int
    forced: dict[int, int]
    given: str


class _Draw:
    """Turns scores into draws: the highest is a sample of the softmax (Gumbel-max trick).

    Each text has random numbers of its own, which no other text of its batch moves.
    """

    def __init__(self, name: str, drafts: Sequence[_Draft], width: int, ends: list[int]) -> None:
        self.name, self.drafts, self.width, self.ends = name, drafts, width, ends
        self.rngs = [np.random.default_rng(int(draft.request.digest, 16)) for draft in drafts]

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        step, size = ids.shape[1] - self.width, scores.shape[1]
        if bool(scores.isnan().any()):
            raise ModelError(
                f"generator {self.name} gives values that are not finite; check its weights"
            )
        waits = np.stack([rng.standard_exponential(size, dtype=np.float32) for rng in self.rngs])
        drawn = scores.float() - torch.from_numpy(waits).to(scores.device).log()
        for row, draft in enumerate(self.drafts):
            if step in draft.forced:
                drawn[row] = -torch.inf
                drawn[row, draft.forced[step]] = 0
            elif step < max(draft.forced, default=-1):
                drawn[row, self.ends] = -torch.inf  # not before the key is written
        return drawn
