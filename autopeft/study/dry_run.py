"""A study before anything is loaded, trained or written: what it would be."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autopeft.space.costs import CostModel
from autopeft.space.methods import method
from autopeft.space.shape import ModelShape
from autopeft.study.limits import Budget, budget_of
from autopeft.study.rungs import rungs_of
from autopeft.study.setup import read_space, set_up
from autopeft.study.spec import StudySpec
from autopeft.study.warm_start import read_warm_start

_MANY_STEPS = 10_000
"""Of a training whose number is not known, so that no rung is too low."""


@dataclass(frozen=True)
class Sized:
    """A method at one of its sizes.

    Attributes:
        name: of the method.
        level: of its sizes; 0 is the published one.
        params: of its ops as they are stored.
        trained: of its ops while they are trained.
        fraction: stored ones over the parameters of the backbone.
        memory_bytes: of training it alone on full batches of the longest rows; a guess.
        fits: it is within the budget of the study.
    """

    name: str
    level: int
    params: int
    trained: int
    fraction: float
    memory_bytes: float
    fits: bool


@dataclass(frozen=True)
class DryRun:
    """What a study would be.

    Attributes:
        model: its name.
        kind: its family.
        shape: `ModelShape.to_dict()`.
        max_params: hard limit on the ops as they are stored.
        max_trained: likewise while they are trained, or None.
        max_memory: likewise in bytes, or None.
        space: its name.
        slots: of the space that the model and the budget leave.
        dimensions: that a sampler sees.
        cardinality: sets of ops in the space at most.
        methods: those of the study, each at all of its sizes, the published one first.
        misfits: why a method cannot stand in the model, by name.
        n_rows: of each split, as far as it is known.
        labels: the classes or tags, as far as they are known.
        steps: of a whole training; None if the number of rows is not known.
        trials: in all.
        rungs: parts of a whole training at which a trial may pause, and 1.
        rung_metric: what is measured at those below 1; the metric if None.
        seeds: fresh ones for each contender of the final selection; 0 if there is none.
        notes: what else the user has to know.
    """

    model: str
    kind: str
    shape: dict[str, Any]
    max_params: int
    max_trained: int | None
    max_memory: int | None
    space: str
    slots: tuple[str, ...]
    dimensions: int
    cardinality: int
    methods: tuple[Sized, ...]
    misfits: dict[str, str]
    n_rows: dict[str, int]
    labels: tuple[str, ...]
    steps: int | None
    trials: int
    rungs: tuple[float, ...]
    rung_metric: str | None
    seeds: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def shown(self) -> list[Sized]:
        """Of each method the published size and the largest one that fits."""
        out: list[Sized] = []
        for name in dict.fromkeys(sized.name for sized in self.methods):
            sizes = [sized for sized in self.methods if sized.name == name]
            largest = next((sized for sized in sizes if sized.fits), None)
            out += dict.fromkeys(filter(None, (sizes[0], largest)))
        return out


def dry_run(spec: StudySpec, out: Path, base: Path) -> DryRun:
    """Check a study and say what it would be. Data sets of the Hub are not asked for.

    Args:
        spec: the study.
        out: where it would be written; a space that lies there has to be the same.
        base: folder that its relative paths start from.

    Raises:
        ConfigError: something does not fit together.
        DataError: files cannot be used, or the model has no configuration of a known family.
        NoFeasibleTrialError: nothing in the space fits the budget.
    """
    from autopeft.engines.outlined import outlined  # noqa: PLC0415 - it brings torch

    resolved = spec.resolved(base)
    space = read_space(resolved, base, out)
    front = read_warm_start(resolved.warm_start, out)
    found = outlined(resolved.work)
    setup = set_up(resolved, space, found.facts, front, found.costs)
    shape, bound = found.facts.shape, setup.space
    budget = budget_of(resolved, shape, found.costs)
    steps = setup.steps if "train" in found.facts.n_rows else None
    levels = rungs_of(steps or _MANY_STEPS, spec.budget.trials, spec.rungs, spec.reduction)
    return DryRun(
        model=resolved.model,
        kind=found.kind,
        shape=shape.to_dict(),
        max_params=bound.max_params,
        max_trained=budget.max_trained,
        max_memory=spec.budget.max_memory,
        space=bound.spec.name,
        slots=tuple(slot.name for slot in bound.slots),
        dimensions=len(bound.dimensions()),
        cardinality=bound.cardinality(),
        methods=tuple(_sized(spec.methods, shape, budget, found.costs)),
        misfits={name: why for name in spec.methods if (why := method(name).misfit(shape))},
        n_rows=found.facts.n_rows,
        labels=found.facts.labels,
        steps=steps,
        trials=spec.budget.trials,
        rungs=tuple(round(step / levels.steps[-1], 4) for step in levels.steps),
        rung_metric=spec.rung_metric,
        seeds=setup.seeds,
        notes=setup.notes,
    )


def _sized(
    names: Sequence[str], shape: ModelShape, budget: Budget, costs: CostModel
) -> Iterator[Sized]:
    """Each method at each of its sizes."""
    for name in names:
        known = method(name)
        if known.misfit(shape):
            continue
        for level in range(known.n_sizes(shape)):
            genotype = known.genotype(shape, level)
            params = genotype.count_params(shape)
            yield Sized(
                name,
                level,
                params,
                genotype.count_trained(shape),
                params / shape.backbone_params,
                costs.memory_bytes(genotype, shape),
                budget.admits(genotype, shape),
            )
