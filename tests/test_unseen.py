"""Labels on generated text: what is asked for, what is scored, own and control by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import tiny_run as tiny

from labeler.arrays import Bools
from labeler.eval import unseen_texts
from labeler.eval.claims import Claims
from labeler.eval.firings import TextFirings
from labeler.eval.generate import Kind, Reply, Request
from labeler.eval.generate_codec import VocabCodec
from labeler.eval.generate_edit import EditGenerator
from labeler.eval.heldout import load_heldout_firings
from labeler.eval.scene import Scene
from labeler.eval.unseen import BEFORE, Unseen, requests_for, unseen
from labeler.eval.unseen_texts import LONGEST, Texts
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from labeler.tokens import Tokens

LAYER = tiny.HOOKPOINTS[0]


@dataclass
class Rules:
    """The latents of the tiny run, without noise; `swap` puts another latent's rule in place."""

    swap: dict[int, int]
    max_ctx: int = 24
    n_watched: int = 0

    def firings(
        self,
        tokens: Tokens,
        hookpoints: Sequence[str],
        where: Bools | None = None,
        advance: Callable[[float], None] = lambda n: None,
    ) -> dict[str, TextFirings]:
        ids, before = tokens.ids, np.full_like(tokens.ids, 99)
        before[:, 1:] = ids[:, :-1]
        fires = np.zeros((*ids.shape, tiny.N_LATENTS), dtype=bool)
        fires[..., tiny.TOKEN] = ids == 0
        fires[..., tiny.BREAK] = (ids == 1) | (ids == 2)
        fires[..., tiny.PAIR] = (ids == 5) & (before <= 2)
        fires[..., tiny.LOOSE] = ids == 6
        for one, other in self.swap.items():
            fires[..., one] = fires[..., other]
        watched = tokens.valid if where is None else tokens.valid & where
        self.n_watched += int(watched.sum())
        position, latent = np.nonzero((fires & watched[..., None]).reshape(ids.size, -1))
        found = TextFirings.make(
            position,
            latent,
            np.ones(len(position), np.float32),
            n_positions=ids.size,
            n_latents=tiny.N_LATENTS,
        )
        return dict.fromkeys(hookpoints, found)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    run: Run = tiny.tiny_run(tmp_path_factory.mktemp("unseen"), verified=False)
    claims = Claims(LabelSet.load(label_folder(run.out, LAYER)))
    latents = np.flatnonzero(claims.labeled)
    assert {tiny.TOKEN, tiny.BREAK, tiny.PAIR} <= set(latents.tolist())
    found = Scene.make(
        Rules({}),
        claims,
        run.tokens.fit,
        run.tokens.heldout,
        load_heldout_firings(run.cache, LAYER, run.tokens),
        latents,
        seed=0,
    )
    # By hand: each is the other's control, and the pair's is the token.
    partner = np.full(tiny.N_LATENTS, -1)
    partner[[tiny.TOKEN, tiny.BREAK, tiny.PAIR]] = tiny.BREAK, tiny.TOKEN, tiny.TOKEN
    tested = np.array([tiny.TOKEN, tiny.BREAK, tiny.PAIR])
    return replace(found, latents=tested, partner=partner)


@pytest.fixture(scope="module")
def codec(scene: Scene) -> VocabCodec:
    return VocabCodec(scene.heldout.vocab)


def asked(latent: int, number: int, kind: Kind = "contain") -> Request:
    return Request(LAYER, latent, number, kind, "", "", "", 8, 0)


def written(codec: VocabCodec, before: Sequence[int], new: Sequence[int]) -> Reply:
    given = codec.decode(before)
    return Reply(given + codec.decode(new), n_before=len(given))


def outcome(scene: Scene, codec: VocabCodec, *pairs: tuple[Request, Reply]) -> Unseen:
    done: list[float] = []
    found = unseen(scene, codec, "hand", *zip(*pairs, strict=True), done.append)
    assert sum(done) == sum(reply.text is not None for _, reply in pairs)
    return found


def row(found: Unseen, latent: int) -> dict[str, Any]:
    (mine,) = found.figures.filter(latent=latent).to_dicts()
    return mine


# -- what is asked for -----------------------------------------------------------------------------


def test_keys_are_asked_for_in_turn(scene: Scene, codec: VocabCodec) -> None:
    found = requests_for(scene, codec, ("contain", "like", "avoid"), n=3, max_tokens=10, seed=5)
    assert len(found) == len({one.digest for one in found}) == 3 * 3 * 3
    assert {one.latent for one in found} == set(scene.latents.tolist())
    text = codec.decode(scene.heldout.ids.ravel())
    for one in found:
        assert (one.hookpoint, one.max_tokens, one.seed) == (LAYER, 10, 5)
        assert "\n" not in one.about
        assert one.about.startswith("fires on")
        assert len(codec.encode(one.before)) == BEFORE
        assert one.before in text
        assert bool(one.key) == (one.kind != "like")
    keys = [
        [one.key for one in found if (one.latent, one.kind) == (tiny.BREAK, kind)]
        for kind in ("contain", "avoid")
    ]
    assert keys[0] == keys[1]
    # Two keys, three texts.
    assert set(keys[0]) == {tiny.VOCAB[1], tiny.VOCAB[2]}
    assert keys[0][2] == keys[0][0]
    # The same whichever other kinds are asked for, and whichever other latents are tested.
    avoid = requests_for(scene, codec, ("avoid",), n=3, max_tokens=10, seed=5)
    assert avoid == [one for one in found if one.kind == "avoid"]
    fewer = replace(scene, latents=scene.latents[1:])
    same = requests_for(fewer, codec, ("contain", "like", "avoid"), n=3, max_tokens=10, seed=5)
    assert same == [one for one in found if one.latent != tiny.TOKEN]


def test_labels_without_a_key_are_asked_for_their_like(scene: Scene, codec: VocabCodec) -> None:
    nothing = np.zeros(0, np.int64)
    silent = TextFirings.make(
        nothing,
        nothing,
        nothing.astype(np.float32),
        n_positions=scene.source.ids.size,
        n_latents=tiny.N_LATENTS,
    )
    found = requests_for(
        replace(scene, source_calls=silent), codec, ("contain", "like", "avoid"), n=2
    )
    assert [one.kind for one in found] == ["like", "like", "avoid", "avoid"] * 3
    assert {one.key for one in found} == {""}


# -- what is scored --------------------------------------------------------------------------------


def test_own_and_control_by_hand(scene: Scene, codec: VocabCodec) -> None:
    found = outcome(
        replace(scene, subject=Rules({tiny.TOKEN: tiny.BREAK})),  # the label of TOKEN is wrong
        codec,
        (asked(tiny.TOKEN, 0), written(codec, [8, 9], [10, 0, 11])),
        (asked(tiny.TOKEN, 1), written(codec, [8, 9], [10, 11, 0])),
        (asked(tiny.BREAK, 0), written(codec, [8], [2, 11, 12])),
        (asked(tiny.BREAK, 1), written(codec, [8], [12, 1, 11])),
        (asked(tiny.PAIR, 0), written(codec, [8], [1, 5])),
    )
    trials = found.trials
    assert trials.test == "unseen:hand"
    assert not found.failures
    assert trials.failed.sum() == 0
    rows = list(
        zip(trials.latent.tolist(), trials.own.tolist(), trials.control.tolist(), strict=True)
    )
    assert rows == [
        (tiny.TOKEN, False, True),
        (tiny.TOKEN, False, True),
        (tiny.BREAK, True, False),
        (tiny.BREAK, True, False),
        (tiny.PAIR, True, False),
    ]


def test_true_labels_pass_on_edited_text(scene: Scene, codec: VocabCodec) -> None:
    requests = requests_for(scene, codec, ("contain", "avoid"), n=8, max_tokens=12)
    replies = [reply for _, reply in EditGenerator(scene.heldout, codec).generate(requests)]
    found = unseen(scene, codec, "edit", requests, replies)
    assert found.trials.own.all()
    assert not found.trials.control.any()
    assert len(found.trials.own) > 18
    assert found.trials.failed.sum() == 24 - len(found.trials.own)
    assert found.figures["precision"].to_list() == [1] * 3
    assert found.figures["silent"].to_list() == [1] * 3
    # Renamed latents: the labels are those of others.
    wrong = {tiny.TOKEN: tiny.BREAK, tiny.BREAK: tiny.PAIR, tiny.PAIR: tiny.LOOSE}
    caught = unseen(replace(scene, subject=Rules(wrong)), codec, "edit", requests, replies)
    assert not caught.trials.own.any()


def test_texts_are_watched_in_blocks(
    scene: Scene, codec: VocabCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = requests_for(scene, codec, ("contain", "avoid"), n=4, max_tokens=12)
    replies = [reply for _, reply in EditGenerator(scene.heldout, codec).generate(requests)]
    subject = replace(scene, subject=Rules({tiny.TOKEN: tiny.BREAK}))
    whole = unseen(subject, codec, "edit", requests, replies)
    assert whole.trials.control.any()
    monkeypatch.setattr(unseen_texts, "_AT_ONCE", 5)
    blocks = unseen(subject, codec, "edit", requests, replies)
    assert np.array_equal(blocks.trials.own, whole.trials.own)
    assert np.array_equal(blocks.trials.control, whole.trials.control)
    assert blocks.figures.equals(whole.figures, null_equal=True)


def test_positions_are_counted(scene: Scene, codec: VocabCodec) -> None:
    subject = Rules({tiny.PAIR: tiny.TOKEN})
    found = outcome(
        replace(scene, subject=subject),
        codec,
        (asked(tiny.TOKEN, 0), written(codec, [0, 0], [0, 10, 0])),
        (asked(tiny.TOKEN, 1), written(codec, [8], [10, 11])),  # calls nowhere
        (asked(tiny.PAIR, 0), written(codec, [8], [1, 5, 0, 0, 5])),
        (asked(tiny.PAIR, 1, "avoid"), written(codec, [], [0])),
        (asked(tiny.BREAK, 0), written(codec, [8], [1])),
    )
    one, two, three = (row(found, latent) for latent in (tiny.TOKEN, tiny.PAIR, tiny.BREAK))
    assert (one["n_texts"], one["called"], one["hit"], one["fires"]) == (2, 2, 2, 2)
    assert (one["precision"], one["recall"]) == (1, 1)
    assert (two["n_texts"], two["called"], two["hit"], two["fires"]) == (1, 2, 0, 2)
    assert (two["precision"], two["recall"]) == (0, 0)
    assert three["fires"] == 1
    # Only what was generated is watched.
    assert subject.n_watched == 3 + 2 + 5 + 1 + 1


def test_what_was_given_is_never_scored(scene: Scene, codec: VocabCodec) -> None:
    found = outcome(
        scene,
        codec,
        (asked(tiny.TOKEN, 0), written(codec, [8, 0, 0], [10, 11])),
        (asked(tiny.TOKEN, 1), written(codec, [8] * 30, [0, 11])),  # too long to be read
        (asked(tiny.BREAK, 0), written(codec, [0], [1])),
        # What was given counts as what stands before.
        (asked(tiny.PAIR, 0), written(codec, [8, 2], [5])),
        (asked(tiny.PAIR, 1, "avoid"), written(codec, [8, 2, 5], [9])),
    )
    assert found.failures == {"key missing": 2, "no control": 1}
    assert found.trials.latent.tolist() == [tiny.PAIR]
    assert row(found, tiny.TOKEN)["fires"] == 0
    assert row(found, tiny.PAIR)["silent"] == 1


def test_failures_are_counted_and_never_scored(scene: Scene, codec: VocabCodec) -> None:
    found = outcome(
        scene,
        codec,
        (asked(tiny.TOKEN, 0), written(codec, [8], [0])),
        (asked(tiny.TOKEN, 1), Reply(None, "refused")),
        (asked(tiny.TOKEN, 2), Reply(None, "http 500")),
        (asked(tiny.TOKEN, 3), Reply(None, "refused")),
        (asked(tiny.TOKEN, 4), Reply("?", n_before=0)),  # no token of the subject
        (asked(tiny.BREAK, 0), written(codec, [8], [1])),
        (asked(tiny.BREAK, 0, "avoid"), Reply(None, "empty")),
    )
    assert found.failures == {"refused": 2, "http 500": 1, "key missing": 1, "empty": 1}
    tally = {one["latent"]: one for one in found.trials.tally().to_dicts()}
    assert (tally[tiny.TOKEN]["n"], tally[tiny.TOKEN]["failed"]) == (1, 4)
    assert (tally[tiny.BREAK]["n"], tally[tiny.BREAK]["failed"]) == (1, 0)
    assert tiny.PAIR not in tally
    assert row(found, tiny.PAIR)["n_texts"] == 0
    assert np.isnan(row(found, tiny.PAIR)["precision"])


def test_nothing_at_all_came(scene: Scene, codec: VocabCodec) -> None:
    found = outcome(scene, codec, *((asked(one, 0), Reply(None, "timeout")) for one in (0, 1)))
    assert found.failures == {"timeout": 2}
    assert found.trials.failed.tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert len(found.trials.own) == 0


def test_texts_that_avoid_a_key(scene: Scene, codec: VocabCodec) -> None:
    # TOKEN fires where BREAK should: also in texts that avoid TOKEN's key.
    found = outcome(
        replace(scene, subject=Rules({tiny.TOKEN: tiny.BREAK})),
        codec,
        (asked(tiny.TOKEN, 0, "avoid"), written(codec, [8], [10, 1])),
        (asked(tiny.TOKEN, 1, "avoid"), written(codec, [8], [10, 10])),
        (asked(tiny.TOKEN, 2, "avoid"), written(codec, [8], [10, 0])),
        (asked(tiny.BREAK, 0, "avoid"), written(codec, [1], [10, 11])),
        (asked(tiny.BREAK, 1, "avoid"), written(codec, [8], [0, 11])),
    )
    assert found.failures == {"key present": 1}
    assert len(found.trials.own) == 0
    assert found.trials.failed.sum() == 0
    token, line = row(found, tiny.TOKEN), row(found, tiny.BREAK)
    assert (token["n_avoid"], token["silent"], token["silent_control"]) == (2, 0.5, 1)
    assert (line["n_avoid"], line["silent"], line["silent_control"]) == (2, 1, 0.5)
    assert np.isnan(row(found, tiny.PAIR)["silent"])
    assert row(found, tiny.PAIR)["silent_control"] == 1


def test_copies_of_the_fit_sample_are_seen(scene: Scene, codec: VocabCodec) -> None:
    at = int(np.flatnonzero(scene.source.length == 24)[0])
    copied = scene.source.ids[at].tolist()
    fresh = np.random.default_rng(0).integers(7, 30, 12).tolist()
    found = outcome(
        scene,
        codec,
        (asked(tiny.TOKEN, 0), written(codec, copied[:4], copied[4:20])),
        (asked(tiny.BREAK, 0), written(codec, copied[:10], [*copied[10:18], *fresh])),
        (asked(tiny.PAIR, 0), written(codec, copied[:10], copied[10:17])),  # seven tokens
    )
    assert row(found, tiny.TOKEN)["share_seen"] == 1
    # 8 copied and the first 6 that fit of 12 fresh ones: 7 rows of 8, one of them copied.
    assert row(found, tiny.BREAK)["share_seen"] == pytest.approx(1 / 7)
    assert np.isnan(row(found, tiny.PAIR)["share_seen"])


def test_texts_begin_as_documents_do(scene: Scene, codec: VocabCodec) -> None:
    def marked(text: Tokens) -> Tokens:
        ids = text.ids.copy()
        ids[np.unique(text.doc, return_index=True)[1], 0] = 29
        return replace(text, ids=ids)

    pair = [asked(tiny.TOKEN, 0)], [written(codec, [8, 9], [10, 0])]
    plain = Texts.make(scene, codec, *pair)
    assert plain.ids[0, :5].tolist() == [8, 9, 10, 0, 0]
    assert (plain.length[0], plain.given[0]) == (4, 2)
    assert plain.ids.shape[1] == min(LONGEST, scene.subject.max_ctx)
    begun = replace(scene, source=marked(scene.source), heldout=marked(scene.heldout))
    texts = Texts.make(begun, codec, *pair)
    assert texts.ids[0, :6].tolist() == [29, 8, 9, 10, 0, 0]
    assert (texts.length[0], texts.given[0]) == (5, 3)
    assert np.flatnonzero(texts.scored[0]).tolist() == [3, 4]


def test_places_are_drawn_among_the_called(scene: Scene, codec: VocabCodec) -> None:
    pairs = [(asked(tiny.PAIR, i), written(codec, [8], [1, 5, 9, 2, 5])) for i in range(40)]
    subject = Rules({})

    class First(Rules):
        """Fires at the first of the two only."""

        def firings(self, *arguments: Any) -> dict[str, TextFirings]:
            tokens, where = arguments[0], arguments[2]
            return super().firings(tokens, arguments[1], where & (np.arange(tokens.ctx_len) < 4))

    token = (asked(tiny.TOKEN, 0), written(codec, [8], [0]))
    all_fire = outcome(replace(scene, subject=subject), codec, *pairs, token)
    some = outcome(replace(scene, subject=First({})), codec, *pairs, token)
    mine = all_fire.trials.latent == tiny.PAIR
    assert all_fire.trials.own[mine].all()
    assert 8 < some.trials.own[mine].sum() < 32
    again = outcome(replace(scene, subject=First({})), codec, *pairs[20:], token)
    assert np.array_equal(again.trials.own[:20], some.trials.own[20:40])
