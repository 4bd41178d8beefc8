"""What follows from a study file, a space and the facts of model and data. No torch."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopeft.engines.outcome import SPLIT
from autopeft.engines.work import Facts
from autopeft.errors import ConfigError, NoFeasibleTrialError
from autopeft.front import Front
from autopeft.objectives import METRIC, CostName
from autopeft.space.bind import bind
from autopeft.space.search_space import SearchSpace
from autopeft.space.shipped import load_space
from autopeft.space.spec import SpaceSpec
from autopeft.study.limits import Budget, budget_of
from autopeft.study.spec import StudySpec
from autopeft.study.starting import Starts, starts_of
from autopeft.study.warm_start import warm_starts

LORA = "lora"
"""The shipped space in which the LoRA of the final selection is tuned."""


@dataclass(frozen=True)
class Setup:
    """A study before its first trial.

    Attributes:
        spec: the study file, resolved.
        space: bound to model and budget.
        starts: what is tried beside the proposals of the sampler.
        facts: of model and data.
        notes: what the user has to be told.
        lora: where the LoRA is tuned that the final selection compares with; None if there is no
            selection, or the space is that of LoRA anyway.
        warm_start: the front that it begins with, if there is one.
    """

    spec: StudySpec
    space: SearchSpace
    starts: Starts
    facts: Facts
    notes: tuple[str, ...]
    lora: SearchSpace | None = None
    warm_start: Front | None = None

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
            "warm_start": _hash_of(self.warm_start),
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


def set_up(
    spec: StudySpec, space: SpaceSpec, facts: Facts, warm_start: Front | None = None
) -> Setup:
    """Bind a space to a model and a budget.

    Args:
        spec: the study, resolved.
        space: what it searches.
        facts: of model and data.
        warm_start: the front that it begins with, if there is one.

    Raises:
        ConfigError: they do not fit together.
        NoFeasibleTrialError: nothing in the space fits the budget.
    """
    budget = budget_of(spec, facts.shape)
    bound = bind(space, facts.shape, budget.max_params, budget.max_trained)
    warm, changed = warm_starts(warm_start, bound, budget) if warm_start else ([], [])
    starts, left_out = starts_of(facts.shape, budget, spec.methods, warm)
    notes = (*facts.notes, *bound.notes, *changed, *left_out, *starts.notes)
    lora = _lora(spec, facts, budget) if space.name != LORA else None
    return Setup(spec, bound, starts, facts, notes, lora, warm_start)


def _hash_of(front: Front | None) -> str | None:
    if front is None:
        return None
    return hashlib.sha256(json.dumps(front.to_dict(), sort_keys=True).encode()).hexdigest()


def _lora(spec: StudySpec, facts: Facts, budget: Budget) -> SearchSpace | None:
    if not spec.selection.seeds or facts.unseen is None:
        return None
    try:
        return bind(load_space(LORA), facts.shape, budget.max_params, budget.max_trained)
    except (ConfigError, NoFeasibleTrialError):  # then LoRA is no alternative that one could have
        return None


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
