"""Neuronpedia's exports: a record per explanation, per activating text, per feature.

``<source>/{explanations,activations,features}/batch-N.jsonl.gz``, the lists that its pages and API
give, or any file of such records. Fields: hijohnnylin/neuronpedia, `schema.prisma`; what a source's
name means: the releases that sae-lens lists beside those names (`pretrained_saes.yaml`).
"""

import re
from collections.abc import Sequence
from pathlib import Path

from labeler.interop.bounded import Json, keys_of
from labeler.interop.checks import context_of, fields_of, latent_of, number_of, text_of
from labeler.interop.collect import Collector

_KEYS = frozenset({"modelId", "layer", "index"})
_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_SCORES = ("scoreV1", "scoreV2")
_NESTED = ("explanations", "activations")
_BEFORE = ("-jb", "-ajt")
"""Ends of names whose sources read the residual stream before the block, in GPT-2 small."""


def owns(file: Path) -> bool:
    """Whether a file's records name model, source and index as Neuronpedia's do."""
    return file.name.endswith(_SUFFIXES) and keys_of(file) >= _KEYS


def read(root: Path, files: Sequence[Path], into: Collector) -> None:
    """Read explanations and activations; files of features hold neither."""
    models: dict[str, None] = {}

    def take(record: dict[str, Json], where: str) -> None:
        _take(record, where, into, models)

    for file in into.through(file for file in files if file.absolute().parent.name != "features"):
        into.each(file, take)
    if len(models) > 1:
        into.note(f"latents of several models in one set: {', '.join(models)}")


def hookpoint_of_source(model: str, source: str) -> str | None:
    """Canonical hookpoint of a Neuronpedia source; None where its name does not settle it.

    GPT-2 small's ``res-jb`` and its relatives read the residual stream *before* the block of their
    number, ``12-res-jb`` that after the last block, 11. Those of other models read it after.

    Examples
    --------
    >>> hookpoint_of_source("gemma-2-2b", "20-gemmascope-transcoder-16k")
    'layers.20.mlp'
    >>> hookpoint_of_source("gpt2-small", "6-res-jb"), hookpoint_of_source("gemma-2b", "6-res-jb")
    ('layers.6.resid_pre', 'layers.6')
    """
    match = re.fullmatch(r"(\d{1,4})-([\w-]+)", source, re.ASCII)
    if match is None:
        return None
    layer, name = int(match[1]), match[2]
    parts = set(re.split(r"[-_]", name))
    if parts & {"transcoder", "transcoders", "mlp"}:
        return f"layers.{layer}.mlp"
    if parts & {"res", "resid"}:
        return _residual(model, layer, name)
    if "att" in parts:
        heads = name.startswith("gemmascope") or name == "att-kk"
        return f"layers.{layer}.self_attn.z" if heads else f"layers.{layer}.self_attn"
    return None


def _residual(model: str, layer: int, name: str) -> str | None:
    if "mid" in re.split(r"[-_]", name):
        return f"layers.{layer}.resid_mid"
    if name.endswith(_BEFORE):
        if not model:
            return None
        if model == "gpt2-small":
            return "layers.11" if layer == 12 else f"layers.{layer}.resid_pre"
    return f"layers.{layer}"


def _take(record: dict[str, Json], where: str, into: Collector, models: dict[str, None]) -> None:
    """Take a record: an explanation, an activating text, or a feature that carries both."""
    source = text_of(record.get("layer"), "layer")
    model = text_of(record.get("modelId"), "modelId")
    hookpoint = into.place_of(source, hookpoint_of_source(model, source))
    latent = latent_of(record.get("index"))
    models.setdefault(model)
    if "description" in record:
        into.add(
            hookpoint,
            latent,
            text_of(record["description"], "description"),
            author=_author(record),
            published=_published(record),
            origin=where,
        )
    if "tokens" in record:
        context = context_of(record["tokens"], record.get("values"), _chosen(record))
        into.add_context((hookpoint, latent), context)
    for name in _NESTED:
        nested = record.get(name)
        for one in nested if isinstance(nested, list) else []:
            own = {"modelId": model, "layer": source, "index": record["index"], **fields_of(one)}
            own = {key: value for key, value in own.items() if key not in _NESTED}
            with into.counting(f"{where}, {name}"):
                _take(own, where, into, models)


def _author(record: dict[str, Json]) -> str:
    for field in ("explanationModelName", "typeName"):
        value = record.get(field)
        if isinstance(value, str) and value:
            return value
    return ""


def _published(record: dict[str, Json]) -> dict[str, float]:
    """Scores in a record. `scoreV1` is 0 where nothing was scored."""
    found = {
        field: value
        for field in _SCORES
        if (value := number_of(record.get(field))) is not None and value != 0
    }
    nested = record.get("scores")
    for one in nested if isinstance(nested, list) else []:
        value = number_of(one.get("value")) if isinstance(one, dict) else None
        if isinstance(one, dict) and value is not None:
            found[text_of(one.get("explanationScoreTypeName"), "score type") or "score"] = value
    return found


def _chosen(record: dict[str, Json]) -> str:
    """Why a text is there: dashboards store the strongest with -1 in `binContains`."""
    contains = number_of(record.get("binContains"))
    if contains is None:
        return ""
    return "top" if contains == -1 else "quantile"
