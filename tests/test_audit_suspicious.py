"""Sets of wrong explanations: found where they were planted, not where errors are random."""

import numpy as np
import polars as pl
import pytest

from labeler.eval.audit.ground import ground_of_contexts
from labeler.eval.audit.suspicious import FEWEST, Suspicion, suspicious_sets, traits_of
from labeler.explanations import Context

HERE = "layers.1.mlp"


def table(
    verdicts: list[str],
    texts: list[str] | None = None,
    better: list[int | None] | None = None,
    author: str = "somebody",
) -> pl.DataFrame:
    n = len(verdicts)
    return pl.DataFrame(
        {
            "hookpoint": [HERE] * n,
            "latent": np.arange(n, dtype=np.int64),
            "explanation": texts or [f"text {latent}" for latent in range(n)],
            "author": [author] * n,
            "verdict": verdicts,
            "better_latent": pl.Series(better or [None] * n, dtype=pl.Int64),
        }
    )


def kinds(found: list[Suspicion]) -> list[str]:
    return [one.kind for one in found]


def test_the_same_words_on_several_latents_are_a_set():
    verdicts = ["contradicted", "supported", "unverifiable", "supported"]
    found = suspicious_sets(table(verdicts, ["The Months!", "the months", "the  months.", "days"]))
    assert kinds(found) == ["copied"]
    assert found[0].n == 3
    assert found[0].examples == (f"{HERE} 0", f"{HERE} 1", f"{HERE} 2")
    assert "supported for 1 of them" in found[0].text


def test_copies_that_all_hold_are_no_suspicion():
    assert suspicious_sets(table(["supported"] * 4, ["commas"] * 4)) == []
    assert suspicious_sets(table(["supported", "contradicted"] * 2, ["commas"] * 4)) == []


def test_copies_of_which_none_holds_are_a_set():
    assert kinds(suspicious_sets(table(["unverifiable"] * 4, ["nouns"] * 4))) == ["copied"]


def test_failures_are_not_copies_of_each_other():
    assert suspicious_sets(table(["failed"] * 9, ["vLLM connection error"] * 9)) == []


def test_a_file_whose_numbers_are_off_by_one():
    n = 40
    found = suspicious_sets(table(["contradicted"] * n, better=[one + 1 for one in range(n)]))
    assert kinds(found) == ["shifted", "displaced"]
    assert "+1" in found[0].text
    assert found[0].p is not None
    assert found[0].p < 1e-12


def test_exchanged_pairs():
    n = 40
    better: list[int | None] = [None] * n
    for low in range(5):  # 0 with 39, 1 with 38, ...
        better[low], better[n - 1 - low] = n - 1 - low, low
    found = suspicious_sets(table(["contradicted"] * n, better=better))
    assert kinds(found) == ["swapped", "displaced"]
    assert found[0].n == 10


def test_random_displacement_is_only_counted():
    rng = np.random.default_rng(0)
    for _ in range(50):
        better = [int(one) for one in rng.integers(0, 1000, size=60)]
        assert kinds(suspicious_sets(table(["contradicted"] * 60, better=better))) == ["displaced"]


def with_trait(n: int, members: list[int], value: str = "money") -> pl.DataFrame:
    return pl.DataFrame(
        {
            "hookpoint": [HERE] * n,
            "latent": np.arange(n, dtype=np.int64),
            "kind": ["token"] * n,
            "value": [value if one in members else f"v{one % 20}" for one in range(n)],
        }
    )


def test_a_labeler_that_lies_about_one_subject():
    rng = np.random.default_rng(1)
    wrong = rng.random(300) < 0.1
    wrong[:12] = True
    verdicts = ["contradicted" if one else "supported" for one in wrong]
    found = suspicious_sets(table(verdicts), with_trait(300, list(range(12))))
    assert kinds(found) == ["subverted"]
    assert "`money` are contradicted 12 times in 12" in found[0].text


def test_random_errors_are_no_pattern():
    rng = np.random.default_rng(2)
    reports = 0
    for _ in range(200):
        verdicts = ["contradicted" if one else "supported" for one in rng.random(300) < 0.2]
        reports += bool(suspicious_sets(table(verdicts), with_trait(300, list(range(12)))))
    assert reports <= 6  # 2 of 200 are expected at a level of .01


@pytest.mark.parametrize("verdict", ["unverifiable", "failed", "duplicate"])
def test_what_was_not_judged_counts_for_nobody(verdict: str):
    verdicts = ["contradicted"] * FEWEST + ["supported"] * 40 + [verdict] * 200
    found = suspicious_sets(table(verdicts), with_trait(len(verdicts), list(range(FEWEST))))
    alone = suspicious_sets(table(verdicts[:45]), with_trait(45, list(range(FEWEST))))
    assert [one.text for one in found] == [one.text for one in alone] != []


def test_an_author_among_others():
    good = table(["supported"] * 60, author="honest")
    bad = table(["contradicted"] * 8, author="liar").with_columns(pl.col("latent") + 60)
    found = suspicious_sets(pl.concat([good, bad]))
    assert kinds(found) == ["subverted"]
    assert "by liar" in found[0].text


def test_traits_by_hand():
    def context(tokens: list[str], acts: list[float]) -> Context:
        return Context(tuple(tokens), np.array(acts, dtype=np.float32))

    ground = ground_of_contexts(
        HERE,
        {
            # 0.9 of the activation on "the" in two spellings, 0.06 on " cat", 0.04 on a blank
            (HERE, 3): [context(["The", " cat", " the", " "], [5, 0.6, 4, 0.4])],
            (HERE, 8): [context([" cat", " sat"], [1, 1])],
        },
    )
    assert traits_of(ground).rows() == [
        (HERE, 8, "token", "cat"),
        (HERE, 8, "token", "sat"),
        (HERE, 3, "token", "the"),
    ]
