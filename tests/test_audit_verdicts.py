from dataclasses import replace

import pytest

from labeler.eval.audit.measure import Estimate
from labeler.eval.audit.verdicts import Against, Evidence, judge

SURE = Estimate(0.9, 0.8, 0.95)
LOW = Estimate(0.1, 0.05, 0.2)
UNSURE = Estimate(0.4, 0.2, 0.6)
CHANCE = Estimate(0.5, 0.48, 0.52)
BETTER = Against(SURE, 0.1, 0.7, 0.85)
BARELY = Against(LOW, 0, 0.01, 0.2)
SAME = Against(LOW, 0.1, -0.05, 0.05)
NONE = Against()


def seen(
    precision: Estimate, recall: Estimate, f1: Against, auroc: Estimate = SURE, **more: object
) -> Evidence:
    """Evidence on a whole claim, unless said otherwise."""
    some = Evidence(claim="months", n_firings=50, n_contexts=20, occurrences=50, right=40)
    return replace(some, precision=precision, recall=recall, f1=f1, auroc=auroc, **more)  # type: ignore[arg-type]


def part(precision: Estimate, recall: Estimate, f1: Against, **more: object) -> Evidence:
    return seen(precision, recall, f1, partial=True, **more)


def prose(found: Against, **more: object) -> Evidence:
    return seen(Estimate(), Estimate(), NONE, claim="", prose=found, scorer="embedding", **more)


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (seen(SURE, SURE, BETTER), "supported"),
        (seen(SURE, SURE, BETTER, n_firings=9), "unverifiable"),
        (seen(SURE, SURE, BETTER, n_contexts=4), "unverifiable"),
        (seen(LOW, SURE, BETTER), "too broad"),
        (seen(SURE, LOW, BETTER), "too narrow"),
        # Better than its controls: never contradicted, however bad.
        (seen(LOW, LOW, BARELY), "too narrow"),
        (seen(LOW, LOW, SAME), "contradicted"),
        # Better only because it holds more often: at chance by AUROC.
        (seen(LOW, LOW, BARELY, CHANCE), "contradicted"),
        (seen(LOW, SURE, SAME), "too broad"),
        # The interval reaches over the bound: no accusation.
        (seen(SURE, UNSURE, Against(UNSURE, 0, 0.1, 0.5)), "unverifiable"),
        (seen(SURE, SURE, Against(SURE, 0.9, -0.1, 0.1)), "unverifiable"),
        # Only a part was read: missing much accuses nobody.
        (part(SURE, LOW, BETTER), "supported"),
        (part(SURE, LOW, BETTER, occurrences=4), "unverifiable"),
        (part(SURE, LOW, BETTER, about=True), "unverifiable"),
        (part(SURE, SURE, BETTER, about=True), "supported"),
        (part(LOW, SURE, BETTER), "unverifiable"),
        (part(LOW, LOW, SAME, contexts=Against(SURE, 0.5, 0.3, 0.45)), "supported"),
        (part(LOW, LOW, SAME, contexts=Against(SURE, 0.9, -0.1, 0.1)), "unverifiable"),
        (part(LOW, LOW, SAME, contexts=Against(SURE, 0.5, -0.2, 0.1)), "unverifiable"),
        (part(LOW, LOW, SAME, contexts=Against(LOW, 0.5, -0.4, 0.1)), "contradicted"),
        (part(LOW, LOW, SAME, contexts=Against(LOW, 0.5, -0.4, 0.1), occurrences=9),
         "unverifiable"),
        # A list that goes on, all of it read: what it misses counts for nothing, what it says does.
        (part(SURE, LOW, BETTER, examples=True), "supported"),
        (part(LOW, SURE, BETTER, examples=True), "too broad"),
        (part(LOW, LOW, SAME, examples=True), "contradicted"),
        (part(LOW, LOW, SAME, examples=True, occurrences=9), "unverifiable"),
        # Prose: chance accuses nobody; what is worse than chance and than others is contradicted.
        (prose(BETTER), "supported"),
        (prose(Against(CHANCE, 0.5, -0.1, 0.1)), "unverifiable"),
        (prose(Against(CHANCE, 0.7, -0.3, -0.1)), "unverifiable"),
        (prose(Against(LOW, 0.5, -0.5, -0.3)), "unverifiable"),
        (prose(Against(LOW, 0.5, -0.5, -0.3), accuses=True), "contradicted"),
        (prose(Against(LOW, 0.1, -0.1, 0.1), accuses=True), "unverifiable"),
        (prose(Against(CHANCE, 0.7, -0.3, -0.1), accuses=True), "unverifiable"),
        (prose(NONE), "unverifiable"),
        (prose(NONE, copies=5, n_explained=10), "duplicate"),
        (prose(NONE, failure="is empty", copies=5), "failed"),
        (seen(SURE, SURE, BETTER, failure="says nothing"), "supported"),
        (seen(SURE, LOW, BETTER, failure="says nothing"), "failed"),
        (Evidence(claim="months"), "unverifiable"),
    ],
)  # fmt: skip
def test_bounds_of_verdicts(evidence: Evidence, verdict: str) -> None:
    assert judge(evidence)[0] == verdict


def test_reasons_name_outputs_and_numbers() -> None:
    assert "promotes" in judge(prose(NONE, outputs=True))[1]
    _, reason = judge(prose(Against(SURE, 0.5, 0.3, 0.45)))
    assert reason == "AUROC 0.90 [0.80, 0.95] by embedding, other explanations 0.50"
