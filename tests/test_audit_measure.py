import numpy as np
import pytest
from audit_text import HERE, owned, text_of

from labeler.eval.audit.claim import read_claim
from labeler.eval.audit.controls import N_CONTROLS, Controls
from labeler.eval.audit.fires import fires_on
from labeler.eval.audit.match import TextIndex
from labeler.eval.audit.measure import Fit, Held, Watched, estimates, rank_auroc
from labeler.eval.audit.site import Site
from labeler.eval.audit.windows import Windows
from labeler.eval.bootstrap import document_weights
from labeler.explanations import Explanation
from labeler.tokens import Tokens


def watched(tokens: Tokens, acts: dict[int, float], index: TextIndex) -> Watched:
    token = np.array(sorted(acts), dtype=np.int64)
    doc = tokens.doc[index.context].astype(np.int64)
    act = np.array([acts[one] for one in token.tolist()])
    return Watched(token, act, doc, np.bincount(doc).astype(np.float64))


def fit_of(text: str, tokens: Tokens, acts: dict[int, float]) -> Fit:
    index = TextIndex(tokens)
    seen = watched(tokens, acts, index)
    spans = index.find(read_claim(text), "words")
    return Fit(seen.sums(Held(index, spans, seen.doc, len(seen.size))))


def test_measures_by_hand() -> None:
    # 0 the, 1 men, 2 the, 3 x, 4 y | 5 men, 6 the: firings at 0, 3 and 5.
    tokens = text_of([[" the", " men", " the", " x", " y"], [" men", " the"]])
    acts = {0: 4.0, 3: 1.0, 5: 3.0}
    the = fit_of('"the"', tokens, acts)
    # Places 0 (fires), 2 (fires right after), 6 (ends its context, silent).
    assert (the.occurrences, the.right) == (3, 2)
    assert the.precision == pytest.approx(2 / 3)
    assert the.recall == pytest.approx(5 / 8)
    assert the.f1 == pytest.approx(2 * (2 / 3) * (5 / 8) / (2 / 3 + 5 / 8))
    # Called: 0, 1, 2, 3, 6: two of three firings, three of four silent positions.
    assert the.auroc == pytest.approx((1 + 2 / 3 - 3 / 4) / 2)
    men = fit_of('"men"', tokens, acts)
    assert (men.occurrences, men.right) == (2, 1)  # 1 and 2 are silent, 5 fires
    assert men.recall == pytest.approx(3 / 8)
    never = fit_of('"zebra"', tokens, acts)
    assert np.isnan(never.precision)
    assert (never.recall, never.f1) == (0, 0)


def test_intervals_are_no_narrower_than_wilsons() -> None:
    tokens = text_of([[" the", " x"]] * 6)
    index = TextIndex(tokens)
    seen = watched(tokens, {2 * n: 1.0 for n in range(6)}, index)
    spans = index.find(read_claim('"the"'), "words")
    fit = Fit(seen.sums(Held(index, spans, seen.doc, 6)))
    found = estimates(fit, seen, document_weights(6, 0))
    # Six of six: Wilson's lower limit is 6 / (6 + 1.96^2).
    assert found["precision"].low == pytest.approx(6 / (6 + 1.95996**2), abs=1e-4)
    assert found["recall"].low == pytest.approx(6 / (6 + 1.95996**2), abs=1e-4)
    assert found["precision"].high == 1


def test_rank_auroc_against_all_pairs() -> None:
    rng = np.random.default_rng(0)
    score = rng.integers(0, 4, size=60).astype(np.float64)
    positive = rng.random(60) < 0.3
    doc = rng.integers(0, 7, size=60)
    weights = document_weights(7, 0, n=5)
    value, drawn = rank_auroc(score, positive, doc, weights)

    def pairs(weight: np.ndarray) -> float:
        one, other = score[positive][:, None], score[~positive][None]
        share = (one > other) + 0.5 * (one == other)
        both = weight[positive][:, None] * weight[~positive][None]
        return float((share * both).sum() / both.sum())

    assert value == pytest.approx(pairs(np.ones(60)))
    assert drawn == pytest.approx([pairs(row[doc]) for row in weights])


def test_what_a_latent_fires_on_by_hand() -> None:
    tokens = text_of([["\n", " the", " the", " x"], ["\n", " the"]] * 3)
    index = TextIndex(tokens)
    acts = {n * 6 + place: act for n in range(3) for place, act in ((1, 6.0), (3, 1.0), (5, 3.0))}
    found = fires_on(index, watched(tokens, acts, index))
    assert found == "90% of its activation is at ` the`, 100% of that after `↵`; 10% at ` x`"


def test_controls_say_something_else_of_another_latent() -> None:
    texts = ["months", "colons", "Months.", '"a"', "the word 'A'", '"b"', '"c"', '"d"', "failed"]
    latents = [0, 0, 1, 2, 3, 4, 5, 6, 7]
    explanations = [Explanation(HERE, *pair) for pair in zip(latents, texts, strict=True)]
    claims = [read_claim(one.text) for one in explanations]
    for seed in range(5):
        controls = Controls(explanations, claims, [True] * 8 + [False], seed)
        # Not its own latent's, nor the same words, nor what failed.
        assert set(map(str, controls.claims(0))) == {'"a"', '"A"', '"b"', '"c"', '"d"'}
        assert not {'"a"', '"A"'} & set(map(str, controls.claims(3)))
        assert len(controls.claims(3)) == N_CONTROLS
        assert not {"failed", "colons", "Months."} & set(controls.texts(0))


def test_windows_of_others_are_documents_of_their_own() -> None:
    ground = owned()
    others = Site(ground, np.arange(0, 48, 3), 0, cut=False)
    kept = np.arange(16) >= 4
    own = Site(ground, np.arange(12), 0, cut=False)
    windows = Windows(own, others, kept, 0)
    assert windows.doc.tolist() == [*range(12), *range(12 + 4, 12 + 16)]
    assert len(windows.texts()) == 24
    assert windows.fires(own.watch(0)).tolist() == [True] * 12 + [False] * 12
    assert windows.counts(read_claim('"she"'))[:12].min() >= 1


def test_calls_of_a_rule_on_padding_are_nothing() -> None:
    ground = owned()
    row = int(np.argmin(ground.tokens.length))
    width = ground.tokens.ctx_len
    site = Site(ground, np.arange(ground.tokens.n_ctx), 0, cut=False)
    padding = np.array([row * width + ground.tokens.length[row]])
    assert len(site.called(padding).first) == 0
    assert len(site.called(padding - 1).first) == 1
