"""Whole tables: every key of every type, for the unlimited budget.

One sparse product per type adds up the activations of all latents at each node. The tables are
written as three flat files per type, so that they can be memory-mapped and only the rows that a
text needs are ever read.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from labeler.corrections import Correction, Fitted
from labeler.errors import LabelError
from labeler.keytree import KeyTree
from labeler.level import Nodes
from labeler.predict import Table
from labeler.scores import Shrinkage
from labeler.statistics import LatentFirings
from labeler.store import write_array


def runs_by_type(
    types: list[str], runs: npt.NDArray[np.integer], labeled: npt.NDArray[np.bool_]
) -> dict[str, npt.NDArray[np.int64]]:
    """Labeled latents by the type their whole table ends in."""
    by_type = {name: np.flatnonzero(labeled & (runs == index)) for index, name in enumerate(types)}
    return {name: latents for name, latents in by_type.items() if len(latents)}


def users(tree: KeyTree, runs: Mapping[str, npt.NDArray[np.integer]], name: str) -> list[int]:
    """Latents whose chain passes through a type."""
    return sorted(
        int(latent)
        for end, latents in runs.items()
        if name in tree.chain(end)
        for latent in latents
    )


def write_tables(
    folder: Path,
    tree: KeyTree,
    nodes: Mapping[str, Nodes],
    firings: LatentFirings,
    runs: Mapping[str, npt.NDArray[np.integer]],
    shrinkage: Mapping[str, Shrinkage],
) -> None:
    """Write the table of each type that some latent runs on.

    Parameters
    ----------
    folder : Path
        One sub-folder per type is written here.
    tree, nodes : KeyTree and dict of str to int32 [n_ctx, ctx_len]
        Of the fit split.
    firings : LatentFirings
        Of all latents of the hookpoint, numbered from 0.
    runs : mapping of str to int [n]
        Latents by the type their chain ends in.
    shrinkage : mapping of str to Shrinkage
    """
    by_position = None
    for name, level in tree.levels.items():
        latents = users(tree, runs, name)
        if not latents:
            # What an earlier fit with other types or other labels left there.
            shutil.rmtree(folder / name, ignore_errors=True)
            continue
        node = nodes[name].ravel()
        if by_position is None:
            by_position = sparse.csc_matrix(
                (firings.act, firings.position, firings.start),
                shape=(len(node), firings.n_latents),
            ).tocsr()
        at = np.flatnonzero(node >= 0)
        ones = np.ones(len(at), dtype=np.float32)
        membership = sparse.csr_matrix((ones, (node[at], at)), shape=(level.n_nodes, len(node)))
        source = by_position
        if len(latents) < firings.n_latents:
            keep = np.zeros(firings.n_latents, dtype=np.float32)
            keep[latents] = 1
            source = by_position @ sparse.diags_array(keep, format="csr", dtype=np.float32)
        total = (membership @ source).tocsr()
        total.eliminate_zeros()
        total.sort_indices()
        lam = np.float32(shrinkage[name].mean)
        total.data /= np.repeat(level.n_total + lam, np.diff(total.indptr)).astype(np.float32)
        arrays = {
            "start": total.indptr.astype(np.int64),
            "latent": total.indices.astype(_latent_dtype(firings.n_latents)),
            "value": total.data.astype(_value_dtype(total)),
            "scale": (lam / (level.n_total + lam)).astype(np.float32),
        }
        for key, array in arrays.items():
            write_array(folder / name / f"{key}.npy", array)


def write_extra(
    folder: Path,
    tree: KeyTree,
    corrections: Sequence[Correction],
    extra: Sequence[Fitted],
    labeled: npt.NDArray[np.bool_],
) -> None:
    """Write what each correction adds to the whole tables of labeled latents.

    Parameters
    ----------
    folder : Path
        One sub-folder per level is written here.
    tree : KeyTree
    corrections, extra : sequence of Correction, sequence of Fitted
        In order.
    labeled : bool [n_latents]
    """
    shutil.rmtree(folder, ignore_errors=True)
    for one, cells in zip(corrections, extra, strict=True):
        keep = labeled[cells.latent]
        shape = (tree.levels[one.level].n_nodes, len(labeled))
        table = sparse.coo_matrix(
            (cells.value[keep], (cells.node[keep], cells.latent[keep])), shape=shape
        ).tocsr()
        table.sort_indices()
        arrays = {
            "start": table.indptr.astype(np.int64),
            "latent": table.indices.astype(_latent_dtype(len(labeled))),
            "value": table.data.astype(_value_dtype(table)),
        }
        for key, array in arrays.items():
            write_array(folder / one.level / f"{key}.npy", array)


def _latent_dtype(n_latents: int) -> type[np.unsignedinteger]:
    return np.uint16 if n_latents <= 1 << 16 else np.uint32


def _value_dtype(total: sparse.csr_matrix) -> type[np.floating]:
    """Half precision where no latent's values overflow it or drown in its smallest steps."""
    largest = np.zeros(total.shape[1], dtype=np.float32)
    np.maximum.at(largest, total.indices, np.abs(total.data))
    fits = largest.max(initial=0) < 6e4 and (largest[largest > 0] > 1e-4).all()
    return np.float16 if fits else np.float32


def read_tables(folder: Path, tree: KeyTree, *, scaled: bool = True) -> dict[str, Table]:
    """Memory-map what `write_tables` wrote, parents first; or `write_extra`, not scaled.

    Raises
    ------
    LabelError
        If a file is missing or does not fit the tree.
    """
    tables = {}
    names = ("start", "latent", "value", "scale") if scaled else ("start", "latent", "value")
    for name, level in tree.levels.items():
        if not (folder / name).is_dir():
            continue
        try:
            start, latent, value, *scale = (
                np.load(folder / name / f"{key}.npy", mmap_mode="r", allow_pickle=False)
                for key in names
            )
        except (OSError, EOFError, ValueError) as error:
            raise LabelError(
                f"{folder / name}: cannot be read ({error}); run `labeler fit` again"
            ) from error
        if len(start) != level.n_nodes + 1 or len(latent) != start[-1] or len(value) != start[-1]:
            raise LabelError(
                f"{folder / name}: the table has {len(start) - 1} nodes and {len(latent)} cells, "
                f"the tree {level.n_nodes} nodes; run `labeler fit` again"
            )
        # asarray: plain views of the mapped files, without memmap's slow indexing.
        tables[name] = Table(
            np.asarray(start),
            np.asarray(latent),
            np.asarray(value),
            np.asarray(scale[0]) if scale else None,
        )
    return tables
