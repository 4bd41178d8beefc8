"""Everything a study needs before its first trial, loaded and checked; nothing is written yet."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import torch

from autopeft.engines.local import is_out_of_memory
from autopeft.errors import ConfigError, DataError
from autopeft.model.backbone import Backbone, Precision, cast, load_backbone
from autopeft.space.bind import bind
from autopeft.space.genotype import Genotype
from autopeft.space.methods import method
from autopeft.space.search_space import SearchSpace
from autopeft.space.shape import ModelShape
from autopeft.space.shipped import load_space
from autopeft.space.spec import SpaceSpec
from autopeft.study.spec import StudySpec, limit
from autopeft.tasks.data import Dataset, load
from autopeft.tasks.encode import Encoded, encode
from autopeft.tasks.task import Task, make_task
from autopeft.training.footprint import trial_bytes
from autopeft.training.frozen import cache_bytes
from autopeft.training.memory import OVERHEAD, Heap, available_bytes, use_heap
from autopeft.training.probe import probe, trial_seconds
from autopeft.training.settings import TrainingSettings

TYPICAL = 4
"""Genotypes that are measured before a study."""
MOST_ON_CPU = 4
"""Trials of a cohort; on a CPU more of them are not faster (`benchmarks/cohort.py`)."""
MOST_ON_CUDA = 32
MEMORY_SHARE = 0.6
"""Of the free memory, for a cohort."""
CACHE_SHARE = 0.125
"""Of the free memory, for frozen states."""


@dataclass(frozen=True)
class Ground:
    """Model and data of a study, ready to train on.

    Attributes:
        spec: the study file, resolved.
        dataset: the rows.
        backbone: the frozen model.
        task: loss and metrics.
        train: encoded training rows.
        validation: encoded search-validation rows.
        notes: what the user has to be told.
    """

    spec: StudySpec
    dataset: Dataset
    backbone: Backbone
    task: Task
    train: Encoded
    validation: Encoded
    notes: tuple[str, ...]

    @property
    def settings(self) -> TrainingSettings:
        """Training settings, before the probe."""
        training = self.spec.training
        return TrainingSettings(
            epochs=training.epochs,
            batch_size=training.batch_size,
            warmup=training.warmup,
            clip=training.clip,
        )

    def computing_in(self, precision: Precision) -> "Ground":
        """The same with the backbone's weights in another precision."""
        return replace(self, backbone=cast(self.backbone, precision))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        parameter: torch.Tensor = next(self.backbone.model.parameters())
        return parameter.device

    @property
    def max_params(self) -> int:
        """The parameter budget."""
        return limit(self.spec.budget.max_params, self.backbone.shape.backbone_params)

    @property
    def max_trained(self) -> int | None:
        """The budget of parameters that are trained, if there is one."""
        wanted = self.spec.budget.max_trained
        return None if wanted is None else limit(wanted, self.backbone.shape.backbone_params)

    @property
    def budget(self) -> str:
        """Both in words."""
        trained = "" if self.max_trained is None else f", {self.max_trained:,} of them trained"
        return f"{self.max_params:,}{trained}"


def device() -> str:
    """Where to train."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def prepare(spec: StudySpec, base: Path) -> Ground:
    """Load data and model.

    Args:
        spec: the study.
        base: folder that its relative paths start from.

    Raises:
        ConfigError: something does not fit together.
        DataError: data or model cannot be used.
    """
    use_heap("pooled")
    spec = spec.resolved(base)
    dataset = load(spec.data, spec.task, base, spec.seed)
    backbone = load_backbone(spec.model, max(1, len(dataset.label_names)), device())
    task = make_task(spec.task, spec.metric, dataset)
    train = encode(dataset.train, backbone.tokenizer, spec.training.max_length)
    validation = encode(dataset.validation, backbone.tokenizer, spec.training.max_length)
    notes = [*dataset.notes]
    for name, rows in (("train", train), ("validation", validation)):
        if rows.truncated_fraction:
            notes.append(
                f"{100 * rows.truncated_fraction:.1f} % of the {name} rows are cut at "
                f"{spec.training.max_length} tokens"
            )
    return Ground(spec, dataset, backbone, task, train, validation, tuple(notes))


def starting_points(
    ground: Ground, names: Sequence[str]
) -> tuple[list[tuple[str, Genotype]], list[str]]:
    """The named methods at the largest size that fits the budget, and notes on those left out."""
    found: list[tuple[str, Genotype]] = []
    notes = []
    shape = ground.backbone.shape
    for name in names:
        if reason := method(name).misfit(shape):
            notes.append(f"method {name} is left out: {reason}")
            continue
        genotype = method(name).largest(shape, ground.max_params, ground.max_trained)
        if genotype is None:
            least = method(name).smallest(shape)
            notes.append(
                f"method {name} is left out: at its smallest it has {counts_of(least, shape)}, "
                f"the budget is {ground.budget}"
            )
        elif genotype.hash not in {other.hash for _, other in found}:
            found.append((name, genotype))
    return found, notes


def counts_of(genotype: Genotype, shape: ModelShape) -> str:
    """The parameters of a genotype in words, those trained where they differ."""
    stored, trained = genotype.count_params(shape), genotype.count_trained(shape)
    return f"{stored:,} parameters" + (f", {trained:,} while training" if trained > stored else "")


@dataclass(frozen=True)
class Decided:
    """How a study is computed, decided once.

    Attributes:
        settings: of training, complete.
        cohort: trials trained together.
        trial_seconds: expected for one trial, evaluation included.
        trial_bytes: memory that each trial of a cohort takes.
    """

    settings: TrainingSettings
    cohort: int
    trial_seconds: float
    trial_bytes: int


def decide(ground: Ground, genotypes: Sequence[Genotype], cohort: int | Literal["auto"]) -> Decided:
    """Measure what the study file leaves to a measurement.

    Args:
        ground: in any precision.
        genotypes: typical ones, with ops.
        cohort: trials to train together, or "auto" for as many as are fast and fit into memory.

    Raises:
        DataError: not even one trial fits into memory.
    """
    training, rows = ground.spec.training, ground.train
    probed = probe(
        ground.backbone,
        rows=rows,
        batch_size=training.batch_size,
        precision=training.precision,
        kernel=training.attention,
    )
    ground = ground.computing_in(probed.precision)
    settings = replace(
        ground.settings,
        precision=probed.precision,
        kernel=probed.kernel,
        frozen_cache=_keeps_states(ground, probed.precision),
    )
    backbone, task = ground.backbone, ground.task
    some = list(genotypes[:TYPICAL])
    each = trial_bytes(backbone, some, task=task, settings=settings, rows=rows)
    size = cohort_size(each, ground.device) if cohort == "auto" else cohort

    def seconds(n_trials: int) -> float:
        typical = list(islice(cycle(some), n_trials))
        return trial_seconds(
            backbone,
            typical,
            task=task,
            settings=settings,
            train=rows,
            validation=ground.validation,
        )

    fitting, expected = _halved_until_it_fits(size, seconds)
    return Decided(settings, fitting if cohort == "auto" else size, expected, each)


def _halved_until_it_fits(n_trials: int, measure: Callable[[int], float]) -> tuple[int, float]:
    """The largest cohort that fits into memory, and what was measured of it."""
    try:
        return n_trials, measure(n_trials)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if n_trials == 1:
        raise DataError("one trial alone is too large for the memory; reduce training.batch_size")
    return _halved_until_it_fits(n_trials // 2, measure)


def cohort_size(each: int, device: torch.device) -> int:
    """How many trials to train together, if the study file does not say.

    Args:
        each: memory that one trial takes.
        device: where they are trained.
    """
    free = available_bytes(device) * MEMORY_SHARE
    if device.type == "cuda":
        return max(1, min(MOST_ON_CUDA, int(free // each)))
    fast, tight = (int(free // (OVERHEAD[heap] * each)) for heap in ("pooled", "exact"))
    return max(1, min(MOST_ON_CPU, fast or tight))


def heap_for(cohort_bytes: int) -> Heap:
    """The faster way to take memory, if there is enough for it."""
    free = available_bytes(torch.device("cpu")) * MEMORY_SHARE
    return "pooled" if OVERHEAD["pooled"] * cohort_bytes <= free else "exact"


def _keeps_states(ground: Ground, precision: Precision) -> bool:
    wanted = ground.spec.training.frozen_cache
    if wanted != "auto":
        return wanted
    size = cache_bytes(ground.backbone.shape, (ground.train, ground.validation), precision)
    return size <= available_bytes(ground.device) * CACHE_SHARE


def bound_space(ground: Ground, space: SpaceSpec) -> SearchSpace:
    """The space on this model and budget."""
    return bind(space, ground.backbone.shape, ground.max_params, ground.max_trained)


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


def fingerprint_of(ground: Ground, space: SpaceSpec) -> dict[str, Any]:
    """What must be equal for two runs to be one study; trials and time may grow."""
    spec = ground.spec
    canonical = json.dumps(space.model_dump(mode="json"), sort_keys=True)
    return {
        "space": hashlib.sha256(canonical.encode()).hexdigest(),
        "model": ground.backbone.fingerprint,
        "revision": ground.backbone.revision,
        "data": ground.dataset.fingerprint,
        "task": spec.task,
        "metric": ground.task.metric,
        "max_params": ground.max_params,
        **({} if ground.max_trained is None else {"max_trained": ground.max_trained}),
        "training": spec.training.model_dump(mode="json"),
        "methods": list(spec.methods),
        "sampler": spec.sampler,
        "seed": spec.seed,
    }
