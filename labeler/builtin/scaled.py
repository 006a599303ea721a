"""A transcoder in training: on a common scale for every layer, started from the data.

The MLPs of a model differ a hundredfold in the size of what they read and write. Training on
scaled values lets all layers share one learning rate; `ScaledTranscoder.fold` puts the scale back
into the weights, so that nothing of it is left in the files.
"""

import torch
from torch import Tensor, nn

from labeler.builtin.transcoder import Encoded, SkipTranscoder

_FIRING_AT_START = 0.03
"""Share of positions at which a latent's pre-activation is positive before training."""

_RIDGE = 0.1
"""Added to the (unit) variances before inverting the covariance of the scaled inputs."""


class ScaledTranscoder(nn.Module):
    """A `SkipTranscoder` that reads and writes scaled values, with the scale itself.

    Every coordinate of the input is brought to mean 0 and variance 1; the output to mean 0 and
    mean squared norm 1, so that the squared error summed over coordinates is the FVU.

    Attributes
    ----------
    inner : SkipTranscoder
        Works on scaled values.
    x_mean, x_scale, y_mean : float [d_in]
    y_scale : float []
    silent_for : int64 [num_latents]
        Positions seen since each latent last fired.
    """

    x_mean: Tensor
    x_scale: Tensor
    y_mean: Tensor
    y_scale: Tensor
    silent_for: Tensor

    def __init__(self, d_in: int, num_latents: int, k: int) -> None:
        super().__init__()
        self.inner = SkipTranscoder(d_in, num_latents, k)
        for name in ("x_mean", "x_scale", "y_mean"):
            self.register_buffer(name, torch.zeros(d_in))
        self.register_buffer("y_scale", torch.ones(()))
        self.register_buffer("silent_for", torch.zeros(num_latents, dtype=torch.int64))

    @torch.no_grad()
    def start_from(self, x: Tensor, y: Tensor, generator: torch.Generator) -> None:
        """Set the scale and the first weights from inputs and outputs, float [n, d_in] each.

        The skip path is the least-squares line. Each latent is a memory of one position, drawn
        by the size of what the line leaves over: it reads the whitened input found there and
        writes the remainder found there.
        """
        y_centred = y - y.mean(0)
        self.x_mean.copy_(x.mean(0))
        self.x_scale.copy_(x.std(0))
        self.y_mean.copy_(y.mean(0))
        self.y_scale.copy_(y_centred.square().sum(1).mean().sqrt())
        x, y = self.scale_x(x), self.scale_y(y)
        covariance = x.T @ x / len(x) + _RIDGE * torch.eye(x.shape[1])
        self.inner.W_skip.copy_(torch.linalg.solve(covariance, x.T @ y / len(x)).T)
        rest = y - self.inner.skip(x)
        drawn = torch.multinomial(rest.norm(dim=1), self.inner.num_latents, generator=generator)
        self._remember(x, rest, drawn, covariance)

    def _remember(self, x: Tensor, rest: Tensor, drawn: Tensor, covariance: Tensor) -> None:
        """Make every latent a memory of one of the positions `drawn`, int64 [num_latents]."""
        weight = torch.linalg.solve(covariance, x[drawn].T).T
        pre_acts = x @ weight.T
        weight /= pre_acts.std(0)[:, None]
        pre_acts /= pre_acts.std(0)
        n_firing = max(1, int(_FIRING_AT_START * len(x)))
        self.inner.encoder.weight.copy_(weight)
        self.inner.encoder.bias.copy_(-pre_acts.topk(n_firing, dim=0).values[-1])
        self.inner.W_dec.copy_(nn.functional.normalize(rest[drawn]))
        # one factor for all latents: the one with the least squared error
        written = self.inner(x) - self.inner.skip(x)
        self.inner.W_dec.mul_((written * rest).sum() / written.square().sum())

    def scale_x(self, x: Tensor) -> Tensor:
        """An input on the common scale."""
        return (x - self.x_mean) / self.x_scale

    def scale_y(self, y: Tensor) -> Tensor:
        """An output on the common scale."""
        return (y - self.y_mean) / self.y_scale

    def forward(self, x: Tensor) -> Tensor:
        """Predict the MLP's output from its input, both plain, float [..., d_in]."""
        scaled: Tensor = self.inner(self.scale_x(x.flatten(0, -2))).float()
        return (scaled * self.y_scale + self.y_mean).view_as(x)

    def loss(
        self, x: Tensor, y: Tensor, dead_after: int, aux_weight: float
    ) -> tuple[Tensor, float]:
        """FVU plus the auxiliary loss that revives dead latents.

        Parameters
        ----------
        x, y : float [n, d_in]
            Inputs and outputs of the MLP, plain.
        dead_after : int
            A latent that has not fired for this many positions is dead.
        aux_weight : float
            Weight of the auxiliary loss.

        Returns
        -------
        loss : float []
            With gradient.
        fvu : float
            Fraction of variance unexplained.
        """
        x, y = self.scale_x(x), self.scale_y(y)
        encoded = self.inner.encode(x)
        error = y - self.inner.decode(encoded.acts, encoded.indices) - self.inner.skip(x)
        fvu = error.square().sum(1).mean()
        self._count_silence(encoded)
        dead = self.silent_for >= dead_after
        if not dead.any():
            return fvu, fvu.item()
        return fvu + aux_weight * self._aux(encoded.pre_acts, error.detach(), dead), fvu.item()

    def _aux(self, pre_acts: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        """AuxK (Gao et al. 2024, appendix A.2): dead latents predict what the others leave over."""
        k = min(self.inner.d_in // 2, int(dead.sum()))
        acts, indices = pre_acts.masked_fill(~dead, 0.0).topk(k, dim=-1, sorted=False)
        return (error - self.inner.decode(acts, indices)).square().sum(1).mean()

    @torch.no_grad()
    def _count_silence(self, encoded: Encoded) -> None:
        self.silent_for += len(encoded.acts)
        self.silent_for[encoded.indices[encoded.acts > 0]] = 0

    @torch.no_grad()
    def fold(self) -> SkipTranscoder:
        """The transcoder that does on plain values what this one does on scaled ones."""
        inner = self.inner
        plain = SkipTranscoder(inner.d_in, inner.num_latents, inner.k)
        weight = inner.encoder.weight / self.x_scale
        skip = inner.W_skip / self.x_scale
        plain.encoder.weight.copy_(weight)
        plain.encoder.bias.copy_(inner.encoder.bias - weight @ self.x_mean)
        plain.W_dec.copy_(inner.W_dec * self.y_scale)
        plain.W_skip.copy_(skip * self.y_scale)
        plain.b_dec.copy_((inner.b_dec - skip @ self.x_mean) * self.y_scale + self.y_mean)
        return plain
