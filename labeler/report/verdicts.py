"""The page's part on labels tried on unseen text: verdicts, tests with controls, others' scores."""

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from labeler.eval.verdict import EFFECT, GOOD, MARGIN, MIN_FIRINGS, MIN_TRIALS, VERDICTS
from labeler.report.charts import stacked_bars
from labeler.report.evidence import Tried
from labeler.report.glyphs import visible

MEANS = {
    "verified": f"F1 of at least {GOOD} on held-out text, and better than the control in every "
    "test that applies",
    "weak": f"nothing excludes what it claims, but its F1 is below {GOOD}, or a test does not "
    "beat its control",
    "refuted": f"the evidence excludes its claim, interval and all: F1 is below {GOOD} and "
    f"{MARGIN} below the F1 of its fit, or not {MARGIN} above the control’s, or in some test its "
    f"key has no effect of {EFFECT} over the control (of half the claim where that is less)",
    "untestable": f"its latent fires fewer than {MIN_FIRINGS} times in the held-out text",
}
"""What each verdict says, in the order of `VERDICTS`."""

_TESTS = {
    "heldout": "F1 on held-out documents, at the natural rate of firings. Control: F1 of another "
    "latent’s label on this latent. Tried: firings.",
    "sufficiency": "The label’s key is written into held-out text where the latent is silent: how "
    "often does it fire there? Control: where another label’s key was written.",
    "necessity": "Where the latent fires and the label calls, the token that the label reads is "
    "replaced: how often does it stop? Control: another of the last eight tokens is replaced.",
}
_UNSEEN = (
    "Texts written for the label by {}: how often does the latent fire where the label calls? "
    "Control: at another label’s calls, in the texts written for that one."
)
_WRITERS = {
    "subject": "the model itself",
    "edit": "splicing held-out text, without a model",
}

_SCORES = {
    "detection": "Does the label call anywhere in a window of text? Balanced accuracy over windows "
    "with and without a firing (delphi).",
    "detection_tpr": "The windows with a firing that it calls.",
    "detection_tnr": "The windows without a firing that it leaves alone.",
    "fuzzing": "Does it call every marked token of a window, marked rightly or wrongly? Balanced "
    "accuracy (delphi).",
    "simulation_r": "Correlation of predicted and true activation in top and random sequences "
    "(Bills et al.).",
    "n2g_f1": "F1 on the latent’s 20 top texts, from half of its maximum on (Foote et al.).",
    "intruder": "Finds the silent window among four of the latent’s: the one it predicts least "
    "(delphi).",
    "f1": "Ours: F1 over all held-out positions.",
    "precision": "Ours: of the positions it calls, those where the latent fires.",
    "recall": "Ours: of the positions where the latent fires, those it calls.",
    "pearson": "Ours: correlation of predicted and true activation over all positions.",
}


_FURTHER = {
    "same token": "Ablated text: one token is left out at a time. Is the token that matters most "
    "to the latent the one that matters most to its label?",
    "rank correlation": "The same for all of the last tokens: how alike their order is by what "
    "they matter to the latent and to the label.",
    "seed criterion": "Labels that pass the seed study’s own criterion: on any of its texts, the "
    "activation differs by more than 0.01 from the mean. Control: another latent’s label.",
    "seed criterion, while firing": "The same without the successes whose activation is exactly 0.",
    "seed criterion, with a control": "Labels whose latent fires on more of those texts than on "
    "their control’s, interval and all.",
}


class Figures(TypedDict):
    """A hookpoint's figures of one test or score, means over labels; None where not measured."""

    n_labels: int
    n: int | None
    """Trials."""
    failed: int | None
    own: float | None
    control: float | None
    difference: float | None
    low: float | None
    """Of the difference."""
    high: float | None


class Group(TypedDict):
    """A test or score."""

    name: str
    means: str
    layers: dict[str, Figures]
    """By hookpoint."""


def verdicts_section(tried: Mapping[str, Tried | None]) -> dict[str, Any] | None:
    """Verdicts, tests and others' scores of the hookpoints that were tried; None if none was.

    Parameters
    ----------
    tried : mapping of hookpoint to Tried or None
        In layer order.
    """
    facts = {name: one.facts for name, one in tried.items() if one is not None}
    if not facts:
        return None
    counts = {name: found["verdicts"] for name, found in facts.items()}
    total = {verdict: sum(one[verdict] for one in counts.values()) for verdict in VERDICTS}
    return {
        "untried": [name for name, one in tried.items() if one is None],
        "budgets": sorted({str(found["budget"]) for found in facts.values()}),
        "n_tested": sum(found["n_tested"] for found in facts.values()),
        "n_labeled": sum(found["n_labeled"] for found in facts.values()),
        "total": total,
        "rows": [
            {
                "layer": name,
                "n_tested": facts[name]["n_tested"],
                "actives": facts[name].get("actives"),
                "n_labeled": facts[name]["n_labeled"],
                "verdicts": one,
            }
            for name, one in counts.items()
        ],
        "bars": stacked_bars(counts, {verdict: verdict for verdict in VERDICTS}),
        "means": [{"name": name, "text": MEANS[name], "count": total[name]} for name in VERDICTS],
        "min_trials": MIN_TRIALS,
        "legend": [{"name": name, "tone": name} for name in VERDICTS],
        "tests": _groups({name: _tests(found) for name, found in facts.items()}, _test_means),
        "scores": _groups(
            {name: _standard(found) for name, found in facts.items()},
            lambda name: _SCORES.get(name, ""),
        ),
        "further": _groups(
            {name: _further(found) for name, found in facts.items()}, _FURTHER.__getitem__
        ),
    }


def _groups(found: Mapping[str, Mapping[str, Figures]], means: Callable[[str], str]) -> list[Group]:
    """Figures by hookpoint and name, turned into figures by name and hookpoint."""
    names = dict.fromkeys(name for one in found.values() for name in one)
    return [
        Group(
            # A generator is named by its server or folder: text like any other.
            name=visible(name),
            means=means(name),
            layers={layer: one[name] for layer, one in found.items() if name in one},
        )
        for name in names
    ]


def _figures(one: Mapping[str, Any], n_labels: int) -> Figures:
    return Figures(
        n_labels=n_labels,
        n=one.get("n"),
        failed=one.get("failed"),
        own=one["own"],
        control=one["control"],
        difference=one["difference"],
        low=one["low"],
        high=one["high"],
    )


def _tests(facts: Mapping[str, Any]) -> dict[str, Figures]:
    return {name: _figures(one, one["n_labels"]) for name, one in facts["tests"].items()}


def _standard(facts: Mapping[str, Any]) -> dict[str, Figures]:
    found = facts.get("standard", {})
    return {name: _figures(one, one["n_latents"]) for name, one in found.items()}


def _further(facts: Mapping[str, Any]) -> dict[str, Figures]:
    """Ablated text and the seed study's criterion, where they were measured."""
    out = {}
    if ablated := facts.get("ablation"):
        for name, key in (("same token", "same"), ("rank correlation", "spearman")):
            out[name] = _figures(ablated[key], ablated["n_latents"])
    if seed := facts.get("seed_protocol"):
        for name, key in (
            ("seed criterion", "passes"),
            ("seed criterion, while firing", "fires"),
            ("seed criterion, with a control", "beats"),
        ):
            own, other = seed[key]["own"], seed[key]["random"]
            known = own["share"] is not None and other["share"] is not None
            out[name] = Figures(
                n_labels=own["n"],
                n=None,
                failed=None,
                own=own["share"],
                control=other["share"],
                difference=own["share"] - other["share"] if known else None,
                low=None,
                high=None,
            )
    return out


def _test_means(name: str) -> str:
    if name.startswith("unseen:"):
        writer = name.removeprefix("unseen:")
        return _UNSEEN.format(_WRITERS.get(writer, "this generator"))
    return _TESTS.get(name, "Shares of trials, own and control.")
