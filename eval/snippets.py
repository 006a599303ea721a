"""Keys taken from real text: what to write so that a label calls."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from labeler.arrays import Bools, Longs
from labeler.eval.edit_contexts import SHORT, Prefixes, draw, predicted
from labeler.eval.scene import Scene
from labeler.keytree import KeyTree
from labeler.labels import READABLE

SUFFIXES = (1, 2, 3, 4, 6, 8)
"""Tokens of a key snippet, the shortest first."""

FIRST = max(SUFFIXES)
"""Earliest position that is written to: a snippet never takes a context's first token."""

_ENTRIES = 6
"""Heaviest entries of a label that are tried where no snippet makes it call."""

MOST = 0.7
"""Share of what the label predicts at the source that it must predict where its key was written.
With less, some lesser key was written that happens to reach the threshold."""

BY_ENTRY = -1
"""Stands for the length of a snippet where a key was written by its function type."""

Draws = Callable[[int], np.random.Generator]
"""Random numbers of each latent."""


def key_snippets(
    scene: Scene, latents: Sequence[int], k: int, rng: np.random.Generator
) -> dict[int, list[npt.NDArray[np.int32]]]:
    """Up to k different key snippets of each latent, as token ids.

    The shortest suffix of a called position of `scene.source` that makes the label call when put
    at the end of two held-out contexts where it does not: in one, the tokens before might help. An
    empty list where there is none.
    """
    seed = int(rng.integers(1 << 62))

    def draws(latent: int) -> np.random.Generator:
        return np.random.default_rng([seed, latent])

    # Twice as many as wanted: frequent snippets come several times.
    contexts = silent(scene, latents, 2 * k, draws)
    source = sources(scene, contexts.latent, draws)
    _, size = write_snippets(scene, contexts, source, contexts.take(_next(contexts.latent)))
    text = scene.source.ids.ravel()
    found: dict[int, dict[bytes, npt.NDArray[np.int32]]] = {int(one): {} for one in latents}
    for row in np.flatnonzero(size).tolist():
        end = int(source[row]) + 1
        snippet = text[end - int(size[row]) : end].copy()
        found[int(contexts.latent[row])].setdefault(snippet.tobytes(), snippet)
    return {latent: list(snippets.values())[:k] for latent, snippets in found.items()}


def _next(latent: Longs) -> Longs:
    """The next trial of the same latent, and the first one after its last."""
    out = np.arange(len(latent))
    for one in np.unique(latent):
        mine = np.flatnonzero(latent == one)
        out[mine] = np.roll(mine, -1)
    return out


def silent(scene: Scene, latents: Sequence[int], n: int, draws: Draws) -> Prefixes:
    """Held-out contexts where a latent is silent and its label does not call: n of each latent.

    They end at positions FIRST to SHORT - 1; fewer where there are too few.
    """
    text = scene.heldout
    offset = np.arange(text.ctx_len)
    pool = np.flatnonzero(text.valid & (offset >= FIRST) & (offset < SHORT))
    positions = [np.zeros(0, np.int64)]
    for latent in latents:
        drawn = draw(pool, text, 4 * n, draws(int(latent)))
        same = np.full(len(drawn), latent)
        idle = (scene.firings.at(drawn, same) <= 0) & (scene.calls.at(drawn, same) <= 0)
        positions.append(drawn[idle][:n])
    about = np.repeat(np.asarray(latents, np.int64), [len(found) for found in positions[1:]])
    return Prefixes.cut(text, np.concatenate(positions), about)


def sources(scene: Scene, latent: Longs, draws: Draws) -> Longs:
    """For each trial a flat position of `scene.source` that its label calls, -1 where none.

    Different ones for a latent's trials as long as there are any.
    """
    out = np.full(len(latent), -1, dtype=np.int64)
    order = np.argsort(latent, kind="stable")
    tried, first, n = np.unique(latent[order], return_index=True, return_counts=True)
    known = scene.source_calls.by_latent(tried.tolist())
    for one, begin, size in zip(tried.tolist(), first.tolist(), n.tolist(), strict=True):
        if len(known[one]):
            # Other numbers than those that drew the contexts.
            drawn = draw(known[one], scene.source, size, draws(one).spawn(1)[0])
            out[order[begin : begin + size]] = np.resize(drawn, size)
    return out


def write_keys(scene: Scene, contexts: Prefixes, source: Longs) -> tuple[Prefixes, Longs]:
    """Write the label's key into each context.

    Parameters
    ----------
    scene : Scene
    contexts : Prefixes
        Where the label does not call.
    source : int64 [n]
        See `sources`.

    Returns
    -------
    Prefixes
        The same contexts; the label calls those that could be written.
    int64 [n]
        Length of the snippet that did it; BY_ENTRY where an entry was written by its function
        type; 0 where nothing was written.
    """
    ids, size = write_snippets(scene, contexts, source)
    tree, entries = scene.claims.labels.tree, _heaviest(scene, contexts.latent[size == 0])
    for rank in range(_ENTRIES):
        drafts: dict[int, npt.NDArray[np.int32]] = {}
        for row in np.flatnonzero(size == 0).tolist():
            mine = entries.get(int(contexts.latent[row]), [])
            if rank < len(mine):
                plain = contexts.ids[row, : contexts.length[row]]
                edited = _write_node(tree, plain, *mine[rank])
                if edited is not None:
                    drafts[row] = edited
        rows = np.array(list(drafts), dtype=np.int64)
        tried = ids[rows]
        for number, edited in enumerate(drafts.values()):
            tried[number, : len(edited)] = edited
        edited_ones = Prefixes(contexts.latent[rows], tried, contexts.length[rows])
        done = _says(scene, edited_ones, source[rows])
        ids[rows[done]], size[rows[done]] = tried[done], BY_ENTRY
    return Prefixes(contexts.latent, ids, contexts.length), size


def write_snippets(
    scene: Scene, contexts: Prefixes, source: Longs, also: Prefixes | None = None
) -> tuple[npt.NDArray[np.int32], Longs]:
    """Write the shortest suffix of each source position that makes the label say as much.

    It must call, and predict MOST of what it predicts at the source. In the contexts of `also`
    too, where they are given.

    Returns
    -------
    int32 [n, width]
        Token ids of the contexts.
    int64 [n]
        Length of the suffix, 0 where none does it.
    """
    text, offset = scene.source.ids.ravel(), source % scene.source.ctx_len
    ids, size = contexts.ids.copy(), np.zeros(len(contexts), dtype=np.int64)
    for m in SUFFIXES:
        rows = np.flatnonzero((size == 0) & (source >= 0) & (offset >= m - 1))
        back = np.arange(m)[::-1]
        suffix = text[source[rows, None] - back]
        tried = contexts.put(rows, back, suffix)
        done = np.flatnonzero(_says(scene, tried, source[rows]))
        if also is not None:
            there = also.put(rows[done], back, suffix[done])
            done = done[_says(scene, there, source[rows[done]])]
        ids[rows[done]], size[rows[done]] = tried.ids[done], m
    return ids, size


def _says(scene: Scene, contexts: Prefixes, source: Longs) -> Bools:
    """Whether the label calls each context's end, and predicts MOST of what it does at its source.

    The call alone decides where there is no source (-1).
    """
    there = scene.source_calls.at(np.maximum(source, 0), contexts.latent)
    least = np.where(source >= 0, MOST * there, 0)
    says: Bools = predicted(scene, contexts) >= np.maximum(
        least, scene.claims.threshold[contexts.latent]
    )
    return says


def _heaviest(scene: Scene, latents: Longs) -> Mapping[int, list[tuple[str, int]]]:
    """Level and node of the most telling entries of some labels that speak for firing."""
    budget = READABLE if scene.claims.budget == "unlimited" else scene.claims.budget
    mine = (
        scene.claims.labels.entries.filter(
            (pl.col("budget") == budget)
            & (pl.col("weight") > 0)
            & pl.col("latent").is_in(np.unique(latents).tolist())
        )
        .group_by("latent", maintain_order=True)
        .head(_ENTRIES)
    )
    found: dict[int, list[tuple[str, int]]] = {}
    for latent, level, node in mine.select("latent", "level", "node").iter_rows():
        found.setdefault(latent, []).append((level, node))
    return found


def _write_node(
    tree: KeyTree, ids: npt.NDArray[np.int32], name: str, node: int
) -> npt.NDArray[np.int32] | None:
    """The context with a node's keys at its end, those it backs off to written first."""
    keys = []
    for up in reversed(tree.chain(name)):
        level = tree.levels[up]
        node, rank = divmod(int(level.pair[node]), max(len(level.keys), 1))
        keys.append((tree.types[level.type_name], int(level.keys[rank])))
    edited: npt.NDArray[np.int32] | None = ids
    for kind, key in reversed(keys):
        if edited is not None:
            edited = kind.write(edited, len(ids) - 1, key)
    return edited
