"""What the weights alone say of a latent: the tokens it promotes, and those it reads.

No text is run. *Promoted* is the logit lens (nostalgebraist 2020): the latent's decoder direction,
put through the final norm and the unembedding. *Read* is its counterpart at the input: every
token's embedding, put through the norm before the module and the latent's encoder direction. Both
leave out all that happens in between, so the first is worth most in late layers and the second in
early ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from labeler.arrays import Floats
from labeler.coders import Coder
from labeler.errors import LabelError, ModelError
from labeler.functions.text import quote
from labeler.hookpoints import Hookpoint
from labeler.model import SubjectModel
from labeler.store import write_parquet

if TYPE_CHECKING:
    from labeler.labels import LabelSet

Ids = npt.NDArray[np.int32]

N_PROMOTED = 10
N_READ = 50

FILE = "weights.parquet"

_MAX_NORM = 4.0
"""Tokens whose unembedding is longer than the mean by more standard deviations are never promoted.

Such rows, mostly of tokens that hardly occur, have the largest product with any direction at all.
"""

_MAX_SCORES = 1 << 25
"""Scores held at once: 128 MiB of float32, whatever the vocabulary."""


@dataclass(frozen=True, eq=False)
class LatentWeights:
    """Tokens that each latent of a hookpoint promotes and reads, by its weights.

    Attributes
    ----------
    promoted : int32 [n_latents, 10]
        Token ids, the most promoted first.
    promoted_score : float32 [n_latents, 10]
        By how much more than the mean latent it raises each one's logit, where both have
        directions of unit root mean square.
    read : int32 [n_latents, 50] or None
        Token ids whose embedding alone excites it the most; None where the coder's input is no
        residual stream and no normed one.
    read_score : float32 [n_latents, 50] or None
        The part of the pre-activation that the embedding gives.
    """

    promoted: Ids
    promoted_score: Floats
    read: Ids | None
    read_score: Floats | None

    def save(self, folder: Path) -> None:
        """Write ``weights.parquet`` into a label folder: a row per latent."""
        columns: dict[str, npt.NDArray[Any]] = {
            "promoted": self.promoted,
            "promoted_score": self.promoted_score,
        }
        if self.read is not None and self.read_score is not None:
            columns |= {"read": self.read, "read_score": self.read_score}
        write_parquet(folder / FILE, pl.DataFrame(columns))

    @classmethod
    def load(cls, folder: Path) -> "LatentWeights":
        """Read what `save` wrote.

        Raises
        ------
        LabelError
            If the file is missing or broken.
        """
        path = folder / FILE
        try:
            frame = pl.read_parquet(path)
            columns = {name: frame[name].to_numpy() for name in frame.columns}
            return cls(
                promoted=columns["promoted"],
                promoted_score=columns["promoted_score"],
                read=columns.get("read"),
                read_score=columns.get("read_score"),
            )
        except (OSError, KeyError, pl.exceptions.PolarsError) as error:
            raise LabelError(f"{path}: cannot be read ({error}); run `labeler fit` again") from None


@torch.inference_mode()
def latent_weights(model: SubjectModel, coder: Coder) -> LatentWeights:
    """Find the tokens that each latent promotes and reads.

    Raises
    ------
    ModelError
        If the model's embedding, unembedding or norms cannot be reached.
    """
    vectors, columns = _unembedding(model)
    direction = _through_final_norm(model, _written(model, coder))
    # What all latents promote alike says nothing of one of them.
    promoted = _top(direction - direction.mean(dim=0), vectors, N_PROMOTED)
    encoder = getattr(coder, "W_enc", None)
    embedding = _embedding_at(model, coder.hookpoint)
    if encoder is None or embedding is None:
        return LatentWeights(columns[promoted[0]], promoted[1], None, None)
    read, read_score = _top(encoder, embedding, N_READ)
    return LatentWeights(columns[promoted[0]], promoted[1], read, read_score)


def _top(directions: Tensor, vectors: Tensor, n: int) -> tuple[Ids, Floats]:
    """Rows of `vectors` with the largest product with each direction, and the products."""
    n = min(n, len(vectors))
    step = max(1, _MAX_SCORES // len(vectors))
    tops = [(some @ vectors.T).topk(n, dim=1) for some in torch.split(directions, step)]
    index = torch.cat([top.indices for top in tops])
    value = torch.cat([top.values for top in tops])
    return index.cpu().numpy().astype(np.int32), value.cpu().numpy().astype(np.float32)


def _unembedding(model: SubjectModel) -> tuple[Tensor, Ids]:
    """Unembedding of the tokens that may be promoted, float32 [n, d_model], and their ids."""
    unembedding = _reach(model, "W_U").T.float()
    length = unembedding.norm(dim=1)
    usual = length <= length.mean() + _MAX_NORM * length.std()
    return unembedding[usual], usual.nonzero()[:, 0].cpu().numpy().astype(np.int32)


def _written(model: SubjectModel, coder: Coder) -> Tensor:
    """Decoder directions as they reach the residual stream, float32 [n_latents, d_model].

    What a coder writes inside a sublayer goes through the sublayer's output matrix first.
    """
    _, layer, place = coder.hookpoint.hook_out.split(".", 2)
    inside = {"mlp.out.hook_in": "mlp.out", "attn.o.hook_in": "attn.o"}
    directions = coder.W_dec.float()
    if place not in inside:
        return directions
    output = _reach(model, f"blocks.{layer}.{inside[place]}.original_component")
    both = torch.cat([directions, directions.new_zeros(1, directions.shape[1])])
    written: Tensor = output(both)
    return written[:-1] - written[-1]


def _through_final_norm(model: SubjectModel, directions: Tensor) -> Tensor:
    """Directions as the unembedding sees them: normed alone, without the norm's bias."""
    norm = _reach(model, "ln_final")
    both = torch.cat([directions.float(), directions.new_zeros(1, directions.shape[1]).float()])
    normed: Tensor = norm(both[None])[0]
    return normed[:-1] - normed[-1]


def _embedding_at(model: SubjectModel, hookpoint: Hookpoint) -> Tensor | None:
    """Token embeddings as a coder's input, float32 [n_vocab, d_model]; None where they never are.

    A residual stream has them as they are, a module's input after the norm before the module. A
    module's output is not made of them.
    """
    embedding: Tensor = _reach(model, "W_E").float()
    prefix = f"blocks.{hookpoint.layer}."
    if hookpoint.hook_in in (f"{prefix}hook_in", f"{prefix}hook_out"):
        return embedding
    norms = {f"{prefix}mlp.hook_in": "ln2", f"{prefix}attn.hook_in": "ln1"}
    name = norms.get(hookpoint.hook_in)
    if name is None:
        return None
    normed: Tensor = _reach(model, f"{prefix}{name}")(embedding[None])[0]
    return normed


def _reach(model: SubjectModel, path: str) -> Any:
    """A part of the model by its path below the bridge."""
    part = model.bridge
    for name in path.split("."):
        try:
            part = part[int(name)] if name.isdigit() else getattr(part, name)
        except (AttributeError, IndexError, KeyError) as error:
            raise ModelError(
                f"{model.name} has no {path} that transformer-lens can reach ({error}), so what "
                "its latents promote and read cannot be told from the weights"
            ) from error
    return part


def agreement(weights: LatentWeights, labels: "LabelSet", budget: int = 100) -> Floats:
    """How far what a latent's label says it fires on is what its weights read, float32 [n_latents].

    Of the label's tokens, the share that is among the 50 tokens that the weights read most. The
    label's tokens are its unigram entries that predict more than its default, at most the 50
    strongest. 0 to 1; NaN without such entries, and everywhere where nothing is known of `read`.
    """
    share = np.full(labels.n_latents, np.nan, dtype=np.float32)
    level = labels.tree.levels.get("unigram")
    if weights.read is None or level is None:
        return share
    n_read = weights.read.shape[1]
    entries = labels.entries.filter(
        (pl.col("budget") == budget) & (pl.col("level") == "unigram") & (pl.col("weight") > 0)
    ).filter(pl.col("value").rank("ordinal", descending=True).over("latent") <= n_read)
    latent = entries["latent"].to_numpy()
    # A unigram has no parent, so its pair is the rank of its key, which is the token's id.
    token = level.keys[level.pair[entries["node"].to_numpy()]]
    found = (weights.read[latent] == token[:, None]).any(axis=1)
    n = np.bincount(latent, minlength=labels.n_latents)
    n_found = np.bincount(latent, found, labels.n_latents)
    share[n > 0] = n_found[n > 0] / n[n > 0]
    return share


_NAMED = 5
"""Tokens named in a line."""


def weight_lines(weights: LatentWeights, labels: "LabelSet", vocab: Sequence[str]) -> list[str]:
    """One line per latent: what its weights read and promote, and whether its label agrees.

    Parameters
    ----------
    weights : LatentWeights
    labels : LabelSet
        Of the same hookpoint.
    vocab : sequence of str
        Text of each token.
    """
    share = agreement(weights, labels)

    def named(ids: Ids) -> str:
        return ", ".join(quote(vocab[token]) for token in ids[:_NAMED])

    lines = []
    for latent in range(labels.n_latents):
        line = f"promotes {named(weights.promoted[latent])}"
        if weights.read is not None:
            line = f"reads {named(weights.read[latent])}; {line}"
        if np.isfinite(share[latent]):
            line += (
                f"; {share[latent]:.0%} of the tokens its label fires on are among the "
                f"{N_READ} it reads most"
            )
        lines.append(f"by its weights it {line}")
    return lines


def add_weights(
    labels: "LabelSet", model: SubjectModel, coder: Coder, vocab: Sequence[str]
) -> None:
    """Write what the weights say beside the labels, and into the text of latents too rare to fit.

    Raises
    ------
    ModelError
        If the model's embedding, unembedding or norms cannot be reached; nothing is written.
    """
    weights = latent_weights(model, coder)
    lines = weight_lines(weights, labels, vocab)
    weights.save(labels.folder)
    rare = pl.col("status") == "too_rare"
    latents = labels.latents.with_columns(pl.Series("weights", lines)).with_columns(
        pl.when(rare)
        .then(pl.col("text") + "; " + pl.col("weights"))
        .otherwise(pl.col("text"))
        .alias("text")
    )
    write_parquet(labels.folder / "latents.parquet", latents)
