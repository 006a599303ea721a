"""Sufficient statistics: against sums over positions, and adding up over shards."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from labeler.functions import FunctionType
from labeler.keytree import KeyTree
from labeler.rowsums import RowSums
from labeler.statistics import (
    LEAST_OF_SEVERAL,
    LatentFirings,
    make_rows,
    sums_by_fold,
)
from labeler.tokens import N_FOLDS
from tests.synthetic import (
    LastThree,
    Material,
    firings_of,
    make_tokens,
    material,
    plain_tokens,
    random_acts,
    registered,
)

NAMES = ["trigram", "previous_token", "topic", "last_three", "previous_token+last_three"]
SEVERAL = ("last_three", "previous_token+last_three")
WIDTH = 5


@pytest.fixture(scope="module")
def made() -> Material:
    tokens = make_tokens(21, n_docs=60)
    with registered(LastThree):
        return material(tokens, NAMES, random_acts(tokens.fit, WIDTH))


def dense_of(firings: LatentFirings, n_positions: int) -> np.ndarray:
    out = np.zeros((n_positions, firings.n_latents), dtype=np.float32)
    out[firings.position, firings.column] = firings.act
    return out


# -- firings ---------------------------------------------------------------------------------------


def test_firings_by_hand() -> None:
    firings = LatentFirings.from_firings(
        np.array([0, 0, 3, 4]),
        np.array([11, 10, 11, 10]),
        np.array([1.0, 2.0, 3.0, 4.0], dtype=np.float32),
        first=10,
        n_latents=3,
        n_positions=6,
    )
    assert firings.first == 10
    assert firings.start.tolist() == [0, 2, 4, 4]
    assert firings.position.tolist() == [0, 4, 0, 3]
    assert firings.act.tolist() == [2, 4, 1, 3]
    assert firings.column.tolist() == [0, 0, 1, 1]
    assert firings.act.dtype == np.float32


def test_blocks_and_take_keep_every_firing(made: Material) -> None:
    n = made.fit.ids.size
    assert np.array_equal(dense_of(made.firings, n), made.acts)
    blocks = list(made.firings.blocks(2))
    assert [(block.first, block.n_latents) for block in blocks] == [(0, 2), (2, 2), (4, 1)]
    assert np.array_equal(np.hstack([dense_of(block, n) for block in blocks]), made.acts)
    taken = made.firings.take(np.array([3, 0]))
    assert np.array_equal(dense_of(taken, n), made.acts[:, [3, 0]])
    nothing = made.firings.take(np.array([], dtype=np.int64))
    assert nothing.n_latents == 0
    assert len(nothing.act) == 0


# -- sums ------------------------------------------------------------------------------------------


def test_sums_by_fold(made: Material) -> None:
    count, total, square = sums_by_fold(made.fit, made.firings)
    fold = np.repeat(made.fit.fold, made.fit.ctx_len)
    for f in range(N_FOLDS):
        acts = made.acts[fold == f].astype(np.float64)
        assert np.array_equal(count[f], (acts > 0).sum(axis=0))
        assert np.allclose(total[f], acts.sum(axis=0))
        assert np.allclose(square[f], (acts**2).sum(axis=0))


def row_sums(rows: RowSums) -> tuple[np.ndarray, np.ndarray]:
    shape = (rows.rows.n_rows, rows.width)
    return tuple(  # type: ignore[return-value]
        sparse.csr_matrix((values, rows.column, rows.start), shape=shape).toarray()
        for values in (rows.count, rows.total)
    )


def nodes_and_folds(made: Material, name: str) -> list[tuple[list[int], int]]:
    """Per flat position its nodes in a level, one for each of its keys' places, and its fold."""
    node = made.nodes[name].reshape(made.fit.ids.size, -1).tolist()
    fold = np.repeat(made.fit.fold, made.fit.ctx_len).tolist()
    return list(zip(node, fold, strict=True))


def test_rows_are_the_pairs_of_node_and_fold_seen_elsewhere_too(made: Material) -> None:
    for name, rows in made.rows.items():
        n = np.zeros((made.tree.levels[name].n_nodes, N_FOLDS), dtype=int)
        for nodes, f in nodes_and_folds(made, name):
            for k in nodes:
                if k >= 0:
                    n[k, f] += 1
        # Of the many keys of a type of several keys, the rare ones are left out.
        enough = LEAST_OF_SEVERAL if name in SEVERAL else 0
        seen = np.argwhere(n > 0).tolist()
        wanted = [(k, f) for k, f in seen if n[k].sum() > n[k, f] and n[k].sum() >= enough]
        assert list(zip(rows.node.tolist(), rows.fold.tolist(), strict=True)) == wanted
        assert rows.n_in.tolist() == [n[k, f] for k, f in wanted]
        assert rows.n_out.tolist() == [n[k].sum() - n[k, f] for k, f in wanted]
        assert rows.alive.tolist() == sorted({k for k, _ in wanted})
        assert rows.alive[rows.index].tolist() == rows.node.tolist()
        number = {pair: index for index, pair in enumerate(wanted)}
        assert rows.of_position.tolist() == [
            [number.get((k, f), -1) for k in nodes] for nodes, f in nodes_and_folds(made, name)
        ]
        assert rows.of_position.shape[1] == (3 if name in SEVERAL else 1)
        parent = made.tree.levels[name].parent_name
        for index, (k, f) in enumerate(wanted):
            above = int(rows.parent_row[index])
            if parent is None:
                assert above == f
            else:
                assert made.rows[parent].fold[above] == f
                assert made.rows[parent].node[above] == made.tree.levels[name].parent[k]
        # Refinements and longer n-grams have nodes of one fold only.
        assert len(wanted) < (n > 0).sum() or name not in {"trigram", SEVERAL[1]}


@pytest.mark.parametrize("dense", [0, 1 << 21])
def test_row_sums(made: Material, monkeypatch: pytest.MonkeyPatch, dense: int) -> None:
    monkeypatch.setattr("labeler.rowsums._DENSE_CELLS", dense)
    for rows in made.rows.values():
        sums = RowSums.make(rows, made.firings)
        count, total = row_sums(sums)
        wanted, wanted_count = np.zeros((2, rows.n_rows, WIDTH))
        for place in range(rows.of_position.shape[1]):
            at = rows.of_position[:, place] >= 0
            np.add.at(wanted, rows.of_position[at, place], made.acts[at])
            np.add.at(wanted_count, rows.of_position[at, place], made.acts[at] > 0)
        assert np.array_equal(count, wanted_count)
        assert np.allclose(total, wanted, rtol=1e-5)
        # Cells in order, none twice, none without a firing.
        cells = np.repeat(np.arange(rows.n_rows), np.diff(sums.start)) * WIDTH + sums.column
        assert (np.diff(cells) > 0).all()
        assert len(cells) == (wanted_count > 0).sum()


@pytest.mark.parametrize("name", ["bigram", "last_three"])
@pytest.mark.parametrize("cells", [1, 7, 64, 1 << 16])
def test_chunks_cover_every_row_once_and_hold_whole_nodes(
    made: Material, monkeypatch: pytest.MonkeyPatch, cells: int, name: str
) -> None:
    monkeypatch.setattr("labeler.rowsums.CHUNK_CELLS", cells)
    rows = made.rows[name]
    sums = RowSums.make(rows, made.firings)
    count, total = row_sums(sums)
    at_row = at_node = 0
    for chunk in sums.chunks():
        span, nodes = chunk.plan.rows, chunk.plan.nodes
        assert (span.start, nodes.start) == (at_row, at_node)
        at_row, at_node = span.stop, nodes.stop
        node = rows.node[span]
        assert np.unique(node).tolist() == rows.alive[nodes].tolist()
        whole = {k: rows.node == k for k in np.unique(node).tolist()}
        for dense, of_node, outside, inside in (
            (count, chunk.node_count, chunk.count_out, chunk.count_in),
            (total, chunk.node_sum, chunk.sum_out, chunk.sum_in),
        ):
            wanted = np.array([dense[mask].sum(axis=0) for mask in whole.values()])
            assert np.allclose(of_node, wanted, rtol=1e-5)
            rest = wanted[np.searchsorted(list(whole), node)] - dense[span]
            assert np.allclose(outside, rest, rtol=1e-4, atol=1e-4)
            filled = np.zeros_like(outside)
            filled.reshape(-1)[chunk.cell] = inside
            assert np.allclose(filled, dense[span], rtol=1e-5)
    assert (at_row, at_node) == (rows.n_rows, len(rows.alive))


# -- sums add up over shards -----------------------------------------------------------------------


def keep(firings: LatentFirings, mask: np.ndarray) -> LatentFirings:
    """Firings at some positions only."""
    mine = mask[firings.position]
    lengths = np.bincount(firings.column[mine], minlength=firings.n_latents)
    start = np.concatenate([[0], np.cumsum(lengths)])
    return replace(firings, start=start, position=firings.position[mine], act=firings.act[mine])


def test_statistics_of_the_union_are_the_sum_over_shards(made: Material) -> None:
    fit = made.fit
    shard = np.repeat(np.arange(fit.n_ctx) * 3 // fit.n_ctx, fit.ctx_len)
    parts = [keep(made.firings, shard == number) for number in range(3)]
    assert sum(len(part.act) for part in parts) == len(made.firings.act)
    whole = sums_by_fold(fit, made.firings)
    by_shard = [sums_by_fold(fit, part) for part in parts]
    for index in range(3):
        assert np.allclose(whole[index], sum(part[index] for part in by_shard))
    for rows in made.rows.values():
        count, total = row_sums(RowSums.make(rows, made.firings))
        pieces = [row_sums(RowSums.make(rows, part)) for part in parts]
        assert np.array_equal(count, sum(piece[0] for piece in pieces))
        assert np.allclose(total, sum(piece[1] for piece in pieces), rtol=1e-4, atol=1e-4)


def test_statistics_of_other_machines_shards(made: Material) -> None:
    """Each shard numbered from its own first context, as a machine that has no other does."""
    fit = made.fit
    count = np.zeros((N_FOLDS, WIDTH))
    n_positions = 0
    for low in range(0, fit.n_ctx, 7):
        contexts = np.arange(low, min(low + 7, fit.n_ctx))
        span = slice(low * fit.ctx_len, (contexts[-1] + 1) * fit.ctx_len)
        part = fit.select(contexts)
        count += sums_by_fold(part, firings_of(made.acts[span]))[0]
        n_positions += part.n_positions
    assert np.array_equal(count, sums_by_fold(fit, made.firings)[0])
    assert n_positions == fit.n_positions


def test_key_counts_add_up_over_shards(made: Material) -> None:
    fit = made.fit
    halves = [fit.select(np.arange(fit.n_ctx) % 2 == half) for half in (0, 1)]
    # Keys of the topic are made without each context's own fold: those are the fit split's only.
    own = {name for name, kind in made.tree.types.items() if has_fit_keys(kind)}
    assert own == {"topic"}
    for name, level in made.tree.levels.items():
        n = np.zeros_like(level.n)
        for half in halves if name not in own else []:
            found = made.tree.find(half, [name])[name].reshape(*half.ids.shape, -1)
            for node in np.moveaxis(found, -1, 0):
                fold = np.broadcast_to(half.fold[:, None], node.shape)
                use = half.valid & (node >= 0)
                np.add.at(n, (node[use], fold[use]), 1)
        assert np.array_equal(n, level.n) or name in own


def has_fit_keys(kind: FunctionType) -> bool:
    return type(kind).fit_keys is not FunctionType.fit_keys


def test_a_level_without_nodes_has_no_rows() -> None:
    fit = plain_tokens([[1], [2], [1]])
    tree, nodes = KeyTree.build(fit, ["bigram"])
    rows = make_rows(tree, nodes, fit)
    assert rows["unigram"].n_rows == 2
    assert rows["bigram"].n_rows == 0
    assert (rows["bigram"].of_position == -1).all()
    firings = firings_of(np.ones((3, 1), dtype=np.float32))
    assert list(RowSums.make(rows["bigram"], firings).chunks()) == []
