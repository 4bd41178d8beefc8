"""The figures below the front: what goes with quality, curves, selection, growth, workers."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from html import escape
from typing import Any

import plotly.graph_objects as go

from autopeft.dashboard.figure import LEGEND, Figure, few, plain, short, trial_lines
from autopeft.dashboard.importance import Importance
from autopeft.dashboard.info import StudyInfo
from autopeft.dashboard.trials import TrialInfo
from autopeft.selection import Selection

MOST_LINES = 400
MOST_JOBS = 600
MOST_STEPS = 500
_MOST_BORDERED = 140
"""Bars that a narrow timeline has room for if each has a border; a shorter bar has none."""
_FEW = 12


def importance_bars(study: StudyInfo, found: Importance) -> Figure:
    """The importances of one objective as bars, at most ten."""
    labels = {"quality": study.metric} | {cost.name: cost.label for cost in study.costs}
    name = labels[found.objective]
    top = [(f, d) for f, d in zip(found.features, found.drops, strict=True)][:10]
    trace = go.Bar(
        x=[short(drop) for _, drop in reversed(top)],
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
        plot=plain(go.Figure([trace], layout)),
    )


def learning_curves(study: StudyInfo) -> Figure:
    """What every rung measures against steps, a line for each trial that was measured twice."""
    lines = []
    for i, trial in enumerate(study.trials):
        points: dict[int, list[float]] = {}
        for item in trial.measurements:
            if item.in_curve is not None:
                points.setdefault(item.steps, []).append(item.in_curve)
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
                y += [*(short(value) for _, value in curve), None]
                rows += [i] * (len(curve) + 1)
        traces.append(trial_lines(role, x, y, rows))
    layout = {
        "xaxis": {"title": {"text": "optimizer steps"}, "type": "log", **_levels(lines)},
        "yaxis": {"title": {"text": escape(study.rung_metric)}},
        "legend": LEGEND,
    }
    return Figure(
        kind="curves",
        title="Learning curves by rung",
        description=(
            f"Mean {study.rung_metric} over seeds at each level of the training budget, for trials "
            "that were measured at more than one."
        ),
        head=("trial", "steps", study.rung_metric),
        rows=tuple((t.trial, steps, value) for _, t, curve in lines for steps, value in curve),
        plot=plain(go.Figure(traces, layout) if lines else go.Figure()),
    )


def _levels(lines: Sequence[tuple[int, TrialInfo, Sequence[tuple[int, float]]]]) -> dict[str, Any]:
    """Ticks at the steps of the rungs; plotly's own where those are many."""
    steps = sorted({at for *_, curve in lines for at, _ in curve})
    return {"tickvals": steps, "ticktext": [f"{at:,}" for at in steps]} if len(steps) < _FEW else {}


def selected(study: StudyInfo, selection: Selection) -> Figure:
    """The contenders of the final selection, with intervals, beside their scores in the search."""
    index = {trial.trial: i for i, trial in enumerate(study.trials)}
    found = sorted(selection.contenders, key=lambda c: c.quality)
    names = [f"{c.trial}: {escape(c.role_in_words, quote=False)}" for c in found]
    rows = [index.get(c.trial) for c in found]
    fresh = go.Scatter(
        x=[short(c.quality) for c in found],
        y=names,
        error_x={
            "type": "data",
            "array": [short(c.high - c.quality) for c in found],
            "arrayminus": [short(c.quality - c.low) for c in found],
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
    seen = [(i, q) for i, c in enumerate(found) if (q := c.search_quality) is not None]
    searched = go.Scatter(
        x=[short(quality) for _, quality in seen],
        y=[names[i] for i, _ in seen],
        customdata=[rows[i] for i, _ in seen],
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
            f"{selection.which_rows}. {_beside(selection)}"
        ),
        head=("trial", "why", "parameters", "search", selection.metric, "low", "high", "seeds"),
        rows=tuple(
            (
                c.trial,
                c.role_in_words,
                c.trainable_params,
                c.search_quality,
                c.quality,
                c.low,
                c.high,
                c.seeds,
            )
            for c in found
        ),
        plot=plain(go.Figure([fresh, searched], layout)),
    )


def _beside(selection: Selection) -> str:
    """What the marks of the search tell."""
    if not selection.search_compares:
        return "The search scored on rows of another kind, so its bars do not compare."
    return "How far a bar lies to the right of its dot is how much the search flattered it."


def growth(study: StudyInfo) -> Figure:
    """Hypervolume against training time."""
    points = few(study.growth[1:], MOST_STEPS)  # nothing at no time would flatten the rest
    trace = go.Scatter(
        x=[seconds / 60 for seconds, _ in points],
        y=[short(volume) for _, volume in points],
        mode="lines",
        line={"shape": "hv", "width": 2},
        meta={"role": "front"},
        hoverinfo="x+y",
        name="hypervolume",
    )
    layout = {
        "xaxis": {
            "title": {"text": "training time of the search (minutes)"},
            "rangemode": "tozero",
        },
        "yaxis": {"title": {"text": "hypervolume"}, "rangemode": "tozero"},
        "showlegend": False,
    }
    return Figure(
        kind="static",
        title="What more search bought",
        description=(
            "Share of the space of quality and costs that the front dominates, against the time "
            "that the search spent on training. Flat at the end: more trials would have added "
            "little."
        ),
        head=("training time (s)", "hypervolume"),
        rows=tuple(points),
        plot=plain(go.Figure([trace], layout)),
    )


def timeline(study: StudyInfo) -> Figure:
    """Who trained what when."""
    jobs = few(study.jobs, MOST_JOBS)
    index = {trial.trial: i for i, trial in enumerate(study.trials)}
    ends = [datetime.fromisoformat(job.started).timestamp() + job.seconds for job in jobs]
    starts = [end - job.seconds for end, job in zip(ends, jobs, strict=True)]
    least = (max(ends) - min(starts)) / _MOST_BORDERED
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
        marker={"line": {"width": [int(job.seconds >= least) for job in jobs]}},
        meta={
            "role": "dominated",
            "linked": True,
            "jobs": [[index[n] for n in j.trials] for j in jobs],
        },
        hoverinfo="none",
    )
    layout = {
        "xaxis": {"type": "date", "title": {"text": "time (UTC)"}},
        "yaxis": {"automargin": True, "type": "category"},
        "bargap": 0.3,
        "uniformtext": {"minsize": 10, "mode": "hide"},
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
        plot=plain(go.Figure([trace], layout)),
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
        plot=plain(go.Figure([trace], layout) if order else go.Figure()),
    )


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).replace(tzinfo=None).isoformat()
