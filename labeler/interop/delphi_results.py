"""delphi's results: a file per explanation, and per scorer a file of judged examples.

``explanations/<hookpoint>_latent<i>.txt`` holds one JSON string, ``scores/<scorer>/`` the same
names. Layout and definitions: EleutherAI/delphi, `scorers/classifier/sample.py`,
`latents/constructors.py`, `log/result_analysis.py` (November 2025).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from labeler.arrays import Bools, Floats
from labeler.errors import ExplanationError
from labeler.explanations import Context
from labeler.interop.bounded import Damage, Json, parse_json, read_whole
from labeler.interop.checks import (
    DamagedError,
    context_of,
    fields_of,
    latent_of,
    number_of,
    text_of,
)
from labeler.interop.collect import Collector

HIGHLIGHT = 0.3
"""Share of a latent's maximum from which delphi marks a token as activating, in what explainers
are shown and in fuzzing (`DefaultExplainer`, `examples_to_samples`)."""

_FILE = re.compile(r"(?P<hookpoint>.+)_latent(?P<latent>\d{1,10})\.txt")
_TRIED = 32
"""Score files of a hookpoint that are looked at to see what its activations are."""

_SIMULATION = "ev_correlation_score"


def owns(file: Path) -> bool:
    """Whether a file lies where a run stores explanations or scores, under such a name."""
    if _FILE.fullmatch(file.name) is None:
        return False
    folder = file.absolute().parent
    return folder.name == "explanations" or folder.parent.name == "scores"


def read(root: Path, files: Sequence[Path], into: Collector) -> None:
    """Read a run: latent by latent its explanation, its scores, its examples."""
    author = _author(root)
    explained: dict[tuple[str, int], Path] = {}
    scored: dict[tuple[str, int], list[Path]] = {}
    for file in files:
        match = _FILE.fullmatch(file.name)
        if match is None:
            continue
        # Scores are stored under "a--b" where the hookpoint is "a/b".
        key = (match["hookpoint"].replace("--", "/"), latent_of(match["latent"]))
        folder = file.absolute().parent
        if folder.name == "explanations":
            explained[key] = file
        else:
            scored.setdefault(key, []).append(file)
    dense = _dense_hookpoints(scored)
    for hookpoint in sorted(dense):
        into.note(_DENSE.format(hookpoint=hookpoint, share=HIGHLIGHT))
    latents = sorted({*explained, *scored}, key=lambda key: (_natural(key[0]), key[1]))
    for key in latents:
        hookpoint, latent = key
        place = (into.place_of(hookpoint), latent)
        examples = Examples(hookpoint in dense)
        published: dict[str, float] = {}
        for file in into.through(sorted(scored.get(key, []), key=_rank)):
            with into.counting(str(file)):
                published |= _scores(file, examples, into)
        for file in into.through([explained[key]] if key in explained else []):
            with into.counting(str(file)):
                text = text_of(_parsed(file), "explanation")
                into.add(*place, text, author=author, published=published, origin=str(file))
        for context in examples.contexts():
            into.add_context(place, context)


_DENSE = (
    "{hookpoint}: the stored activations are values before any activation function (negative ones "
    "among them, hardly a zero), so what fired is not known; a token is taken to fire from {share} "
    "of the latent's largest stored value on, which is what delphi marks as activating"
)


class Examples:
    """Examples of one latent, over its scorers.

    Parameters
    ----------
    dense : bool
        Whether activations are stored without an activation function.
    """

    def __init__(self, dense: bool) -> None:
        self._dense = dense
        self._firing: dict[tuple[str, ...], Floats] = {}
        self._silent: dict[tuple[str, ...], None] = {}

    def add(self, tokens: Json, acts: Json, activating: bool) -> None:
        """Take an example; raises `DamagedError` where it is none."""
        context = context_of(tokens, acts, "")
        if activating:
            self._firing.setdefault(context.tokens, context.acts)
        else:
            self._silent.setdefault(context.tokens)

    def contexts(self) -> Iterator[Context]:
        """Contexts, those that activate first.

        Examples that do not activate are silent throughout: what delphi stores there are zeros or
        the activations of a neighbouring latent. Fuzzing of the kind "active" calls examples not
        activating whose text activates; those are left out.
        """
        largest = max((float(acts.max()) for acts in self._firing.values()), default=0.0)
        least = HIGHLIGHT * max(largest, 0.0) if self._dense else 0.0
        for tokens, acts in self._firing.items():
            fires = (acts > 0) & (acts >= least)
            yield Context(tokens, np.where(fires, acts, 0).astype(np.float32), "quantile")
        for tokens in self._silent:
            if tokens not in self._firing:
                yield Context(tokens, np.zeros(len(tokens), dtype=np.float32), "random")


def _author(root: Path) -> str:
    """Explainer of the run; "" where its configuration is not there or does not say."""
    for folder in (root, root.parent):
        file = folder / "run_config.json"
        if file.is_file():
            config = parse_json(read_whole(file))
            name = config.get("explainer_model") if isinstance(config, dict) else None
            return name if isinstance(name, str) else ""
    return ""


def _scorer(file: Path) -> str:
    return file.absolute().parent.name


def _rank(file: Path) -> tuple[int, str]:
    """Order of scorers: detection's examples are the plainest, simulation's are rescaled."""
    order = {"detection": 0, "fuzz": 1, "simulation": 3}
    return order.get(_scorer(file), 2), _scorer(file)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _parsed(file: Path) -> Json:
    value = parse_json(read_whole(file))
    if isinstance(value, Damage):
        raise DamagedError(f"file that is {value.reason}", value.detail)
    return value


def _items(file: Path) -> list[dict[str, Json]]:
    value = _parsed(file)
    if not isinstance(value, list):
        raise DamagedError("score file that holds no list")
    return [fields_of(item) for item in value]


def _dense_hookpoints(
    scored: Mapping[tuple[str, int], Sequence[Path]],
) -> frozenset[str]:
    """Hookpoints whose stored activations have negative values and are mostly not zero."""
    by_hookpoint: dict[str, list[Path]] = {}
    for (hookpoint, _), found in scored.items():
        files = [file for file in found if _scorer(file) != "simulation"]
        by_hookpoint.setdefault(hookpoint, []).extend(files)
    dense = set()
    for hookpoint, files in by_hookpoint.items():
        step = max(1, len(files) // _TRIED)
        acts = [act for file in files[::step] for act in _activating(file)]
        if acts:
            flat = np.concatenate(acts)
            if (flat < 0).any() and (flat == 0).mean() < 0.5:
                dense.add(hookpoint)
    return frozenset(dense)


def _activating(file: Path) -> Iterator[Floats]:
    """Activations of the activating examples of a score file; of none where it is damaged."""
    try:
        for item in _items(file):
            if item.get("activating") is True:
                yield context_of(item.get("str_tokens"), item.get("activations"), "").acts
    except ExplanationError:
        return  # said when the file is read itself


def _scores(file: Path, examples: Examples, into: Collector) -> dict[str, float]:
    """Published scores of a file; its examples are added."""
    scorer, items = _scorer(file), _items(file)
    if any("scored_sequence_simulations" in item for item in items):
        return _simulated(scorer, items, examples)
    if not any("correct" in item for item in items):
        into.note(f"scores/{scorer} is of a kind that is not read: no field correct")
        return {}
    for number, item in enumerate(items, 1):
        if isinstance(item.get("activating"), bool):
            with into.counting(f"{file}, example {number}"):
                activating = item["activating"] is True
                examples.add(item.get("str_tokens"), item.get("activations"), activating)
    judged = [_judged(item) for item in items]
    answered = [one for one in judged if one is not None]
    n_differ = sum(one[1] is not None and one[2] != (one[0] == one[1]) for one in answered)
    if n_differ:
        into.note(
            f"{file}: {n_differ} examples whose field correct contradicts prediction and activating"
        )
    scores = {
        f"{scorer} examples": float(len(items)),
        f"{scorer} failed": float(len(items) - len(answered)),
    }
    if answered:
        scores[f"{scorer} accuracy"] = float(np.mean([one[2] for one in answered]))
        scores |= _confusion(scorer, answered, into)
    return scores


def _judged(item: Mapping[str, Json]) -> tuple[bool, bool | None, bool] | None:
    """Prediction, whether it activates, whether that is correct; None where no answer was read."""
    prediction, correct = item.get("prediction"), item.get("correct")
    value = float(prediction) if isinstance(prediction, bool) else number_of(prediction)
    if value is None or value < 0 or not isinstance(correct, bool):
        return None
    activating = item.get("activating")
    return value >= 0.5, activating if isinstance(activating, bool) else None, correct


def _confusion(
    scorer: str, answered: Sequence[tuple[bool, bool | None, bool]], into: Collector
) -> dict[str, float]:
    """Balanced accuracy and F1 as delphi computes them, where both kinds were answered.

    delphi takes 0 for the rate of a kind that is missing, which halves the score of a run that
    has activating examples only: no balanced accuracy is given there.
    """
    known = [one for one in answered if one[1] is not None]
    called: Bools = np.array([one[0] for one in known], dtype=bool)
    fires: Bools = np.array([one[1] for one in known], dtype=bool)
    if not fires.any() or fires.all():
        into.note(
            f"{scorer}: latents that were judged on one kind of examples only (activating ones or "
            "not) get an accuracy, but no balanced accuracy and no F1"
        )
        return {}
    hit = (called & fires).sum()
    return {
        f"{scorer} balanced accuracy": float((called[fires].mean() + (~called[~fires]).mean()) / 2),
        f"{scorer} f1": float(2 * hit / (called.sum() + fires.sum())),
    }


def _simulated(
    scorer: str, items: Iterable[Mapping[str, Json]], examples: Examples
) -> dict[str, float]:
    """Correlation over all sequences (distance 0), else the mean over those of quantiles."""
    whole: float | None = None
    parts: list[float] = []
    for item in items:
        value = number_of(item.get(_SIMULATION))
        if item.get("distance") == 0:
            whole = value
        elif value is not None:
            parts.append(value)
        sequences = item.get("scored_sequence_simulations")
        for sequence in sequences if isinstance(sequences, list) else []:
            one = fields_of(sequence)
            simulation = fields_of(one.get("simulation"))
            # Quantiles count from 0; -1 marks sequences taken because the latent is silent.
            examples.add(
                simulation.get("tokens"), one.get("true_activations"), one.get("distance") != -1
            )
    if whole is not None:
        return {f"{scorer} {_SIMULATION}": whole}
    return {f"{scorer} mean {_SIMULATION}": float(np.mean(parts))} if parts else {}
