"""What follows from a study file, a space and the facts of model and data. No torch."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopeft.engines.outcome import SPLIT
from autopeft.engines.work import Facts
from autopeft.errors import ConfigError, NoFeasibleTrialError
from autopeft.objectives import METRIC, CostName
from autopeft.space.bind import bind
from autopeft.space.genotype import Genotype
from autopeft.space.methods import method
from autopeft.space.search_space import SearchSpace
from autopeft.space.shape import ModelShape
from autopeft.space.shipped import load_space
from autopeft.space.spec import SpaceSpec
from autopeft.study.spec import StudySpec, limit

LORA = "lora"
"""The shipped space in which the LoRA of the final selection is tuned."""


@dataclass(frozen=True)
class Budget:
    """The limits on parameters, of a model.

    Attributes:
        max_params: of the ops as they are stored.
        max_trained: of the ops while they are trained, if that is limited.
    """

    max_params: int
    max_trained: int | None

    def __str__(self) -> str:
        trained = "" if self.max_trained is None else f", {self.max_trained:,} of them trained"
        return f"{self.max_params:,}{trained}"


def budget_of(spec: StudySpec, shape: ModelShape) -> Budget:
    """The limits of a study in parameters."""
    most, trained = spec.budget.max_params, spec.budget.max_trained
    return Budget(
        limit(most, shape.backbone_params),
        None if trained is None else limit(trained, shape.backbone_params),
    )


@dataclass(frozen=True)
class Setup:
    """A study before its first trial.

    Attributes:
        spec: the study file, resolved.
        space: bound to model and budget.
        points: the named methods that are tried first, with their names.
        facts: of model and data.
        notes: what the user has to be told.
        lora: where the LoRA is tuned that the final selection compares with; None if there is no
            selection, or the space is that of LoRA anyway.
    """

    spec: StudySpec
    space: SearchSpace
    points: tuple[tuple[str, Genotype], ...]
    facts: Facts
    notes: tuple[str, ...]
    lora: SearchSpace | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for two runs to be one study; trials and time may grow."""
        spec, facts = self.spec, self.facts
        canonical = json.dumps(self.space.spec.model_dump(mode="json"), sort_keys=True)
        return {
            "space": hashlib.sha256(canonical.encode()).hexdigest(),
            "model": facts.model_hash,
            "revision": facts.revision,
            "data": facts.data_hash,
            "rows": facts.n_rows,
            "split": SPLIT,
            "task": spec.task,
            "metric": spec.chosen_metric,
            "objectives": {METRIC: "maximize", **dict.fromkeys(spec.costs, "minimize")},
            "max_params": self.space.max_params,
            "max_trained": budget_of(spec, facts.shape).max_trained,
            "training": spec.training.model_dump(mode="json"),
            "methods": list(spec.methods),
            "sampler": spec.sampler,
            "rungs": spec.rungs,
            "reduction": spec.reduction,
            "tunes_lora": self.lora is not None,
            "seed": spec.seed,
        }

    @property
    def costs(self) -> dict[CostName, float | None]:
        """What the study optimises beside the metric, with budgets of those that have one."""
        return dict.fromkeys(self.spec.costs)

    @property
    def steps(self) -> int:
        """Optimizer steps of a whole training."""
        training = self.spec.training
        return training.epochs * -(-self.facts.n_rows["train"] // training.batch_size)


def set_up(spec: StudySpec, space: SpaceSpec, facts: Facts) -> Setup:
    """Bind a space to a model and a budget.

    Raises:
        ConfigError: they do not fit together.
        NoFeasibleTrialError: nothing in the space fits the budget.
    """
    budget = budget_of(spec, facts.shape)
    bound = bind(space, facts.shape, budget.max_params, budget.max_trained)
    points, left_out = starting_points(facts.shape, budget, spec.methods)
    notes = (*facts.notes, *bound.notes, *left_out)
    lora = _lora(spec, facts, budget) if space.name != LORA else None
    return Setup(spec, bound, tuple(points), facts, notes, lora)


def _lora(spec: StudySpec, facts: Facts, budget: Budget) -> SearchSpace | None:
    if not spec.selection.seeds or facts.unseen is None:
        return None
    try:
        return bind(load_space(LORA), facts.shape, budget.max_params, budget.max_trained)
    except (ConfigError, NoFeasibleTrialError):  # then LoRA is no alternative that one could have
        return None


def starting_points(
    shape: ModelShape, budget: Budget, names: Sequence[str]
) -> tuple[list[tuple[str, Genotype]], list[str]]:
    """The named methods at the largest size that fits the budget, and notes on those left out."""
    found: list[tuple[str, Genotype]] = []
    notes = []
    for name in names:
        if reason := method(name).misfit(shape):
            notes.append(f"method {name} is left out: {reason}")
            continue
        genotype = method(name).largest(shape, budget.max_params, budget.max_trained)
        if genotype is None:
            least = method(name).smallest(shape)
            notes.append(
                f"method {name} is left out: at its smallest it has {counts_of(least, shape)}, "
                f"the budget is {budget}"
            )
        elif genotype.hash not in {other.hash for _, other in found}:
            found.append((name, genotype))
    return found, notes


def counts_of(genotype: Genotype, shape: ModelShape) -> str:
    """The parameters of a genotype in words, those trained where they differ."""
    stored, trained = genotype.count_params(shape), genotype.count_trained(shape)
    return f"{stored:,} parameters" + (f", {trained:,} while training" if trained > stored else "")


def read_space(spec: StudySpec, base: Path, folder: Path) -> SpaceSpec:
    """The space of a study: the copy in its folder if there is one, otherwise what it names.

    Raises:
        ConfigError: the space is not valid, or differs from the copy.
    """
    named = load_space(spec.space, base)
    copy = folder / "space.yaml"
    if copy.is_file() and load_space(copy.name, folder) != named:
        raise ConfigError(
            f"{copy} and the space `{spec.space}` differ: the study was begun with another "
            "space; give another --out"
        )
    return named
