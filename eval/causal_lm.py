"""A causal language model on this machine that writes: loaded when first needed."""

import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from labeler.errors import ModelError
from labeler.model import check_folder, quiet, weights_fingerprint
from labeler.store import hash_file, hash_json, looks_local

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Files that texts depend on besides the weights."""


class CausalLM:
    """A causal language model that transformers can load, and its tokenizer.

    Parameters
    ----------
    source : str or Path
        A folder in Hugging Face layout, or a hub name.
    called : str
        What messages call it: "the generator", "--llm-folder".
    device : str

    Raises
    ------
    ModelError
        If the folder is missing or incomplete, or a weight file truncated; later, if the model
        cannot be loaded.
    """

    def __init__(self, source: str | Path, *, called: str, device: str = "cpu") -> None:
        self.source, self.called, self.device = str(source), called, device
        folder = Path(self.source).expanduser()
        self.folder = folder if looks_local(self.source) else None
        self._weights = [] if self.folder is None else check_folder(self.folder)

    @property
    def name(self) -> str:
        """``local:<folder>``."""
        return f"local:{self.folder.resolve().name if self.folder else self.source}"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights and the tokenizer; of a hub name, of its commit."""
        if self.folder is None:
            config = self._loaded("AutoConfig")
            commit = getattr(config, "_commit_hash", None)
            return hash_json([self.source, commit, config.to_json_string()])
        files = [self.folder / name for name in _TOKENIZER]
        hashes = [hash_file(path) for path in files if path.is_file()]
        return hash_json([weights_fingerprint(self.folder, self._weights), hashes])

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self._loaded("AutoTokenizer")

    @cached_property
    def _network_and_ends(self) -> "tuple[PreTrainedModel, list[int]]":
        from transformers import GenerationConfig

        network = self._loaded("AutoModelForCausalLM", dtype=torch.float32)
        ends = network.generation_config.eos_token_id
        if ends is None:
            ends = self.tokenizer.eos_token_id
        # What callers leave unset would come from here: sampling, penalties, ends.
        network.generation_config = GenerationConfig()
        as_list = ends if isinstance(ends, list) else [ends] if ends is not None else []
        return network.to(self.device).eval(), as_list

    @property
    def network(self) -> "PreTrainedModel":
        """The model, in float32."""
        return self._network_and_ends[0]

    @property
    def ends(self) -> list[int]:
        """Tokens that end a text."""
        return self._network_and_ends[1]

    @property
    def longest(self) -> int:
        """Tokens of prompt and text together."""
        config = self.network.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or sys.maxsize)

    def chat(self, turns: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a chat that the model answers next; for tokenizers with a template."""
        try:
            return self._templated(list(turns))
        except TemplateError:
            # Some templates know no system message.
            whole = "\n\n".join(turn["content"] for turn in turns)
            return self._templated([{"role": "user", "content": whole}])

    def _templated(self, turns: list[dict[str, str]]) -> list[int]:
        made = self.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return [int(one) for one in made["input_ids"]]

    def padded(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Prompts as one batch that ends together: ids and mask, int64 [n, longest prompt]."""
        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros((len(prompts), width), dtype=torch.long, device=self.device)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return ids, mask

    def _loaded(self, kind: str, **options: Any) -> Any:
        import transformers

        try:
            with quiet():
                return getattr(transformers, kind).from_pretrained(
                    self.source if self.folder is None else str(self.folder), **options
                )
        except Exception as error:  # transformers raises a dozen unrelated types here
            first = next(iter(str(error).strip().splitlines()), "no reason given")
            raise ModelError(
                f"cannot load {self.called} {self.source}: {type(error).__name__}: {first}; it "
                "must be a causal language model that transformers knows"
            ) from error
