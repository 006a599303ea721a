"""Measure the shipped subject on held-out documents: ``python -m labeler.builtin.evaluate``.

Everything is loaded back from the fp16 files and run in float32. Cross-entropies are in nats per
token, all positions weighted equally.
"""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from labeler.builtin import HOOKPOINTS, model_path, transcoders_path
from labeler.builtin.corpus import is_heldout, stdlib_documents
from labeler.builtin.hooks import Replacement, recorded_mlps, replaced_mlps
from labeler.builtin.tokenizer import load_tokenizer
from labeler.builtin.transcoder import SkipTranscoder, load_transcoder
from labeler.builtin.windows import Ids, document_windows, encode_documents

CTX_LEN = 128
"""Tokens per window."""

_BATCH = 32


class Split(NamedTuple):
    """Windows of both splits, int64 [n, CTX_LEN]."""

    held_in: Ids
    heldout: Ids


def stdlib_split(model: Path, n_held_in: int, n_heldout: int) -> Split:
    """Windows evenly spread over each split's documents (all of them where there are fewer)."""
    documents = stdlib_documents()
    ids = encode_documents(load_tokenizer(model), documents)
    heldout = [is_heldout(document.id) for document in documents]

    def windows(wanted: bool, n: int) -> Ids:
        chosen = [one for one, held in zip(ids, heldout, strict=True) if held == wanted]
        every = document_windows(chosen, CTX_LEN)
        spread = np.linspace(0, len(every), min(n, len(every)), endpoint=False, dtype=np.int64)
        return np.take(every, spread, axis=0)

    return Split(windows(False, n_held_in), windows(True, n_heldout))


@torch.no_grad()
def cross_entropy(
    model: LlamaForCausalLM, windows: Ids, replacements: Mapping[str, Replacement]
) -> float:
    """Mean cross-entropy of the next token with some MLPs replaced, in nats."""
    total, n = 0.0, 0
    with replaced_mlps(model, replacements):
        for ids in torch.split(torch.from_numpy(windows), _BATCH):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
            targets = ids[:, 1:].flatten()
            total += nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            n += len(targets)
    return total / n


class LayerSums(NamedTuple):
    """What one pass over windows says about one transcoder.

    Attributes
    ----------
    fvu : float
        Fraction of variance unexplained.
    mean_acts : float [num_latents]
        Mean activation of every latent, silent positions included.
    firings : int64 [num_latents]
        Positions at which each latent fires.
    """

    fvu: float
    mean_acts: Tensor
    firings: Tensor


@torch.no_grad()
def layer_sums(
    model: LlamaForCausalLM, transcoders: Mapping[str, SkipTranscoder], windows: Ids
) -> dict[str, LayerSums]:
    """FVU, mean activations and firing counts of every transcoder over `windows`."""
    sums = {hookpoint: _Sums(transcoder) for hookpoint, transcoder in transcoders.items()}
    with recorded_mlps(model, tuple(transcoders)) as record:
        for ids in torch.split(torch.from_numpy(windows), _BATCH):
            model(input_ids=ids, use_cache=False)
            for hookpoint, one in sums.items():
                one.add(record[hookpoint].x.flatten(0, 1), record[hookpoint].y.flatten(0, 1))
    return {hookpoint: one.finish() for hookpoint, one in sums.items()}


class _Sums:
    def __init__(self, transcoder: SkipTranscoder) -> None:
        self.transcoder = transcoder
        self.n = 0
        self.error = self.squares = 0.0
        self.y = torch.zeros(transcoder.d_in, dtype=torch.float64)
        self.acts = torch.zeros(transcoder.num_latents)
        self.firings = torch.zeros(transcoder.num_latents, dtype=torch.int64)

    def add(self, x: Tensor, y: Tensor) -> None:
        encoded = self.transcoder.encode(x)
        predicted = self.transcoder.decode(encoded.acts, encoded.indices) + self.transcoder.skip(x)
        self.n += len(x)
        self.error += (y - predicted).double().square().sum().item()
        self.squares += y.double().square().sum().item()
        self.y += y.double().sum(0)
        indices, acts = encoded.indices.flatten(), encoded.acts.flatten()
        self.acts.index_add_(0, indices, acts)
        self.firings.index_add_(0, indices, (acts > 0).long())

    def finish(self) -> LayerSums:
        variance = self.squares - (self.y.square().sum() / self.n).item()
        return LayerSums(self.error / variance, self.acts / self.n, self.firings)


def variants(transcoder: SkipTranscoder, mean_acts: Tensor) -> dict[str, Replacement]:
    """The ways to replace an MLP: coder, zero, mean (of the latents), skip (path and bias)."""

    def with_constant(constant: Tensor) -> Replacement:
        return lambda x, y: transcoder.skip(x) + constant

    return {
        "coder": lambda x, y: transcoder(x.flatten(0, 1)).view_as(y),
        "zero": lambda x, y: torch.zeros_like(y),
        "mean": with_constant(mean_acts @ transcoder.W_dec.detach()),
        "skip": with_constant(torch.zeros(transcoder.d_in)),
    }


def evaluate(model_folder: Path, transcoder_folder: Path, split: Split) -> dict[str, Any]:
    """All figures of a subject.

    Returns
    -------
    dict
        ``base``: CE of the model; ``all_coders`` and ``all_means``: CE with every MLP replaced;
        ``layers``: per hookpoint ``fvu``, ``dead`` (latents silent on the held-in windows),
        ``firings_per_position``, and the CE of each of the `variants`.
    """
    model = LlamaForCausalLM.from_pretrained(model_folder).float().eval()
    coders = {hookpoint: load_transcoder(transcoder_folder / hookpoint) for hookpoint in HOOKPOINTS}
    held_in = layer_sums(model, coders, split.held_in)
    heldout = layer_sums(model, coders, split.heldout)
    ways = {name: variants(coders[name], held_in[name].mean_acts) for name in HOOKPOINTS}

    n_heldout = split.heldout.size

    def entropy(replacements: Mapping[str, Replacement]) -> float:
        return round(cross_entropy(model, split.heldout, replacements), 4)

    layers = {
        name: {
            "fvu": round(heldout[name].fvu, 4),
            "dead": int((held_in[name].firings == 0).sum()),
            "firings_per_position": round(heldout[name].firings.sum().item() / n_heldout, 2),
            **{way: entropy({name: replacement}) for way, replacement in ways[name].items()},
        }
        for name in HOOKPOINTS
    }
    return {
        "python": platform.python_version(),
        "ctx_len": CTX_LEN,
        "heldout_tokens": n_heldout,
        "held_in_tokens": split.held_in.size,
        "base": entropy({}),
        "all_coders": entropy({name: ways[name]["coder"] for name in HOOKPOINTS}),
        "all_means": entropy({name: ways[name]["mean"] for name in HOOKPOINTS}),
        "layers": layers,
    }


def markdown_table(figures: Mapping[str, Any]) -> str:
    """The figures per layer as a Markdown table."""
    columns = ("fvu", "coder", "zero", "mean", "skip", "dead")
    rows = ["layer", *columns], ["---"] * (len(columns) + 1)
    layers = ([name, *(layer[c] for c in columns)] for name, layer in figures["layers"].items())
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (*rows, *layers))


app = typer.Typer(add_completion=False)


@app.command()
def main(
    model: Annotated[Path | None, typer.Option(help="Default: the built-in model.")] = None,
    transcoders: Annotated[Path | None, typer.Option(help="Default: the built-in ones.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON file to write; default: the built-in figures.")
    ] = None,
    heldout_windows: Annotated[int, typer.Option(help="Held-out windows to use.")] = 512,
    held_in_windows: Annotated[int, typer.Option(help="Held-in windows to use.")] = 1568,
) -> None:
    """Write the figures of the built-in subject, measured on held-out documents."""
    model = model or model_path()
    split = stdlib_split(model, held_in_windows, heldout_windows)
    figures = evaluate(model, transcoders or transcoders_path(), split)
    out = out or Path(__file__).parent / "figures.json"
    out.write_text(json.dumps(figures, indent=2) + "\n")
    typer.echo(f"base {figures['base']}, all transcoders {figures['all_coders']}")
    typer.echo(markdown_table(figures))


if __name__ == "__main__":
    app()
