"""Coders that need no trained dictionary: MLP neurons, the residual stream's own axes, directions.

``neurons`` or ``neurons:K`` reads the hidden activations of every MLP, ``residual`` or
``residual:K`` the residual stream after every block; K is how many axes of each position count,
the strongest. A file of directions is read by `labeler.coders.directions`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from labeler.coders.activations import Firing, in_slices, of_chosen
from labeler.coders.coder import Coder
from labeler.coders.directions import load_directions
from labeler.coders.directions_file import holds_directions
from labeler.errors import CoderError, ModelError
from labeler.hookpoints import Hookpoint, parse_hookpoint
from labeler.model import SubjectModel
from labeler.store import hash_json

STRONGEST = 64
"""Axes that count at each position where no K is given."""

_NAME = re.compile(r"(neurons|residual)(?::(.*))?")
_SITE = {"neurons": "layers.{}.mlp.hidden", "residual": "layers.{}"}


@dataclass(frozen=True)
class BasisConfig:
    """What a `BasisCoder` does.

    Attributes
    ----------
    kind : str
        ``neurons`` or ``residual``.
    d : int
        Width of the place it reads.
    k : int
        Axes that count at each position, the strongest by absolute value.
    """

    kind: str
    d: int
    k: int


class BasisCoder:
    """The axes of a place as latents: j is axis j where it is positive, d + j where it is negative.

    Of each position the k axes that are largest in absolute value fire, with that as activation.
    There is no skip path: whatever else the place holds is left out of the reconstruction, so that
    a rewritten layer has nothing in it that no label predicted, and what k axes lose is plain from
    the coder's cross-entropy beside the model's. With k = d the reconstruction is exact.
    """

    def __init__(self, config: BasisConfig, hookpoint: Hookpoint, *, device: str = "cpu") -> None:
        self.config = config
        self.hookpoint = hookpoint
        self.device = device
        self.d_in = self.d_out = config.d
        self.num_latents = 2 * config.d
        self.fingerprint = hash_json([config.kind, config.d, config.k, hookpoint.name])

    @property
    def W_dec(self) -> Tensor:  # noqa: N802
        """Plus and minus the unit vectors, float32 [2 d, d]; made anew, since it may be large."""
        unit = torch.eye(self.d_in, device=self.device)
        return torch.cat([unit, -unit])

    @torch.inference_mode()
    def encode_sparse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Activations float32 [n, k] and latents int64 [n, k]; activations may be 0 (silent)."""
        axes = x.abs().topk(self.config.k, dim=-1, sorted=False).indices
        values = x.gather(1, axes)
        return values.abs(), axes + self.d_in * (values < 0)

    def encode(self, x: Tensor) -> Tensor:
        """Activations float32 [n, 2 d] (0 = silent) of inputs [n, d]."""
        acts, latents = self.encode_sparse(x)
        return acts.new_zeros(x.shape[0], self.num_latents).scatter_(1, latents, acts)

    @torch.inference_mode()
    def firings(self, x: Tensor) -> Firing:
        """Row int64 [m], latent int64 [m] and activation float32 [m] (> 0) of every firing.

        Sorted by row, then latent. Made in slices, so that memory does not grow with the width.
        """
        return in_slices(x, self.d_in, lambda some: of_chosen(*self.encode_sparse(some)))

    @torch.inference_mode()
    def decode(self, acts: Tensor) -> Tensor:
        """Output [n, d] of activations [n, 2 d]: each axis' positive part less its negative one."""
        return acts[:, : self.d_in] - acts[:, self.d_in :]

    @torch.inference_mode()
    def skip(self, x: Tensor) -> Tensor:
        """No skip path: a zero that broadcasts."""
        return x.new_zeros(())

    def output(self, acts: Tensor, x: Tensor) -> Tensor:
        """What stands for the sublayer, [n, d], of activations and inputs [n, d]."""
        return self.decode(acts) + self.skip(x)


def is_basis(source: str) -> bool:
    """Whether a coder's name is one of this module: ``neurons``, ``residual:K``, or directions.

    Unpickles nothing and reads no more than a header.

    Examples
    --------
    >>> is_basis("neurons"), is_basis("residual:16"), is_basis("EleutherAI/sae-pythia-70m")
    (True, True, False)
    """
    return _NAME.fullmatch(source) is not None or holds_directions(Path(source).expanduser())


def load_basis(
    source: str, *, model: SubjectModel, hookpoints: Sequence[str] | None
) -> dict[str, Coder]:
    """Make the coders that a name of this module stands for.

    Parameters
    ----------
    source : str
        ``neurons``, ``neurons:K``, ``residual``, ``residual:K`` or a file of directions.
    model : SubjectModel
    hookpoints : sequence of str or None
        Where, in any spelling; None for every layer (directions: where their file says).

    Returns
    -------
    dict of str to Coder
        By canonical hookpoint name, in layer order.

    Raises
    ------
    CoderError
        If K is no number from 1 to the width, a hookpoint is of another kind or not in the model,
        or a file of directions is malformed.
    """
    match = _NAME.fullmatch(source)
    if match is None:
        coder = load_directions(Path(source).expanduser(), model, hookpoints)
        return {coder.hookpoint.name: coder}
    kind, text = match[1], match[2]
    places = _places(kind, model, hookpoints)
    coders: dict[str, Coder] = {}
    for place in places:
        d = _width(kind, place, model)
        config = BasisConfig(kind, d, _strongest(source, text, d, place))
        coders[place.name] = BasisCoder(config, place, device=str(model.device))
    return coders


def _places(kind: str, model: SubjectModel, hookpoints: Sequence[str] | None) -> list[Hookpoint]:
    pattern = _SITE[kind]
    if hookpoints is None:
        return [
            parse_hookpoint(pattern.format(layer), transcode=False)
            for layer in range(model.n_layers)
        ]
    places = {parse_hookpoint(text, transcode=False) for text in hookpoints}
    for place in places:
        if place.name != pattern.format(place.layer):
            raise CoderError(
                f"--coder {kind} reads {pattern.format('N')}, not {place.name}; leave --hookpoint "
                f"out, or name {pattern.format(place.layer)}"
            )
        if place.layer >= model.n_layers:
            raise CoderError(
                f"--hookpoint {place.name}: {model.name} has layers 0 to {model.n_layers - 1}"
            )
    return sorted(places)


def _width(kind: str, place: Hookpoint, model: SubjectModel) -> int:
    try:
        return model.width(place.hook_in)
    except ModelError as error:
        raise CoderError(
            f"--coder {kind} cannot read {place.name}: {error}; name the layers that have one with "
            "--hookpoint, or use --coder residual"
        ) from error


def _strongest(source: str, text: str | None, d: int, place: Hookpoint) -> int:
    if text is None:
        return min(STRONGEST, d)
    k = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
    if not 1 <= k <= d:
        raise CoderError(
            f"--coder {source}: {text!r} is no number from 1 to {d}, the width of {place.name}; "
            f"write for example {source.partition(':')[0]}:{min(STRONGEST, d)}"
        )
    return k
