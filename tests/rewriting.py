"""Labels made up by a test in the shape of a `LabelSet`, and rewriting written out slowly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from labeler.keytree import KeyTree
from labeler.level import Nodes
from labeler.tokens import Tokens

Rows = dict[bytes, np.ndarray]


@dataclass
class Known:
    """A predictor that looks predictions up by the tokens of a context."""

    rows: Rows
    threshold: np.ndarray

    def predict(self, tokens: Tokens, nodes: Mapping[str, Nodes] | None = None) -> np.ndarray:
        return np.stack([self.rows[ids.tobytes()] for ids in tokens.ids])


@dataclass
class MadeUp:
    """Labels that predict what the test says under every budget.

    `predicted` is float32 [n_ctx, ctx_len, n_latents] for the contexts of `tokens`.
    """

    tokens: Tokens
    predicted: np.ndarray
    mean: np.ndarray
    threshold: float = 0.5
    labeled: Any = None
    mean_act: Any = None
    f1: Any = None
    shared: KeyTree = field(default_factory=lambda: KeyTree({}, {}))

    def __post_init__(self) -> None:
        n = self.n_latents
        self.mean = self.mean.astype(np.float32)
        self.labeled = np.ones(n, dtype=bool) if self.labeled is None else self.labeled
        f1 = np.zeros(n) if self.f1 is None else self.f1
        strength = np.ones(n) if self.mean_act is None else self.mean_act
        self.latents = pl.DataFrame(
            {"mean_act": strength, "f1_fit_100": f1, "f1_out_of_fold": f1[::-1]}
        )
        rows = {
            ids.tobytes(): row.astype(np.float32)
            for ids, row in zip(self.tokens.ids, self.predicted, strict=True)
        }
        limits = np.where(self.labeled, self.threshold, np.inf).astype(np.float32)
        self.made = Known(rows, limits)

    @property
    def tree(self) -> KeyTree:
        return self.shared

    @property
    def n_latents(self) -> int:
        return int(self.predicted.shape[-1])

    def predictor(self, budget: Any) -> Known:
        return self.made


class Slow:
    """The model as transformers has it, a context at a time without padding, modules replaced.

    `replace` maps a layer and a site ("mlp" or "") to a function of the module's input and output
    [t, d], which returns what takes the output's place.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import LlamaForCausalLM

        self.model = LlamaForCausalLM.from_pretrained(folder).eval()

    def losses(
        self,
        ids: np.ndarray,
        replace: Mapping[tuple[int, str], Callable[[torch.Tensor, torch.Tensor], torch.Tensor]],
    ) -> list[float]:
        """Nats of every next token of one context."""
        handles = []
        for (layer, site), function in replace.items():
            block = self.model.model.layers[layer]
            module = block.mlp if site == "mlp" else block

            def hook(module: Any, args: Any, out: Any, function: Any = function) -> Any:
                value = out[0] if isinstance(out, tuple) else out
                new = function(args[0][0], value[0])[None]
                return (new, *out[1:]) if isinstance(out, tuple) else new

            handles.append(module.register_forward_hook(hook))
        try:
            with torch.no_grad():
                logits = self.model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
        finally:
            for handle in handles:
                handle.remove()
        logs = logits.double().log_softmax(dim=-1)
        return [-float(logs[t, ids[t + 1]]) for t in range(len(ids) - 1)]

    def cross_entropy(self, tokens: Tokens, replace: Callable[[int], Any]) -> float:
        """Mean over all positions; `replace` says what is replaced in a context."""
        losses = []
        for context, (ids, length) in enumerate(zip(tokens.ids, tokens.length, strict=True)):
            losses += self.losses(ids[:length], replace(context))
        return float(np.mean(losses))


def slow_encode(
    x: np.ndarray, tensors: Mapping[str, torch.Tensor], k: int, sae: bool
) -> np.ndarray:
    """TopK activations of one input [d], written out."""
    weights = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    x = x - weights["b_dec"] if sae else x
    before = np.maximum(weights["encoder.weight"] @ x + weights["encoder.bias"], 0)
    out = np.zeros_like(before)
    top = np.argsort(-before)[:k]
    out[top] = before[top]
    return out


def slow_decode(acts: np.ndarray, x: np.ndarray, tensors: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Output of activations [n_latents] and the input [d]."""
    weights = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    out = weights["b_dec"] + acts @ weights["W_dec"]
    return out + weights["W_skip"] @ x if "W_skip" in weights else out
