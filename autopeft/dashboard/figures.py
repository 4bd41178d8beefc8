"""Figures of a study, drawn by plotly. The only file that knows it.

A trace carries no colour but a role in `meta`; the page's style sheet gives each role its colour,
light or dark. Strings are escaped, since plotly reads `<b>` and `<a>` in them. `customdata` is the
index of the trial, by which the page links what is selected.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from autopeft.dashboard.compare import attainment, comparable
from autopeft.dashboard.importance import Importance
from autopeft.dashboard.info import Cost, StudyInfo
from autopeft.dashboard.trials import STATES, State, TrialInfo
from autopeft.records import SELECTION
from autopeft.selection import Selection

SYMBOLS: dict[State, str] = {
    "front": "circle",
    "dominated": "circle-open",
    "over budget": "x-thin-open",
    "stopped early": "triangle-down-open",
    "failed": "x",
}
MOST_DRAWN = 2500
"""Points of one state that are drawn; of more, one for each cell of a fine grid."""
MOST_LINES = 400
MOST_JOBS = 600
MOST_STEPS = 500
_FEW = 12

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


@dataclass(frozen=True)
class _Plane:
    """Where trials stand: on a logarithmic axis nothing has a place of its own, at the left.

    Attributes:
        cost: on the horizontal axis.
        zero: where a cost of 0 is drawn.
        floor: where a trial without a score is drawn, a little below the lowest score.
    """

    cost: Cost
    zero: float
    floor: float

    def x(self, value: float) -> float:
        return value if value > 0 or not self.cost.log else self.zero

    def x_of(self, trial: TrialInfo) -> float:
        return _short(self.x(trial.costs[self.cost.name]))

    def y_of(self, trial: TrialInfo) -> float:
        return self.floor if trial.quality is None else _short(trial.quality)


_Rows = list[tuple[int, TrialInfo]]


def pareto(study: StudyInfo, cost: Cost) -> Figure:
    """Quality against a cost: points by state, the front as steps, baselines, budget."""
    rows = [(i, trial) for i, trial in enumerate(study.trials) if cost.name in trial.costs]
    scored = [(i, trial) for i, trial in rows if trial.quality is not None]
    values = [trial.costs[cost.name] for _, trial in rows]
    plane = _Plane(
        cost, _zero(values), _floor([t.quality for _, t in scored if t.quality is not None])
    )
    traces = [_step_line(study, plane)]
    traces += [
        _points(s, [(i, t) for i, t in rows if t.state == s], plane) for s in reversed(STATES)
    ]
    named = [(i, t) for i, t in scored if t.trial in study.front.baselines]
    traces.append(_ring("baseline", "named method", named, plane, "square-open", 13))
    for role, number in (("knee", study.front.knee), ("recommended", study.front.recommended)):
        here = [(i, t) for i, t in scored if t.trial == number]
        symbol, size = ("diamond-open", 18) if role == "knee" else ("star-open", 22)
        traces.append(_ring(role, role, here, plane, symbol, size))
    figure = go.Figure([trace for trace in traces if trace.x], _pareto_layout(study, plane, values))
    if cost.limit is not None and scored:
        figure.add_vline(x=plane.x(cost.limit), line={"dash": "dot", "width": 1.5})
    budget = "" if cost.limit is None else " The dotted line is the budget."
    failed = " Failed trials lie at the bottom." if len(scored) < len(rows) else ""
    return Figure(
        kind="pareto",
        title=f"{study.metric} against {cost.label}",
        description=(
            f"Up is better, left is cheaper. The line is the front: no trial has a higher "
            f"{study.metric} at no more {cost.label}. Bars are one standard error, drawn for the "
            f"front and where seeds were repeated.{budget}{failed}"
        ),
        head=("trial", "state", cost.label, study.metric, "standard error"),
        rows=tuple((t.trial, t.state, t.costs[cost.name], t.quality, t.stderr) for _, t in rows),
        plot=_plain(figure),
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


def _pareto_layout(study: StudyInfo, plane: _Plane, values: Sequence[float]) -> dict[str, Any]:
    unit = f" ({escape(plane.cost.unit)})" if plane.cost.unit else ""
    shown = [*values, plane.cost.limit] if plane.cost.limit else values
    ticks = _log_ticks(shown, plane.zero) if plane.cost.log else {}
    return {
        "xaxis": {"title": {"text": f"{escape(plane.cost.label)}{unit}"}, **ticks},
        "yaxis": {"title": {"text": escape(study.metric)}},
        "legend": LEGEND,
        "meta": {"floor": plane.floor, "zero": plane.zero},
    }


def importance_bars(study: StudyInfo, found: Importance) -> Figure:
    """The importances of one objective as bars, at most ten."""
    labels = {"quality": study.metric} | {cost.name: cost.label for cost in study.costs}
    name = labels[found.objective]
    top = [(f, d) for f, d in zip(found.features, found.drops, strict=True)][:10]
    trace = go.Bar(
        x=[_short(drop) for _, drop in reversed(top)],
        y=[escape(feature) for feature, _ in reversed(top)],
        orientation="h",
        meta={"role": "front"},
        hoverinfo="x",
    )
    layout = {
        "xaxis": {"title": {"text": "fall of R² when shuffled"}},
        "yaxis": {"automargin": True},
    }
    trust = (
        f"A random forest explains {100 * found.explained:.0f} % of the variance out of bag."
        if found.explained > 0
        else "A random forest explains nothing out of bag, so do not read anything into this."
    )
    return Figure(
        kind="static",
        title=f"What goes with {name}",
        description=(
            f"By how much a prediction of {name} worsens when a property is shuffled among "
            f"{found.trials:,} trials. {trust} Association, not cause."
        ),
        head=("property", "fall of R squared"),
        rows=tuple(zip(found.features, found.drops, strict=True)),
        plot=_plain(go.Figure([trace], layout)),
    )


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
        traces.append(
            go.Scatter(
                x=x,
                y=y,
                customdata=rows,
                mode="lines+markers",
                marker={"size": 5},
                line={"width": 2 if role == "front" else 1},
                opacity=1 if role == "front" else 0.35,
                name=role if role == "front" else "others",
                meta={"role": role, "linked": True},
                hoverinfo="none",
            )
        )
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
        plot=_plain(go.Figure(traces, layout)),
    )


def _range(axis: _Axis) -> tuple[float, float]:
    values = [value for value in axis.values if value is not None]
    return (min(values), max(values)) if values else (0.0, 1.0)


def _position(value: float | None, axis: _Axis, limits: tuple[float, float]) -> float | None:
    if value is None:
        return None
    low, high = (_scaled(limit, axis) for limit in limits)
    return _short((_scaled(value, axis) - low) / (high - low)) if high > low else 0.5


def _scaled(value: float, axis: _Axis) -> float:
    if not axis.log:
        return value
    return math.log1p(value) if axis.key == "params" else math.log10(value)


def _tick(value: float, axis: _Axis) -> str:
    return f"{value:,.0f}" if axis.key in ("params", "n_ops") else f"{value:.3g}"


def learning_curves(study: StudyInfo) -> Figure:
    """Quality against optimizer steps, a line for each trial that was measured more than once."""
    lines = []
    for i, trial in enumerate(study.trials):
        points: dict[int, list[float]] = {}
        for item in trial.measurements:
            if item.quality is not None and item.split != SELECTION:
                points.setdefault(item.steps, []).append(item.quality)
        if len(points) > 1:
            curve = [(steps, sum(v) / len(v)) for steps, v in sorted(points.items())]
            lines.append((i, trial, curve))
    lines.sort(key=lambda line: (line[1].state != "front", -line[2][-1][1]))
    lines = lines[:MOST_LINES]
    traces = []
    for role in ("dominated", "front"):
        x: list[int | None] = []
        y: list[float | None] = []
        rows: list[int] = []
        for i, trial, curve in lines:
            if (trial.state == "front") == (role == "front"):
                x += [*(steps for steps, _ in curve), None]
                y += [*(_short(value) for _, value in curve), None]
                rows += [i] * (len(curve) + 1)
        traces.append(
            go.Scatter(
                x=x,
                y=y,
                customdata=rows,
                mode="lines+markers",
                marker={"size": 5},
                line={"width": 2 if role == "front" else 1},
                opacity=1 if role == "front" else 0.4,
                name=role if role == "front" else "others",
                meta={"role": role, "linked": True},
                hoverinfo="none",
            )
        )
    layout = {
        "xaxis": {"title": {"text": "optimizer steps"}, "type": "log"},
        "yaxis": {"title": {"text": escape(study.metric)}},
        "legend": LEGEND,
    }
    return Figure(
        kind="curves",
        title="Learning curves by rung",
        description=(
            f"Mean {study.metric} over seeds at each level of the training budget, for trials that "
            "were measured at more than one."
        ),
        head=("trial", "steps", study.metric),
        rows=tuple((t.trial, steps, value) for _, t, curve in lines for steps, value in curve),
        plot=_plain(go.Figure(traces, layout) if lines else go.Figure()),
    )


def selected(study: StudyInfo, selection: Selection) -> Figure:
    """The contenders of the final selection, with intervals, beside their scores in the search."""
    index = {trial.trial: i for i, trial in enumerate(study.trials)}
    found = sorted(selection.contenders, key=lambda c: c.quality)
    names = [f"{c.trial}: {c.role}" for c in found]
    rows = [index.get(c.trial) for c in found]
    fresh = go.Scatter(
        x=[_short(c.quality) for c in found],
        y=names,
        error_x={
            "type": "data",
            "array": [_short(c.high - c.quality) for c in found],
            "arrayminus": [_short(c.quality - c.low) for c in found],
            "thickness": 1.5,
            "width": 0,
        },
        customdata=rows,
        mode="markers",
        marker={"symbol": "circle", "size": 10},
        name="fresh rows and seeds, 95 % interval",
        meta={"role": "front", "linked": True},
        hoverinfo="none",
    )
    searched = go.Scatter(
        x=[_short(c.search_quality) for c in found],
        y=names,
        customdata=rows,
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 12, "line": {"width": 2}},
        name="as the search saw it",
        meta={"role": "baseline", "linked": True},
        hoverinfo="none",
    )
    layout = {
        "xaxis": {"title": {"text": escape(selection.metric)}},
        "yaxis": {"automargin": True, "type": "category"},
        "legend": LEGEND,
    }
    return Figure(
        kind="selected",
        title="Final selection",
        description=(
            f"Finalists and baselines trained again with fresh seeds and scored on "
            f"{selection.rows:,} rows that the search has not seen. How far a bar lies to the "
            "right of its dot is how much the search flattered it."
        ),
        head=("trial", "why", "parameters", "search", selection.metric, "low", "high", "seeds"),
        rows=tuple(
            (
                c.trial,
                c.role,
                c.trainable_params,
                c.search_quality,
                c.quality,
                c.low,
                c.high,
                c.seeds,
            )
            for c in found
        ),
        plot=_plain(go.Figure([fresh, searched], layout)),
    )


def growth(study: StudyInfo) -> Figure:
    """Hypervolume against training time."""
    points = _few(study.growth[1:], MOST_STEPS)  # nothing at no time would flatten the rest
    trace = go.Scatter(
        x=[seconds / 60 for seconds, _ in points],
        y=[_short(volume) for _, volume in points],
        mode="lines",
        line={"shape": "hv", "width": 2},
        meta={"role": "front"},
        hoverinfo="x+y",
        name="hypervolume",
    )
    layout = {
        "xaxis": {
            "title": {"text": "training time of all trials (minutes)"},
            "rangemode": "tozero",
        },
        "yaxis": {"title": {"text": "hypervolume"}},
        "showlegend": False,
    }
    return Figure(
        kind="static",
        title="What more search bought",
        description=(
            "Share of the plane of quality and log parameters that the front dominates, against "
            "the time spent on training. Flat at the end: more trials would have added little."
        ),
        head=("training time (s)", "hypervolume"),
        rows=tuple(points),
        plot=_plain(go.Figure([trace], layout)),
    )


def timeline(study: StudyInfo) -> Figure:
    """Who trained what when."""
    jobs = _few(study.jobs, MOST_JOBS)
    index = {trial.trial: i for i, trial in enumerate(study.trials)}
    trace = go.Bar(
        base=[_moment(job.started) for job in jobs],
        x=[1000 * job.seconds for job in jobs],
        y=[escape(job.worker) for job in jobs],
        orientation="h",
        customdata=[index[job.trials[0]] for job in jobs],
        text=[" ".join(str(n) for n in job.trials[:8]) for job in jobs],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        marker={"line": {"width": 1}},
        meta={
            "role": "dominated",
            "linked": True,
            "jobs": [[index[n] for n in j.trials] for j in jobs],
        },
        hoverinfo="none",
    )
    layout = {
        "xaxis": {"type": "date"},
        "yaxis": {"automargin": True, "type": "category"},
        "bargap": 0.3,
        "showlegend": False,
    }
    return Figure(
        kind="timeline",
        title="Workers over time",
        description="A bar is a job, whose trials were trained together. Gaps are not training.",
        head=("worker", "started", "seconds", "trials"),
        rows=tuple(
            (j.worker, j.started, j.seconds, " ".join(map(str, j.trials))) for j in study.jobs
        ),
        plot=_plain(go.Figure([trace], layout)),
    )


def failures(study: StudyInfo) -> Figure:
    """Failures by cause."""
    causes = Counter(trial.failure for trial in study.trials if trial.failure)
    order = causes.most_common()
    trace = go.Bar(
        x=[count for _, count in reversed(order)],
        y=[str(kind).replace("_", " ") for kind, _ in reversed(order)],
        orientation="h",
        meta={"role": "failed"},
        hoverinfo="x",
    )
    layout = {
        "xaxis": {
            "title": {"text": "trials"},
            "rangemode": "tozero",
            **({"dtick": 1} if causes.total() < _FEW else {}),
        },
        "yaxis": {"automargin": True},
        "bargap": 0.6,
        "showlegend": False,
    }
    messages = [
        (trial.trial, item.rung, item.failure)
        for trial in study.trials
        for item in trial.measurements
        if item.failure
    ]
    return Figure(
        kind="static",
        title="Failures by cause",
        description="NaN and divergence are properties of a genotype; the others are accidents.",
        head=("trial", "rung", "what happened"),
        rows=tuple(messages),
        plot=_plain(go.Figure([trace], layout) if order else go.Figure()),
    )


def fronts(studies: Sequence[StudyInfo]) -> Figure:
    """The fronts of several studies on shared axes."""
    traces = []
    params = [float(t.params) for s in studies for t in s.trials if t.trial in s.front.trials]
    zero = _zero(params)
    for k, study in enumerate(studies):
        by_number = {trial.trial: trial for trial in study.trials}
        front = [by_number[number] for number in study.front.trials]
        traces.append(
            go.Scatter(
                x=[trial.params or zero for trial in front],
                y=[trial.quality for trial in front],
                error_y={"array": [t.stderr for t in front], "thickness": 1, "width": 0},
                customdata=[[k, study.trials.index(trial)] for trial in front],
                mode="lines+markers",
                line={"shape": "hv", "width": 2, "dash": _DASHES[k % len(_DASHES)]},
                marker={"symbol": _MARKS[k % len(_MARKS)], "size": 9},
                name=escape(study.name),
                meta={"role": f"study-{k % 6}", "compares": True},
                hoverinfo="none",
            )
        )
    metric = studies[0].metric
    layout = {
        "xaxis": {"title": {"text": "trainable parameters"}, **_log_ticks(params, zero)},
        "yaxis": {
            "title": {"text": escape(metric) if comparable(studies) else "each study's metric"}
        },
        "legend": LEGEND,
    }
    warning = "" if comparable(studies) else " The metrics differ: do not compare heights."
    return Figure(
        kind="fronts",
        title="Fronts of all studies",
        description=f"One step line for each study; bars are one standard error.{warning}",
        head=("study", "trial", "parameters", "quality", "standard error"),
        rows=tuple(
            (study.name, trial.trial, trial.params, trial.quality, trial.stderr)
            for study in studies
            for trial in study.trials
            if trial.trial in study.front.trials
        ),
        plot=_plain(go.Figure(traces, layout)),
    )


def attained(studies: Sequence[StudyInfo]) -> Figure:
    """What repeated studies attain: worst, median and best at each number of parameters."""
    found = attainment(studies)
    zero = _zero(found.params)
    lines = (
        ("best", found.best, "dot"),
        ("median", found.middle, "solid"),
        ("worst", found.worst, "dash"),
    )
    traces = [
        go.Scatter(
            x=[params or zero for params in found.params],
            y=values,
            mode="lines",
            line={"shape": "hv", "width": 2.5 if name == "median" else 1.5, "dash": dash},
            name=name,
            meta={"role": "front" if name == "median" else "dominated"},
            hoverinfo="x+y+name",
        )
        for name, values, dash in lines
    ]
    layout = {
        "xaxis": {
            "title": {"text": "trainable parameters"},
            **_log_ticks([float(params) for params in found.params], zero),
        },
        "yaxis": {"title": {"text": escape(studies[0].metric)}},
        "legend": LEGEND,
    }
    return Figure(
        kind="static",
        title=f"What {len(studies)} studies attain",
        description=(
            "The quality reached with at most so many parameters by every study (worst), by half "
            "of them (median) and by any (best). It means most for repetitions of one study."
        ),
        head=("parameters", "worst", "median", "best"),
        rows=tuple(zip(found.params, found.worst, found.middle, found.best, strict=True)),
        plot=_plain(go.Figure(traces, layout)),
    )


def _zero(values: Iterable[float]) -> float:
    """Where nothing stands on a logarithmic axis: a decade below that of the least value."""
    least = min((value for value in values if value > 0), default=10.0)
    return float(10.0 ** (math.floor(math.log10(least)) - 1))


def _log_ticks(values: Sequence[float], zero: float) -> dict[str, Any]:
    """Powers of ten, and 0 where `_zero` puts it."""
    top = max((value for value in values if value > 0), default=10 * zero)
    first, last = round(math.log10(zero)), math.ceil(math.log10(top))
    powers = list(range(first + 1, last + 1))
    has_zero = any(value <= 0 for value in values)
    return {
        "type": "log",
        "tickvals": ([zero] if has_zero else []) + [10.0**power for power in powers],
        "ticktext": (["0"] if has_zero else []) + [_power(power) for power in powers],
    }


def _power(power: int) -> str:
    names = {0: "", 3: "k", 6: "M", 9: "G"}
    base = 3 * (power // 3)
    return f"{10 ** (power - base)}{names[base]}" if base in names else f"1e{power}"


_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "star")


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).replace(tzinfo=None).isoformat()


def _short(value: float) -> float:
    """Six digits are more than any screen shows."""
    return float(f"{value:.6g}")


def _few(items: Iterable[Any], most: int) -> list[Any]:
    """At most so many of a sequence, evenly spaced, both ends among them."""
    every = list(items)
    if len(every) <= most:
        return every
    return [every[round(i * (len(every) - 1) / (most - 1))] for i in range(most)]


def _plain(figure: go.Figure) -> dict[str, Any]:
    """Data and layout without plotly's template, whose colours are for white paper."""
    figure.update_layout(template=None)
    plain: dict[str, Any] = figure.to_plotly_json()
    return plain
