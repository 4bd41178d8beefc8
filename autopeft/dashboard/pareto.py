"""Quality against a cost: the figure that a study is about."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from autopeft.dashboard.figure import LEGEND, Figure, log_ticks, plain, short, zero_of
from autopeft.dashboard.info import Cost, StudyInfo
from autopeft.dashboard.trials import STATES, State, TrialInfo

SYMBOLS: dict[State, str] = {
    "front": "circle",
    "dominated": "circle-open",
    "over budget": "x-thin-open",
    "stopped early": "triangle-down-open",
    "failed": "x",
}
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_NO_SCALE = {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False}
MOST_DRAWN = 2500
"""Points of one state that are drawn; of more, one for each cell of a fine grid."""


@dataclass(frozen=True)
class _Plane:
    """Where trials stand: on a logarithmic axis nothing has a place of its own, at the left.

    Attributes:
        cost: on the horizontal axis.
        zero: where a cost of 0 is drawn.
        floor: where a trial without a score is drawn, a little below the lowest score.
        per: how much of the cost is 1 on the axis.
    """

    cost: Cost
    zero: float
    floor: float
    per: float

    def x(self, value: float) -> float:
        return value / self.per if value > 0 or not self.cost.log else self.zero

    def x_of(self, trial: TrialInfo) -> float:
        return short(self.x(trial.costs[self.cost.name]))

    def y_of(self, trial: TrialInfo) -> float:
        return self.floor if trial.quality is None else short(trial.quality)


_Rows = list[tuple[int, TrialInfo]]


def pareto(study: StudyInfo, cost: Cost) -> Figure:
    """Quality against a cost: points by state, the front as steps, baselines, budget."""
    rows = [(i, trial) for i, trial in enumerate(study.trials) if cost.name in trial.costs]
    scored = [(i, trial) for i, trial in rows if trial.quality is not None]
    values = [trial.costs[cost.name] for _, trial in rows]
    shown = [*values, cost.limit] if cost.limit else values
    per, unit = _unit_of(cost, shown)
    floor = _floor([t.quality for _, t in scored if t.quality is not None])
    plane = _Plane(cost, zero_of(value / per for value in shown), floor, per)
    traces = [_step_line(study, plane)]
    traces += [
        _points(s, [(i, t) for i, t in rows if t.state == s], plane) for s in reversed(STATES)
    ]
    named = [(i, t) for i, t in scored if t.trial in study.front.baselines]
    traces.append(_ring("baseline", "named method", named, plane, "square-open", 13))
    loras = [(i, t) for i, t in scored if t.trial in study.verdict.loras]
    lora = "tuned LoRA" if study.selection else "best LoRA"
    traces.append(_ring("lora", lora, loras, plane, "hexagon-open", 21))
    for role, number in (("knee", study.front.knee), ("recommended", study.front.recommended)):
        here = [(i, t) for i, t in scored if t.trial == number]
        symbol, size = ("diamond-open", 18) if role == "knee" else ("star-open", 22)
        traces.append(_ring(role, role, here, plane, symbol, size))
    figure = go.Figure(
        [trace for trace in traces if trace.x], _pareto_layout(study, plane, shown, unit)
    )
    if cost.limit is not None and scored:
        figure.add_vline(x=plane.x(cost.limit), line={"dash": "dot", "width": 1.5})
    return Figure(
        kind="pareto",
        title=f"{study.metric} against {cost.label}",
        description=_description(study, cost, [trial for _, trial in rows]),
        head=("trial", "state", cost.label, study.metric, "standard error"),
        rows=tuple((t.trial, t.state, t.costs[cost.name], t.quality, t.stderr) for _, t in rows),
        plot=plain(figure),
    )


def _description(study: StudyInfo, cost: Cost, shown: Sequence[TrialInfo]) -> str:
    scored = [trial for trial in shown if trial.quality is not None]
    if not scored:
        return "Left is cheaper. No trial has a score: all lie at the bottom."
    budget = "" if cost.limit is None else " The dotted line is the budget."
    without = " Trials without a score lie at the bottom." if len(scored) < len(shown) else ""
    is_off = any(trial.state == "front" and trial.trial not in cost.front for trial in scored)
    off = " Points of the front off the line are there for another cost." if is_off else ""
    return (
        f"Up is better, left is cheaper. The line is the front: no trial has a higher "
        f"{study.metric} at no more {cost.label}.{off} Bars are one standard error, drawn for the "
        f"front and where seeds were repeated.{budget}{without}"
    )


def _floor(qualities: Sequence[float]) -> float:
    if not qualities:
        return 0.0
    return min(qualities) - 0.06 * ((max(qualities) - min(qualities)) or 0.1)


def _points(state: State, rows: _Rows, plane: _Plane) -> go.Scatter:
    drawn = _thin(rows, plane)
    bars = [t.stderr if t.replicates > 1 or state == "front" else None for _, t in drawn]
    return go.Scatter(
        x=[plane.x_of(t) for _, t in drawn],
        y=[plane.y_of(t) for _, t in drawn],
        error_y={"array": bars, "thickness": 1, "width": 0} if any(bars) else None,
        customdata=[i for i, _ in drawn],
        mode="markers",
        name=state,
        legendrank=1 + STATES.index(state),
        marker={"symbol": SYMBOLS[state], "size": 10 if state == "front" else 7},
        meta={"role": state.replace(" ", "-"), "linked": True},
        hoverinfo="none",
    )


def _ring(role: str, name: str, rows: _Rows, plane: _Plane, symbol: str, size: int) -> go.Scatter:
    return go.Scatter(
        x=[plane.x_of(t) for _, t in rows],
        y=[plane.y_of(t) for _, t in rows],
        customdata=[i for i, _ in rows],
        mode="markers",
        name=name,
        marker={"symbol": symbol, "size": size, "line": {"width": 1.6}},
        meta={"role": role, "linked": True},
        hoverinfo="none",
    )


def _step_line(study: StudyInfo, plane: _Plane) -> go.Scatter:
    by_number = {trial.trial: trial for trial in study.trials}
    front = [by_number[number] for number in plane.cost.front if number in by_number]
    x, y = [plane.x_of(trial) for trial in front], [plane.y_of(trial) for trial in front]
    if front and plane.cost.limit is not None:  # what the front reaches holds up to the budget
        x, y = [*x, plane.x(plane.cost.limit)], [*y, y[-1]]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"shape": "hv", "width": 2},
        showlegend=False,
        meta={"role": "front"},
        hoverinfo="skip",
    )


def _thin(rows: _Rows, plane: _Plane) -> _Rows:
    """All points, or one for each cell of a grid that is about as fine as a marker."""
    if len(rows) <= MOST_DRAWN:
        return rows
    x, y = [plane.x_of(t) for _, t in rows], [plane.y_of(t) for _, t in rows]
    x = [math.log10(value) for value in x] if plane.cost.log else x
    columns, lines = _cells(x, 90), _cells(y, 60)
    return list(dict(zip(zip(columns, lines, strict=True), rows, strict=True)).values())


def _cells(values: Sequence[float], count: int) -> list[int]:
    low, high = min(values), max(values)
    return [int((value - low) / ((high - low) or 1.0) * count) for value in values]


def _unit_of(cost: Cost, shown: Sequence[float]) -> tuple[float, str]:
    """How much of a cost is 1 on its axis, and what that is called: bytes in powers of 1024."""
    if cost.unit != "B":
        return 1.0, cost.unit
    told = [value for value in shown if value >= 1] or [1.0]
    power = int(math.log2(min(told) if cost.log else max(told)) // 10)
    power = min(power, len(_BYTES) - 1)
    return 1024.0**power, _BYTES[power]


def _pareto_layout(
    study: StudyInfo, plane: _Plane, shown: Sequence[float], unit: str
) -> dict[str, Any]:
    cost = plane.cost
    how = ", predicted" if cost.predicted else ""
    name = f"{cost.label}{how} ({unit})" if unit else f"{cost.label}{how}"
    ticks = log_ticks([value / plane.per for value in shown], plane.zero) if cost.log else {}
    width = ticks if study.trials else _NO_SCALE
    scored = any(trial.quality is not None for trial in study.trials)
    height = {} if scored else {**_NO_SCALE, "range": [plane.floor - 0.06, 1]}
    return {
        "xaxis": {"title": {"text": escape(name)}, **width},
        "yaxis": {"title": {"text": escape(study.metric)}, **height},
        "legend": LEGEND,
        "meta": {"floor": plane.floor, "zero": plane.zero, "per": plane.per},
    }
