"""Train the built-in transcoders, one skip transcoder per MLP of the built-in model.

Run as ``python -m labeler.builtin.train_transcoders --model DIR --out DIR``.

All are trained from the same forward passes of the frozen model. Not with sparsify's trainer, for
two reasons: it minimises the squared error alone, and here the last part of training also minimises
what the transcoders do to the model's predictions (KL, as in short end-to-end fine-tunes); and it
starts the decoder from zeros, not from the data. The files are sparsify's.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from labeler.builtin.checkpoints import load_checkpoint, save_checkpoint
from labeler.builtin.corpus import StdlibDocument, is_heldout, stdlib_documents
from labeler.builtin.hooks import InOut, recorded_mlps, replaced_mlps
from labeler.builtin.scaled import ScaledTranscoder
from labeler.builtin.tokenizer import load_tokenizer
from labeler.builtin.train_model import rate
from labeler.builtin.transcoder import save_transcoder
from labeler.builtin.windows import Ids, encode_documents, train_batches


@dataclass(frozen=True)
class TranscoderTraining:
    """Everything that decides what the trained transcoders are, besides model and corpus."""

    steps: int = 3000
    """Optimizer steps, those with KL included."""

    kl_steps: int = 600
    """The last steps, which minimise FVU and KL together."""

    batch_size: int = 20
    """Windows per step."""

    ctx_len: int = 128
    """Tokens per window."""

    num_latents: int = 2048

    k: int = 32

    lr: float = 2e-3
    """Adam's learning rate, on the common scale of all layers."""

    warmup: int = 100
    """Steps of linear warm-up; afterwards the rate falls linearly to zero."""

    kl_weight: float = 1.0
    """Weight of the KL (nats per token) against the FVU of one layer. With 10, in a short run,
    the KL of a few windows drowned the FVU, and both ended up worse.
    """

    dead_after: int = 100_000
    """A latent that has not fired for this many positions is dead."""

    aux_weight: float = 1 / 32
    """Weight of the loss that revives dead latents (Gao et al. 2024)."""

    start_batches: int = 10
    """Batches from which scale and first weights are measured."""

    seed: int = 0


Report = Callable[[str], None]

Layers = Mapping[str, ScaledTranscoder]
"""The transcoder of every hookpoint."""


def train_transcoders(
    model: LlamaForCausalLM,
    documents: Sequence[np.ndarray[tuple[int], np.dtype[np.int32]]],
    config: TranscoderTraining,
    out: Path,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    save_every: int = 250,
    report: Report = lambda line: None,
) -> None:
    """Train one transcoder per MLP of `model` and write them to `out` in sparsify's layout.

    Parameters
    ----------
    model : LlamaForCausalLM
        Frozen here.
    documents : sequence of int32 [n_tokens]
        Held-in documents.
    config : TranscoderTraining
        What to train.
    out : Path
        Gets one folder per hookpoint (at every checkpoint anew) and the checkpoint.
    resume : bool
        Go on from the checkpoint in `out`, if there is one.
    stop_after : int, optional
        Interrupt the run (with a checkpoint) after this step.
    save_every : int
        Steps between checkpoints.
    report : callable
        Called with a line of progress now and then.
    """
    model.requires_grad_(False).eval()
    d_in = model.config.hidden_size
    hookpoints = mlp_hookpoints(model)
    layers = {name: ScaledTranscoder(d_in, config.num_latents, config.k) for name in hookpoints}
    module = nn.ModuleList(layers.values())
    optimizer = torch.optim.Adam(module.parameters(), lr=config.lr, fused=True)
    checkpoint = out / "checkpoint.pt"
    first = load_checkpoint(checkpoint, module, [optimizer], asdict(config)) if resume else 0
    batches_from = partial(train_batches, documents, config.ctx_len, config.batch_size)
    if first == 0:
        # another seed, so that training does not begin with what the start was measured on
        batches = batches_from(seed=config.seed + 1)
        _start(model, layers, [next(batches) for _ in range(config.start_batches)], config.seed)
    batches = batches_from(seed=config.seed, start_step=first)
    last = min(config.steps, stop_after or config.steps)
    started = time.monotonic()
    history: list[list[float]] = []
    for step in range(first, last):
        optimizer.param_groups[0]["lr"] = config.lr * rate(step, config.steps, config.warmup)
        history.append(_step(model, layers, optimizer, next(batches), config, step))
        done = step + 1
        if done % 50 == 0:
            _report_progress(layers, history[-50:], done, config, report)
            speed = len(history) * config.batch_size * config.ctx_len
            report(f"  {speed / (time.monotonic() - started):.0f} tokens/s")
        if done % save_every == 0 or done == last:
            save_checkpoint(checkpoint, module, [optimizer], done, asdict(config))
            for hookpoint, layer in layers.items():
                save_transcoder(layer.fold(), out / hookpoint)


def mlp_hookpoints(model: LlamaForCausalLM) -> tuple[str, ...]:
    """Hookpoint of every MLP of a model, in the order of the layers."""
    return tuple(f"layers.{layer}.mlp" for layer in range(model.config.num_hidden_layers))


@torch.no_grad()
def _clean(model: LlamaForCausalLM, ids: Tensor) -> tuple[Tensor, dict[str, InOut]]:
    """Logits of the untouched model, and what its MLPs read and wrote."""
    hookpoints = mlp_hookpoints(model)
    with recorded_mlps(model, hookpoints) as record, torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    return logits, record


def _start(model: LlamaForCausalLM, layers: Layers, batches: Sequence[Ids], seed: int) -> None:
    """Start every layer from what its MLP does on some batches."""
    records = [_clean(model, torch.from_numpy(batch))[1] for batch in batches]
    for hookpoint, layer in layers.items():
        x = torch.cat([record[hookpoint].x.flatten(0, 1) for record in records]).float()
        y = torch.cat([record[hookpoint].y.flatten(0, 1) for record in records]).float()
        layer.start_from(x, y, torch.Generator().manual_seed(seed))


def _step(
    model: LlamaForCausalLM,
    layers: Layers,
    optimizer: torch.optim.Optimizer,
    batch: Ids,
    config: TranscoderTraining,
    step: int,
) -> list[float]:
    """One optimizer step; returns the FVU of every layer, and the KL (nan without KL)."""
    ids = torch.from_numpy(batch)
    logits, record = _clean(model, ids)
    figures = []
    for hookpoint, layer in layers.items():
        x, y = (tensor.flatten(0, 1).float() for tensor in record[hookpoint])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, fvu = layer.loss(x, y, config.dead_after, config.aux_weight)
        # here and not on the sum, so that one layer's graph is in memory at a time
        loss.backward()  # type: ignore[no-untyped-call]
        figures.append(fvu)
    kl = float("nan")
    kl_step = step - (config.steps - config.kl_steps)
    if kl_step >= 0:
        divergence = _kl(model, layers, ids, logits)
        # phased in, because Adam's step sizes still belong to the gradients of the FVU alone
        weight = config.kl_weight * min(1.0, (kl_step + 1) / config.warmup)
        (weight * divergence).backward()  # type: ignore[no-untyped-call]
        kl = divergence.item()
    for layer in layers.values():
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return [*figures, kl]


def _kl(model: LlamaForCausalLM, layers: Layers, ids: Tensor, logits: Tensor) -> Tensor:
    """KL of the predictions with transcoders from those without, nats per token.

    Every fifth window has all transcoders in place, the others have one: both are what the
    transcoders are used for, and one forward pass serves all five.
    """
    group = torch.arange(len(ids)) % (len(layers) + 1)

    def in_place(rows: Tensor, layer: ScaledTranscoder, x: Tensor, y: Tensor) -> Tensor:
        mixed = y.float().clone()
        mixed[rows] = layer(x[rows].float())
        return mixed.to(y.dtype)

    replacements = {
        hookpoint: partial(in_place, (group == number) | (group == len(layers)), layer)
        for number, (hookpoint, layer) in enumerate(layers.items())
    }
    with (
        replaced_mlps(model, replacements),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        changed = model(input_ids=ids, use_cache=False).logits
    return nn.functional.kl_div(
        nn.functional.log_softmax(changed.flatten(0, 1).float(), dim=-1),
        nn.functional.log_softmax(logits.flatten(0, 1).float(), dim=-1),
        log_target=True,
        reduction="batchmean",
    )


def _report_progress(
    layers: Layers,
    history: Sequence[Sequence[float]],
    done: int,
    config: TranscoderTraining,
    report: Report,
) -> None:
    *fvu, kl = np.mean(history, axis=0)
    dead = [int((one.silent_for >= config.dead_after).sum()) for one in layers.values()]
    report(f"step {done}: FVU {np.round(fvu, 4).tolist()}, KL {kl:.4f}, dead {dead}")


app = typer.Typer(add_completion=False)


@app.command()
def main(
    model: Annotated[Path, typer.Option(help="Folder of the trained model.")],
    out: Annotated[Path, typer.Option(help="Folder of the transcoders.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = TranscoderTraining.steps,
    kl_steps: Annotated[int, typer.Option(help="Of these, with KL.")] = TranscoderTraining.kl_steps,
    batch_size: Annotated[int, typer.Option()] = TranscoderTraining.batch_size,
    num_latents: Annotated[int, typer.Option()] = TranscoderTraining.num_latents,
    lr: Annotated[float, typer.Option(help="Adam's rate.")] = TranscoderTraining.lr,
    kl_weight: Annotated[float, typer.Option(help="Of KL.")] = TranscoderTraining.kl_weight,
    seed: Annotated[int, typer.Option(help="Seed of start and order.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from a checkpoint in OUT.")] = False,
    stop_after: Annotated[int | None, typer.Option(help="Interrupt after this step.")] = None,
) -> None:
    """Train one skip transcoder per MLP on the standard library of this Python."""
    config = TranscoderTraining(
        steps=steps,
        kl_steps=kl_steps,
        batch_size=batch_size,
        num_latents=num_latents,
        lr=lr,
        kl_weight=kl_weight,
        seed=seed,
    )
    frozen = LlamaForCausalLM.from_pretrained(model).float()
    held_in: list[StdlibDocument] = [d for d in stdlib_documents() if not is_heldout(d.id)]
    ids = encode_documents(load_tokenizer(model), held_in)
    train_transcoders(
        frozen, ids, config, out, resume=resume, stop_after=stop_after, report=typer.echo
    )


if __name__ == "__main__":
    app()
