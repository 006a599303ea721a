"""Train the built-in language model: ``python -m labeler.builtin.train_model --out DIR``.

A byte-level BPE tokenizer, then a small Llama, on the held-in documents of the standard library.
Runs on a CPU; ``DIR/checkpoint.pt`` lets an interrupted run go on with ``--resume``.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from labeler.builtin.checkpoints import load_checkpoint, save_checkpoint
from labeler.builtin.corpus import StdlibDocument, is_heldout, stdlib_documents
from labeler.builtin.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from labeler.builtin.windows import END_OF_TEXT_ID, encode_documents, train_batches
from labeler.errors import OptionError


@dataclass(frozen=True)
class ModelTraining:
    """Everything that decides what the trained model is, besides the corpus."""

    steps: int = 3600
    """Optimizer steps."""

    batch_size: int = 16
    """Windows per step."""

    ctx_len: int = 256
    """Tokens per window, and the longest context the model can read."""

    vocab_size: int = 4096

    n_layers: int = 4

    d_model: int = 192

    n_heads: int = 4

    d_mlp: int = 512
    """Width of the SwiGLU MLP."""

    lr_matrix: float = 0.02
    """Muon's learning rate, for the matrices of the blocks."""

    lr_other: float = 4e-3
    """AdamW's learning rate, for embeddings, unembedding and norms."""

    weight_decay: float = 0.01

    warmup: int = 100
    """Steps of linear warm-up; afterwards the rate falls linearly to zero."""

    max_grad_norm: float = 1.0

    seed: int = 0


def train_model(
    documents: Sequence[StdlibDocument],
    config: ModelTraining,
    out: Path,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    save_every: int = 250,
    report: Callable[[str], None] = lambda line: None,
) -> LlamaForCausalLM:
    """Train tokenizer and model, and write them to `out` as an fp16 Hugging Face folder.

    Parameters
    ----------
    documents : sequence of StdlibDocument
        All documents; the held-out ones are not looked at.
    config : ModelTraining
        What to train.
    out : Path
        Folder of the model, made if absent. It also holds the checkpoint.
    resume : bool
        Go on from the checkpoint in `out`, if there is one.
    stop_after : int, optional
        Interrupt the run (with a checkpoint) after this step.
    save_every : int
        Steps between checkpoints.
    report : callable
        Called with a line of progress now and then.

    Returns
    -------
    LlamaForCausalLM
        The model as trained (fp32).
    """
    held_in = [document for document in documents if not is_heldout(document.id)]
    tokenizer = _make_tokenizer(held_in, config, out, resume=resume)
    ids = encode_documents(tokenizer, held_in)
    report(f"{len(held_in)} documents, {sum(map(len, ids))} tokens")

    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(llama_config(config))
    optimizers = make_optimizers(model, config)
    checkpoint = out / "checkpoint.pt"
    step = load_checkpoint(checkpoint, model, optimizers, asdict(config)) if resume else 0
    last = min(config.steps, stop_after or config.steps)
    _run(model, optimizers, ids, config, step, last, checkpoint, save_every, report)
    save_model(model, out)
    return model


def llama_config(config: ModelTraining) -> LlamaConfig:
    """The architecture of the built-in model."""
    return LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_heads,
        max_position_embeddings=config.ctx_len,
        tie_word_embeddings=False,
        bos_token_id=END_OF_TEXT_ID,
        eos_token_id=END_OF_TEXT_ID,
    )


def make_optimizers(model: LlamaForCausalLM, config: ModelTraining) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    if not hasattr(torch.optim, "Muon"):
        raise OptionError(f"training needs Muon, torch 2.9 or newer; this is {torch.__version__}")
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and ".layers." in name
        (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=config.lr_matrix, weight_decay=config.weight_decay),
        torch.optim.AdamW(
            others,
            lr=config.lr_other,
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
            fused=True,
        ),
    ]


def next_token_loss(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the next token in nats; `ids` is int64 [batch, ctx_len]."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def rate(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate at a step: linear warm-up, then linear decay to zero.

    Examples
    --------
    >>> [rate(step, 10, 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]
    """
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)


def save_model(model: LlamaForCausalLM, out: Path) -> None:
    """Write an fp16 copy of `model` to `out`."""
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.to(torch.float16).save_pretrained(out)
    config_file = out / "config.json"
    config = json.loads(config_file.read_text())
    config["dtype"] = config["torch_dtype"] = "float16"  # the second name: transformers < 4.56
    config["rope_theta"] = 10000.0  # idem
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _make_tokenizer(
    documents: Sequence[StdlibDocument], config: ModelTraining, out: Path, *, resume: bool
) -> Tokenizer:
    if resume and (out / "tokenizer.json").exists():
        return load_tokenizer(out)
    tokenizer = train_tokenizer((document.text for document in documents), config.vocab_size)
    save_tokenizer(tokenizer, out)
    return tokenizer


def _run(
    model: LlamaForCausalLM,
    optimizers: Sequence[torch.optim.Optimizer],
    documents: Sequence[npt.NDArray[np.int32]],
    config: ModelTraining,
    first: int,
    last: int,
    checkpoint: Path,
    save_every: int,
    report: Callable[[str], None],
) -> None:
    """Steps `first` to `last`."""
    batches = train_batches(
        documents, config.ctx_len, config.batch_size, seed=config.seed, start_step=first
    )
    base_rates = [config.lr_matrix, config.lr_other]
    started = time.monotonic()
    losses: list[float] = []
    for step in range(first, last):
        share = rate(step, config.steps, config.warmup)
        for optimizer, base_rate in zip(optimizers, base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = base_rate * share
        loss = next_token_loss(model, torch.from_numpy(next(batches)))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        done = step + 1
        if done % 50 == 0:
            seen = len(losses) * config.batch_size * config.ctx_len
            speed = seen / (time.monotonic() - started)
            report(f"step {done}: loss {np.mean(losses[-50:]):.3f}, {speed:.0f} tokens/s")
        if done % save_every == 0 or done == last:
            save_checkpoint(checkpoint, model, optimizers, done, asdict(config))


app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder of the model.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = ModelTraining.steps,
    batch_size: Annotated[int, typer.Option(help="Windows a step.")] = ModelTraining.batch_size,
    lr_matrix: Annotated[float, typer.Option(help="Muon's rate.")] = ModelTraining.lr_matrix,
    lr_other: Annotated[float, typer.Option(help="AdamW's rate.")] = ModelTraining.lr_other,
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = ModelTraining.seed,
    resume: Annotated[bool, typer.Option(help="Go on from a checkpoint in OUT.")] = False,
    stop_after: Annotated[int | None, typer.Option(help="Interrupt after this step.")] = None,
) -> None:
    """Train the built-in language model on the standard library of this Python."""
    config = ModelTraining(
        steps=steps, batch_size=batch_size, lr_matrix=lr_matrix, lr_other=lr_other, seed=seed
    )
    train_model(
        stdlib_documents(), config, out, resume=resume, stop_after=stop_after, report=typer.echo
    )


if __name__ == "__main__":
    app()
