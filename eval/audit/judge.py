"""The audit of a hookpoint's explanations: from words to claims, to measures, to verdicts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import polars as pl

from labeler.eval.audit.claim import Claim, read_claim
from labeler.eval.audit.controls import Controls
from labeler.eval.audit.gather import Gatherer
from labeler.eval.audit.ground import Ground
from labeler.eval.audit.prose import ContextScorer, TokenScorer
from labeler.eval.audit.rows import Row, frame
from labeler.eval.audit.scorers import Scorers
from labeler.eval.audit.stored import copies, failure
from labeler.eval.audit.verdicts import Evidence, judge
from labeler.eval.firings import TextFirings
from labeler.explanations import Explanation


def audit_hookpoint(
    explanations: Sequence[Explanation],
    ground: Ground | None,
    *,
    rule: TextFirings | None = None,
    rule_text: Mapping[int, str] | None = None,
    context_scorer: ContextScorer | None = None,
    token_scorer: TokenScorer | None = None,
    seed: int = 0,
    advance: Callable[[float], None] = lambda n: None,
) -> pl.DataFrame:
    """Judge explanations of one hookpoint's latents.

    Parameters
    ----------
    explanations : sequence of Explanation
        All of one hookpoint; a latent may have several.
    ground : Ground or None
        Text and firings; None where there is only the text of the explanations.
    rule : TextFirings, optional
        Calls of our labels on `ground.tokens`, by flat position and column.
    rule_text : mapping of int to str, optional
        Line of our label, by latent; those without a line have no label.
    context_scorer, token_scorer : optional
        What judges prose. The token scorer comes first where both are given.
    seed : int
        Of resamples, controls and samples.
    advance : callable
        Told the explanations done.

    Returns
    -------
    polars.DataFrame
        A row per explanation, in their order; columns are those of ``audit.parquet``
        (`labeler.eval.audit.rows.SCHEMA`).
    """
    faults = [failure(one.text) for one in explanations]
    claims = [
        # "None" may be a failure, or the word: a single word is read all the same.
        Claim() if fault and len(one.text.split()) != 1 else read_claim(one.text)
        for one, fault in zip(explanations, faults, strict=True)
    ]
    controls = Controls(explanations, claims, [not fault for fault in faults], seed)
    gatherer: Gatherer | None = None
    if ground is not None:
        scorers = Scorers(context_scorer, token_scorer, seed)
        gatherer = Gatherer(ground, controls, scorers, seed)
        gatherer.rules(rule, rule_text or {})
    count = copies(explanations)
    n_explained = len({one.latent for one in explanations})
    rows: dict[int, Row] = {}
    for number in controls.order if gatherer is None else gatherer.order:
        one, claim = explanations[number], claims[number]
        row = rows[number] = Row(one, claim, count[number])
        evidence = Evidence(
            failure=faults[number],
            claim=str(replace(claim, partial=False)),
            partial=claim.partial,
            examples=claim.examples,
            about=claim.contexts,
            outputs=claim.outputs,
            copies=count[number],
            n_explained=n_explained,
        )
        if gatherer is not None and gatherer.knows(one.latent):
            evidence = gatherer.gather(number, row, evidence)
        row.verdict, row.reason = judge(evidence)
        advance(1)
    return frame([rows[number].values() for number in range(len(explanations))])
