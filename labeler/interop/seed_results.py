"""Results of the seed study: what each probe claimed of a latent, and whether it fired; texts.

``eval_results.jsonl`` of DanielJamesDavies/Explaining-Latents-with-Function-Types holds a row per
probe. The top sequences of the SAEs are HDF5 files, for which h5py is needed (extra ``turing``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labeler.errors import ExplanationError
from labeler.explanations import Context, Place
from labeler.interop.bounded import Json, keys_of
from labeler.interop.checks import MAX_TOKENS, DamagedError, latent_of, number_of, text_of
from labeler.interop.collect import Collector

if TYPE_CHECKING:
    import h5py
    from tokenizers import Tokenizer

_KEYS = frozenset({"layer", "latent_index", "type", "activation_value", "success"})
_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_SITE = "layers.{}.mlp"
"""The study's SAEs read the outputs of Turing-LLM's MLPs."""


def owns(file: Path) -> bool:
    """Whether a file's rows are probes of the study."""
    return file.name.endswith(_SUFFIXES) and keys_of(file) >= _KEYS


@dataclass
class _Probes:
    """What the probes of one claim gave."""

    origin: str
    successes: list[bool] = field(default_factory=list)
    acts: list[float] = field(default_factory=list)


def read(root: Path, files: Sequence[Path], into: Collector) -> None:
    """Read one explanation per claim: a token, a pair of tokens, or topics."""
    claims: dict[tuple[str, int, str, str], _Probes] = {}

    def take(record: dict[str, Json], where: str) -> None:
        layer, latent = latent_of(record.get("layer")), latent_of(record.get("latent_index"))
        act, success = number_of(record.get("activation_value")), record.get("success")
        if act is None or not isinstance(success, bool):
            raise DamagedError("probe without an activation or without a success")
        hookpoint = into.place_of(str(layer), _SITE.format(layer))
        kind = text_of(record.get("type"), "type")
        probes = claims.setdefault((hookpoint, latent, _claim(record), kind), _Probes(where))
        probes.successes.append(success)
        probes.acts.append(act)

    for file in into.through(files):
        into.each(file, take)
    for (hookpoint, latent, text, kind), probes in claims.items():
        into.add(
            hookpoint,
            latent,
            text,
            author=f"seed study, {kind}",
            published={
                "success": float(np.mean(probes.successes)),
                "mean activation": float(np.mean(probes.acts)),
                "probes": float(len(probes.acts)),
            },
            origin=probes.origin,
        )
    into.note(
        "tokens are given by their ids in Turing-LLM's tokenizer: the file has no text of them"
    )


def _claim(record: Mapping[str, Json]) -> str:
    token, tokens, topics = record.get("token"), record.get("tokens"), record.get("topics")
    if token is not None:
        return f"the token with id {latent_of(token)}"
    if isinstance(tokens, list) and tokens:
        return f"the tokens with ids {' and '.join(str(latent_of(one)) for one in tokens)}"
    if isinstance(topics, list) and topics:
        return f"texts of the topics {', '.join(text_of(one, 'topic') for one in topics)}"
    raise DamagedError("probe without a token, tokens or topics")


def read_turing_sequences(
    tokens_h5: Path, values_h5: Path, tokenizer: "Tokenizer", layer: int, latents: Sequence[int]
) -> dict[Place, tuple[Context, ...]]:
    """Texts on which latents of a Turing-LLM SAE fire most.

    Parameters
    ----------
    tokens_h5, values_h5 : Path
        ``latents_sae_tokens_from_sequence.h5`` and ``..._values_...``: dataset ``tensor``
        [n_layers, n_latents, n, 65]; column 0 (the sequence's data set) is dropped.
    tokenizer : tokenizers.Tokenizer
        Turing-LLM's (that of Phi-3), from its ``tokenizer.json``.
    layer : int
    latents : sequence of int
        Only these are read from the files.

    Raises
    ------
    ExplanationError
        If h5py is missing, or the files are no such files.
    """
    try:
        import h5py
    except ImportError as error:
        raise ExplanationError(
            f'reading {tokens_h5} needs h5py: pip install "labeler[turing]"'
        ) from error
    texts: dict[int, str] = {}
    found: dict[Place, tuple[Context, ...]] = {}
    try:
        with h5py.File(tokens_h5, "r") as ids_file, h5py.File(values_h5, "r") as acts_file:
            ids = _tensor(ids_file, tokens_h5, "iu")
            acts = _tensor(acts_file, values_h5, "f")
            if ids.shape != acts.shape:
                raise ExplanationError(
                    f"{tokens_h5} has shape {ids.shape}, {values_h5} {acts.shape}; they must be "
                    "of one export"
                )
            if not 0 <= layer < ids.shape[0]:
                raise ExplanationError(
                    f"{tokens_h5} has layers 0 to {ids.shape[0] - 1}, not {layer}"
                )
            for latent in latents:
                if not 0 <= latent < ids.shape[1]:
                    raise ExplanationError(
                        f"{tokens_h5} has latents 0 to {ids.shape[1] - 1}, not {latent}"
                    )
                values = np.asarray(acts[layer, latent, :, 1:], dtype=np.float32)
                if not np.isfinite(values).all():
                    raise ExplanationError(
                        f"{values_h5}: latent {latent} has activations not finite"
                    )
                rows = np.asarray(ids[layer, latent, :, 1:], dtype=np.int64)
                for token in np.unique(rows).tolist():
                    texts.setdefault(token, _text(tokenizer, token))
                found[_SITE.format(layer), latent] = tuple(
                    Context(tuple(texts[token] for token in row), act, "top")
                    for row, act in zip(rows.tolist(), values, strict=True)
                )
    except OSError as error:
        raise ExplanationError(f"{tokens_h5} or {values_h5} cannot be read: {error}") from error
    return found


def _tensor(file: "h5py.File", path: Path, kinds: str) -> "h5py.Dataset":
    """Dataset ``tensor`` of a file, if it lies in this very file and has the layout."""
    import h5py

    link = file.get("tensor", getlink=True) if "tensor" in file else None
    data = file["tensor"] if isinstance(link, h5py.HardLink) else None
    # Links, virtual datasets and external storage would read other files of this machine.
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        raise ExplanationError(f"{path} has no dataset `tensor` of its own")
    if data.ndim != 4 or data.dtype.kind not in kinds or not 1 < data.shape[3] <= MAX_TOKENS:
        raise ExplanationError(
            f"{path}: `tensor` is {data.dtype} {data.shape}; expected [layers, latents, n, 65] of "
            + ("floats" if kinds == "f" else "token ids")
        )
    if data.shape[2] > MAX_TOKENS:
        raise ExplanationError(
            f"{path}: {data.shape[2]} sequences a latent; expected at most 4,096"
        )
    return data


def _text(tokenizer: "Tokenizer", token: int) -> str:
    """Text of a token; SentencePiece's mark of a space is a space."""
    piece = tokenizer.id_to_token(token) if 0 <= token <= 2**31 - 1 else None
    if piece is None:
        return f"<id {token}>"
    if piece.startswith("\u2581"):
        return piece.replace("\u2581", " ")
    return tokenizer.decode([token], skip_special_tokens=False) or piece
