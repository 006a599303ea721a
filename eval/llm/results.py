"""What a language model said about one hookpoint: tables and files of it."""

import io
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from labeler.arrays import Floats, Longs
from labeler.eval.llm.ask import Answers
from labeler.eval.llm.inquiry import Inquiry, Outcome, Texts, ask_some
from labeler.eval.llm.prompts import SCALE
from labeler.eval.llm.scores import Predicted, Said, classified, correlated
from labeler.eval.llm.simulate import stacked
from labeler.store import atomic_path

Bar = Callable[[str, int], AbstractContextManager[Callable[[float], None]]]
"""Shows progress of a stage: its name and the number of questions."""

PUBLISHED = {"detect": "detection", "fuzz": "fuzzing", "simulate": "simulation"}
"""What the scores of the tests are called beside an explanation, as others call them."""


@dataclass(frozen=True, eq=False)
class Results:
    """What was said about the latents of one hookpoint.

    Attributes
    ----------
    outcomes : list of Outcome
        An explanation or a failure of each latent.
    scores : polars.DataFrame
        A row per latent and test: hookpoint, latent, partner, test, and the columns of
        `labeler.eval.llm.scores.SCHEMA`.
    windows : polars.DataFrame
        A row per window of detection and fuzzing: hookpoint, latent, test, context, offset,
        length, active, quantile, marks, own, own_failed, control, control_failed.
    simulated : mapping of str to array
        What ``simulated/<hookpoint>.npz`` holds (docs/explanations.md).
    """

    outcomes: list[Outcome]
    scores: pl.DataFrame
    windows: pl.DataFrame
    simulated: Mapping[str, npt.NDArray[np.generic]]

    def published(self, latent: int) -> dict[str, float]:
        """Scores of a latent's explanation, by the names that others use."""
        mine = self.scores.filter(pl.col("latent") == latent)
        pairs = zip(mine["test"], mine["own"], strict=True)
        known = {test: own for test, own in pairs if np.isfinite(own)}
        return {name: known[test] for test, name in PUBLISHED.items() if test in known}


def inquire(inquiry: Inquiry, answers: Answers, bar: Bar) -> Results:
    """Ask everything about a hookpoint's latents, and score it.

    Raises
    ------
    EndpointError, ModelError
        What the asker raises; answers that came before are kept.
    """
    asked = inquiry.explain()
    with bar("explaining", len(asked)) as advance:
        outcomes = inquiry.outcomes(ask_some(answers, asked, advance))
    texts = [one.text for one in outcomes]
    partner = inquiry.partners(texts)
    others = controls(texts, partner)
    scores, windows = [], []
    for test in ("detect", "fuzz"):
        own, control = _classify(inquiry, answers, bar, test, texts, others)
        tested = inquiry.tested.detection
        frame = classified(tested.column, tested.active, own, control, partner)
        scores.append(_named(frame, inquiry, partner, test))
        windows.append(_windows(inquiry, test, own, control))
    simulated, frames = _simulate(inquiry, answers, bar, texts, partner)
    scores += [_named(frame, inquiry, partner, test) for test, frame in frames.items()]
    return Results(outcomes, pl.concat(scores), pl.concat(windows), simulated)


def controls(texts: Texts, partner: Longs) -> Texts:
    """The explanation that is each latent's control."""
    return [texts[other] if other >= 0 else None for other in partner.tolist()]


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Write an ``.npz`` file atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _classify(
    inquiry: Inquiry, answers: Answers, bar: Bar, test: str, texts: Texts, others: Texts
) -> tuple[Said, Said]:
    own, control = (inquiry.classify(one, fuzz=test == "fuzz") for one in (texts, others))
    asked = [batch.question for batch in (*own, *control)]
    with bar("detecting" if test == "detect" else "fuzzing", _different(asked)) as advance:
        found = ask_some(answers, asked, advance)
    return inquiry.said(own, found[: len(own)]), inquiry.said(control, found[len(own) :])


def _simulate(
    inquiry: Inquiry, answers: Answers, bar: Bar, texts: Texts, partner: Longs
) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, pl.DataFrame]]:
    """Predicted activations, and their scores: on top windows with shared ones, and on shared."""
    tested, t, n = inquiry.tested, inquiry.window, len(texts)
    asked = [
        inquiry.simulate_shared(texts),
        inquiry.simulate_top(texts),
        inquiry.simulate_top(controls(texts, partner)),
    ]
    whole = [one for part in asked for one in part]
    with bar("simulating", _different(whole)) as advance:
        found = stacked(ask_some(answers, whole, advance), t)
    ends = np.cumsum([len(part) for part in asked])
    shared, top, top_control = np.split(found, ends[:-1])
    shared = shared.reshape(n, -1, t)
    of_partner = np.where((partner < 0)[:, None, None], np.nan, shared[partner])
    m = shared.shape[1]
    n_top = np.bincount(tested.top.column, minlength=n)

    def of_shared(wanted: Longs) -> Predicted:
        """The first so many windows for each latent."""
        row, at = np.nonzero(np.arange(m) < wanted[:, None])
        return Predicted(row, tested.shared_act[row, at], shared[row, at], of_partner[row, at])

    # As many windows from all text as from the top (Bills et al. 2023).
    beside = of_shared(np.minimum(n_top, m))
    strongest = Predicted(tested.top.column, tested.top.act, top, top_control)
    scores = {
        "simulate": correlated(strongest.with_more(beside), partner, inquiry.seed),
        "natural": correlated(of_shared(np.full(n, m)), partner, inquiry.seed),
    }
    context, offset = np.divmod(tested.shared, inquiry.heldout.ctx_len)
    top_context, top_offset = np.divmod(tested.top.start, inquiry.heldout.ctx_len)
    scale = inquiry.highest.astype(np.float32)
    arrays = {
        "latent": inquiry.latents,
        "partner": np.where(partner < 0, -1, inquiry.latents[partner]),
        "scale": scale,
        "context": context.astype(np.int32),
        "offset": offset.astype(np.int32),
        "digits": shared,
        "failed": np.isnan(shared),
        "predicted": scaled(shared, scale[:, None, None]),
        "act": tested.shared_act,
        "top_latent": inquiry.latents[tested.top.column],
        "top_context": top_context.astype(np.int32),
        "top_offset": top_offset.astype(np.int32),
        "top_digits": top,
        "top_control_digits": top_control,
        "top_act": tested.top.act,
    }
    return arrays, scores


def scaled(digits: Floats, scale: Floats) -> Floats:
    """Activations from predictions on 0 to `SCALE`, float32; 0 where an answer failed."""
    found: Floats = (np.nan_to_num(digits) / SCALE * scale).astype(np.float32)
    return found


def _named(frame: pl.DataFrame, inquiry: Inquiry, partner: Longs, test: str) -> pl.DataFrame:
    other = np.where(partner < 0, -1, inquiry.latents[partner])
    return pl.DataFrame(
        {
            "hookpoint": [inquiry.hookpoint] * len(partner),
            "latent": inquiry.latents,
            "partner": other,
            "test": [test] * len(partner),
        },
        schema={
            "hookpoint": pl.String,
            "latent": pl.Int64,
            "partner": pl.Int64,
            "test": pl.String,
        },
    ).hstack(frame)


def _windows(inquiry: Inquiry, test: str, own: Said, control: Said) -> pl.DataFrame:
    tested = inquiry.tested.detection
    context, offset = np.divmod(tested.start, inquiry.heldout.ctx_len)
    marks: list[list[int] | None] = [None] * len(tested)
    if test == "fuzz":
        marks = [np.flatnonzero(row).tolist() for row in inquiry.tested.marks]
    columns: dict[str, Any] = {
        "hookpoint": [inquiry.hookpoint] * len(tested),
        "latent": inquiry.latents[tested.column],
        "test": [test] * len(tested),
        "context": context,
        "offset": offset,
        "length": [inquiry.window] * len(tested),
        "active": tested.active,
        "quantile": tested.quantile,
        "marks": marks,
        "own": own.yes,
        "own_failed": own.failed,
        "control": control.yes,
        "control_failed": control.failed,
    }
    whole = ("latent", "context", "offset", "length", "quantile")
    flags = ("active", "own", "own_failed", "control", "control_failed")
    kinds: dict[str, pl.DataType] = dict.fromkeys(whole, pl.Int64())
    kinds |= dict.fromkeys(flags, pl.Boolean())
    kinds["marks"] = pl.List(pl.Int64)
    schema = {name: kinds.get(name, pl.String()) for name in columns}
    return pl.DataFrame(columns, schema=schema)


def _different(questions: list[Any]) -> int:
    return len({one.digest for one in questions if one is not None})
