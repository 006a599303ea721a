"""Directions from a file as a coder: probes, steering vectors, principal components.

`labeler.coders.directions_file` reads the file.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from labeler.coders.activations import Firing, above_zero, in_slices
from labeler.coders.directions_file import Arrays, read_directions
from labeler.errors import CoderError, ModelError
from labeler.hookpoints import Hookpoint, parse_hookpoint
from labeler.model import SubjectModel
from labeler.store import hash_file, hash_json

_DEPENDENT = 1e-5
"""Directions this near to a combination of others add nothing to the subspace; float32 has 1e-7."""


class DirectionCoder:
    """Directions of a place in the model as latents.

    With u = x . direction + bias, the activation is u where u > 0 and u > threshold, else 0. The
    decoder is the pseudo-inverse: it sets the part of x in the span of the directions to the point
    whose u are the activations, a silent direction to u = 0. The skip path is the rest of x,
    orthogonal to every direction. It is linear and no activation depends on it, so that a rewritten
    layer has along the directions only what labels predict. Where all u are above 0 and their
    thresholds, the reconstruction is exact.
    """

    def __init__(
        self,
        hookpoint: Hookpoint,
        directions: Tensor,
        bias: Tensor,
        threshold: Tensor,
        *,
        fingerprint: str,
        device: str = "cpu",
    ) -> None:
        self.hookpoint = hookpoint
        self.fingerprint = fingerprint
        self.num_latents, self.d_in = directions.shape
        self.d_out = self.d_in
        length = directions.double().norm(dim=1, keepdim=True)
        inverse = torch.linalg.pinv(directions.double() / length, rtol=_DEPENDENT).T / length
        self.W_enc = directions.to(device)
        self.b_enc = bias.to(device)
        self.threshold = threshold.clamp(min=0).to(device)
        self.W_dec = inverse.float().to(device)
        self.b_dec = -(bias.double() @ inverse).float().to(device)

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Tensor:
        """Activations float32 [n, num_latents] (0 = silent) of inputs [n, d]."""
        pre = linear(x, self.W_enc, self.b_enc)
        return torch.where(pre > self.threshold, pre, 0.0)

    @torch.inference_mode()
    def firings(self, x: Tensor) -> Firing:
        """Row int64 [m], latent int64 [m] and activation float32 [m] (> 0) of every firing.

        Sorted by row, then latent. Made in slices, so that memory does not grow with `num_latents`.
        """
        return in_slices(x, self.num_latents, lambda some: above_zero(self.encode(some)))

    @torch.inference_mode()
    def decode(self, acts: Tensor) -> Tensor:
        """Output [n, d] of activations [n, num_latents], in the span of the directions."""
        return torch.addmm(self.b_dec, acts, self.W_dec)

    @torch.inference_mode()
    def skip(self, x: Tensor) -> Tensor:
        """The part of inputs [n, d] that is orthogonal to all directions, [n, d]."""
        return torch.addmm(x, linear(x, self.W_enc), self.W_dec, alpha=-1)

    def output(self, acts: Tensor, x: Tensor) -> Tensor:
        """What stands for the sublayer, [n, d], of activations and inputs [n, d]."""
        return self.decode(acts) + self.skip(x)


def load_directions(
    path: Path, model: SubjectModel, hookpoints: Sequence[str] | None
) -> DirectionCoder:
    """Read a file of directions, checked against the model.

    Parameters
    ----------
    path : Path
    model : SubjectModel
    hookpoints : sequence of str or None
        At most one: where the directions are, in any spelling, if the file does not say.

    Raises
    ------
    CoderError
        If the file is damaged, holds anything but numbers of the right shapes, has values that are
        not finite or directions of length 0, or it is not known where they belong.
    """
    arrays, said = read_directions(path)
    hookpoint = _hookpoint(path, said, hookpoints, model)
    try:
        width = model.width(hookpoint.hook_in)
    except ModelError as error:
        raise CoderError(f"{path} is for {hookpoint.name}: {error}") from error
    directions, bias, threshold = _checked(path, arrays, hookpoint, width)
    return DirectionCoder(
        hookpoint,
        directions,
        bias,
        threshold,
        fingerprint=hash_json([hash_file(path), hookpoint.name]),
        device=str(model.device),
    )


def _hookpoint(
    path: Path, said: str | None, asked: Sequence[str] | None, model: SubjectModel
) -> Hookpoint:
    if asked is not None and len(asked) != 1:
        raise CoderError(
            f"{path} holds the directions of one place, but {len(asked)} hookpoints are asked for; "
            "name one --hookpoint"
        )
    places = [
        parse_hookpoint(text, transcode=False)
        for text in (said, *(asked or ()))
        if text is not None
    ]
    if not places:
        raise CoderError(
            f"{path} does not say where its directions belong; name one --hookpoint, such as "
            "layers.3"
        )
    if len(set(places)) > 1:
        raise CoderError(
            f"{path} says it is for {places[0].name}, but --hookpoint is {places[1].name}; leave "
            "--hookpoint out"
        )
    if places[0].layer >= model.n_layers:
        raise CoderError(
            f"{path} is for {places[0].name}, but {model.name} has layers 0 to "
            f"{model.n_layers - 1}; are they the directions of another model?"
        )
    return places[0]


def _checked(
    path: Path, arrays: Arrays, hookpoint: Hookpoint, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Directions [n, d], bias [n] and threshold [n], or what is wrong with them."""
    if "directions" not in arrays:
        raise CoderError(
            f"{path} has no array named directions; save it as directions [n, {width}]"
        )
    found = arrays["directions"]
    if found.ndim != 2 or found.shape[1] != width or not len(found):
        raise CoderError(
            f"{path}: directions has shape {found.shape}, expected [n, {width}], one direction a "
            f"row, the width of {hookpoint.name}"
        )
    for name, array in arrays.items():
        if name != "directions" and array.shape != (len(found),):
            raise CoderError(
                f"{path}: {name} has shape {array.shape}, expected one number for each of the "
                f"{len(found)} directions"
            )
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise CoderError(
                f"{path}: {name} has values that are not finite in float32, first in row {row}; "
                "remove or repair them"
            )
    empty = np.flatnonzero(~found.any(axis=1))
    if len(empty):
        raise CoderError(
            f"{path}: direction {empty[0]} is zero and points nowhere ({len(empty)} such rows); "
            "remove it"
        )
    nothing = np.zeros(len(found), np.float32)
    directions, bias, threshold = (
        torch.from_numpy(np.ascontiguousarray(arrays.get(name, nothing)))
        for name in ("directions", "bias", "threshold")
    )
    return directions, bias, threshold
