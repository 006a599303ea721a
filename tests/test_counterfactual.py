"""Edits of held-out text against latents whose rules are known, and labels right and wrong."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from edit_rules import (
    ALWAYS,
    BEFORE,
    BROAD,
    CTX_LEN,
    GRADED,
    LABELS,
    LATE,
    LEVELS,
    N_VOCAB,
    NOBODY,
    PAIR,
    PLACE,
    SEVEN,
    TOKEN,
    WRONG,
    Rules,
    label_set,
    partners,
    scene_of,
    text,
)

from labeler.eval import snippets
from labeler.eval.counterfactual import necessity, sufficiency
from labeler.eval.edit_contexts import Prefixes, called, draw, fired
from labeler.eval.scene import Scene
from labeler.eval.snippets import (
    BY_ENTRY,
    SUFFIXES,
    key_snippets,
    silent,
    write_keys,
    write_snippets,
)
from labeler.eval.trials import Trials
from labeler.keytree import KeyTree
from labeler.labels import LabelSet
from labeler.tokens import Tokens

RIGHT = (TOKEN, PAIR, BEFORE)
TESTED = (*RIGHT, BROAD, WRONG, PLACE, ALWAYS, LATE, NOBODY)
NEXT = {TOKEN: PAIR, PAIR: TOKEN, BEFORE: PAIR, BROAD: TOKEN, WRONG: PAIR, LATE: TOKEN, NOBODY: 0}


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return text()


@pytest.fixture(scope="module")
def tree(tokens: Tokens) -> KeyTree:
    return KeyTree.build(tokens.fit, LEVELS)[0]


@pytest.fixture(scope="module")
def labels(tree: KeyTree) -> LabelSet:
    return label_set(tree)


@pytest.fixture
def scene(tokens: Tokens, labels: LabelSet) -> Scene:
    return scene_of(tokens.fit, tokens.heldout, labels, TESTED, partner=NEXT)


def rules(scene: Scene) -> Rules:
    """The scene's subject."""
    assert isinstance(scene.subject, Rules)
    return scene.subject


def contexts_of(scene: Scene, latent: int, n: int) -> Prefixes:
    return snippets.silent(scene, [latent], n, np.random.default_rng)


# -- keys from text --------------------------------------------------------------------------------


def test_snippets_are_the_shortest_that_call(scene: Scene) -> None:
    found = key_snippets(scene, [TOKEN, PAIR, BEFORE, PLACE], 3, np.random.default_rng(0))
    assert [one.tolist() for one in found[TOKEN]] == [[5]]
    assert [one.tolist() for one in found[PAIR]] == [[3, 4]]
    assert len(found[BEFORE]) == 3
    lengths = {len(one) for one in found[BEFORE]}
    assert lengths <= set(SUFFIXES)
    for one in found[BEFORE]:
        # Long enough to hold the token before its last one, and not twice as long.
        at = max(place for place, token in enumerate(one[:-1].tolist()) if token == SEVEN)
        assert not any(len(one) - at <= m < len(one) for m in SUFFIXES)
    assert len({one.tobytes() for one in found[BEFORE]}) == 3
    assert found[PLACE] == []  # no text moves a position


def test_written_contexts_are_called_and_only_their_ends_changed(scene: Scene) -> None:
    for latent in RIGHT:
        plain = contexts_of(scene, latent, 10)
        assert len(plain) == 10
        assert not called(scene, plain).any()
        assert fired(scene, plain).count[latent] == 0
        source = snippets.sources(scene, plain.latent, np.random.default_rng)
        assert len(set(source.tolist())) == 10
        written, size = write_keys(scene, plain, source)
        assert called(scene, written).all()
        assert np.array_equal(written.length, plain.length)
        text = scene.source.ids.ravel()
        assert latent == BEFORE or (size > 0).all()
        for row in np.flatnonzero(size > 0).tolist():
            end, m = int(plain.length[row]), int(size[row])
            assert written.ids[row, end - m : end].tolist() == (
                text[source[row] - m + 1 : source[row] + 1].tolist()
            )
            assert np.array_equal(written.ids[row, : end - m], plain.ids[row, : end - m])
            assert not written.ids[row, end:].any()


def test_keys_are_written_where_the_latent_is_silent(scene: Scene) -> None:
    # The label of another token calls elsewhere, and does not keep the latent from firing.
    plain = contexts_of(scene, WRONG, 100)
    assert len(plain) == 100
    assert fired(scene, plain).count[WRONG] == 0


def test_no_two_trials_share_a_document_where_there_are_enough(scene: Scene) -> None:
    pool = np.flatnonzero(scene.heldout.valid)
    drawn = draw(pool, scene.heldout, 12, np.random.default_rng(0))
    assert len(set(scene.heldout.doc[drawn // CTX_LEN].tolist())) == 12
    few = draw(pool[:3], scene.heldout, 12, np.random.default_rng(0))
    assert sorted(few.tolist()) == pool[:3].tolist()


def test_types_write_where_no_text_shows_the_key(tokens: Tokens, tree: KeyTree) -> None:
    # Token 6 after token 2, and at first an entry that no text can carry.
    broad = [("position", (9,)), ("unigram+previous_token", (6, 2))]
    labels = label_set(tree, LABELS | {BROAD: broad})
    fit = tokens.fit
    pairs = (fit.ids[:, :-1] == 3) & (fit.ids[:, 1:] == 4)
    pairs |= (fit.ids[:, :-1] == 2) & (fit.ids[:, 1:] == 6)
    without = fit.select(~pairs.any(axis=1) & ~(fit.ids == 5).any(axis=1))
    # Nor do positions reach that of the first entry.
    without = replace(without, length=np.minimum(without.length, 9))
    scene = scene_of(without, tokens.heldout, labels, (TOKEN, PAIR, BROAD))
    assert scene.source_calls.count[[TOKEN, PAIR, BROAD]].sum() == 0
    for latent, ending in ((TOKEN, [5]), (PAIR, [3, 4]), (BROAD, [2, 6])):
        plain = contexts_of(scene, latent, 5)
        source = snippets.sources(scene, plain.latent, np.random.default_rng)
        written, size = write_keys(scene, plain, source)
        assert size.tolist() == [BY_ENTRY] * 5
        for row, length in zip(written.ids, written.length, strict=True):
            assert row[length - len(ending) : length].tolist() == ending


# -- sufficiency -----------------------------------------------------------------------------------


def test_right_labels_suffice_and_others_do_not(scene: Scene) -> None:
    done: list[float] = []
    found = sufficiency(scene, advance=done.append).tally()
    assert sum(done) == pytest.approx(len(scene.latents))
    rows = {row["latent"]: row for row in found.iter_rows(named=True)}
    for latent in RIGHT:
        assert rows[latent]["n"] == 12
        assert rows[latent]["own"] == 1
        assert rows[latent]["control"] <= 0.25
    assert rows[TOKEN]["control"] == rows[PAIR]["control"] == 0
    assert rows[BROAD]["own"] <= 0.3  # the pair's first token was there by chance
    assert rows[WRONG]["own"] == 0
    assert rows[NOBODY]["own"] == 0
    # What cannot be written, what is never silent: no trial, all failed.
    for latent in (PLACE, ALWAYS):
        assert (rows[latent]["n"], rows[latent]["failed"]) == (0, 12)
    assert rows[TOKEN]["failed"] == 0


def test_the_control_is_the_partners_key(tokens: Tokens, labels: LabelSet) -> None:
    # WRONG's partner writes what WRONG fires on and its own label does not say.
    same = label_set(labels.tree, LABELS | {BROAD: [("unigram", (10,))]})
    pairs = {WRONG: BROAD, PAIR: TOKEN, BROAD: PAIR, TOKEN: WRONG}
    tested = (TOKEN, PAIR, BROAD, WRONG)
    scene = scene_of(tokens.fit, tokens.heldout, same, tested, partner=pairs)
    rows = {row["latent"]: row for row in sufficiency(scene).tally().iter_rows(named=True)}
    assert (rows[WRONG]["own"], rows[WRONG]["control"]) == (0, 1)
    assert rows[PAIR]["control"] == 0
    # What its own label calls is no control: there it says the same.
    copied = label_set(labels.tree, LABELS | {BROAD: LABELS[TOKEN]})
    pairs = {TOKEN: BROAD, PAIR: TOKEN, BROAD: PAIR}
    scene = scene_of(tokens.fit, tokens.heldout, copied, (TOKEN, PAIR, BROAD), partner=pairs)
    rows = {row["latent"]: row for row in sufficiency(scene).tally().iter_rows(named=True)}
    assert (rows[TOKEN]["n"], rows[TOKEN]["failed"]) == (0, 12)
    assert (rows[PAIR]["n"], rows[PAIR]["own"], rows[PAIR]["control"]) == (12, 1, 0)
    scene = scene_of(tokens.fit, tokens.heldout, labels, (TOKEN, PAIR, BROAD), partner=pairs)
    # A partner for which nothing can be written is stood in for by its own.
    pairs = {TOKEN: PLACE, PLACE: PAIR, PAIR: TOKEN}
    hidden = replace(scene, latents=np.array([TOKEN, PAIR, PLACE]), partner=partners(pairs))
    rows = {row["latent"]: row for row in sufficiency(hidden).tally().iter_rows(named=True)}
    assert (rows[TOKEN]["n"], rows[TOKEN]["control"]) == (12, 0)
    alone = replace(scene, latents=np.array([TOKEN]), partner=partners({}))
    row = sufficiency(alone).tally().row(0, named=True)
    assert (row["n"], row["failed"]) == (0, 12)


@pytest.mark.parametrize("test", [sufficiency, necessity])
def test_trials_do_not_depend_on_who_else_is_tested(
    test: Callable[[Scene], Trials], tokens: Tokens, labels: LabelSet, scene: Scene
) -> None:
    few = scene_of(
        tokens.fit, tokens.heldout, labels, (PAIR, BROAD), partner={PAIR: BROAD, BROAD: PAIR}
    )
    whole = {(one, test): test(one) for one in (scene, few)}
    for latent in (PAIR, BROAD):
        own = [found.own[found.latent == latent].tolist() for found in whole.values()]
        assert own[0] == own[1]
    again = test(few)
    assert np.array_equal(again.own, whole[few, test].own)
    assert np.array_equal(again.control, whole[few, test].control)


def test_the_seed_draws_the_contexts(tokens: Tokens, labels: LabelSet) -> None:
    texts = []
    for seed in (0, 0, 1):
        scene = scene_of(tokens.fit, tokens.heldout, labels, (TOKEN, PAIR), seed=seed)
        sufficiency(scene)
        texts.append(rules(scene).contexts)
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_the_model_reads_little(tokens: Tokens, labels: LabelSet) -> None:
    scene = scene_of(tokens.fit, tokens.heldout, labels, (TOKEN, PAIR, BEFORE, BROAD))
    sufficiency(scene, 12)
    necessity(scene, 12)
    read = rules(scene).contexts
    assert len(read) <= 4 * 36
    assert max(map(len, read)) <= 32


# -- necessity -------------------------------------------------------------------------------------


def test_right_labels_read_what_the_latent_needs(scene: Scene) -> None:
    done: list[float] = []
    found = necessity(scene, advance=done.append).tally()
    assert sum(done) == pytest.approx(len(scene.latents))
    rows = {row["latent"]: row for row in found.iter_rows(named=True)}
    for latent in RIGHT:
        assert rows[latent]["n"] >= 6
        assert (rows[latent]["own"], rows[latent]["control"]) == (1, 0)
    assert rows[TOKEN]["n"] == 12
    # Without its second token the pair is gone; the label does not read the first.
    assert rows[BROAD]["own"] == 1
    assert 0 < rows[BROAD]["control"] < 0.5
    # No token stops a position, nor what is everywhere.
    for latent in (PLACE, ALWAYS):
        assert (rows[latent]["n"], rows[latent]["failed"]) == (0, 12)
    # Latents that never fire where their label calls were not tried.
    assert not {WRONG, NOBODY} & set(rows)


def test_one_token_differs_and_the_label_says_so(scene: Scene) -> None:
    one = replace(scene, latents=np.array([BEFORE]))
    trials = necessity(one, 12)
    subject = rules(one)
    n = len(trials.latent)
    own, control = subject.contexts[-2 * n : -n], subject.contexts[-n:]
    rows = {tuple(row[:length]) for row, length in held_prefixes(scene)}
    for edited, calls in ((own, False), (control, True)):
        text = scene.heldout.with_ids(
            np.array([row + [0] * (CTX_LEN - len(row)) for row in edited]),
            np.array([len(row) for row in edited]),
        )
        said = scene.claims.calls_at(text, text.length - 1, np.full(n, BEFORE))
        assert (said == calls).all()
        for row in edited:
            near = [
                (*row[:at], token, *row[at + 1 :])
                for at in range(max(1, len(row) - 8), len(row))
                for token in range(N_VOCAB)
            ]
            assert rows & set(near)
            assert tuple(row) not in rows
    assert not trials.control.any()


def held_prefixes(scene: Scene) -> list[tuple[list[int], int]]:
    """Every prefix of the held-out contexts."""
    text = scene.heldout
    return [
        (row.tolist(), length)
        for row, longest in zip(text.ids, text.length, strict=True)
        for length in range(1, longest + 1)
    ]


def test_long_contexts_are_cut_where_that_changes_nothing(tokens: Tokens, tree: KeyTree) -> None:
    # Early on, neither latent is found: all their positions lie beyond 32 tokens.
    ids = tokens.ids.copy()
    early = np.arange(CTX_LEN) < 32
    ids[np.isin(ids, [5, 13]) & early & tokens.valid] = 19
    late = replace(tokens, ids=ids)
    labels = label_set(tree)
    for latent, longest in ((TOKEN, 32), (LATE, CTX_LEN)):
        scene = scene_of(tokens.fit, late.heldout, labels, (latent,))
        found = necessity(scene, 6)
        assert len(found.own) >= 5
        subject = rules(scene)
        edited = subject.contexts[-2 * len(found.own) :]
        assert all(32 <= len(row) <= longest for row in edited)
        assert max(map(len, edited)) > 32 or latent == TOKEN
        assert found.own.all()
        assert not found.control.any()


def test_first_tokens_stay(scene: Scene) -> None:
    one = replace(scene, latents=np.array([TOKEN]))
    found = necessity(one, 40)
    subject = rules(one)
    firsts = {row[0] for row in subject.contexts[-2 * len(found.own) :]}
    assert firsts <= {int(token) for token in scene.heldout.ids[:, 0]}
    assert found.own.all()
    assert min(map(len, subject.contexts)) >= 2


def test_the_nearest_token_read_is_replaced(scene: Scene) -> None:
    found = necessity(replace(scene, latents=np.array([PAIR])))
    own = rules(scene).contexts[-2 * len(found.own) : -len(found.own)]
    assert all(row[-1] != 4 for row in own)
    assert sum(row[-2] == 3 for row in own) == len(own) >= 6


def test_the_control_replaces_another_token(tokens: Tokens, tree: KeyTree) -> None:
    # The label calls on half of the tokens: it may go on calling if the same one is replaced.
    half: list[tuple[str, tuple[int, ...]]] = [("unigram", (token,)) for token in range(10)]
    labels = label_set(tree, LABELS | {TOKEN: half})
    found = necessity(scene_of(tokens.fit, tokens.heldout, labels, (TOKEN,)), 60)
    assert len(found.own) > 30
    assert found.own.all()
    assert not found.control.any()


def test_a_key_is_written_only_if_the_label_says_as_much(tokens: Tokens, labels: LabelSet) -> None:
    # GRADED says 2 of its pair and 1 of its token alone. Its token reaches the threshold, but
    # where the pair was the source the pair has to be written.
    pairs = {GRADED: TOKEN, TOKEN: GRADED}
    scene = scene_of(tokens.fit, tokens.heldout, labels, (GRADED, TOKEN), partner=pairs)
    plain = silent(scene, [GRADED], 12, lambda latent: np.random.default_rng(latent))
    text = scene.source.ids.ravel()
    by_latent = scene.source_calls.by_latent([GRADED])[GRADED]
    after = by_latent[(by_latent % scene.source.ctx_len > 0) & (text[by_latent - 1] == 16)]
    assert len(after)
    source = np.resize(after, len(plain))
    ids, size = write_snippets(scene, plain, source)
    assert (size == 2).sum() > len(plain) // 2
    last = np.arange(len(plain)), plain.length - 1
    written = size > 0
    assert (ids[last][written] == 15).all()
    assert (ids[last[0], last[1] - 1][written] == 16).all()
