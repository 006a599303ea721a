"""Labels: predictions against literal look-ups, exported source, and the way to disk."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest

from labeler.errors import LabelError
from labeler.fitted import BUDGETS, MIN_FIT_FIRINGS, HookpointFit
from labeler.labels import ALL_BUDGETS, LabelSet
from labeler.scores import BlockScorer
from labeler.tables import runs_by_type, write_tables
from labeler.tokens import Tokens
from tests.synthetic import (
    CheapKeys,
    Material,
    firings_of,
    make_tokens,
    material,
    named_keys,
    paths_of,
    save_fit,
)

pytestmark = pytest.mark.slow

NAMES = ["trigram", "previous_token", "subtopic", "unigram+topic"]
DEAD, RARE, NOISE = 12, 13, 14
"""Latents without a label; 0 to 11 have one."""


def planted(tokens: Tokens) -> np.ndarray:
    """Latents of known keyings, float32 [n_ctx * ctx_len, 15]."""
    rng = np.random.default_rng(5)
    ids, valid = tokens.ids, tokens.valid
    before = np.zeros_like(ids)
    before[:, 1:] = ids[:, :-1]
    before[:, 0] = -1
    earlier = np.full_like(ids, -1)
    earlier[:, 2:] = ids[:, :-2]
    subject = np.array([int(topics[0][-1]) for topics in tokens.topics])[tokens.doc][:, None]
    book = np.array([int(topics[1][-1]) for topics in tokens.topics])[tokens.doc][:, None]
    where = [
        ids == 3,
        np.isin(ids, [5, 8, 11]),
        (ids == 2) | ((ids == 4) & (before == 0)),
        (ids == 1) & (before == 0),
        (ids == 6) & (before == 1),
        (ids == 0) & (before != 1),
        (ids == 1) & (before == 0) & (earlier == 0),
        before == 2,
        np.isin(before, [4, 9]),
        np.broadcast_to(subject == 1, ids.shape),
        np.broadcast_to(book == 2, ids.shape),
        np.broadcast_to(book == 5, ids.shape) | (ids == 7),
        np.zeros(ids.shape, dtype=bool),
        np.arange(ids.size).reshape(ids.shape) % (ids.size // 12) == 5,
        rng.random(ids.shape) < 0.02,
    ]
    acts = np.zeros((*ids.shape, len(where)))
    for latent, mask in enumerate(where):
        hits = mask & valid & (rng.random(ids.shape) < 0.93)
        acts[:, :, latent] = hits * (1 + latent / 3) * np.exp(rng.normal(0, 0.2, ids.shape))
    return acts.reshape(-1, len(where)).astype(np.float32)


@pytest.fixture(scope="module")
def made() -> Material:
    tokens = make_tokens(61, n_docs=150, n_vocab=14, contexts_per_doc=(3, 6), tilt=0.6)
    return material(tokens, NAMES, planted(tokens.fit))


def fitted(made: Material) -> HookpointFit:
    """A fit in which keys are cheap, so that labels of little text have many, nested ones."""
    with patch.object(BlockScorer, "worth", CheapKeys.worth):
        return made.fitted()


@pytest.fixture(scope="module")
def fit(made: Material) -> HookpointFit:
    return fitted(made)


@pytest.fixture(scope="module")
def labels(made: Material, fit: HookpointFit, tmp_path_factory: pytest.TempPathFactory) -> LabelSet:
    return save_fit(tmp_path_factory.mktemp("run"), made, fit)


@pytest.fixture(scope="module")
def new_text() -> Tokens:
    """Text that the labels never saw, of another seed and more documents than a batch."""
    return make_tokens(62, n_docs=20, n_vocab=14, contexts_per_doc=(2, 5))


def test_the_material_has_every_kind_of_latent(fit: HookpointFit, labels: LabelSet) -> None:
    status = labels.latents["status"].to_list()
    assert status[:12] == ["labeled"] * 12
    assert status[DEAD] == status[RARE] == "too_rare"
    assert status[NOISE] == "abstained"
    assert 0 < fit.count[RARE] < MIN_FIT_FIRINGS
    runs = set(labels.latents["runs_unlimited"].to_list()[:12])
    assert len(runs) >= 4
    assert set(labels.entries["level"]) == set(labels.tree.levels)
    assert set(labels.latents["function_type"].to_list()[:12]) >= {"unigram", "bigram", "topic"}
    # Exceptions: keys that take away from what others add.
    assert (labels.entries["weight"] < 0).any()


# -- short labels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", BUDGETS)
def test_short_labels_against_a_look_up(labels: LabelSet, new_text: Tokens, budget: int) -> None:
    predicted = labels.predictor(budget).predict(new_text)
    assert predicted.shape == (new_text.n_ctx, new_text.ctx_len, labels.n_latents)
    assert predicted.dtype == np.float32
    tree = labels.tree
    # Level and keys along its chain -> weight, for every kept entry: no nodes.
    kept: dict[int, dict[tuple[str, tuple[int, ...]], float]] = {}
    for row in labels.entries.filter(pl.col("budget") == budget).iter_rows(named=True):
        keys, node = [], row["node"]
        for name in reversed(tree.chain(row["level"])):
            keys.append(int(tree.levels[name].key[node]))
            node = int(tree.levels[name].parent[node])
        mine = kept.setdefault(row["latent"], {})
        assert (row["level"], tuple(reversed(keys))) not in mine
        mine[row["level"], tuple(reversed(keys))] = row["weight"]
    holds = [
        {(name, path) for name in paths for path in paths[name][position]}
        for paths in [{name: named_keys(tree, new_text, name) for name in tree.levels}]
        for position in range(new_text.ids.size)
    ]
    flat = predicted.reshape(-1, labels.n_latents)
    several = clipped = 0
    for latent in range(labels.n_latents):
        row = labels.latents.row(latent, named=True)
        default = row[f"default_{budget}"] if row["status"] == "labeled" else row["mean"]
        entries = kept.get(latent, {})
        for position in np.flatnonzero(new_text.valid.ravel()):
            found = [weight for key, weight in entries.items() if key in holds[position]]
            wanted = default + sum(found)
            assert flat[position, latent] == pytest.approx(max(wanted, 0), rel=1e-4, abs=1e-5)
            several += len(found) > 1
            clipped += wanted < -1e-4
    assert several > 100
    assert clipped > 0


@pytest.mark.parametrize("budget", BUDGETS)
def test_budgets_hold(labels: LabelSet, budget: int) -> None:
    entries = labels.entries.filter(pl.col("budget") == budget)
    sizes = entries.group_by("latent").len()["len"]
    assert sizes.max() <= budget  # type: ignore[operator]
    assert sizes.sum() > 0
    assert not entries.select("latent", "level", "node").is_duplicated().any()


def test_the_smaller_label_is_the_beginning_of_the_larger(labels: LabelSet) -> None:
    small, large = (labels.entries.filter(pl.col("budget") == budget) for budget in BUDGETS)
    longer = 0
    for latent in np.flatnonzero(labels.labeled):
        one, other = (
            entries.filter(pl.col("latent") == latent).select("level", "node").rows()
            for entries in (small, large)
        )
        assert one == other[: len(one)]
        assert len(one) == min(16, len(other))
        longer += len(other) > 16
    assert longer > 2


def test_entries_say_what_happens_at_their_keys(
    made: Material, fit: HookpointFit, labels: LabelSet
) -> None:
    tree, acts = made.tree, made.acts
    for budget, short in fit.short.items():
        mine = labels.entries.filter(pl.col("budget") == budget)
        keep = fit.labeled[short.latent]
        for name in ("latent", "level", "node", "weight", "value"):
            assert mine[name].to_list() == getattr(short, name)[keep].tolist()
    for row in labels.entries.filter(pl.col("budget") == 100)[::9].iter_rows(named=True):
        nodes = made.nodes[row["level"]].ravel()
        at = nodes == row["node"]
        assert row["n"] == at.sum()
        assert row["firings"] == (acts[at, row["latent"]] > 0).sum()
        assert row["text"] == tree.text(row["level"], row["node"])
        assert "\n" not in row["text"]
    refined = labels.entries.filter(pl.col("level") == "unigram+topic")["text"]
    assert refined.str.contains("^` w[0-9]+` and topic subject [0-2]$").all()


# -- unlimited labels ------------------------------------------------------------------------------


def test_whole_tables_against_the_recursion(
    made: Material, fit: HookpointFit, labels: LabelSet, new_text: Tokens
) -> None:
    predictor = labels.predictor("unlimited")
    predicted = predictor.predict(new_text).reshape(-1, labels.n_latents)
    valid = np.flatnonzero(new_text.valid.ravel())
    acts, n_fit = made.acts.astype(np.float64), made.fit.n_positions
    tables: dict[str, dict[tuple[int, ...], tuple[int, np.ndarray]]] = {}
    for name in made.tree.levels:
        table: dict[tuple[int, ...], tuple[int, np.ndarray]] = {}
        for position, path in enumerate(paths_of(made.tree, made.fit, name, fit=True)):
            if path is not None:
                n, total = table.get(path, (0, np.zeros(labels.n_latents)))
                table[path] = (n + 1, total + acts[position])
        tables[name] = table
    paths = {name: paths_of(labels.tree, new_text, name) for name in labels.tree.levels}
    found = labels.tree.find(new_text)
    added: dict[tuple[str, int, int], float] = {}
    for one, cells in zip(fit.corrections, fit.extra, strict=True):
        for node, latent, value in zip(cells.node, cells.latent, cells.value, strict=True):
            added[one.level, int(node), int(latent)] = float(value)
    silent = unseen = 0
    for latent in range(labels.n_latents):
        mean = acts[:, latent].sum() / n_fit
        chain = labels.tree.chain(labels.latents["runs_unlimited"][latent])
        for position in valid:
            mu = mean
            for name in chain if fit.labeled[latent] else []:
                path = paths[name][position]
                if path is None or path not in tables[name]:
                    unseen += path is not None
                    continue
                n, total = tables[name][path]
                lam = fit.shrinkage[name].mean
                # A key seen without a firing pulls the prediction down as well.
                silent += total[latent] == 0
                mu = (total[latent] + lam * mu) / (n + lam)
            for one in fit.corrections if fit.labeled[latent] else []:
                node = int(found[one.level].ravel()[position])
                mu += added.get((one.level, node, latent), 0)
            mu = max(mu, 0)
            assert predicted[position, latent] == pytest.approx(mu, rel=2e-3, abs=1e-5)
    assert silent > 1000
    assert unseen > 20


@pytest.mark.parametrize("budget", ALL_BUDGETS)
def test_text_in_pieces_predicts_the_same(
    labels: LabelSet, new_text: Tokens, budget: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = labels.predictor(budget).predict(new_text)
    nodes = labels.tree.find(new_text)
    assert np.array_equal(labels.predictor(budget).predict(new_text, nodes), whole)
    monkeypatch.setattr("labeler.predict.CONTEXTS_AT_ONCE", 3)
    monkeypatch.setattr("labeler.predict.CONTEXTS_NUMBERED", 7)
    for known in (None, nodes):
        spans = [span for span, _ in labels.predictor(budget).iterate(new_text, known)]
        assert max(span.stop - span.start for span in spans) == 3
        assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
        assert spans[-1].stop == new_text.n_ctx
        assert np.array_equal(labels.predictor(budget).predict(new_text, known), whole)


# -- one latent ------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", ALL_BUDGETS)
def test_a_label_predicts_and_fires_as_the_set_does(
    labels: LabelSet, new_text: Tokens, budget: Any
) -> None:
    predictor = labels.predictor(budget)
    whole = predictor.predict(new_text)
    for latent in range(labels.n_latents):
        label = labels.label(latent)
        predicted = label.predict(new_text, budget)
        assert predicted.dtype == np.float32
        assert np.array_equal(predicted, whole[:, :, latent])
        fires = label.fires(new_text, budget)
        assert np.array_equal(fires, predicted >= predictor.threshold[latent])
        valid = fires[new_text.valid]
        assert valid.any() == labels.labeled[latent]
        assert not valid.all()


@pytest.mark.parametrize("budget", ALL_BUDGETS)
def test_latents_without_a_label_predict_their_mean_and_never_fire(
    made: Material, labels: LabelSet, new_text: Tokens, budget: Any
) -> None:
    for latent in (DEAD, RARE, NOISE):
        label = labels.label(latent)
        mean = made.acts[:, latent].sum() / made.fit.n_positions
        assert np.allclose(label.predict(new_text, budget), mean)
        assert not label.fires(new_text, budget).any()
        assert label.function_type is None
    assert labels.label(DEAD).predict(new_text, budget).max() == 0


def test_labels_find_what_was_planted(made: Material, labels: LabelSet) -> None:
    heldout = made.tokens.heldout
    truth = planted(heldout).reshape(*heldout.ids.shape, -1) > 0
    for latent in range(9):
        called = labels.label(latent).fires(heldout)[heldout.valid]
        fires = truth[:, :, latent][heldout.valid]
        assert 2 * (called & fires).sum() / (called.sum() + fires.sum()) > 0.85


# -- exported source -------------------------------------------------------------------------------


def run_source(source: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    names: dict[str, Any] = {"__name__": "exported"}
    exec(compile(source, "<label>", "exec"), names)
    return names["predict"](ids), names["fires"](ids)


@pytest.mark.parametrize("budget", BUDGETS)
def test_exported_source_predicts_exactly_the_same(
    labels: LabelSet, new_text: Tokens, budget: int
) -> None:
    used: set[str] = set()
    for latent in range(labels.n_latents):
        label = labels.label(latent)
        source = label.source(budget)
        predicted, fires = run_source(source, new_text.ids)
        assert predicted.dtype == np.float32
        valid = new_text.valid
        assert np.array_equal(predicted[valid], label.predict(new_text, budget)[valid])
        assert np.array_equal(fires[valid], label.fires(new_text, budget)[valid])
        used |= {name for name in labels.tree.types if f"def keys_{name}(" in source}
        # Only what the label needs.
        needed = labels.entries.filter((pl.col("budget") == budget) & (pl.col("latent") == latent))
        levels = {up for name in needed["level"] for up in labels.tree.chain(name)}
        functions = {labels.tree.levels[name].type_name for name in levels}
        assert source.count("def keys_") == len(functions)
    assert used == set(labels.tree.types)


def test_exported_source_imports_numpy_and_the_standard_library_only(labels: LabelSet) -> None:
    for latent in range(labels.n_latents):
        lines = labels.label(latent).source().splitlines()
        imports = {line.strip() for line in lines if line.strip().startswith(("import", "from"))}
        assert imports <= {"import numpy as np", "import base64, zlib"}
        assert labels.label(latent).text.splitlines()[0][:20] in lines[0]


def test_exported_source_takes_lists_and_any_integers(labels: LabelSet, new_text: Tokens) -> None:
    source = labels.label(9).source()
    wanted = run_source(source, new_text.ids)[0]
    assert np.array_equal(run_source(source, new_text.ids.astype(np.uint16))[0], wanted)
    assert np.array_equal(run_source(source, new_text.ids.tolist())[0], wanted)  # type: ignore[arg-type]


def test_whole_tables_are_no_source(labels: LabelSet) -> None:
    with pytest.raises(LabelError, match="'unlimited' cannot be exported as source"):
        labels.label(0).source("unlimited")  # type: ignore[arg-type]


def test_a_type_without_source_cannot_be_exported(
    labels: LabelSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(labels.tree.types["unigram"]), "source", lambda self: None)
    with pytest.raises(LabelError, match=r"'unigram' has no source\(\)"):
        labels.label(0).source()


# -- texts -----------------------------------------------------------------------------------------


def test_texts(labels: LabelSet) -> None:
    assert labels.label(0).text.startswith("fires on ` w3`")
    assert labels.label(0).function_type == "unigram"
    assert set(labels.label(1).text.split("`")[1:6:2]) == {" w5", " w8", " w11"}
    assert "` w0 w1`" in labels.label(3).text
    assert labels.label(7).text.startswith("fires on anything after ` w2`")
    assert labels.label(9).text.startswith("fires on topic subject 1")
    assert labels.label(DEAD).text == ("not fitted: fires 0 times in the fit split, 30 are needed")
    assert labels.label(NOISE).text.startswith("unexplained: ")
    for latent in range(labels.n_latents):
        assert len(labels.label(latent).text.splitlines()) == 1


# -- the way to disk -------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", ALL_BUDGETS)
def test_round_trip(labels: LabelSet, new_text: Tokens, budget: Any) -> None:
    again = LabelSet.load(labels.folder)
    assert again.hookpoint == labels.hookpoint == "h.0"
    assert again.latents.equals(labels.latents)
    assert again.entries.equals(labels.entries)
    assert again.manifest == labels.manifest
    one, two = again.predictor(budget), labels.predictor(budget)
    assert np.array_equal(one.predict(new_text), two.predict(new_text))
    assert np.array_equal(one.threshold, two.threshold)


def test_predictions_on_the_fit_split_are_those_of_the_fit(
    made: Material, fit: HookpointFit, labels: LabelSet
) -> None:
    """Mean prediction = mean activation, and the fit's own thresholds and F1 come out."""
    valid = made.fit.valid.ravel()
    fires = made.acts[valid] > 0
    for budget in BUDGETS:
        predictor = labels.predictor(budget)
        # At the fit's own nodes: keys that were learned from a context are none of them.
        predicted = predictor.at_nodes(made.nodes)[valid]
        for latent in np.flatnonzero(fit.labeled):
            mine = labels.entries.filter(
                (pl.col("budget") == budget) & (pl.col("latent") == latent)
            )
            carried = (mine["weight"] * mine["n"]).sum() / made.fit.n_positions
            unclipped = predictor.default[latent] + carried
            assert unclipped == pytest.approx(fit.mean[latent], rel=1e-3)
            called = predicted[:, latent] >= predictor.threshold[latent]
            f1 = 2 * (called & fires[:, latent]).sum() / (called.sum() + fires[:, latent].sum())
            assert fit.short[budget].f1[latent] == pytest.approx(f1, abs=1e-3)


def test_scores_of_every_type_are_written(fit: HookpointFit, labels: LabelSet) -> None:
    scores = pl.read_parquet(labels.folder / "types.parquet")
    assert len(scores) == len(fit.types) * labels.n_latents
    for name in ("r2", "bits", "net_bits"):
        for index, kind in enumerate(fit.types):
            mine = scores.filter(pl.col("type") == kind).sort("latent")
            assert mine["latent"].to_list() == list(range(labels.n_latents))
            assert np.array_equal(mine[name], getattr(fit, name)[index])


def test_manifest_tells_where_it_came_from(labels: LabelSet) -> None:
    manifest = labels.manifest
    assert manifest["format"] == 2
    assert manifest["n_labeled"] == 12
    assert manifest["n_latents"] == 15
    assert manifest["budgets"] == [16, 100]
    assert manifest["model"] == "none"
    assert set(manifest["shrinkage"]) == set(labels.tree.levels)


def test_errors(labels: LabelSet) -> None:
    with pytest.raises(LabelError, match="budget 17: there are 16, 100, unlimited"):
        labels.predictor(17)
    with pytest.raises(LabelError, match=r"h\.0 has latents 0 to 14, not 15"):
        labels.label(15)
    with pytest.raises(LabelError, match="not -1"):
        labels.label(-1)


@pytest.fixture
def copy(made: Material, fit: HookpointFit, tmp_path: Path) -> Path:
    return save_fit(tmp_path, made, fit).folder


@pytest.mark.parametrize("name", ["latents.parquet", "entries.parquet"])
def test_truncated_tables_are_named(copy: Path, name: str) -> None:
    path = copy / name
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b""):
        path.write_bytes(broken)
        with pytest.raises(LabelError, match=rf"{name}: cannot be read .*labeler fit"):
            LabelSet.load(copy)
    path.unlink()
    with pytest.raises(LabelError, match=rf"{name}: cannot be read"):
        LabelSet.load(copy)


@pytest.mark.parametrize("name", ["start", "latent", "value", "scale"])
def test_truncated_whole_tables_are_named(copy: Path, name: str) -> None:
    path = copy / "whole" / "unigram" / f"{name}.npy"
    whole = path.read_bytes()
    for broken in (whole[:-10], whole[:20], b""):
        path.write_bytes(broken)
        with pytest.raises(LabelError, match=r"whole.unigram: cannot be read"):
            LabelSet.load(copy).predictor("unlimited")
    # The short labels still run.
    assert LabelSet.load(copy).predictor(16).n_latents == 15


def test_whole_tables_of_another_tree_are_refused(copy: Path) -> None:
    path = copy / "whole" / "unigram" / "start.npy"
    np.save(path, np.load(path)[:-1])
    with pytest.raises(LabelError, match=r"whole.unigram: the table has"):
        LabelSet.load(copy).predictor("unlimited")


def test_another_format_is_refused(copy: Path) -> None:
    path = copy / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    with pytest.raises(LabelError, match="format is 1, this version reads 2"):
        LabelSet.load(copy)
    path.write_text("{")
    with pytest.raises(LabelError, match=r"manifest\.json: cannot be read"):
        LabelSet.load(copy)
    path.unlink()
    with pytest.raises(LabelError, match=r"manifest\.json does not exist; run `labeler fit`"):
        LabelSet.load(copy)


def test_fitting_again_with_other_types_replaces_the_tables(
    made: Material, copy: Path, new_text: Tokens
) -> None:
    """Tables of types that no label uses any more do not stay behind to be read."""
    run = copy.parent.parent
    other = material(made.tokens, ["previous_token"], made.acts)
    labels = save_fit(run, other, other.fitted())
    assert labels.predictor("unlimited").predict(new_text).shape[-1] == 15
    # The same types over less text, where no label needs trigrams or topics any more.
    half = made.tokens.select(np.arange(made.tokens.n_ctx) % 2 == 0)
    acts = made.acts.reshape(*made.fit.ids.shape, -1)[::2][:, :, [0, 1]].reshape(-1, 2)
    assert half.fit.ids.size == len(acts)
    fewer = material(half, NAMES, acts)
    fit = fewer.fitted()
    assert fit.labeled.all()
    labels = save_fit(run, fewer, fit)
    used = {up for name in labels.latents["runs_unlimited"] for up in fewer.tree.chain(name)}
    assert {path.name for path in (copy / "whole").iterdir()} == used
    assert labels.predictor("unlimited").predict(new_text).shape[-1] == 2


def test_values_beyond_half_precision(made: Material, tmp_path: Path) -> None:
    """Activations of any scale come back from the tables."""
    for scale in (1e-6, 1e6):
        scaled = material(made.tokens, ["unigram"], made.acts[:, :3] * np.float32(scale))
        fit = scaled.fitted()
        labels = save_fit(tmp_path / str(scale), scaled, fit)
        assert fit.labeled.all()
        valid = made.fit.valid.ravel()
        predicted = labels.predictor("unlimited").predict(made.fit).reshape(-1, 3)[valid]
        acts = scaled.acts[valid]
        for latent in range(2):
            error = ((predicted[:, latent] - acts[:, latent]) ** 2).sum()
            total = ((acts[:, latent] - acts[:, latent].mean()) ** 2).sum()
            assert 1 - error / total > 0.8


def test_no_latent_is_labeled(made: Material, tmp_path: Path, new_text: Tokens) -> None:
    rng = np.random.default_rng(0)
    noise = (rng.random((made.fit.ids.size, 3)) < 0.02) & made.fit.valid.ravel()[:, None]
    noisy = material(made.tokens, NAMES, noise.astype(np.float32))
    fit = noisy.fitted()
    labels = save_fit(tmp_path, noisy, fit)
    assert not fit.labeled.any()
    assert len(labels.entries) == 0
    for budget in ALL_BUDGETS:
        predicted = labels.predictor(budget).predict(new_text)
        assert np.allclose(predicted, labels.mean)


def test_a_label_without_keys_says_so(made: Material, tmp_path: Path, new_text: Tokens) -> None:
    """One activation ten thousand times the others: no key saves a share of the squared error."""
    acts = (made.fit.ids.reshape(-1, 1) == [3, 5]) & made.fit.valid.reshape(-1, 1)
    acts = acts.astype(np.float32)
    acts[np.flatnonzero(made.fit.valid.ravel())[100], 0] = 1e4
    odd = material(made.tokens, ["bigram"], acts)
    labels = save_fit(tmp_path, odd, odd.fitted())
    assert labels.labeled.all()
    assert labels.entries["latent"].unique().to_list() == [1]
    assert labels.label(0).text.startswith("predicts its mean: no key saves enough")
    assert labels.label(1).text == "fires on ` w5`"
    predicted = labels.label(0).predict(new_text)
    assert np.allclose(predicted, labels.mean[0])
    run_source(labels.label(0).source(), new_text.ids)


def test_a_hookpoint_whose_latents_are_all_dead(
    made: Material, tmp_path: Path, new_text: Tokens
) -> None:
    dead = material(made.tokens, NAMES, np.zeros((made.fit.ids.size, 3), dtype=np.float32))
    fit = dead.fitted()
    labels = save_fit(tmp_path, dead, fit)
    assert labels.latents["status"].to_list() == ["too_rare"] * 3
    for budget in ALL_BUDGETS:
        assert (labels.predictor(budget).predict(new_text) == 0).all()


def test_wide_hookpoints_number_their_latents_in_32_bits(
    made: Material, fit: HookpointFit, tmp_path: Path
) -> None:
    """More than 65,536 latents do not fit 16 bits."""
    n, first = 70_000, 69_990
    narrow = made.firings
    start = np.concatenate([np.zeros(first, dtype=np.int64), narrow.start[:11]])
    wide = type(narrow)(0, start, narrow.position[: start[-1]], narrow.act[: start[-1]])
    assert wide.n_latents == n
    runs = {"bigram": np.arange(first, n)}
    write_tables(tmp_path, made.tree, made.nodes, wide, runs, fit.shrinkage)
    latent = np.load(tmp_path / "bigram" / "latent.npy")
    assert latent.min() >= first
    assert latent.max() < n


def test_runs_by_type_leaves_out_what_has_no_label() -> None:
    runs = runs_by_type(["a", "b"], np.array([0, 1, 0, 1]), np.array([True, False, True, False]))
    assert {name: latents.tolist() for name, latents in runs.items()} == {"a": [0, 2]}


def test_fit_in_blocks_is_the_fit_of_the_whole(
    made: Material, fit: HookpointFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labeler.fit.BLOCK", 4)
    again = fitted(made)
    for field in ("r2", "bits", "net_bits", "count", "mean"):
        assert np.allclose(getattr(again, field), getattr(fit, field), rtol=1e-4, atol=1e-3)
    assert np.array_equal(again.winner, fit.winner)
    for budget in BUDGETS:
        one, two = again.short[budget], fit.short[budget]
        assert np.array_equal(one.latent, two.latent)
        assert np.array_equal(one.node, two.node)
        assert np.allclose(one.weight, two.weight, rtol=1e-3, atol=1e-5)
        assert np.allclose(one.value, two.value, rtol=1e-3, atol=1e-5)
        assert np.allclose(one.threshold, two.threshold)
    assert again.corrections == fit.corrections
    for one, two in zip(again.extra, fit.extra, strict=True):
        assert np.array_equal(one.latent, two.latent)
        assert np.array_equal(one.node, two.node)
        assert np.allclose(one.value, two.value, rtol=1e-3, atol=1e-5)
    assert firings_of(made.acts).n_latents == 15
