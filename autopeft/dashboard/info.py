"""What a page shows of a study, as one frozen value; no figure is drawn here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autopeft.advice import Advice, advice_of, trained_in_part
from autopeft.constant import Constant
from autopeft.dashboard.facts import facts_of, rows_of, scored_on
from autopeft.dashboard.trials import SECONDS, TrialInfo, trial_infos
from autopeft.dashboard.verdict import Verdict, verdict_of
from autopeft.errors import DataError
from autopeft.front import Front, place, volume
from autopeft.front_file import read_front
from autopeft.objectives import COSTS, MEMORY, PARAMS, CostName
from autopeft.records import Record
from autopeft.selection import Selection
from autopeft.space.shape import ModelShape
from autopeft.space.taps import Tap
from autopeft.space.words import HEAD
from autopeft.study.folder import Study
from autopeft.study.spec import load_study_spec
from autopeft.study.told import openings_in


@dataclass(frozen=True)
class Cost:
    """Something that can stand on the cost axis.

    Attributes:
        name: as in the records.
        label: for people.
        unit: of the values.
        log: whether the axis is logarithmic.
        front: trials that no other one beats in this cost and quality, by ascending cost.
        limit: the budget, or None.
        predicted: the values are predictions.
    """

    name: str
    label: str
    unit: str
    log: bool
    front: tuple[int, ...]
    limit: float | None
    predicted: bool = False


@dataclass(frozen=True)
class FrontInfo:
    """The front of a study.

    Attributes:
        trials: on it, by ascending parameters.
        recommended: the trial to use, or None.
        knee: the trial farthest above the line through the ends, or None.
        hypervolume: share of the plane that it dominates, see `autopeft.front`.
        baselines: trials that are a named method, by trial; one without ops is
            `head`, or `frozen backbone` where there is no head.
    """

    trials: tuple[int, ...]
    recommended: int | None
    knee: int | None
    hypervolume: float
    baselines: Mapping[int, str]


@dataclass(frozen=True)
class Job:
    """Trials that a worker trained together.

    Attributes:
        worker: who.
        started: when, ISO 8601 in UTC.
        seconds: how long.
        trials: which.
    """

    worker: str
    started: str
    seconds: float
    trials: tuple[int, ...]


@dataclass(frozen=True)
class StudyInfo:
    """Everything that the page shows of a study.

    Attributes:
        name: of its folder.
        folder: as the user gave it, for commands to copy.
        metric: what it maximises; larger is better.
        rung_metric: what every rung has measured; the metric, if the study file names no other.
        scored_on: which rows its scores are on, as far as its files tell them apart.
        facts: what it was made with, by title: model, data, budget, cost, versions.
        max_params: the budget in parameters; None if nothing says it.
        n_layers: depth of the backbone; None if nothing says it.
        taps: those that any op writes, in the order of computation.
        trials: all of them.
        front: what came out.
        costs: what can stand on the cost axis.
        growth: (training seconds spent, hypervolume then), where it changed.
        jobs: who trained what when.
        selection: the final selection on fresh rows and seeds, if there was one.
        verdict: the answer in words.
    """

    name: str
    folder: str
    metric: str
    rung_metric: str
    scored_on: tuple[str, ...]
    facts: Mapping[str, str]
    max_params: int | None
    n_layers: int | None
    taps: tuple[str, ...]
    trials: tuple[TrialInfo, ...]
    front: FrontInfo
    costs: tuple[Cost, ...]
    growth: tuple[tuple[float, float], ...]
    jobs: tuple[Job, ...]
    selection: Selection | None
    verdict: Verdict

    def trial(self, number: int) -> TrialInfo:
        """One trial by its number.

        Raises:
            KeyError: there is none.
        """
        for trial in self.trials:
            if trial.trial == number:
                return trial
        raise KeyError(number)


def study_info(study: Study) -> StudyInfo:
    """Read a study's folder. What is not there yet is shown as missing.

    Raises:
        DataError: the folder is no study, or a file in it cannot be read.
    """
    folder = study.folder
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    known = (study.manifest_file, study.spec_file, folder / "records", folder / "records.jsonl")
    if not any(path.exists() for path in known):
        raise DataError(f"{folder} is not the folder of a study")
    return info_of(study, study.records())


def info_of(study: Study, records: Sequence[Record]) -> StudyInfo:
    """The same with records that were read already.

    Raises:
        DataError: a file of the study cannot be read.
    """
    folder = study.folder
    front_file = folder / "front.json"
    front = read_front(front_file) if front_file.exists() else None
    manifest = study.manifest()
    selection = study.selection()
    spec = load_study_spec(study.spec_file) if study.spec_file.exists() else None
    metric = front.metric if front else (spec.chosen_metric if spec else _metric(records))
    rung_metric = (spec and spec.rung_metric) or metric
    shape = study.shape()
    max_params = front.reference.trainable_params if front else manifest.get("max_params")
    trials = trial_infos(
        records,
        metric=metric,
        front=[point.trial for point in front.points] if front else [],
        max_params=max_params,
        shape=shape,
        rung_metric=rung_metric,
        nothing=spec.without_ops if spec else HEAD,
    )
    if not math.isfinite(sum(record.seconds for record in records)):
        raise DataError(f"{folder}: the seconds of its records have no finite sum")
    constant = Constant.of_manifest(manifest)
    scored = sum(trial.quality is not None for trial in trials)
    advice = advice_of(front, selection, constant, scored=scored)
    recommended = () if advice.trial is None else (advice.trial,)
    frontier = front_info(front, trials, advice)
    return StudyInfo(
        name=folder.resolve().name,
        folder=str(folder),
        metric=metric,
        rung_metric=rung_metric,
        scored_on=scored_on(manifest, spec),
        facts=facts_of(manifest, spec, trials, max_params),
        max_params=max_params,
        n_layers=_depth(trials, shape),
        taps=_taps(trials),
        trials=trials,
        front=frontier,
        costs=costs_of(
            trials, records, frontier, max_params, spec.budget.max_memory if spec else None
        ),
        growth=growth_of(records, trials, max_params, front.worst if front else None),
        jobs=jobs_of(records),
        selection=selection,
        verdict=verdict_of(
            trials,
            front=front,
            advice=advice,
            rows=rows_of(manifest).get("validation"),
            selection=selection,
            openings=openings_in(study.test_file),
            constant=constant,
            short=trained_in_part(records, recommended, study.whole_steps()),
        ),
    )


def front_info(front: Front | None, trials: Sequence[TrialInfo], advice: Advice) -> FrontInfo:
    """The front with the baselines beside it.

    Args:
        front: as it was computed; None before the first record.
        trials: of the same study.
        advice: what is recommended.
    """
    baselines = {trial.trial: trial.method for trial in trials if trial.method}
    if front is None:
        return FrontInfo((), None, None, 0.0, baselines)
    return FrontInfo(
        trials=tuple(point.trial for point in front.points),
        recommended=advice.trial,
        knee=front.knee,
        hypervolume=front.hypervolume,
        baselines=baselines,
    )


_LABELS = {str(name): (kind.label, kind.unit) for name, kind in COSTS.items()} | {
    PARAMS: (COSTS[PARAMS].label, ""),
    SECONDS: ("training time", "s"),
}


def costs_of(
    trials: Sequence[TrialInfo],
    records: Sequence[Record],
    front: FrontInfo,
    max_params: int | None,
    max_memory: int | None = None,
) -> tuple[Cost, ...]:
    """Parameters first, training time, then what the records tell beside the quality.

    Of a front with further costs some points are not the best at their number of parameters.
    """
    names = dict.fromkeys(name for trial in trials for name in trial.costs)
    every = [item for record in records for item in record.objectives.items()]
    units = {name: item.unit for name, item in every}
    predicted = {name for name, item in every if item.how == "predicted"}
    limits: dict[str, float | None] = {PARAMS: max_params, MEMORY: max_memory}
    out = []
    for name in names or (PARAMS,):
        label, unit = _LABELS.get(name, (name, units.get(name, "")))
        on_axis = [t for t in trials if t.trial in front.trials] if name == PARAMS else trials
        values = [trial.costs[name] for trial in trials if name in trial.costs]
        out.append(
            Cost(
                name=name,
                label=label,
                unit=unit,
                log=name == PARAMS or _spread(values),
                front=_non_dominated(on_axis, name),
                limit=limits.get(name),
                predicted=name in predicted,
            )
        )
    return tuple(out)


def _spread(values: Sequence[float]) -> bool:
    """Whether positive values differ by more than two orders of magnitude."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > 100  # noqa: PLR2004


def _non_dominated(trials: Sequence[TrialInfo], cost: str) -> tuple[int, ...]:
    candidates = [
        (trial.costs[cost], -trial.quality, trial.trial)
        for trial in trials
        if trial.quality is not None and cost in trial.costs and trial.state != "over budget"
    ]
    best, out = math.inf, []
    for _, negative, number in sorted(candidates):
        if negative < best:
            best = negative
            out.append(number)
    return tuple(out)


def growth_of(
    records: Sequence[Record],
    trials: Sequence[TrialInfo],
    max_params: int | None,
    worst: Mapping[CostName, float] | None = None,
) -> tuple[tuple[float, float], ...]:
    """Hypervolume against training time spent, as trials ended.

    A trial counts from its last record on, with its quality at the end of the study.

    Args:
        records: of the study.
        trials: of the study.
        max_params: the budget; nothing is told without one.
        worst: where the axis of each cost ends; of `trainable_params` alone if None.
    """
    if max_params is None:
        return ()
    by_trial = {trial.trial: trial for trial in trials}
    searched = [record for record in records if record.is_searched]
    ordered = sorted(searched, key=lambda r: (r.started, r.key))
    last = {record.trial: record for record in ordered}
    spent, steps = 0.0, [(0.0, 0.0)]
    ends = worst or {PARAMS: float(max_params)}
    values: list[tuple[float, ...]] = []
    for record in ordered:
        spent += record.seconds
        trial = by_trial[record.trial]
        if last[record.trial] is not record or trial.quality is None or trial.params > max_params:
            continue
        costs = [place(name, trial.costs[name], end) for name, end in ends.items()]
        point = (*costs, -trial.quality)
        if any(_covers(value, point) for value in values):
            continue
        values = [value for value in values if not _covers(point, value)] + [point]
        steps.append((spent, volume([(*costs, -loss) for *costs, loss in values])))
    return (*steps, (spent, steps[-1][1])) if ordered else ()


def _covers(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether it is at least as good in everything."""
    return all(a <= b for a, b in zip(one, other, strict=True))


def jobs_of(records: Sequence[Record]) -> tuple[Job, ...]:
    """Records of one worker and start are one job; its time is shared among its trials."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.worker, record.started), []).append(record)
    return tuple(
        Job(worker, started, sum(r.seconds for r in group), tuple(r.trial for r in group))
        for (worker, started), group in sorted(groups.items(), key=lambda item: item[0][1])
    )


def _metric(records: Sequence[Record]) -> str:
    names = (name for record in records for name in record.metrics)
    return next(names, "quality")


def _depth(trials: Sequence[TrialInfo], shape: ModelShape | None) -> int | None:
    if shape is not None:
        return shape.n_layers
    return next((len(op.sizes) for trial in trials for op in trial.ops), None)


def _taps(trials: Sequence[TrialInfo]) -> tuple[str, ...]:
    written = {op.write for trial in trials for op in trial.ops}
    return tuple(str(tap) for tap in Tap if str(tap) in written)
