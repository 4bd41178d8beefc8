"""Several studies beside each other: shared axes, and what repeated studies attain."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from autopeft.dashboard.info import StudyInfo


@dataclass(frozen=True)
class Attainment:
    """The quality that studies reach with at most so many parameters.

    Attributes:
        params: where any of their fronts has a step, ascending.
        worst: of the studies, at each; None where one of them has nothing yet.
        middle: their median, None where fewer than half have something.
        best: of them.
    """

    params: tuple[int, ...]
    worst: tuple[float | None, ...]
    middle: tuple[float | None, ...]
    best: tuple[float, ...]


def told_apart(studies: Sequence[StudyInfo]) -> list[StudyInfo]:
    """The same studies, named by as much of the end of their paths as no other one has."""
    paths = [Path(study.folder).resolve().parts for study in studies]
    return [
        replace(study, name="/".join(path[-count:])) if (count := _own(path, paths)) > 1 else study
        for study, path in zip(studies, paths, strict=True)
    ]


def _own(path: tuple[str, ...], paths: Sequence[tuple[str, ...]]) -> int:
    """How many parts of the end of a path no different one ends with."""
    others = [other for other in paths if other != path]
    counts = range(1, len(path))
    return next((n for n in counts if all(o[-n:] != path[-n:] for o in others)), len(path))


def differing(studies: Sequence[StudyInfo]) -> str:
    """What keeps their qualities from being compared: `metrics` or `data`; empty if nothing."""
    if len({study.metric for study in studies}) > 1:
        return "metrics"
    return "data" if len({study.scored_on for study in studies}) > 1 else ""


def attainment(studies: Sequence[StudyInfo]) -> Attainment:
    """The empirical attainment of the fronts (Fonseca and Fleming 1996), in one dimension.

    A study that has no point with so few parameters counts as worse than every one that has.
    """
    fronts = [_steps(study) for study in studies]
    grid = sorted({params for front in fronts for params, _ in front})
    worst: list[float | None] = []
    middle: list[float | None] = []
    best: list[float] = []
    for params in grid:
        reached = [_at(front, params) for front in fronts]
        values = [float("-inf") if value is None else value for value in reached]
        worst.append(_finite(min(values)))
        middle.append(_finite(median(values)))
        best.append(max(values))
    return Attainment(tuple(grid), tuple(worst), tuple(middle), tuple(best))


def _steps(study: StudyInfo) -> list[tuple[int, float]]:
    points = {trial.trial: trial for trial in study.trials}
    chosen = (points[number] for number in study.front.trials)
    return [(trial.params, trial.quality) for trial in chosen if trial.quality is not None]


def _at(front: Sequence[tuple[int, float]], params: int) -> float | None:
    """The quality of the best point with at most so many parameters."""
    return max((quality for cost, quality in front if cost <= params), default=None)


def _finite(value: float) -> float | None:
    return None if value == float("-inf") else value
