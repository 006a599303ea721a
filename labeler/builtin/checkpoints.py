"""Checkpoints of the two training programs: written whole or not at all."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from labeler.errors import RunError


def save_checkpoint(
    path: Path,
    module: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    step: int,
    config: Mapping[str, Any],
) -> None:
    """Write weights, optimizer states, the number of steps done and the settings to `path`."""
    state = {
        "module": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "config": dict(config),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def load_checkpoint(
    path: Path,
    module: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    config: Mapping[str, Any],
) -> int:
    """Load `path` into `module` and `optimizers`.

    Returns
    -------
    int
        Steps done; 0 where there is no checkpoint.

    Raises
    ------
    RunError
        If the checkpoint was made with other settings.
    """
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    differing = {
        name: (state["config"].get(name), value)
        for name, value in config.items()
        if state["config"].get(name) != value
    }
    if differing:
        raise RunError(
            f"{path} belongs to a run with other settings: {differing} (checkpoint, now); "
            "use the same settings, or another output folder"
        )
    module.load_state_dict(state["module"])
    for optimizer, optimizer_state in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(optimizer_state)
    step: int = state["step"]
    return step
