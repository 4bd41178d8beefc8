"""What every figure is made of. A file of figures imports plotly, and nothing else does.

A trace carries no colour but a role in `meta`; the page's style sheet gives each role its colour,
light or dark. Strings are escaped, since plotly reads `<b>` and `<a>` in them. `customdata` is the
index of the trial, by which the page links what is selected.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

_SHORT = 100
"""An axis whose ends differ by less than this factor has few powers of ten on it."""

LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}

Cell = str | float | int | None


@dataclass(frozen=True)
class Figure:
    """A figure, what it shows in words, and its data as a table.

    Attributes:
        kind: how the page links it: "pareto", "selected", "parallel", "curves", "timeline" or
            "fronts"; "static" if it shows no single trial.
        title: of the figure.
        description: what is on the axes and how to read it.
        head: titles of the table's columns.
        rows: of the table.
        plot: data and layout as plotly takes them.
    """

    kind: str
    title: str
    description: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    plot: Mapping[str, Any]


def script() -> str:
    """The source of plotly.js."""
    return str(get_plotlyjs())


def trial_lines(
    role: str, x: Sequence[int | None], y: Sequence[float | None], trials: Sequence[int]
) -> go.Scatter:
    """A line for each trial, those of the front before all others.

    Args:
        role: "front" or "dominated".
        x: of all lines, one after the other, each with a None at its end.
        y: likewise.
        trials: index of the trial of each point.
    """
    is_front = role == "front"
    return go.Scatter(
        x=x,
        y=y,
        customdata=trials,
        mode="lines+markers",
        marker={"size": 5},
        line={"width": 2 if is_front else 1},
        opacity=1 if is_front else 0.4,
        name="front" if is_front else "others",
        meta={"role": role, "linked": True},
        hoverinfo="none",
    )


def zero_of(values: Iterable[float]) -> float:
    """Where nothing stands on a logarithmic axis: a decade below that of the least value."""
    least = min((value for value in values if value > 0), default=10.0)
    return float(10.0 ** (math.floor(math.log10(least)) - 1))


def log_ticks(values: Sequence[float], zero: float) -> dict[str, Any]:
    """Powers of ten, on a short axis twice and five times them, and 0 where `zero_of` puts it."""
    positive = [value for value in values if value > 0] or [10 * zero]
    has_zero = any(value <= 0 for value in values)
    is_short = not has_zero and max(positive) < _SHORT * min(positive)
    first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    ticks = [
        (digit, power)
        for power in range(first, last + 1)
        for digit in ((1, 2, 5) if is_short else (1,))
    ]
    return {
        "type": "log",
        "tickvals": ([zero] if has_zero else []) + [digit * 10.0**power for digit, power in ticks],
        "ticktext": (["0"] if has_zero else []) + [_tick(digit, power) for digit, power in ticks],
    }


def _tick(digit: int, power: int) -> str:
    names = {0: "", 3: "k", 6: "M", 9: "G"}
    base = 3 * (power // 3)
    if base in names:
        return f"{digit * 10 ** (power - base)}{names[base]}"
    return f"{digit * 10.0**power:g}"


def short(value: float) -> float:
    """Six digits are more than any screen shows."""
    return float(f"{value:.6g}")


def few(items: Iterable[Any], most: int) -> list[Any]:
    """At most so many of a sequence, evenly spaced, both ends among them."""
    every = list(items)
    if len(every) <= most:
        return every
    return [every[round(i * (len(every) - 1) / (most - 1))] for i in range(most)]


def plain(figure: go.Figure) -> dict[str, Any]:
    """Data and layout without plotly's template, whose colours are for white paper."""
    figure.update_layout(template=None)
    plain: dict[str, Any] = figure.to_plotly_json()
    return plain
