from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from audit_text import (
    AFTER,
    CAT,
    COMMA,
    DEAD,
    DOG,
    GROUND,
    HERE,
    MONTH,
    NOISE,
    RARE,
    THE,
    owned,
    text_of,
)

from labeler.arrays import Floats
from labeler.eval.audit.ground import Ground, ground_of_contexts
from labeler.eval.audit.judge import audit_hookpoint
from labeler.eval.audit.rows import SCHEMA
from labeler.eval.audit.verdicts import MIN_CONTEXTS, MIN_FIRINGS, VERDICTS
from labeler.eval.firings import TextFirings
from labeler.explanations import Context, Explanation
from labeler.interop.read import read_explanations
from labeler.tokens import Tokens

OTHERS = [
    Explanation(HERE, CAT, '"cat"'),
    Explanation(HERE, DOG, "the words dog, fox and hen"),
    Explanation(HERE, NOISE, '"yak"'),
    Explanation(HERE, RARE, '"owl" or "yak"'),
    Explanation(HERE, DEAD, "words starting with q"),
    Explanation(HERE, COMMA, "colons"),
]


def verdict_of(latent: int, text: str, **options: object) -> dict[str, object]:
    explanations = [Explanation(HERE, latent, text), *OTHERS]
    return audit_hookpoint(explanations, GROUND, **options).row(0, named=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("latent", "text", "verdict"),
    [
        (MONTH, "months", "supported"),
        (MONTH, '"March", "April" and "June"', "supported"),
        (THE, '"the"', "supported"),
        (THE, "the token ` the`", "supported"),
        (COMMA, "commas", "supported"),
        (AFTER, 'fires after "the"', "supported"),
        (AFTER, '"the"', "supported"),  # named by the word before
        (MONTH, '"the"', "contradicted"),
        (MONTH, "any token except months", "too broad"),  # a month is right after some token
        (THE, 'fires on "zebra"', "contradicted"),
        (THE, 'does not fire on "the"', "too broad"),
        (MONTH, '"March", "June", "April", "the", "a" and commas', "too broad"),
        (DOG, '"dog"', "too narrow"),
        (NOISE, "months", "contradicted"),
        (RARE, "months", "unverifiable"),
        (DEAD, "months", "unverifiable"),
        (MONTH, "sadness and loss", "unverifiable"),
        (MONTH, "vLLM connection error", "failed"),
        (MONTH, "", "failed"),
        (DOG, 'animals, such as "dog"', "supported"),
        (THE, 'animals, such as "dog" and "fox"', "contradicted"),
        (THE, 'animals, such as "zebra"', "unverifiable"),
    ],
)
def test_verdicts_on_planted_latents(latent: int, text: str, verdict: str) -> None:
    row = verdict_of(latent, text)
    assert row["verdict"] == verdict, row["reason"]


def test_a_row_says_what_was_measured() -> None:
    row = verdict_of(MONTH, "months")
    n = int(GROUND.firings.count[MONTH])
    assert row["n_firings"] == n
    assert (row["precision"], row["recall"], row["f1"]) == (1, 1, 1)
    assert row["precision_low"] == pytest.approx(n / (n + 1.95996**2), abs=1e-4)
    assert row["auroc"] > 0.9 > row["control_auroc"]
    assert row["control_f1"] < 0.2
    assert row["reason"].startswith(f"fires at {n} of {n} places with months, which hold 100%")
    assert (row["method"], row["claim"], row["copies"]) == ("words", "months", 1)
    assert row["rule"] is None
    assert row["better_latent"] is None


def test_a_contradiction_says_what_it_fires_on() -> None:
    row = verdict_of(THE, "months")
    assert row["reason"].startswith("claims months; 100% of its activation is at ` the`; fires at")
    assert row["better_latent"] == MONTH
    assert row["better_f1"] == 1


def test_a_failure_that_is_the_right_word_is_no_failure() -> None:
    contexts = [
        Context(("x", " None", " y"), np.array([0, 2, 0], dtype=np.float32)) for _ in range(12)
    ]
    ground = ground_of_contexts(HERE, {(HERE, 1): contexts, (HERE, 2): contexts[:1]})
    rows = audit_hookpoint([Explanation(HERE, 1, "None"), Explanation(HERE, 2, "None")], ground)
    assert rows["verdict"].to_list() == ["supported", "failed"]


def test_without_text_only_the_words_are_judged() -> None:
    texts = ["months", "", "plural nouns", *["things people do"] * 6]
    explanations = [Explanation(HERE, latent, text) for latent, text in enumerate(texts)]
    rows = audit_hookpoint(explanations, None)
    assert (
        rows["verdict"].to_list() == ["unverifiable", "failed", "unverifiable"] + ["duplicate"] * 6
    )
    assert rows["copies"].to_list() == [1, 1, 1, *[6] * 6]
    assert rows["claim"][0] == "months"
    assert rows["n_firings"].is_null().all()


def test_copies_that_hold_are_supported() -> None:
    explanations = [Explanation(HERE, latent, "commas") for latent in range(9)]
    rows = audit_hookpoint(explanations, GROUND)
    # Each alone: the latent of commas is supported, that with no firing is only a copy.
    assert rows["verdict"][COMMA] == "supported"
    assert rows["verdict"][DEAD] == "duplicate"
    assert rows["reason"][DEAD].startswith(
        "9 of 9 explained latents have this very text; 0 firings"
    )


def test_rule_is_measured_on_the_same_text() -> None:
    month = GROUND.fires_in[MONTH]
    calls = TextFirings.make(
        month[::2],
        np.full(len(month[::2]), MONTH),
        np.ones(len(month[::2]), dtype=np.float32),
        n_positions=GROUND.firings.n_positions,
        n_latents=9,
    )
    row = verdict_of(MONTH, "months", rule=calls, rule_text={MONTH: "fires on ` June`"})
    assert row["rule"] == "fires on ` June`"
    assert row["rule_precision"] == 1
    # Half of the firings, and those right after one that is called.
    after = np.isin(month, month[::2] + 1) & (month % 32 > 0)
    covered = np.isin(month, month[::2]) | after
    act = GROUND.firings.at(month, np.full(len(month), MONTH))
    assert row["rule_recall"] == pytest.approx(act[covered].sum() / act.sum())
    assert verdict_of(THE, "months", rule=calls, rule_text={MONTH: "x"})["rule_f1"] is None


def test_rows_are_in_order_whatever_the_order_of_work_and_repeatable() -> None:
    explanations = [
        replace(OTHERS[0], published={"f1": 0.5}, author="ann", origin="a.csv:2"),
        *OTHERS,
        Explanation(HERE, 99, "months"),
    ]
    done: list[float] = []
    rows = audit_hookpoint(explanations, GROUND, advance=done.append)
    assert rows["latent"].to_list() == [one.latent for one in explanations]
    assert rows.schema == pl.Schema(SCHEMA)
    assert rows["published"][0] == '{"f1": 0.5}'
    assert rows["author"][0] == "ann"
    assert rows["reason"][-1] == "no activations to check it on"
    assert sum(done) == len(explanations)
    assert rows.equals(audit_hookpoint(explanations, GROUND))
    assert set(rows["verdict"]) <= set(VERDICTS)
    assert audit_hookpoint([], GROUND).schema == pl.Schema(SCHEMA)


def test_latents_with_contexts_of_their_own() -> None:
    texts = {1: "'she'", 2: '"of"', 3: '"men"', 4: "months", 5: '"cat"'}
    explanations = [Explanation(HERE, latent, text) for latent, text in texts.items()]
    rows = audit_hookpoint(explanations, owned())
    assert rows["verdict"].to_list() == [
        *("supported", "supported", "contradicted", "contradicted"),
        "unverifiable",
    ]
    # Latent 4 fires on "she" in contexts that are not latent 1's: no fault of latent 1's words.
    assert rows["precision"][0] == 1
    assert rows["n_contexts"].to_list() == [12, 12, 12, 12, 0]


class Overlap:
    """Counts words that a text shares with a context: a scorer that needs no model."""

    name = "overlap"

    def scores(self, texts: Sequence[str], contexts: Sequence[str]) -> Floats:
        found = [[len(set(one.split()) & set(two.split())) for two in contexts] for one in texts]
        return np.array(found, dtype=np.float32)


class Spelling:
    """Predicts 1 where a token is a word of the text; fails on the first context of a text."""

    name = "simulator"

    def predict(self, text: str, tokens: Tokens) -> Floats:
        hit = np.array([one.strip() in text.split() for one in tokens.vocab])
        out = hit[tokens.ids].astype(np.float32)
        out[0] = np.nan
        return out


@pytest.mark.parametrize("options", [{"context_scorer": Overlap()}, {"token_scorer": Spelling()}])
def test_prose_is_judged_by_a_scorer(options: dict[str, object]) -> None:
    prose = [
        Explanation(HERE, NOISE, "sad stories from far away"),
        Explanation(HERE, RARE, "the ends of things that were"),
    ]
    texts = {CAT: "tales told by cat lovers", DOG: "barking sounds in old houses"}
    explanations = [Explanation(HERE, latent, text) for latent, text in texts.items()] + prose
    rows = audit_hookpoint(explanations, GROUND, **options)  # type: ignore[arg-type]
    name = next(iter(options.values())).name  # type: ignore[attr-defined]
    assert rows["method"].to_list()[:2] == [name, name]
    assert rows["verdict"][0] == "supported", rows["reason"][0]
    # Nothing in common with any context: at chance, which accuses nobody.
    assert rows["verdict"][1] == "unverifiable"
    assert rows["auroc"][0] > 0.9
    if name == "simulator":
        # Where it failed, on a context of ten, it says silence; elsewhere it spells the truth.
        assert 0.9 <= rows["auroc"][0] < 1
        assert "failed on 10% of the tokens (taken as silent)" in rows["reason"][0]
    assert rows["claim"].to_list() == [""] * 4


def test_a_scorer_judges_latents_with_contexts_of_their_own() -> None:
    explanations = [
        Explanation(HERE, 1, "what she does when home"),
        Explanation(HERE, 3, "loud cat noises at night"),
        Explanation(HERE, 2, "old songs"),
    ]
    for options in ({"context_scorer": Overlap()}, {"token_scorer": Spelling()}):
        rows = audit_hookpoint(explanations, owned(), **options)  # type: ignore[arg-type]
        assert rows["verdict"].to_list()[1] == "supported", rows["reason"][1]


def test_a_claim_that_few_documents_bear_out_is_better_than_its_controls() -> None:
    # All its firings are in two documents of 15: one resample in nine draws neither.
    rows = [["x", " she", " y", " she"] if n < 8 else [" a", " of", " in", " x"] for n in range(60)]
    tokens = replace(text_of(rows), doc=np.repeat(np.arange(15), 4).astype(np.int32))
    position = np.arange(1, 32, 2)
    firings = TextFirings.make(
        position, np.zeros(16), np.ones(16, dtype=np.float32), n_positions=240, n_latents=2
    )
    ground = Ground(HERE, tokens, np.arange(2), firings)
    explanations = [Explanation(HERE, 0, '"she"'), Explanation(HERE, 1, '"in"')]
    assert audit_hookpoint(explanations, ground)["verdict"][0] == "supported"


def test_partial_claims_are_judged_by_contexts() -> None:
    row = verdict_of(DOG, 'animals, such as "dog"')
    fires = np.zeros(GROUND.tokens.ids.size, dtype=bool)
    fires[GROUND.fires_in[DOG]] = True
    loud = fires.reshape(80, 32).any(axis=1)
    count = (GROUND.tokens.ids == GROUND.tokens.vocab.index(" dog")).sum(axis=1)
    one, other = count[loud][:, None], count[~loud][None]
    assert row["auroc"] == pytest.approx(((one > other) + 0.5 * (one == other)).mean())


@pytest.mark.shared
def test_human_annotations_are_not_accused(shared_data: Path) -> None:
    """Annotated latents of Pythia-70m: quoted words hold, prose is left alone."""
    rows = audit_stored(shared_data / "pythia-70m-annotations" / "joined.jsonl")
    assert set(rows["verdict"]) == {"supported", "unverifiable"}
    quoted = rows.filter(pl.col("explanation").str.contains("^['\"]\\w+['\"]$"))
    assert len(quoted) == 8
    fair = quoted.filter(pl.col("n_firings") >= MIN_FIRINGS, pl.col("n_contexts") >= MIN_CONTEXTS)
    assert set(fair["verdict"]) == {"supported"}
    assert len(fair) == 7


@pytest.mark.shared
def test_failures_of_a_real_run_are_found(shared_data: Path) -> None:
    rows = audit_stored(shared_data / "delphi-run-sample")
    failed = rows.filter(verdict="failed")
    assert len(failed) == 6
    assert failed["explanation"].str.contains("vLLM connection error").all()
    assert set(rows["verdict"]) == {"failed", "unverifiable"}


def audit_stored(path: Path) -> pl.DataFrame:
    found = read_explanations(path)
    parts = []
    for place in sorted({one.hookpoint for one in found.explanations}):
        mine = [one for one in found.explanations if one.hookpoint == place]
        parts.append(audit_hookpoint(mine, ground_of_contexts(place, found.contexts)))
    return pl.concat(parts)


class Backwards(Overlap):
    """Fits texts to contexts that have none of their words."""

    def scores(self, texts: Sequence[str], contexts: Sequence[str]) -> Floats:
        return -super().scores(texts, contexts)


class Misspelling(Spelling):
    """Predicts 1 where a token is no word of the text."""

    def predict(self, text: str, tokens: Tokens) -> Floats:
        return 1 - super().predict(text, tokens)


def test_a_simulator_may_accuse_and_an_embedding_may_not() -> None:
    texts = {CAT: "tales told by cat lovers", DOG: "dog days", NOISE: "sad stories from far away"}
    explanations = [Explanation(HERE, latent, text) for latent, text in texts.items()]
    simulated = audit_hookpoint(explanations, GROUND, token_scorer=Misspelling())
    assert simulated["verdict"][0] == "contradicted", simulated["reason"][0]
    embedded = audit_hookpoint(explanations, GROUND, context_scorer=Backwards())
    assert "too little to tell" in embedded["reason"][0]
    assert embedded["verdict"][0] == "unverifiable"
