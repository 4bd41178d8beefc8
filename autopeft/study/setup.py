"""What follows from a study file, a space and the facts of model and data. No torch."""

import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autopeft.engines.outcome import SPLIT
from autopeft.engines.work import Facts
from autopeft.errors import ConfigError, NoFeasibleTrialError
from autopeft.front import Front
from autopeft.front_file import front_to_dict
from autopeft.objectives import MEMORY, METRIC, CostName, amount
from autopeft.space.bind import bind
from autopeft.space.costs import CostModel, MemoryLimit
from autopeft.space.genotype import Genotype
from autopeft.space.search_space import SearchSpace
from autopeft.space.shape import ModelShape
from autopeft.space.shipped import load_space, shipped_spaces
from autopeft.space.spec import SpaceSpec
from autopeft.study.contenders import FEWEST, affordable
from autopeft.study.limits import Budget, budget_of
from autopeft.study.manifest import CHANGED_HEAD, READING
from autopeft.study.probes import probes_of
from autopeft.study.spec import StudySpec
from autopeft.study.starting import Start, Starts, full_starts, starts_of
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
            READING: facts.reading_hash,
            "revision": facts.revision,
            "data": facts.data_hash,
            "rows": facts.n_rows,
            "split": SPLIT,
            "task": spec.task,
            "metric": spec.chosen_metric,
            "objectives": {METRIC: "maximize", **dict.fromkeys(spec.costs, "minimize")},
            "max_params": self.space.max_params,
            "max_trained": budget_of(spec, facts.shape).max_trained,
            "max_memory": spec.budget.max_memory,
            "training": spec.training.told,
            "methods": list(spec.methods),
            "warm_start": _hash_of(self.warm_start),
            "sampler": spec.sampler,
            "rungs": spec.rungs,
            "reduction": spec.reduction,
            "tunes_lora": self.lora is not None,
            "seed": spec.seed,
            **({"full_finetune": True} if spec.full_finetune else {}),
            **({"rung_metric": spec.rung_metric} if spec.rung_metric else {}),
            **({"metric_sha256": facts.metric_hash} if facts.metric_hash else {}),
            **({"positive": spec.positive} if spec.positive else {}),
            **({"head": facts.head_hash} if facts.head_hash else {}),
            **({CHANGED_HEAD: True} if facts.head_is_changed else {}),
            **({"quantize": spec.quantize} if spec.quantize else {}),
            **({"generation": spec.generation.model_dump(mode="json")} if spec.generation else {}),
        }

    @property
    def costs(self) -> dict[CostName, float | None]:
        """What the study optimises beside the metric, with budgets of those that have one."""
        limits = {MEMORY: self.spec.budget.max_memory}
        return {name: limits.get(name) for name in self.spec.costs}

    @property
    def probes(self) -> list[Genotype]:
        """What is measured so that the costs of trials can be predicted."""
        spaces = (self.space,) if self.lora is None else (self.space, self.lora)
        return probes_of(spaces, [start.genotype for start in self.starts.first])

    def knowing(self, costs: CostModel | None) -> "Setup":
        """The same once the costs of trials are known; see `set_up`."""
        if costs is None:
            return self
        return set_up(self.spec, self.space.spec, self.facts, self.warm_start, costs)

    @property
    def seeds(self) -> int:
        """Fresh ones for each contender that the trials pay for; 0 without a final selection."""
        return 0 if self.facts.unseen is None else _seeds(self.spec)

    @property
    def steps(self) -> int:
        """Optimizer steps of a whole training."""
        training = self.spec.training
        return training.epochs * -(-self.facts.n_rows["train"] // training.batch_size)


def set_up(
    spec: StudySpec,
    space: SpaceSpec,
    facts: Facts,
    warm_start: Front | None = None,
    costs: CostModel | None = None,
) -> Setup:
    """Bind a space to a model and a budget.

    Args:
        spec: the study, resolved.
        space: what it searches.
        facts: of model and data.
        warm_start: the front that it begins with, if there is one.
        costs: predicts the memory of trials; without it there is no limit on that yet.

    Raises:
        ConfigError: they do not fit together.
        NoFeasibleTrialError: nothing in the space fits the budget.
    """
    budget = budget_of(spec, facts.shape, costs)
    _check_head(facts.shape, budget.memory)
    bound = _bind(space, facts, budget)
    warm, changed = warm_starts(warm_start, bound, budget) if warm_start else ([], [])
    starts, left_out = starts_of(facts.shape, budget, spec.methods, warm)
    if spec.full_finetune:
        full, too_large = _full(facts, budget)
        starts = replace(starts, first=(*starts.first, *full))
        left_out += too_large
    notes = (
        *facts.notes,
        *_of_another_version(spec, space),
        *bound.notes,
        *changed,
        *left_out,
        *starts.notes,
    )
    notes += _no_selection(spec, facts)
    lora = _lora(spec, facts, budget) if space.name != LORA else None
    return Setup(spec, bound, starts, facts, notes, lora, warm_start)


def _hash_of(front: Front | None) -> str | None:
    if front is None:
        return None
    return hashlib.sha256(json.dumps(front_to_dict(front), sort_keys=True).encode()).hexdigest()


def _full(facts: Facts, budget: Budget) -> tuple[tuple[Start, ...], list[str]]:
    """Full fine-tuning at its learning rates; nothing and a note if it takes too much memory.

    Raises:
        ConfigError: nobody would be compared with it.
    """
    if facts.unseen is None:
        raise ConfigError("full_finetune: the final selection that it is for has no rows")
    starts, memory = full_starts(facts.shape), budget.memory
    one = starts[0].genotype  # learning rates take no memory
    if memory is None or memory.admits(one, facts.shape):
        return starts, []
    taken = amount(memory.model.memory_bytes(one, facts.shape), "B")
    most = amount(memory.max_bytes, "B")
    return (), [f"{starts[0].origin} is left out: it takes {taken} of memory, max_memory is {most}"]


def _seeds(spec: StudySpec) -> int:
    return affordable(int(spec.selection.share * spec.budget.trials), spec.selection.seeds)[1]


def _no_selection(spec: StudySpec, facts: Facts) -> tuple[str, ...]:
    """Why there is no final selection, if one is wanted; the time may still be too short for it."""
    wanted, trials = spec.selection, spec.budget.trials
    if not wanted.seeds or (facts.unseen is not None and _seeds(spec)):
        return ()
    if facts.unseen is None:
        unwanted = spec.data.selection_rows == 0
        return () if unwanted else ("there are too few training rows for a final selection",)
    if wanted.seeds < FEWEST:
        return (f"there is no final selection: it takes at least {FEWEST} seeds",)
    least = math.ceil(FEWEST * FEWEST / wanted.share)
    note = f"{trials} trials pay for no final selection, whose share is {wanted.share:.2g} of "
    return (f"{note}their cost; from {least} trials on there is one",)


def _lora(spec: StudySpec, facts: Facts, budget: Budget) -> SearchSpace | None:
    if not spec.selection.seeds or facts.unseen is None:
        return None
    try:
        return _bind(load_space(LORA), facts, budget)
    except (ConfigError, NoFeasibleTrialError):  # then LoRA is no alternative that one could have
        return None


def _bind(space: SpaceSpec, facts: Facts, budget: Budget) -> SearchSpace:
    bound = bind(space, facts.shape, budget.max_params, budget.max_trained)
    return replace(bound, memory=budget.memory)


def _check_head(shape: ModelShape, memory: MemoryLimit | None) -> None:
    head = Genotype(shape.n_layers, (), learning_rate=1.0)
    if memory is not None and not memory.admits(head, shape):
        least = amount(memory.model.memory_bytes(head, shape), "B")
        raise NoFeasibleTrialError(
            f"training the head alone takes {least} of memory, and max_memory is "
            f"{amount(memory.max_bytes, 'B')}; give more, set training.checkpointing, "
            "raise training.accumulation, or reduce training.max_length"
        )


def read_space(spec: StudySpec, base: Path, folder: Path) -> SpaceSpec:
    """The space of a study: the copy in its folder if there is one, otherwise what it names.

    A study goes on in the shipped space as it was when the study began.

    Raises:
        ConfigError: the space is not valid, or differs from the copy.
    """
    named = load_space(spec.space, base)
    copy = folder / "space.yaml"
    if not copy.is_file():
        return named
    begun = load_space(copy.name, folder)
    if begun != named and not (spec.space in shipped_spaces() and begun.name == spec.space):
        raise ConfigError(
            f"{copy} and the space `{spec.space}` differ: the study was begun with another "
            "space; give another --out"
        )
    return begun


def _of_another_version(spec: StudySpec, space: SpaceSpec) -> tuple[str, ...]:
    if spec.space not in shipped_spaces() or space == load_space(spec.space):
        return ()
    note = f"the study goes on in the space `{spec.space}` as it was when it began, which differs "
    return (f"{note}from that of this version; a new study has the new one",)
