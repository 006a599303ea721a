"""Annotations by people, as saprmarks/feature-circuits stores them.

``{"Name": "resid_5/3036", "Annotation": ..., "Notes": ...}`` per line, or, joined with texts,
``{"name", "annotation", "notes", "top_contexts": [[tokens, activations], ...]}``.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from labeler.interop.bounded import Json, keys_of
from labeler.interop.checks import DamagedError, context_of, latent_of, text_of
from labeler.interop.collect import Collector

_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_NAME = re.compile(r"(?:(resid|mlp|attn)_(\d{1,4})|embed)/(\d{1,10})", re.ASCII)
_SITES = {"resid": "layers.{}", "mlp": "layers.{}.mlp", "attn": "layers.{}.self_attn"}


def owns(file: Path) -> bool:
    """Whether a file has the fields of annotations, with or without contexts."""
    if not file.name.endswith(_SUFFIXES):
        return False
    keys = keys_of(file)
    return keys >= {"Name", "Annotation"} or keys >= {"name", "annotation", "top_contexts"}


def read(root: Path, files: Sequence[Path], into: Collector) -> None:
    """Read annotations; rows without one still give their contexts."""
    for file in into.through(files):
        into.each(file, lambda record, where: _take(record, where, into))


def place_of_name(name: str) -> tuple[str, int]:
    """Hookpoint and latent of a name as in feature-circuits.

    Raises
    ------
    DamagedError
        If it is no such name.

    Examples
    --------
    >>> place_of_name("resid_0/2494"), place_of_name("attn_4/3"), place_of_name("embed/31")
    (('layers.0', 2494), ('layers.4.self_attn', 3), ('embed', 31))
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise DamagedError("name that is not of the form resid_0/2494", name)
    site = _SITES[match[1]].format(int(match[2])) if match[1] else "embed"
    return site, latent_of(match[3])


def _take(record: dict[str, Json], where: str, into: Collector) -> None:
    fields = {name.lower(): value for name, value in record.items()}
    hookpoint, latent = place_of_name(text_of(fields.get("name"), "name"))
    hookpoint = into.place_of(hookpoint, hookpoint)
    contexts = fields.get("top_contexts")
    for number, stored in enumerate(contexts if isinstance(contexts, list) else [], 1):
        with into.counting(f"{where}, context {number}"):
            into.add_context((hookpoint, latent), context_of(*_pair(stored), "top"))
    if fields.get("annotation") is None:
        return
    parts = [text_of(fields.get(name), name).strip() for name in ("annotation", "notes")]
    text = "; ".join(part for part in parts if part)
    into.add(hookpoint, latent, text, author="human", origin=where)


def _pair(stored: Json) -> tuple[Json, Json]:
    if not isinstance(stored, list) or len(stored) != 2:
        raise DamagedError("context that is no pair of tokens and activations")
    return stored[0], stored[1]
