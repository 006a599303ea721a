"""Geometry of the report's charts, as plain dicts that the SVG macros draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from labeler.arrays import Doubles
from labeler.labels import ALL_BUDGETS

TYPE_COLORS = 10
"""Colours of function types in page.css; further types start again."""

BUDGETS = tuple(str(budget) for budget in ALL_BUDGETS)

LAYER_COLORS = 8
"""Steps of the ramp of layers in page.css."""


class Bar(TypedDict):
    """A segment of a stacked bar, in percent of its length."""

    name: str
    tone: str
    count: int
    start: float
    width: float


def stacked_bars(
    counts: Mapping[str, Mapping[str, int]], tones: Mapping[str, str]
) -> dict[str, list[Bar]]:
    """Latents of each hookpoint by a name given to them.

    Parameters
    ----------
    counts : mapping of hookpoint to mapping of name to int
    tones : mapping of name to str
        CSS class of each name, in the order of the segments.
    """
    bars: dict[str, list[Bar]] = {}
    for hookpoint, found in counts.items():
        total, start = max(sum(found.values()), 1), 0.0
        bars[hookpoint] = []
        for name, css in tones.items():
            if count := found.get(name, 0):
                width = 100 * count / total
                bars[hookpoint].append(
                    Bar(name=name, tone=css, count=count, start=start, width=width)
                )
                start += width
    return bars


def tones_of(types: Sequence[str]) -> dict[str, str]:
    """CSS classes of function types and of latents without one, in the order of a bar.

    >>> tones_of(["unigram", "topic"])
    {'unigram': 't0', 'topic': 't1', 'abstained': 'abstained', 'too rare': 'too-rare'}
    """
    return {name: tone(name, types) for name in (*types, "abstained", "too rare")}


def tone(name: str, types: Sequence[str]) -> str:
    """CSS class of a function type, or of latents without one."""
    if name in types:
        return f"t{list(types).index(name) % TYPE_COLORS}"
    return name.replace(" ", "-")


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixels of a value, those beyond the bounds at the bound."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 1)


_LOWEST, _HIGHEST = -0.5, 1.2
"""Bounds of the axis of `recovered`: beyond them the number in the table says enough."""


class Point(TypedDict):
    """`recovered` at one key budget, in pixels and as it is."""

    budget: str
    x: float
    y: float
    low_y: float
    high_y: float
    value: float
    low: float
    high: float


class Line(TypedDict):
    """A line of the rewrite curve."""

    name: str
    tone: str
    points: list[Point]
    path: str
    label_y: float


Recovered = Mapping[str, Mapping[str, float]]
"""By budget: value, low, high."""


def rewrite_chart(series: Mapping[str, Recovered], whole: str) -> dict[str, Any]:
    """Recovered by key budget, a line per entry of `series`.

    Parameters
    ----------
    series : mapping of name to Recovered
        Hookpoints in layer order, and `whole` last if there is such a line.
    whole : str
        Name of the line of all layers.
    """
    width, left, right, top, bottom = 580, 48, 112, 14, 46
    height = max(340, 18 * len(series) + top + bottom)
    every = [one[name] for found in series.values() for one in found.values() for name in one]
    low = max(min([0.0, *every]), _LOWEST)
    high = min(max([1.0, *every]), _HIGHEST)
    y = Scale(low - 0.03, high + 0.03, height - bottom, top)
    step = (width - left - right - 60) / (len(BUDGETS) - 1)
    at = {budget: round(left + 30 + number * step, 1) for number, budget in enumerate(BUDGETS)}
    n_layers = sum(name != whole for name in series)
    lines: list[Line] = []
    for index, (name, found) in enumerate(series.items()):
        # Side by side, so that the intervals of different lines can be told apart.
        shift = (index - (len(series) - 1) / 2) * min(7.0, 56 / len(series))
        points = [_point(budget, found[budget], at[budget] + shift, y) for budget in BUDGETS]
        color = round(index * (LAYER_COLORS - 1) / max(n_layers - 1, 1))
        lines.append(
            Line(
                name=name,
                tone="all" if name == whole else f"l{color}",
                points=points,
                path=" ".join(f"{point['x']},{point['y']}" for point in points),
                label_y=points[-1]["y"],
            )
        )
    ends = _spread([line["label_y"] for line in lines], 17, top, height - bottom)
    for line, end in zip(lines, ends, strict=True):
        line["label_y"] = end
    return {
        "width": width,
        "height": height,
        "left": left,
        "plot_right": width - right,
        "bottom": height - bottom,
        "top": top,
        "label_x": width - right + 8,
        "lines": lines,
        "budgets": at,
        "ticks": [{"y": y(value), "text": f"{value:.1f}"} for value in _ticks(low, high)],
        "references": [
            {"y": y(0.0), "text": "every latent at its mean"},
            {"y": y(1.0), "text": "the coder itself"},
        ],
    }


def _point(budget: str, one: Mapping[str, float], x: float, y: Scale) -> Point:
    return Point(
        budget=budget,
        x=round(x, 1),
        y=y(one["value"]),
        low_y=y(one["low"]),
        high_y=y(one["high"]),
        value=one["value"],
        low=one["low"],
        high=one["high"],
    )


def _ticks(low: float, high: float) -> list[float]:
    values = np.arange(np.ceil(low * 5), np.floor(high * 5 + 1e-9) + 1) / 5
    return [float(value) + 0.0 for value in values]


def _spread(wanted: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Move label heights apart to at least `gap`, keeping their order and staying near."""
    order = np.argsort(wanted, kind="stable")
    placed = np.array(wanted, dtype=np.float64)[order]
    for index in range(1, len(placed)):
        placed[index] = max(placed[index], placed[index - 1] + gap)
    if len(placed):
        placed[-1] = min(placed[-1], max(bottom, top + gap * (len(placed) - 1)))
    for index in range(len(placed) - 2, -1, -1):
        placed[index] = min(placed[index], placed[index + 1] - gap)
    out = np.empty(len(placed))
    out[order] = placed
    return [round(float(value), 1) for value in out]


def f1_panel(f1: Mapping[str, Doubles], n_live: int, level: float) -> dict[str, Any]:
    """Share of live latents with at least each F1, a line per budget.

    Parameters
    ----------
    f1 : mapping of budget to float64 [n_live_and_labeled]
        Held-out F1 of live latents with a label; one without a label counts as below any.
    n_live : int
    level : float
        The F1 that is marked.
    """
    width, height, left, right, top, bottom = 250, 180, 38, 10, 10, 34
    x = Scale(0, 1, left, width - right)
    y = Scale(0, 1, height - bottom, top)
    grid = np.linspace(0, 1, 101)
    lines = []
    for number, (budget, values) in enumerate(f1.items()):
        ordered = np.sort(values)
        at_least = (len(ordered) - np.searchsorted(ordered, grid - 1e-12)) / max(n_live, 1)
        share = float((values >= level).sum() / max(n_live, 1))
        lines.append(
            {
                "budget": budget,
                "tone": f"b{number}",
                "path": " ".join(
                    f"{x(float(at))},{y(float(value))}"
                    for at, value in zip(grid, at_least, strict=True)
                ),
                "mark_y": y(share),
                "share": share,
            }
        )
    return {
        "width": width,
        "height": height,
        "left": left,
        "right": width - right,
        "top": top,
        "bottom": height - bottom,
        "level_x": x(level),
        "lines": lines,
        "x_ticks": [{"x": x(v), "text": f"{v:g}"} for v in (0.0, level, 1.0)],
        "y_ticks": [{"y": y(v), "text": f"{v:.0%}"} for v in (0.0, 0.5, 1.0)],
    }
