"""What every later step needs of a sparse coder, and of a format it may be stored in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from labeler.hookpoints import Hookpoint

if TYPE_CHECKING:
    from labeler.model import SubjectModel


class Coder(Protocol):
    """What every later step needs of a sparse coder, whatever format it was stored in.

    Attributes
    ----------
    hookpoint : Hookpoint
        Where it reads and writes.
    num_latents, d_in, d_out : int
        Sizes.
    W_dec : float32 [num_latents, d_out]
        Decoder directions.
    fingerprint : str
        SHA-256 over weights and config.
    """

    @property
    def hookpoint(self) -> Hookpoint: ...  # noqa: D102
    @property
    def num_latents(self) -> int: ...  # noqa: D102
    @property
    def d_in(self) -> int: ...  # noqa: D102
    @property
    def d_out(self) -> int: ...  # noqa: D102
    @property
    def W_dec(self) -> Tensor: ...  # noqa: D102, N802
    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def encode(self, x: Tensor) -> Tensor:
        """Activations float32 [n, num_latents] (0 = silent) of inputs [n, d_in]."""
        ...

    def firings(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row, latent and activation (> 0) of every firing, sorted by row, then latent."""
        ...

    def decode(self, acts: Tensor) -> Tensor:
        """Output [n, d_out] of activations [n, num_latents]: decoder and bias, without the skip."""
        ...

    def skip(self, x: Tensor) -> Tensor:
        """Skip path [n, d_out] of inputs [n, d_in]; a zero that broadcasts where there is none."""
        ...

    def output(self, acts: Tensor, x: Tensor) -> Tensor:
        """What stands for the sublayer, [n, d_out], of activations and inputs.

        ``decode(acts) + skip(x)``, unless the coder normalizes its inputs and scales back.
        Activations are [n, num_latents], or [1, num_latents] for all inputs.
        """
        ...


@dataclass(frozen=True)
class CoderFormat:
    """One way in which people store sparse coders.

    Attributes
    ----------
    name : str
        ``sparsify``, ``sae_lens``, ...
    layout : str
        What its files look like, for messages: ``cfg.json + sae.safetensors``.
    holds : callable
        Whether a file or folder is one coder in this format; looks at names and small headers,
        unpickles nothing.
    place : callable
        The hookpoint of the coder at a path, from names and small headers; None where they do not
        tell. Must bear paths that do not exist: those of a repository that is not downloaded yet.
    load : callable
        The coder at a path, checked against the model. The last argument is where it sits, as the
        user wrote it; None leaves that to the files, and a format whose files do not say it raises
        `CoderError` with the cure (name one ``--hookpoint``).
    """

    name: str
    layout: str
    holds: Callable[[Path], bool]
    place: Callable[[Path], Hookpoint | None]
    load: Callable[[Path, "SubjectModel", str | None], Coder]
