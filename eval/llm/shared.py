"""The windows that all explained latents share: what was answered there, and what the rules say."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from labeler.arrays import Bools, Floats, Longs
from labeler.errors import ExplanationError
from labeler.eval.claims import Claims
from labeler.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Shared:
    """What was simulated for `n` latents on `m` windows of `t` tokens that they share.

    Attributes
    ----------
    latents : int64 [n]
        Ascending.
    partner : int64 [n]
        Place of the latent whose explanation is the control; -1 where there is none.
    explained : bool [n]
        Which have an explanation.
    scale : float32 [n]
        Highest activation on the fit split.
    context, offset : int64 [m]
        Where the windows begin, by context of the held-out split.
    document : int64 [m]
        Whose windows they are.
    digits : float32 [n, m, t]
        What was answered, 0 to 10; NaN where it failed.
    act : float32 [n, m, t]
        True activations.
    """

    latents: Longs
    partner: Longs
    explained: Bools
    scale: Floats
    context: Longs
    offset: Longs
    document: Longs
    digits: Floats
    act: Floats

    @classmethod
    def read(cls, path: Path, heldout: Tokens, explained: set[int]) -> "Shared":
        """Read ``simulated/<hookpoint>.npz``.

        Parameters
        ----------
        path : Path
        heldout : Tokens
            The held-out split of the run.
        explained : set of int
            Latents with an explanation.

        Raises
        ------
        ExplanationError
            If the file is missing, damaged, or of other text.
        """
        names = ("latent", "partner", "scale", "context", "offset", "digits", "act")
        try:
            with np.load(path, allow_pickle=False) as stored:
                found = {name: stored[name] for name in names}
            _check(found, heldout)
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ExplanationError(
                f"{path}: cannot be read ({error}); run `labeler explain` again"
            ) from error
        latents = found["latent"].astype(np.int64)
        place = {latent: number for number, latent in enumerate(latents.tolist())}
        context = found["context"].astype(np.int64)
        return cls(
            latents,
            np.array([place.get(one, -1) for one in found["partner"].tolist()], dtype=np.int64),
            np.isin(latents, list(explained)),
            found["scale"].astype(np.float32),
            context,
            found["offset"].astype(np.int64),
            heldout.doc[context].astype(np.int64),
            found["digits"].astype(np.float32),
            found["act"].astype(np.float32),
        )

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return int(self.act.shape[2])

    @cached_property
    def failed(self) -> Bools:
        """Which answers failed, bool [n, m, t]."""
        found: Bools = np.isnan(self.digits)
        return found

    @cached_property
    def said(self) -> Floats:
        """Answers with 0 where they failed, float32 [n, m, t]."""
        found: Floats = np.nan_to_num(self.digits)
        return found

    def of_partner(self, values: Floats) -> Floats:
        """Rows [n, ...] of each latent's partner; 0 where there is none."""
        alone = self.partner < 0
        found: Floats = np.where(wide(alone, values), np.float32(0), values[self.partner])
        return found


def _check(found: Mapping[str, Any], heldout: Tokens) -> None:
    n, m = len(found["latent"]), len(found["context"])
    if found["act"].ndim != 3 or found["act"].shape[:2] != (n, m):
        raise ValueError(f"act has shape {found['act'].shape}, not [{n}, {m}, tokens]")
    wanted = {"partner": (n,), "scale": (n,), "offset": (m,), "digits": found["act"].shape}
    for name, shape in wanted.items():
        if found[name].shape != shape:
            raise ValueError(f"{name} has shape {found[name].shape}, not {shape}")
    context, last = found["context"], found["offset"] + found["act"].shape[2]
    if m and (context.min() < 0 or context.max() >= heldout.n_ctx or found["offset"].min() < 0):
        raise ValueError(f"windows lie outside the {heldout.n_ctx} held-out contexts")
    if (last > heldout.length[context]).any():
        raise ValueError("windows go beyond the end of their contexts")


@dataclass(frozen=True, eq=False)
class Rules:
    """What the rules of the latents say on the shared windows.

    Attributes
    ----------
    predicted : float32 [n, m, t]
        The mean on the fit split where there is no rule.
    threshold : float32 [n]
        Prediction from which a rule says that its latent fires; infinity where there is no rule.
    labeled : bool [n]
        Which have a rule.
    """

    predicted: Floats
    threshold: Floats
    labeled: Bools

    @classmethod
    def run(cls, claims: Claims, shared: Shared, heldout: Tokens) -> "Rules":
        """Run the rules of the latents over the contexts of the windows."""
        contexts, row = np.unique(shared.context, return_inverse=True)
        at = row[:, None] * heldout.ctx_len + shared.offset[:, None] + np.arange(shared.length)
        parts = [np.zeros((0, len(shared.latents)), dtype=np.float32)]
        parts += [said for _, said in claims.iterate(heldout.select(contexts))]
        predicted = np.concatenate(parts)[at]
        mine = shared.latents
        return cls(
            np.ascontiguousarray(predicted.transpose(2, 0, 1)),
            claims.threshold[mine],
            claims.labels.labeled[mine],
        )

    @classmethod
    def none(cls, shared: Shared, mean: Floats) -> "Rules":
        """Nobody has a rule: every latent at its mean on the fit split, float32 [n]."""
        n = len(shared.latents)
        predicted = np.broadcast_to(wide(mean, shared.act), shared.act.shape)
        return cls(predicted, np.full(n, np.inf, np.float32), np.zeros(n, dtype=bool))


def wide(values: Any, like: Floats) -> Any:
    """Values [n] as [n, 1, ...], to go with an array of the same first axis."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
