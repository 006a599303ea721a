"""Read and replace the MLPs of a Hugging Face Llama while it runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn
from transformers import LlamaForCausalLM

Replacement = Callable[[Tensor, Tensor], Tensor]
"""From an MLP's input and output, both [batch, ctx_len, d_model], to the output to use."""


class InOut(NamedTuple):
    """Input and output of one MLP, float [batch, ctx_len, d_model]."""

    x: Tensor
    y: Tensor


@contextmanager
def replaced_mlps(
    model: LlamaForCausalLM, replacements: Mapping[str, Replacement]
) -> Iterator[None]:
    """While active, the MLPs at these hookpoints (``layers.N.mlp``) give what is computed here."""

    def hook_of(replacement: Replacement) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
        return lambda module, inputs, output: replacement(inputs[0], output)

    handles = [
        model.model.get_submodule(hookpoint).register_forward_hook(hook_of(replacement))
        for hookpoint, replacement in replacements.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded_mlps(
    model: LlamaForCausalLM, hookpoints: tuple[str, ...]
) -> Iterator[dict[str, InOut]]:
    """While active, the dictionary given holds the last input and output of each MLP."""
    record: dict[str, InOut] = {}

    def keep(hookpoint: str) -> Replacement:
        def replacement(x: Tensor, y: Tensor) -> Tensor:
            record[hookpoint] = InOut(x, y)
            return y

        return replacement

    with replaced_mlps(model, {hookpoint: keep(hookpoint) for hookpoint in hookpoints}):
        yield record
