"""Contexts that came with explanations as one text, by hand and against a slow count."""

import numpy as np

from labeler.eval.audit.ground import Ground, ground_of_contexts
from labeler.explanations import Context
from labeler.tokens import HELDOUT

HERE, THERE = "layers.1.mlp", "layers.2.mlp"


def context(tokens: list[str], acts: list[float]) -> Context:
    return Context(tuple(tokens), np.array(acts, dtype=np.float32))


def example() -> Ground:
    return ground_of_contexts(
        HERE,
        {
            (HERE, 9): [context(["a", " b"], [0, 2.5]), context([" b"], [0])],
            (HERE, 4): [context(["a", "a", " c"], [1, -3, 0.5])],
            (THERE, 4): [context(["z"], [7])],
        },
    )


def test_contexts_become_padded_documents_of_their_latent():
    ground = example()
    assert ground.latents.tolist() == [4, 9]
    assert ground.tokens.vocab == ("a", " c", " b")
    assert ground.tokens.ids.tolist() == [[0, 0, 1], [0, 2, 0], [2, 0, 0]]
    assert ground.tokens.length.tolist() == [3, 2, 1]
    assert ground.owner is not None
    assert ground.owner.tolist() == [0, 1, 1]
    assert set(ground.tokens.fold.tolist()) == {HELDOUT}
    assert len(set(ground.tokens.doc.tolist())) == 3


def test_firings_are_the_positive_activations_by_column():
    ground = example()
    assert {column: found.tolist() for column, found in ground.fires_in.items()} == {
        0: [0, 2],  # the activation of -3 is silence
        1: [4],
    }
    assert ground.firings.act.tolist() == [1, 0.5, 2.5]
    assert ground.column == {4: 0, 9: 1}
    assert ground.own_contexts(1).tolist() == [False, True, True]


def test_a_run_shows_every_latent_everywhere():
    ground = example()
    everywhere = Ground(HERE, ground.tokens, ground.latents, ground.firings)
    assert everywhere.own_contexts(0).all()


def test_nothing_stored_is_no_text():
    empty = ground_of_contexts(HERE, {(HERE, 3): [context([], [])]})
    assert empty.tokens.n_ctx == 0
    assert empty.latents.tolist() == [3]
    assert empty.fires_in[0].tolist() == []


def test_random_contexts_agree_with_a_slow_count():
    rng = np.random.default_rng(0)
    words = np.array(["the", " cat", " sat", ".", "\n"])
    stored = {
        (HERE, int(latent)): [
            context(list(rng.choice(words, size)), rng.normal(size=size).tolist())
            for size in rng.integers(1, 9, size=4)
        ]
        for latent in (2, 5, 30)
    }
    ground = ground_of_contexts(HERE, stored)
    row = 0
    for column, latent in enumerate(ground.latents):
        fires = []
        for one in stored[HERE, int(latent)]:
            texts = [ground.tokens.vocab[at] for at in ground.tokens.ids[row, : len(one.tokens)]]
            assert tuple(texts) == one.tokens
            fires += [row * ground.tokens.ctx_len + at for at in np.flatnonzero(one.acts > 0)]
            row += 1
        assert ground.fires_in[column].tolist() == fires
