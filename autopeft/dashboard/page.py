"""The page: one HTML file with its script, style and data inside, and no need for a network."""

import base64
import hashlib
import importlib.metadata
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from autopeft.dashboard import figures, fronts
from autopeft.dashboard.compare import differing
from autopeft.dashboard.figure import Figure, script
from autopeft.dashboard.importance import importances
from autopeft.dashboard.info import Cost, StudyInfo
from autopeft.dashboard.ops import average_share, params_by_place, part_of
from autopeft.dashboard.parallel import parallel
from autopeft.dashboard.pareto import pareto
from autopeft.dashboard.trials import STATES, Measurement, TrialInfo
from autopeft.objectives import duration
from autopeft.space.taps import Tap

TEMPLATES = Path(__file__).with_name("templates")
SCRIPTS = (
    *("dom.js", "theme.js", "table.js", "heat.js", "details.js", "plots.js", "print.js"),
    "page.js",
)
"""The page's own script, in the order in which its parts are joined."""


def render(studies: Sequence[StudyInfo], *, live: bool = False) -> str:
    """The page of some studies.

    Args:
        studies: at least one; the first is shown first.
        live: it is served and asks for `data.json` while it is open.
    """
    return encodable(
        _environment()
        .get_template("page.html")
        .render(
            studies=studies,
            first=studies[0],
            front=_front(studies[0]),
            duration=duration,
            states=STATES,
            version=importlib.metadata.version("autopeft"),
            policy=policy(live=live),
            style=_style(),
            plotly=_plotly(),
            script=_script(),
            data=payload(studies, live=live),
        )
    )


def encodable(text: str) -> str:
    """A text that UTF-8 has: a name of a file need not be in it, and JSON has halves of letters."""
    return text.encode(errors="backslashreplace").decode()


def _front(study: StudyInfo) -> list[TrialInfo]:
    """The trials on the front, the smallest first."""
    found = (trial for trial in study.trials if trial.state == "front")
    return sorted(found, key=lambda trial: trial.params)


def policy(*, live: bool) -> str:
    """The Content-Security-Policy: these scripts alone, and no network but its own server's.

    plotly writes style attributes, so styles are allowed; they can load nothing.
    """
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in (_plotly(), _script()))
    network = "'self'" if live else "'none'"
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {hashes}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            f"connect-src {network}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def payload(studies: Sequence[StudyInfo], *, live: bool = False) -> dict[str, Any]:
    """What the page's script works on, as plain JSON values."""
    return {
        "live": live,
        "studies": [_study(study) for study in studies],
        "compare": _comparison(studies),
    }


def payload_json(studies: Sequence[StudyInfo], *, live: bool = False) -> str:
    """The same as strict JSON."""
    return json.dumps(payload(studies, live=live), allow_nan=False, separators=(",", ":"))


def _study(study: StudyInfo) -> dict[str, Any]:
    placements = [params_by_place(t.ops) for t in study.trials if t.state == "front"]
    return {
        "name": study.name,
        "folder": shlex.quote(study.folder),
        "metric": study.metric,
        "rung_metric": study.rung_metric,
        "facts": dict(study.facts),
        "verdict": asdict(study.verdict),
        "max_params": study.max_params,
        "n_layers": study.n_layers,
        "taps": [{"name": tap, "part": part_of(Tap(tap))} for tap in study.taps],
        "front": asdict(study.front),
        "average": {
            "shares": average_share(placements),
            "trials": sum(bool(cells) for cells in placements),
        },
        "costs": [_cost(cost, study) for cost in study.costs],
        "kinds": _kinds(study.trials),
        "columns": _columns(study),
        "figures": [_figure(figure) for figure in _figures(study)],
    }


def _cost(cost: Cost, study: StudyInfo) -> dict[str, Any]:
    plain = {key: value for key, value in asdict(cost).items() if key != "front"}
    return plain | {"figure": _figure(pareto(study, cost), with_rows=False)}


def _figure(figure: Figure, *, with_rows: bool = True) -> dict[str, Any]:
    """A figure; without rows, its data are those of the table of trials."""
    rows = {"head": figure.head, "rows": figure.rows} if with_rows else {}
    return {
        "kind": figure.kind,
        "title": figure.title,
        "description": figure.description,
        "plot": figure.plot,
        **rows,
    }


def _figures(study: StudyInfo) -> list[Figure]:
    found = [figures.selected(study, study.selection)] if study.selection else []
    found += [parallel(study)] if study.front.trials else []
    found += [figures.importance_bars(study, item) for item in importances(study.trials)]
    curves = figures.learning_curves(study)
    found += [curves] if curves.rows else []
    grown = figures.growth(study)
    found += [grown] if len(set(grown.rows)) > 1 else []
    found += [figures.timeline(study)] if study.jobs else []
    failed = figures.failures(study)
    return [*found, failed] if failed.rows else found


def _comparison(studies: Sequence[StudyInfo]) -> list[dict[str, Any]]:
    measured = [study for study in studies if study.front.trials]
    if len(studies) < 2 or not measured:  # noqa: PLR2004
        return []
    drawn = [fronts.fronts(studies)]
    if len(measured) > 1 and not differing(measured):
        drawn.append(fronts.attained(measured))
    return [_figure(figure) for figure in drawn]


def _kinds(trials: Sequence[TrialInfo]) -> list[list[str]]:
    """Every (name, read, write) of an op, so that trials can name them by number."""
    return [list(kind) for kind in _kind_numbers(trials)]


def _kind_numbers(trials: Sequence[TrialInfo]) -> dict[tuple[str, str, str], int]:
    kinds = dict.fromkeys((op.name, op.read, op.write) for t in trials for op in t.ops)
    return {kind: number for number, kind in enumerate(kinds)}


def _columns(study: StudyInfo) -> dict[str, list[Any]]:
    """The trials by column, which is a third of the size of a list of objects."""
    trials = study.trials
    kinds = _kind_numbers(trials)
    same = (
        "trial",
        "quality",
        "stderr",
        "replicates",
        "rung",
        "params",
        "fraction",
        "seconds",
        "learning_rate",
        "weight_decay",
        "summary",
        "method",
        "attention_share",
        "mean_depth",
        "mergeable",
        "failure",
    )
    columns: dict[str, list[Any]] = {name: [getattr(t, name) for t in trials] for name in same}
    return columns | {
        "state": [STATES.index(trial.state) for trial in trials],
        "n_ops": [len(trial.ops) for trial in trials],
        "unlike": [list(trial.unlike_lora) for trial in trials],
        "ops": [
            [
                [kinds[op.name, op.read, op.write], list(op.sizes), list(op.params), int(op.sized)]
                for op in trial.ops
            ]
            for trial in trials
        ],
        "costs": [[trial.costs.get(cost.name) for cost in study.costs] for trial in trials],
        "alone": [[trial.alone.get(cost.name) for cost in study.costs] for trial in trials],
        "measurements": [
            [
                [
                    *(m.rung, m.replicate, m.steps, m.quality, m.stderr, m.seconds),
                    *(m.failure or _instead(m, study.rung_metric), m.split, m.in_curve),
                ]
                for m in trial.measurements
            ]
            for trial in trials
        ],
    }


def _instead(measured: Measurement, metric: str) -> str:
    """What was measured in place of the study's metric, if that was not."""
    if measured.quality is not None or measured.on_rungs is None:
        return ""
    value, stderr = measured.on_rungs
    return f"{metric} {value:.4f} ± {stderr:.4f}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    policies: Mapping[str, Any] = {
        "json.dumps_kwargs": {"allow_nan": False, "separators": (",", ":")}
    }
    environment.policies.update(policies)
    return environment


@cache
def _plotly() -> Markup:
    return Markup(script())  # noqa: S704 - a library's script, not data


@cache
def _script() -> Markup:
    parts = [(TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS]
    joined = '"use strict";\n(() => {\n' + "\n".join(parts) + "\n})();\n"
    return Markup(joined)  # noqa: S704 - the page's own script, not data


@cache
def _style() -> Markup:
    return Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))  # noqa: S704 - likewise


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
