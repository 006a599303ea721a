"""The built-in subject: a small language model of Python code, its transcoders and its corpus.

Importing this package is cheap: nothing here imports torch.
"""

from pathlib import Path

HOOKPOINTS = tuple(f"layers.{layer}.mlp" for layer in range(4))
"""Hookpoints of the built-in subject, in the order of the layers."""


def model_path() -> Path:
    """Folder of the built-in language model (a Hugging Face folder, fp16)."""
    return Path(__file__).parent / "model"


def transcoders_path() -> Path:
    """Folder of the built-in skip transcoders, one ``layers.N.mlp`` folder per layer."""
    return Path(__file__).parent / "transcoders"
