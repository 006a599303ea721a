"""What the tests of labels read: firings and calls on any text, partners, held-out F1 of both."""

import numpy as np
import polars as pl
import pytest
import tiny_run as tiny

from labeler.arrays import Bools
from labeler.cache import LatentCache
from labeler.coders import Coder
from labeler.errors import OptionError
from labeler.eval.against import f1_difference, false_actives
from labeler.eval.claims import Claims
from labeler.eval.firings import TextFirings
from labeler.eval.heldout import load_heldout_firings, score_heldout
from labeler.eval.scene import Scene, partners
from labeler.eval.subject import ModelSubject
from labeler.eval.trials import combined
from labeler.inputs import Run
from labeler.labels import Budget, LabelSet, label_folder
from labeler.model import SubjectModel
from labeler.tokens import Tokens

LAYER = tiny.HOOKPOINTS[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny.tiny_run(tmp_path_factory.mktemp("scene"), verified=False)


@pytest.fixture(scope="module")
def claims(run: Run) -> Claims:
    return Claims(LabelSet.load(label_folder(run.out, LAYER)))


@pytest.fixture(scope="module")
def scene(run: Run, claims: Claims) -> Scene:
    return Scene.make(
        ModelSubject(None, {}),  # type: ignore[arg-type] - nothing here runs a model
        claims,
        run.tokens.fit,
        run.tokens.heldout,
        load_heldout_firings(run.cache, LAYER, run.tokens),
        np.flatnonzero(claims.labeled),
        seed=0,
    )


def firings(*called: list[int], n_positions: int = 20) -> TextFirings:
    """Calls of latents, given by their positions."""
    pairs = sorted((at, latent) for latent, found in enumerate(called) for at in found)
    position, latent = (np.array(column) for column in zip(*pairs, strict=True))
    return TextFirings.make(
        position,
        latent,
        np.arange(1.0, len(pairs) + 1),
        n_positions=n_positions,
        n_latents=len(called),
    )


# -- firings ---------------------------------------------------------------------------------------


def test_firings_are_looked_up() -> None:
    found = firings([0, 7], [7], [], [19])
    dense = found.dense(0, 20)
    at, latent = (one.ravel() for one in np.indices(dense.shape))
    assert np.array_equal(found.at(at, latent).reshape(dense.shape), dense)
    assert dense[7].tolist() == [2, 3, 0, 0]
    assert found.position.tolist() == [0, 7, 7, 19]
    assert found.count.tolist() == [2, 1, 0, 1]
    split = found.by_latent([0, 2, 3])
    assert {one: at.tolist() for one, at in split.items()} == {0: [0, 7], 2: [], 3: [19]}
    empty = TextFirings.make(*[np.zeros(0, np.int32)] * 3, n_positions=4, n_latents=2)
    assert empty.at(np.array([3]), np.array([1])).tolist() == [0]


def test_the_model_fires_as_the_cache_says(
    model: SubjectModel, coders: dict[str, Coder], tokens: Tokens, cache: LatentCache
) -> None:
    subject = ModelSubject(model, coders)
    done: list[float] = []
    found = subject.firings(tokens.heldout, list(coders), advance=done.append)
    assert sum(done) == tokens.heldout.n_ctx
    assert list(found) == list(coders)
    for name, mine in found.items():
        known = load_heldout_firings(cache, name, tokens)
        assert np.array_equal(mine.start, known.start)
        assert np.array_equal(mine.latent, known.latent)
        assert np.allclose(mine.act, known.act, atol=1e-5)
    # Only some positions.
    where = np.zeros(tokens.heldout.ids.shape, dtype=bool)
    where[:, 5] = True
    some = subject.firings(tokens.heldout, ["layers.1.mlp"], where)["layers.1.mlp"]
    flat = (where & tokens.heldout.valid).ravel()
    keep = flat[found["layers.1.mlp"].position]
    assert np.array_equal(some.position, found["layers.1.mlp"].position[keep])
    assert np.allclose(some.act, found["layers.1.mlp"].act[keep], atol=1e-5)
    nothing = subject.firings(tokens.heldout.select(np.zeros(0, np.int64)), ["layers.0.mlp"])
    assert nothing["layers.0.mlp"].count.sum() == 0


def test_the_model_refuses(model: SubjectModel, coders: dict[str, Coder], tokens: Tokens) -> None:
    with pytest.raises(OptionError, match=r"no coder for hookpoint layers\.9\.mlp; there"):
        ModelSubject(model, coders).firings(tokens.heldout, ["layers.9.mlp"])


# -- claims ----------------------------------------------------------------------------------------


def test_calls_are_those_of_the_labels(run: Run, claims: Claims) -> None:
    heldout = run.tokens.heldout
    found = claims.calls(heldout)
    called = found.dense(0, heldout.ids.size) > 0
    for latent in range(claims.n_latents):
        fires = claims.labels.label(latent).fires(heldout, 100) & heldout.valid
        assert np.array_equal(called[:, latent].reshape(fires.shape), fires)
    assert called.sum(axis=0)[tiny.PAIR] > 5
    nodes = claims.labels.shared.find(heldout)
    again = claims.calls(heldout, nodes)
    assert np.array_equal(again.latent, found.latent)


def test_one_position_of_each_context(run: Run, claims: Claims) -> None:
    heldout = run.tokens.heldout
    rng = np.random.default_rng(0)
    pos = rng.integers(0, heldout.length)
    latent = rng.integers(0, claims.n_latents, heldout.n_ctx)
    whole = claims.labels.predictor(100).predict(heldout)
    mine = whole[np.arange(heldout.n_ctx), pos, latent]
    assert np.array_equal(claims.at(heldout, pos, latent), mine)
    calls = claims.calls_at(heldout, pos, latent)
    assert np.array_equal(calls, mine >= claims.threshold[latent])
    none = heldout.select(np.zeros(0, np.int64))
    assert claims.at(none, pos[:0], latent[:0]).shape == (0,)
    assert claims.claimed[tiny.PAIR] == claims.labels.latents["f1_fit_100"][tiny.PAIR]
    whole_claim = Claims(claims.labels, "unlimited").claimed
    assert whole_claim[tiny.PAIR] == claims.labels.latents["f1_out_of_fold"][tiny.PAIR]


@pytest.mark.parametrize("budget", [16, "unlimited"])
def test_some_labels_alone_say_the_same(run: Run, claims: Claims, budget: Budget) -> None:
    heldout, latents = run.tokens.heldout, np.array([tiny.BREAK, tiny.PAIR])
    whole, some = Claims(claims.labels, budget), Claims(claims.labels, budget, latents)
    calls = whole.calls(heldout).dense(0, heldout.ids.size)
    expected = np.zeros_like(calls)
    expected[:, latents] = calls[:, latents]
    assert (expected > 0).any(axis=0)[latents].all()
    assert np.array_equal(some.calls(heldout).dense(0, heldout.ids.size), expected)
    pos, which = np.full(heldout.n_ctx, 3), np.resize(latents, heldout.n_ctx)
    assert np.array_equal(some.at(heldout, pos, which), whole.at(heldout, pos, which))
    for (_, one), (_, other) in zip(whole.iterate(heldout), some.iterate(heldout), strict=True):
        assert np.array_equal(one[:, latents], other[:, some.column(latents)])


# -- partners --------------------------------------------------------------------------------------


def test_partners_call_as_often_and_elsewhere() -> None:
    calls = firings(
        [0, 1, 2, 3], [0, 1, 2, 4], [5, 6, 7, 8], [9, 10, 11], [12, 13, 14], [15], [15], []
    )
    found = partners(calls, np.array([0, 1, 2, 3, 4, 5, 6]), seed=0)
    assert found[7] == -1  # not under test
    assert all(found[one] != one for one in range(7))
    # 0 and 1 call the same three times of four, 5 and 6 always: they do not control each other.
    assert found[0] != 1
    assert found[1] != 0
    assert found[5] != 6
    assert found[6] != 5
    assert partners(calls, np.array([3]), seed=0).tolist() == [-1] * 8
    # Where there is nobody else, an alike label has to do.
    assert partners(calls, np.array([5, 6]), seed=0)[[5, 6]].tolist() == [6, 5]


def test_partners_do_not_look_at_what_fires(scene: Scene) -> None:
    assert set(scene.partner[scene.latents]) <= set(scene.latents)
    assert np.array_equal(partners(scene.calls, scene.latents, scene.seed), scene.partner)


# -- held-out F1 of both labels --------------------------------------------------------------------


def f1(called: Bools, fires: Bools) -> float:
    return float(2 * (called & fires).sum() / max(called.sum() + fires.sum(), 1))


def test_f1_of_both_labels_by_counting(scene: Scene) -> None:
    found = f1_difference(scene)
    n = scene.heldout.ids.size
    fires, calls = scene.firings.dense(0, n) > 0, scene.calls.dense(0, n) > 0
    assert found["latent"].to_list() == scene.latents.tolist()
    for row in found.iter_rows(named=True):
        latent, other = row["latent"], scene.partner[row["latent"]]
        assert row["n"] == fires[:, latent].sum()
        assert row["own"] == pytest.approx(f1(calls[:, latent], fires[:, latent]))
        assert row["control"] == pytest.approx(f1(calls[:, other], fires[:, latent]))
        assert row["difference"] == pytest.approx(row["own"] - row["control"])
        assert row["own_low"] <= row["own"] <= row["own_high"]
        assert row["low"] <= row["difference"] <= row["high"]
    token = found.row(by_predicate=pl.col("latent") == tiny.TOKEN, named=True)
    assert token["own"] > 0.9
    assert token["low"] > 0.5


def test_false_actives_by_counting(scene: Scene) -> None:
    n = scene.heldout.ids.size
    fires, calls = scene.firings.dense(0, n) > 0, scene.calls.dense(0, n) > 0
    positions = scene.heldout.n_positions
    silent = ~fires & scene.heldout.valid.reshape(-1, 1)
    assert (calls & silent).sum() > 10
    scored = score_heldout(scene.claims.labels, scene.heldout, scene.firings, budgets=[100])
    assert false_actives(scored[0].latents, positions) == pytest.approx(
        {
            "called_per_token": calls.sum() / positions,
            "firing_per_token": fires.sum() / positions,
            "false_per_token": (calls & silent).sum() / positions,
            "specificity": 1 - (calls & silent).sum() / silent.sum(),
        }
    )


def test_f1_is_that_of_the_scores(scene: Scene) -> None:
    scored = score_heldout(scene.claims.labels, scene.heldout, scene.firings, budgets=[100])
    known = scored[0].latents["f1"].to_numpy()[scene.latents]
    assert np.allclose(f1_difference(scene)["own"].to_numpy(), known)


def test_a_handful_of_firings_says_little(scene: Scene) -> None:
    # Three firings, all hit, in one document: resampling documents would say [1, 1] or nothing.
    at = np.arange(3)
    few = TextFirings.make(
        at, at * 0, np.ones(3), n_positions=scene.heldout.ids.size, n_latents=scene.claims.n_latents
    )
    latents = np.array([0])
    alone = Scene(
        scene.subject, scene.claims, scene.source, scene.source_calls, scene.heldout, few, few,
        latents, np.full(scene.claims.n_latents, -1), 0,
    )  # fmt: skip
    row = f1_difference(alone).row(0, named=True)
    assert row["own"] == 1
    assert row["own_low"] < 0.5
    assert np.isnan(row["control"])
    assert np.isnan(row["low"])


def test_combined_limits_do_not_cross() -> None:
    low, high = combined(
        np.array([0.5]), (np.array([0.4]), np.array([0.6])),
        np.array([0.1]), (np.array([0.1]), np.array([0.2])),
    )  # fmt: skip
    assert low[0] == pytest.approx(0.4 - np.hypot(0.1, 0.1))
    assert high[0] == pytest.approx(0.4 + 0.1)


def test_with_ids_makes_unseen_documents(run: Run) -> None:
    text = run.tokens.with_ids(np.array([[1, 2, 3], [4, 5, 0]]), np.array([3, 2]))
    assert text.heldout.n_ctx == 2
    assert text.n_positions == 5
    assert text.vocab == run.tokens.vocab
    assert len(text.doc_ids) == len(text.topics) == 2
