"""Texts written by a language model on this machine: the subject itself, or any other."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from jinja2 import TemplateError
from torch import Tensor

from labeler.errors import ModelError
from labeler.eval.generate import Kind, Reply, Request
from labeler.eval.generate_codec import TokenizerCodec
from labeler.eval.prompts import messages
from labeler.model import check_folder, quiet, weights_fingerprint
from labeler.store import hash_file, hash_json, looks_local

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH = 64
"""Texts written at once."""

_KINDS: tuple[Kind, ...] = get_args(Kind)

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Files that texts depend on besides the weights."""


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
        self.source, self.device = str(source), device
        folder = Path(self.source).expanduser()
        self.folder = folder if looks_local(self.source) else None
        self._weights = [] if self.folder is None else check_folder(self.folder)
        self._where = self.source if self.folder is None else str(folder)
        self.name = name or f"local:{folder.resolve().name if self.folder else self.source}"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights, the tokenizer and the wording of the prompts."""
        samples = [Request("", 0, 0, kind, "key", "about", "before", 1, 0) for kind in _KINDS]
        wording = [messages(sample) for sample in samples]
        if self.folder is None:
            config = self._loaded("AutoConfig")
            commit = getattr(config, "_commit_hash", None)
            return hash_json([self.source, commit, config.to_json_string(), wording])
        files = [self.folder / name for name in _TOKENIZER]
        hashes = [hash_file(path) for path in files if path.is_file()]
        return hash_json([weights_fingerprint(self.folder, self._weights), hashes, wording])

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
            if len(draft.prompt) + draft.n_new <= self._longest:
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
        tokenizer = self._codec.tokenizer
        if tokenizer.chat_template is not None:
            return _Draft(request, self._chat(messages(request)), request.max_tokens, {}, "")
        key = self._codec.encode(request.key).tolist() if request.kind == "contain" else []
        n_new = max(request.max_tokens, len(key))
        marks = [tokenizer.bos_token_id, tokenizer.eos_token_id, 0]
        mark = next(one for one in marks if one is not None)
        before = self._codec.encode(request.before).tolist()
        room = self._longest - n_new - 1
        prompt = [mark, *before[max(len(before) - room, 0) :]]
        forced = dict(enumerate(key, (n_new - len(key)) // 2))
        return _Draft(request, prompt, n_new, forced, request.before)

    def _chat(self, asked: list[dict[str, str]]) -> list[int]:
        def prompt(turns: list[dict[str, str]]) -> list[int]:
            tokenizer = self._codec.tokenizer
            made = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=True
            )
            return [int(one) for one in made["input_ids"]]

        try:
            return prompt(asked)
        except TemplateError:
            # Some templates know no system message.
            whole = "\n\n".join(turn["content"] for turn in asked)
            return prompt([{"role": "user", "content": whole}])

    def _write(self, drafts: "Sequence[_Draft]") -> Iterator[Reply]:
        from transformers import GenerationConfig

        model, ends = self._model_and_ends
        width = max(len(draft.prompt) for draft in drafts)
        ids = torch.zeros((len(drafts), width), dtype=torch.long, device=self.device)
        mask = torch.zeros_like(ids)
        for row, draft in enumerate(drafts):
            ids[row, width - len(draft.prompt) :] = torch.tensor(draft.prompt)
            mask[row, width - len(draft.prompt) :] = 1
        with quiet(), torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                generation_config=GenerationConfig(
                    max_new_tokens=max(draft.n_new for draft in drafts),
                    do_sample=False,  # `_Draw` makes the highest score a random draw
                ),
                logits_processor=[_Draw(self.name, drafts, width, ends)],
            )
        special = {*ends, *self._codec.tokenizer.all_special_ids}
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
        return TokenizerCodec(self._loaded("AutoTokenizer"))

    @cached_property
    def _model_and_ends(self) -> "tuple[PreTrainedModel, list[int]]":
        """The model, and the tokens that end a text."""
        from transformers import GenerationConfig

        model = self._loaded("AutoModelForCausalLM", dtype=torch.float32)
        ends = model.generation_config.eos_token_id
        if ends is None:
            ends = self._codec.tokenizer.eos_token_id
        # What `_write` leaves unset would come from here: penalties, and ends within a key.
        model.generation_config = GenerationConfig()
        as_list = ends if isinstance(ends, list) else [ends] if ends is not None else []
        return model.to(self.device).eval(), as_list

    @property
    def _longest(self) -> int:
        """Tokens of prompt and text together."""
        config = self._model_and_ends[0].config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or sys.maxsize)

    def _loaded(self, kind: str, **options: Any) -> Any:
        import transformers

        try:
            with quiet():
                return getattr(transformers, kind).from_pretrained(self._where, **options)
        except Exception as error:  # transformers raises a dozen unrelated types here
            first = next(iter(str(error).strip().splitlines()), "no reason given")
            raise ModelError(
                f"cannot load the generator {self.source}: {type(error).__name__}: {first}; it "
                "must be a causal language model that transformers knows"
            ) from error


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
