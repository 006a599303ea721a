"""What stands in for sublayers in the table of a run: the labels, and every baseline.

    coder           the sparse coder
    zero, skip      nothing; the coder's skip path and bias alone
    mean            the coder with every latent at its mean on the fit split
    labels_B        every latent as its label predicts it with B keys, means where there is none
    unigram         every latent by its table of single tokens, with or without a label
    shuffled        every latent by the label of another one, scaled to its own mean
    random          every latent fires by chance at its own rate, with its own mean activation
    oracle_support  labels_unlimited, but silent wherever the latent is truly silent
    oracle_value    the true activation where the label calls and the latent fires, the label's
                    prediction where it calls and the latent is silent, 0 elsewhere

What is true is what the coder finds in the stream as it is, rewritten below as it may be. A false
call keeps its price under `oracle_value`: the true value there is 0 and would forgive it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from labeler.arrays import Floats
from labeler.coders import Coder
from labeler.eval.rewrite import Batch, Replacement, Source, Variant
from labeler.labels import Budget, LabelSet

UNIGRAM = "unigram"
"""Name of the forecast by tables of single tokens."""


def run_acts(coder: Coder, x: torch.Tensor, acts: torch.Tensor) -> torch.Tensor:
    """The coder's output [n, d_out] of activations [n, n_latents] and its input [n, d_in]."""
    return coder.output(acts, x)


def gain(coder: Coder, x: torch.Tensor) -> torch.Tensor:
    """What each input [n, d_in] multiplies the decoder by, [n, 1]: 1, unless it is normalized."""
    probe = torch.zeros(1, coder.num_latents, device=x.device)
    silent = coder.output(probe, x)
    longest = int(coder.W_dec.norm(dim=1).argmax())
    probe[0, longest] = 1
    direction = coder.W_dec[longest]
    return (coder.output(probe, x) - silent) @ direction[:, None] / direction.square().sum()


def as_coder(coder: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The sparse coder itself."""
    return run_acts(coder, x, batch.true(coder, x))


def zero(coder: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Nothing at all."""
    return torch.zeros(len(x), coder.d_out, dtype=x.dtype, device=x.device)


def skip(coder: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Every latent silent."""
    return run_acts(coder, x, torch.zeros(1, coder.num_latents, device=x.device))


def predicted(coder: Coder, x: torch.Tensor, batch: Batch, source: Source) -> torch.Tensor:
    """What a forecast says, float32 [n, n_latents], where the model runs."""
    return batch.predictions[coder.hookpoint.name, source].to(x.device)


def by(source: Source) -> Replacement:
    """Every latent as a forecast has it."""

    def run(coder: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        return run_acts(coder, x, predicted(coder, x, batch, source))

    return run


def at_mean(labels: Mapping[str, LabelSet]) -> Replacement:
    """Every latent at its mean on the fit split."""
    mean = {name: torch.from_numpy(one.mean) for name, one in labels.items()}

    def run(coder: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        return run_acts(coder, x, mean[coder.hookpoint.name].to(x.device)[None])

    return run


def shuffled(labels: Mapping[str, LabelSet], seed: int) -> Replacement:
    """Each latent runs another one's label, scaled to its own mean."""
    mean = {name: torch.from_numpy(one.mean) for name, one in labels.items()}
    rng = np.random.default_rng(seed)
    order = {name: torch.from_numpy(rng.permutation(one.n_latents)) for name, one in labels.items()}

    def run(coder: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        name = coder.hookpoint.name
        other = order[name]
        own, theirs = mean[name], mean[name][other]
        scale = torch.where(theirs > 0, own / theirs.clamp(min=1e-9), torch.zeros_like(own))
        return run_acts(
            coder, x, (batch.predictions[name, "unlimited"][:, other] * scale).to(x.device)
        )

    return run


def random(labels: Mapping[str, LabelSet], seed: int) -> Replacement:
    """Each latent fires by chance, as often and as strongly as on the fit split.

    Its mean over positions is the latent's own, so that what it costs against `at_mean` is the
    price of firings in the wrong places.
    """
    number = {name: index for index, name in enumerate(labels)}

    def draw(name: str, n: int, begin: int) -> torch.Tensor:
        mean = labels[name].mean
        strength: Floats = labels[name].latents["mean_act"].to_numpy().astype(np.float32)
        rate = np.divide(mean, strength, out=np.zeros_like(mean), where=strength > 0)
        rng = np.random.default_rng([seed, number[name], begin])
        fires = rng.random((n, len(mean)), dtype=np.float32) < rate
        return torch.from_numpy(np.where(fires, strength, np.float32(0)))

    def run(coder: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        return run_acts(coder, x, draw(coder.hookpoint.name, len(x), batch.begin).to(x.device))

    return run


def oracle_support(coder: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
    """What the labels predict, where the latents truly fire."""
    fires = batch.true(coder, x) > 0
    return run_acts(coder, x, predicted(coder, x, batch, "unlimited") * fires)


def oracle_value(labels: Mapping[str, LabelSet]) -> Replacement:
    """True activations where the labels rightly call, predictions where they call wrongly."""
    threshold = {
        name: torch.from_numpy(one.predictor("unlimited").threshold) for name, one in labels.items()
    }
    labeled = {name: torch.from_numpy(one.labeled) for name, one in labels.items()}

    def run(coder: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        name = coder.hookpoint.name
        said, true = predicted(coder, x, batch, "unlimited"), batch.true(coder, x)
        calls = said >= threshold[name].to(x.device)
        acts = torch.where(true > 0, true, said) * calls
        return run_acts(coder, x, torch.where(labeled[name].to(x.device), acts, said))

    return run


def variants(
    hookpoints: Sequence[str], labels: Mapping[str, LabelSet], budgets: Sequence[Budget], seed: int
) -> list[Variant]:
    """All variants for some sublayers replaced together; the forecast `UNIGRAM` is read too."""
    names = tuple(hookpoints)
    mine = {name: labels[name] for name in names}
    replacements: dict[str, Replacement] = {
        "coder": as_coder,
        "zero": zero,
        "mean": at_mean(mine),
        "skip": skip,
        **{f"labels_{budget}": by(budget) for budget in budgets},
        "unigram": by(UNIGRAM),
        "shuffled": shuffled(mine, seed),
        "random": random(mine, seed),
        "oracle_support": oracle_support,
        "oracle_value": oracle_value(mine),
    }
    return [Variant(name, names, replacement) for name, replacement in replacements.items()]
