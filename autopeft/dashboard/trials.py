"""The trials of a study as their records tell them: pooled, with a state and every measurement."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from autopeft.dashboard.ops import (
    OpInfo,
    attention_share,
    mean_depth,
    named_methods,
    op_infos,
    published_lora,
    unlike,
)
from autopeft.errors import ConfigError, DataError
from autopeft.front import complete_of, mean_quality
from autopeft.objectives import PARAMS
from autopeft.records import UNSEEN, Record
from autopeft.space.genotype import Genotype
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.merge import is_mergeable
from autopeft.space.shape import ModelShape
from autopeft.space.words import HEAD, describe

State = Literal["front", "dominated", "over budget", "stopped early", "failed"]
STATES: tuple[State, ...] = get_args(State)

SECONDS = "seconds"
"""The cost that every study has beside its parameters: the training time of a trial."""


@dataclass(frozen=True)
class Measurement:
    """One record of a trial.

    Attributes:
        rung: level of the training budget.
        replicate: which repetition.
        split: the rows that it was scored on.
        quality: of the study's metric; None if it failed or that was not measured.
        stderr: its standard error over rows; None likewise.
        on_rungs: of the metric that every rung has, with its standard error; None if it failed.
        steps: optimizer steps from the start.
        seconds: spent on it.
        started: when, ISO 8601 in UTC.
        worker: which worker did it.
        failure: kind and message; empty if it did not fail.
    """

    rung: int
    replicate: int
    split: str
    quality: float | None
    stderr: float | None
    on_rungs: tuple[float, float] | None
    steps: int
    seconds: float
    started: str
    worker: str
    failure: str

    @property
    def in_curve(self) -> float | None:
        """What stands in the trial's learning curve; None of rows that the search has not seen."""
        if self.on_rungs is None or self.split in UNSEEN:
            return None
        return self.on_rungs[0]


@dataclass(frozen=True)
class TrialInfo:
    """One trial.

    Attributes:
        trial: its number.
        state: see `_state`; each trial has exactly one.
        quality: mean over replicates at its highest rung that has the metric; None if none has.
        stderr: standard error of `quality`, over rows and seeds; None likewise.
        replicates: repetitions behind `quality`.
        rung: its highest complete rung; None if it failed.
        params: trainable parameters of the ops.
        fraction: `params` over those of the backbone.
        seconds: training time over all its records.
        costs: everything that the reader can put on the cost axis, by name.
        alone: those that were measured with nothing beside the trial, as a finalist.
        learning_rate: peak, of AdamW.
        weight_decay: decoupled.
        summary: it in words.
        method: the named method that it is, or None.
        is_lora: it is LoRA and nothing else, of whatever ranks on whatever weights.
        hash: of the genotype.
        ops: what stands where.
        attention_share: part of the parameters in attention; None without any.
        mean_depth: of its parameters, 0 the lowest layer and 1 the highest; None without any.
        mergeable: it can be merged into the weights; None if nothing says how the model is made.
        unlike_lora: how it differs from LoRA as published.
        failure: kind of the first failure, or None.
        measurements: its records, by rung and replicate.
    """

    trial: int
    state: State
    quality: float | None
    stderr: float | None
    replicates: int
    rung: int | None
    params: int
    fraction: float
    seconds: float
    costs: Mapping[str, float]
    alone: Mapping[str, float]
    learning_rate: float
    weight_decay: float
    summary: str
    method: str | None
    is_lora: bool
    hash: str
    ops: tuple[OpInfo, ...]
    attention_share: float | None
    mean_depth: float | None
    mergeable: bool | None
    unlike_lora: tuple[str, ...]
    failure: str | None
    measurements: tuple[Measurement, ...]


def trial_infos(
    records: Iterable[Record],
    *,
    metric: str,
    front: Collection[int],
    max_params: int | None,
    shape: ModelShape | None,
    rung_metric: str | None = None,
    nothing: str = HEAD,
) -> tuple[TrialInfo, ...]:
    """The trials of a study, by number.

    Args:
        records: of one study.
        metric: what the study maximises.
        front: the trials on its front.
        max_params: the budget; None if it is not known.
        shape: of the backbone; None if it is not known.
        rung_metric: what every rung has; the metric if None.
        nothing: what a trial without ops is, as `describe` has it.

    Raises:
        DataError: a genotype cannot be read.
    """
    groups: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.trial].append(record)
    searched = (r.rung for group in groups.values() for r in group if r.is_searched)
    top = max(searched, default=0)
    name_of = _namer(shape, "head" if nothing == HEAD else nothing)
    lora = published_lora(shape) if shape else None
    return tuple(
        _trial_info(
            sorted(groups[trial], key=lambda record: record.key),
            metric=metric,
            rung_metric=rung_metric or metric,
            on_front=trial in front,
            max_params=max_params,
            top=top,
            shape=shape,
            lora=lora,
            name_of=name_of,
            nothing=nothing,
        )
        for trial in sorted(groups)
    )


def _namer(shape: ModelShape | None, nothing: str) -> Callable[[Genotype], str | None]:
    names = {} if shape is None else named_methods(shape)

    def name(genotype: Genotype) -> str | None:
        if genotype.ops:
            return names.get(genotype.ops)
        return "full fine-tuning" if genotype.full else nothing

    return name


def _trial_info(
    records: Sequence[Record],
    *,
    metric: str,
    rung_metric: str,
    on_front: bool,
    max_params: int | None,
    top: int,
    shape: ModelShape | None,
    lora: Genotype | None,
    name_of: Callable[[Genotype], str | None],
    nothing: str,
) -> TrialInfo:
    first = records[0]
    complete = complete_of(records)
    usable = _usable(complete, metric)
    quality, stderr = mean_quality(usable, metric) if usable else (None, None)
    rung = max((record.rung for record in complete), default=None)
    failures = [record.failure for record in records if record.failure]
    genotype = _genotype(first)
    if shape is not None and shape.n_layers != genotype.n_layers:
        raise DataError(
            f"trial {first.trial} has {genotype.n_layers} layers, its study {shape.n_layers}"
        )
    used = {tap for op in genotype.ops for tap in (op.read, op.write)}
    if shape is not None and (missing := sorted(used - set(shape.widths))):
        raise DataError(f"trial {first.trial} is at {missing[0]}, which its study's model lacks")
    if on_front and quality is None:
        raise DataError(f"trial {first.trial} is on the front, and its records have no {metric}")
    ops = op_infos(genotype, shape)
    seconds = sum(record.seconds for record in records)
    return TrialInfo(
        trial=first.trial,
        state=_state(
            failed=rung is None,
            on_front=on_front,
            over=max_params is not None and first.trainable_params > max_params,
            early=not usable or usable[0].rung < top,
        ),
        quality=quality,
        stderr=stderr,
        replicates=len(usable),
        rung=rung,
        params=first.trainable_params,
        fraction=first.fraction,
        seconds=seconds,
        costs=_costs(usable or complete, first.trainable_params, seconds),
        alone=_alone(records),
        learning_rate=genotype.learning_rate,
        weight_decay=genotype.weight_decay,
        summary=describe(genotype, nothing),
        method=name_of(genotype),
        is_lora=genotype.is_lora,
        hash=first.hash,
        ops=ops,
        attention_share=attention_share(ops),
        mean_depth=mean_depth(ops, genotype.n_layers),
        mergeable=is_mergeable(genotype, shape) if shape else None,
        unlike_lora=unlike(genotype, lora, shape) if shape and lora else (),
        failure=failures[0].kind if failures else None,
        measurements=tuple(_measurement(record, metric, rung_metric) for record in records),
    )


def _usable(complete: Sequence[Record], metric: str) -> list[Record]:
    """What the front would measure the trial by: those at the highest rung that has the metric."""
    scored = [record for record in complete if metric in record.metrics]
    top = max((record.rung for record in scored), default=0)
    return [record for record in scored if record.rung == top]


def _state(*, failed: bool, on_front: bool, over: bool, early: bool) -> State:
    """The first that applies: failed, front, over budget, stopped early, dominated."""
    if failed:
        return "failed"
    if on_front:
        return "front"
    if over:
        return "over budget"
    return "stopped early" if early else "dominated"


def _costs(records: Sequence[Record], params: int, seconds: float) -> Mapping[str, float]:
    costs = {PARAMS: float(params), SECONDS: seconds}
    told = {PARAMS, *(name for record in records for name in record.metrics)}
    measured = records[0].objectives if records else {}
    other = {name: item.value for name, item in measured.items() if name not in told}
    return costs | other


def _alone(records: Sequence[Record]) -> Mapping[str, float]:
    every = (item for record in records for item in record.objectives.items())
    return {name: item.value for name, item in every if item.how == "measured"}


def _measurement(record: Record, metric: str, rung_metric: str) -> Measurement:
    score, on_rungs = record.metrics.get(metric), record.metrics.get(rung_metric)
    return Measurement(
        rung=record.rung,
        replicate=record.replicate,
        split=record.split,
        quality=score.value if score else None,
        stderr=score.stderr if score else None,
        on_rungs=(on_rungs.value, on_rungs.stderr) if on_rungs else None,
        steps=record.steps,
        seconds=record.seconds,
        started=record.started,
        worker=record.worker,
        failure=f"{record.failure.kind}: {record.failure.message}" if record.failure else "",
    )


def _genotype(record: Record) -> Genotype:
    try:
        return genotype_from_dict(record.genotype, f"trial {record.trial}")
    except ConfigError as error:  # in a file of measurements it is the data that is wrong
        raise DataError(str(error)) from error
