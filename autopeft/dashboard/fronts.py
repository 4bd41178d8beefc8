"""The figures of several studies: their fronts on shared axes, and what they attain."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from autopeft.dashboard.compare import attainment, differing
from autopeft.dashboard.figure import LEGEND, Figure, log_ticks, plain, zero_of
from autopeft.dashboard.info import StudyInfo
from autopeft.dashboard.trials import TrialInfo

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_COLOURS = len(_DASHES)
_MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
_LONGEST = 30
"""Letters of a name in the legend: of more, two do not fit beside each other."""
_BEYOND = 1.15
"""How far a line goes on after its last step, which would lie on the edge of the plot."""


def fronts(studies: Sequence[StudyInfo]) -> Figure:
    """The fronts of several studies on shared axes."""
    traces = []
    steps = [_steps(study) for study in studies]
    params = [float(trial.params) for front in steps for trial in front]
    zero = zero_of(params)
    names = _brief([study.name for study in studies])
    for k, (study, front) in enumerate(zip(studies, steps, strict=True)):
        shape = (k + k // _COLOURS) % _COLOURS  # another one when the colours begin again
        traces.append(
            go.Scatter(
                x=[trial.params or zero for trial in front],
                y=[trial.quality for trial in front],
                error_y={"array": [t.stderr for t in front], "thickness": 1, "width": 0},
                customdata=[[k, study.trials.index(trial)] for trial in front],
                mode="lines+markers",
                line={"shape": "hv", "width": 2, "dash": _DASHES[shape]},
                marker={"symbol": _MARKS[shape], "size": 9},
                name=escape(names[k]),
                meta={"role": f"study-{k % _COLOURS}", "compares": True},
                hoverinfo="none",
            )
        )
    apart = differing(studies)
    metric = "each study's metric" if apart == "metrics" else studies[0].metric
    layout = {
        "xaxis": {"title": {"text": "trainable parameters"}, **log_ticks(params, zero)},
        "yaxis": {"title": {"text": escape(metric, quote=False)}},
        "legend": LEGEND,
    }
    is_part = any(len(s.front.trials) > len(front) for s, front in zip(studies, steps, strict=True))
    part = " Points that are on a front for another cost are left out." if is_part else ""
    warning = f" The {apart} differ: do not compare heights." if apart else ""
    return Figure(
        kind="fronts",
        title="Fronts of all studies",
        description=f"One step line for each study; bars are one standard error.{part}{warning}",
        head=("study", "trial", "parameters", "quality", "standard error"),
        rows=tuple(
            (study.name, trial.trial, trial.params, trial.quality, trial.stderr)
            for study, front in zip(studies, steps, strict=True)
            for trial in front
        ),
        plot=plain(go.Figure(traces, layout)),
    )


def _brief(names: Sequence[str]) -> Sequence[str]:
    """Long names without their middle, unless that makes two of them the same."""
    half = _LONGEST // 2
    brief = [f"{n[:half]}…{n[-half:]}" if len(n) > _LONGEST else n for n in names]
    return brief if len(set(brief)) == len(set(names)) else names


def _steps(study: StudyInfo) -> list[TrialInfo]:
    """The trials that no other one beats in parameters and quality, by ascending parameters."""
    by_number = {trial.trial: trial for trial in study.trials}
    return [by_number[number] for number in study.costs[0].front]


def attained(studies: Sequence[StudyInfo]) -> Figure:
    """What repeated studies attain: worst, median and best at each number of parameters."""
    found = attainment(studies)
    zero = zero_of(found.params)
    end = _BEYOND * (found.params[-1] or zero)
    lines = (
        ("best", found.best, "dot"),
        ("median", found.middle, "solid"),
        ("worst", found.worst, "dash"),
    )
    traces = [
        go.Scatter(
            x=[*(params or zero for params in found.params), end],
            y=[*values, values[-1]],
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
            **log_ticks([float(params) for params in found.params], zero),
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
        plot=plain(go.Figure(traces, layout)),
    )
