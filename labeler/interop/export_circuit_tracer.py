"""Labels as names of features in circuit-tracer's attribution graphs.

A graph is a JSON file whose nodes have a ``clerp``, the name that circuit-tracer's page and
Neuronpedia's show. The ``node_id`` of a feature is ``<layer>_<latent>_<position>``; its ``feature``
holds layer and latent as one number, in a way that changed between versions, so it is not read.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labeler import __version__
from labeler.errors import ExplanationError, OptionError
from labeler.hookpoints import parse_hookpoint
from labeler.interop.export_files import write_file
from labeler.interop.export_labels import ExportedLabels

FEATURE = "cross layer transcoder"
"""``feature_type`` of features; circuit-tracer gives it to those of per-layer transcoders too."""

_MAX_GRAPH = 1 << 30
"""Bytes; graphs of a long prompt have some tens of MB."""

_NODE = re.compile(r"(\d+)_(\d+)_\d+")
_CURE = "make the graph again with circuit-tracer"


def feature_names(labels: Sequence[ExportedLabels]) -> dict[str, str]:
    """Text of every label by ``<layer>_<latent>``.

    Raises
    ------
    OptionError
        If two hookpoints of a layer have labels: circuit-tracer knows one transcoder a layer.
    """
    found: dict[str, str] = {}
    seen: dict[int, str] = {}
    for one in labels:
        layer = parse_hookpoint(one.hookpoint).layer
        if layer in seen:
            raise OptionError(
                f"{seen[layer]} and {one.hookpoint} are both of layer {layer}, for which "
                "circuit-tracer knows one transcoder; choose with --hookpoint"
            )
        seen[layer] = one.hookpoint
        for latent, text in one.rows.select("latent", "text").iter_rows():
            found[f"{layer}_{latent}"] = text
    return found


def export_names(labels: Sequence[ExportedLabels], dest: Path) -> int:
    """Write ``{"labeler": version, "clerps": {"<layer>_<latent>": text}}``; returns how many.

    Raises
    ------
    ExplanationError
        If `dest` is a file that was not written so.
    """
    names = feature_names(labels)
    ours = set(_present(dest)) == {"labeler", "clerps"}
    _write(dest, {"labeler": __version__, "clerps": names}, is_ours=ours)
    return len(names)


def name_graph(labels: Sequence[ExportedLabels], graph: Path, dest: Path) -> tuple[int, int]:
    """Write a copy of a graph whose feature nodes have our labels as ``clerp``.

    Nodes without a label of ours keep theirs.

    Parameters
    ----------
    labels : sequence of ExportedLabels
    graph : Path
        A graph file of circuit-tracer.
    dest : Path
        The copy.

    Returns
    -------
    (int, int)
        Feature nodes that were named, and feature nodes in all.

    Raises
    ------
    ExplanationError
        If `graph` is no such file, or `dest` one that labeler did not write.
    """
    if dest.exists() and graph.exists() and dest.samefile(graph):
        raise OptionError(f"--dest is the graph itself, {graph}; give the copy another name")
    names = feature_names(labels)
    content = _read(graph)
    nodes, metadata = content.get("nodes"), content.get("metadata")
    if not isinstance(nodes, list) or not isinstance(metadata, dict):
        raise ExplanationError(f"{graph} has no nodes and metadata, so it is no graph; {_CURE}")
    n_named = n_features = 0
    for number, node in enumerate(nodes):
        if not isinstance(node, dict) or not isinstance(node.get("node_id"), str):
            raise ExplanationError(f"{graph}: node {number} has no node_id; {_CURE}")
        if node.get("feature_type") != FEATURE:
            continue
        match = _NODE.fullmatch(node["node_id"])
        if match is None:
            raise ExplanationError(
                f"{graph}: node {number} is a feature, but its node_id {node['node_id'][:80]!r} is "
                f"not <layer>_<latent>_<position>; {_CURE}"
            )
        n_features += 1
        if (name := names.get(f"{match[1]}_{match[2]}")) is not None:
            node["clerp"] = name
            n_named += 1
    metadata["labeler"] = __version__
    there = _present(dest).get("metadata")
    _write(dest, content, is_ours=isinstance(there, dict) and "labeler" in there)
    return n_named, n_features


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_GRAPH:
            raise ExplanationError(f"{path} is larger than {_MAX_GRAPH:,} bytes; {_CURE}")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExplanationError(f"{path} cannot be read as a graph ({error}); {_CURE}") from error
    if not isinstance(found, dict):
        raise ExplanationError(f"{path} holds no JSON object, so it is no graph; {_CURE}")
    return found


def _present(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds; empty where there is none."""
    try:
        return _read(path)
    except ExplanationError:
        return {}


def _write(dest: Path, content: dict[str, Any], *, is_ours: bool) -> None:
    write_file(dest, (json.dumps(content, indent=2) + "\n").encode(), is_ours=is_ours)
