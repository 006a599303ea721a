"""The verdict on an explanation, from evidence that was gathered before.

docs/audit.md gives the reasons, and what was changed after a first look at results. In order:

1. no text worth the name: *failed*, unless it is a single word and the latent fires there;
2. too few firings, or no text: nothing is said;
3. words that make a whole claim are judged by precision and recall: *supported* (both at least a
   half), *too broad*, *too narrow*, *contradicted* (no better than controls, and bad);
4. words that make part of a claim are *supported* by the part that can be read, or by its contexts,
   and accused only if that part is worthless by every measure, or if all of it could be read and
   it is a list that goes on, of which most is wrong;
5. prose is judged by a scorer's AUROC, if there is one;
6. what remains is *duplicate* if many latents have the text, else *unverifiable*.

What is better than its controls is never contradicted. A bound accuses only if the whole interval
is on its wrong side.
"""

from dataclasses import dataclass, field

import numpy as np

from labeler.eval.audit.measure import Estimate
from labeler.eval.audit.stored import is_copied

VERDICTS = (
    "supported",
    "too broad",
    "too narrow",
    "contradicted",
    "failed",
    "duplicate",
    "unverifiable",
)

MIN_FIRINGS = 10
"""Firings below which nothing is said: no share of fewer is known to within a third."""

MIN_CONTEXTS = 5
"""Contexts that must hold them: what one text shows may be that text's own."""

MIN_EXAMPLES = 5
"""Places that examples must have to support the text that gives them."""

GOOD = 0.5
"""Precision and recall of a fair description: more than half of the places it names are firings,
and they hold more than half of the activation."""

FITS = 0.6
"""AUROC that prose, or a partial claim in its contexts, must reach to be supported, with its whole
interval above chance and above its controls. A partial claim is worthless only if its interval ends
below."""

CHANCE = 0.5
"""AUROC that prose must stay below, with its whole interval, to be contradicted. A scorer that is
blind to what a text says puts a true one at chance, so that chance accuses nobody. An embedding
accuses nobody at all: it puts some true texts about grammar below chance."""


_UNKNOWN = Estimate()


@dataclass(frozen=True)
class Against:
    """A measure beside its controls.

    Attributes
    ----------
    own : Estimate
    control : float
        Mean over controls; NaN without any.
    low, high : float
        95% interval of own - control.
    """

    own: Estimate = _UNKNOWN
    control: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")

    @property
    def better(self) -> bool:
        """Whether it is better than its controls, beyond chance."""
        return self.low > 0

    @property
    def measured(self) -> bool:
        """Whether there is anything to go by."""
        return bool(np.isfinite(self.own.value))


@dataclass(frozen=True)
class Evidence:
    """What is known of one explanation.

    Attributes
    ----------
    failure : str
        Why its text is none; "" if it is one.
    claim : str
        What its words claim; "" for prose.
    partial : bool
    examples : bool
        Partial only in that its list goes on.
    about : bool
        The words may speak of what a text is about: then examples alone support nothing.
    outputs : bool
        The words speak of what comes after, not of firings.
    n_firings, n_contexts : int or None
        None without text.
    occurrences, right : int
    precision, recall : Estimate
    auroc : Estimate
        Of positions.
    f1 : Against
    contexts : Against
        AUROC of contexts by how often the claim holds there; of partial claims only.
    prose : Against
        AUROC of a scorer's scores.
    scorer : str
        Which scorer; "" for none.
    accuses : bool
        Whether that scorer may contradict: one that reads the text at every token, not one that
        compares topics.
    fires_on : str
        What the latent fires on, for the reason.
    copies, n_explained : int
        Latents with the same text, of all explained.
    """

    failure: str = ""
    claim: str = ""
    partial: bool = False
    examples: bool = False
    about: bool = False
    outputs: bool = False
    n_firings: int | None = None
    n_contexts: int | None = None
    occurrences: int = 0
    right: int = 0
    precision: Estimate = _UNKNOWN
    recall: Estimate = _UNKNOWN
    auroc: Estimate = _UNKNOWN
    f1: Against = field(default_factory=Against)
    contexts: Against = field(default_factory=Against)
    prose: Against = field(default_factory=Against)
    scorer: str = ""
    accuses: bool = False
    fires_on: str = ""
    copies: int = 1
    n_explained: int = 1

    @property
    def better(self) -> bool:
        """Whether its words fit better than those of others, and better than chance.

        A claim that holds often covers more than one that holds rarely, wherever it holds: F1 alone
        would call it better.
        """
        return self.f1.better and self.auroc.low > CHANCE


def judge(evidence: Evidence) -> tuple[str, str]:
    """Verdict and the sentence that gives its reason."""
    verdict, reason = _measured(evidence)
    if evidence.failure and (not evidence.claim or verdict != "supported"):
        return "failed", f"the text {evidence.failure}"
    if verdict == "unverifiable" and is_copied(evidence.copies, evidence.n_explained):
        return "duplicate", (
            f"{evidence.copies} of {evidence.n_explained} explained latents have this very text; "
            f"{reason}"
        )
    return verdict, reason


def _measured(evidence: Evidence) -> tuple[str, str]:
    claim, n, contexts = evidence.claim, evidence.n_firings, evidence.n_contexts
    if n is None or contexts is None:
        return "unverifiable", "no activations to check it on"
    if n < MIN_FIRINGS or contexts < MIN_CONTEXTS:
        return "unverifiable", (
            f"{n} firings in {contexts} contexts are too few: {MIN_FIRINGS} in {MIN_CONTEXTS} are "
            "needed"
        )
    if claim and not evidence.partial:
        return _whole(evidence)
    verdict, reason = _part(evidence) if claim else _prose_only(evidence)
    if verdict == "unverifiable" and evidence.prose.measured:
        by_prose, why = _scored(evidence)
        if by_prose != "unverifiable" or not claim:
            return by_prose, why
    return verdict, reason


def _whole(evidence: Evidence) -> tuple[str, str]:
    """Judge a claim that says all."""
    precision, recall, f1 = evidence.precision, evidence.recall, evidence.f1
    facts = _facts(evidence)
    if not evidence.better:
        if not _below(f1.own, GOOD):
            few = f1.own.value > f1.control
            return "unverifiable", (
                f"{facts}: {'too few documents to tell' if few else 'others do as well'}"
            )
        if recall.value >= GOOD:
            return "too broad", f"{facts}; {_fires_on(evidence)}"
        return "contradicted", f"{_instead(evidence)}; {facts}"
    if precision.value >= GOOD and recall.value >= GOOD:
        return "supported", facts
    if precision.value < min(recall.value, GOOD) and precision.high < GOOD:
        return "too broad", f"{facts}; {_fires_on(evidence)}"
    if recall.value < GOOD and recall.high < GOOD:
        return "too narrow", f"{facts}; {_fires_on(evidence)}"
    if precision.high < GOOD:
        return "too broad", f"{facts}; {_fires_on(evidence)}"
    return "unverifiable", f"too few cases to tell: {facts}"


def _part(evidence: Evidence) -> tuple[str, str]:
    """Judge a claim of which only a part could be read: it accuses only if that is worthless."""
    precision, recall, contexts = evidence.precision, evidence.recall, evidence.contexts
    facts = _facts(evidence)
    if evidence.better and precision.value >= GOOD and recall.value >= GOOD:
        return "supported", facts
    enough = evidence.occurrences >= MIN_EXAMPLES and not evidence.about
    if evidence.better and precision.value >= GOOD and enough:
        return "supported", f"{facts}; examples, so that recall counts for nothing"
    if evidence.examples and evidence.occurrences >= MIN_FIRINGS and _below(precision, GOOD):
        if evidence.better or recall.value >= GOOD:
            return "too broad", f"{facts}; {_fires_on(evidence)}"
        if _below(recall, GOOD):
            return "contradicted", f"{_instead(evidence)}; {facts}"
    if contexts.better and contexts.own.value >= FITS and contexts.own.low > CHANCE:
        return "supported", (
            f"contexts that have {evidence.claim} are those it fires in (AUROC "
            f"{contexts.own.value:.2f}, other explanations {contexts.control:.2f}); {facts}"
        )
    worthless = _below(contexts.own, FITS) and not contexts.better
    if (
        evidence.occurrences >= MIN_FIRINGS
        and worthless
        and not evidence.better
        and _below(precision, GOOD)
        and _below(recall, GOOD)
    ):
        return "contradicted", f"{_instead(evidence)}; {facts}"
    return (
        "unverifiable",
        f"only a part of its words can be checked, and that does not tell: {facts}",
    )


def _prose_only(evidence: Evidence) -> tuple[str, str]:
    if evidence.outputs:
        reason = "it speaks of what the latent promotes, which firings do not show"
    else:
        reason = "prose: nothing in it that can be looked up"
    return "unverifiable", f"{reason}; {_fires_on(evidence)}"


def _scored(evidence: Evidence) -> tuple[str, str]:
    """Judge prose by what a scorer makes of it."""
    prose = evidence.prose
    facts = (
        f"AUROC {prose.own.value:.2f} [{prose.own.low:.2f}, {prose.own.high:.2f}] by "
        f"{evidence.scorer}, other explanations {prose.control:.2f}"
    )
    if prose.better and prose.own.value >= FITS and prose.own.low > CHANCE:
        return "supported", facts
    if evidence.accuses and prose.high < 0 and _below(prose.own, CHANCE):
        return "contradicted", f"{facts}; {_fires_on(evidence)}"
    return "unverifiable", f"{facts}: too little to tell"


def _below(estimate: Estimate, bound: float) -> bool:
    """Whether the whole interval is below a bound; a claim that never holds has no precision."""
    return not estimate.high >= bound


def _facts(evidence: Evidence) -> str:
    if not evidence.occurrences:
        return f"the text never has {evidence.claim}"
    return (
        f"fires at {evidence.right} of {evidence.occurrences} places with {evidence.claim}, which "
        f"hold {evidence.recall.value:.0%} of its activation (F1 {evidence.f1.own.value:.2f}, "
        f"other explanations {evidence.f1.control:.2f})"
    )


def _instead(evidence: Evidence) -> str:
    return f"claims {evidence.claim}; {_fires_on(evidence)}"


def _fires_on(evidence: Evidence) -> str:
    return evidence.fires_on or "what it fires on is not known"
