"""Trials side by side: parallel coordinates from plain lines, which need no WebGL."""

import math
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from autopeft.dashboard.figure import LEGEND, Figure, plain, short, trial_lines
from autopeft.dashboard.info import StudyInfo

MOST_LINES = 400


@dataclass(frozen=True)
class _Axis:
    label: str
    key: str
    values: tuple[float | None, ...]
    log: bool


def parallel(study: StudyInfo) -> Figure:
    """A line for each trial through its properties; front, baselines and the best others."""
    trials = study.trials
    axes = [
        _Axis("parameters", "params", tuple(float(t.params) for t in trials), True),
        _Axis("learning rate", "learning_rate", tuple(t.learning_rate for t in trials), True),
        _Axis(
            "share in attention", "attention_share", tuple(t.attention_share for t in trials), False
        ),
        _Axis("mean depth", "mean_depth", tuple(t.mean_depth for t in trials), False),
        _Axis("number of ops", "n_ops", tuple(float(len(t.ops)) for t in trials), False),
        _Axis(study.metric, "quality", tuple(t.quality for t in trials), False),
    ]
    ranges = [_range(axis) for axis in axes]
    order = sorted(
        (i for i, t in enumerate(trials) if t.quality is not None),
        key=lambda i: (trials[i].state != "front", -(trials[i].quality or 0)),
    )[:MOST_LINES]
    traces = []
    for role in ("dominated", "front"):
        chosen = [i for i in order if (trials[i].state == "front") == (role == "front")]
        x: list[int | None] = []
        y: list[float | None] = []
        rows: list[int] = []
        for i in chosen:
            for k, (axis, limits) in enumerate(zip(axes, ranges, strict=True)):
                x.append(k)
                y.append(_position(axis.values[i], axis, limits))
                rows.append(i)
            x.append(None)
            y.append(None)
            rows.append(i)
        traces.append(trial_lines(role, x, y, rows))
    ends = [
        _tick(limit, axis) for axis, limits in zip(axes, ranges, strict=True) for limit in limits
    ]
    labels = [
        f"{escape(axis.label)}<br>{ends[2 * k]} to {ends[2 * k + 1]}" for k, axis in enumerate(axes)
    ]
    layout = {
        "xaxis": {"tickvals": list(range(len(axes))), "ticktext": labels, "zeroline": False},
        "yaxis": {"showticklabels": False, "range": [-0.05, 1.05], "zeroline": False},
        "legend": LEGEND,
        "meta": {
            "axes": [
                {"key": axis.key, "log": axis.log, "low": limits[0], "high": limits[1]}
                for axis, limits in zip(axes, ranges, strict=True)
            ]
        },
    }
    return Figure(
        kind="parallel",
        title="Trials side by side",
        description=(
            "One line is one trial: where it lies between the lowest and the highest value of each "
            "property. Parameters and learning rate are on logarithmic scales."
        ),
        head=("trial", *(axis.label for axis in axes)),
        rows=tuple((trials[i].trial, *(axis.values[i] for axis in axes)) for i in order),
        plot=plain(go.Figure(traces, layout)),
    )


def _range(axis: _Axis) -> tuple[float, float]:
    values = [value for value in axis.values if value is not None]
    return (min(values), max(values)) if values else (0.0, 1.0)


def _position(value: float | None, axis: _Axis, limits: tuple[float, float]) -> float | None:
    if value is None:
        return None
    low, high = (_scaled(limit, axis) for limit in limits)
    return short((_scaled(value, axis) - low) / (high - low)) if high > low else 0.5


def _scaled(value: float, axis: _Axis) -> float:
    if not axis.log:
        return value
    return math.log1p(value) if axis.key == "params" else math.log10(value)


def _tick(value: float, axis: _Axis) -> str:
    return f"{value:,.0f}" if axis.key in ("params", "n_ops") else f"{value:.3g}"
