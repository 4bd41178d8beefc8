"""Everything a study needs before its first trial, loaded and checked; nothing is written yet."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from autopeft.engines.local import is_out_of_memory
from autopeft.errors import ConfigError, DataError
from autopeft.model.backbone import Backbone, Precision, cast, load_backbone
from autopeft.space.bind import bind
from autopeft.space.genotype import Genotype
from autopeft.space.methods import method
from autopeft.space.search_space import SearchSpace
from autopeft.space.shipped import load_space
from autopeft.space.spec import SpaceSpec
from autopeft.study.spec import StudySpec
from autopeft.tasks.data import Dataset, load
from autopeft.tasks.encode import Encoded, encode
from autopeft.tasks.task import Task, make_task
from autopeft.training.probe import Probed, probe
from autopeft.training.settings import TrainingSettings


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
    def max_params(self) -> int:
        """The parameter budget."""
        return self.spec.budget.parameters(self.backbone.shape.backbone_params)


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
        genotype = method(name).largest(shape, ground.max_params)
        if genotype is None:
            least = method(name).genotype(shape, method(name).n_sizes - 1).count_params(shape)
            notes.append(
                f"method {name} is left out: at its smallest it has {least:,} parameters, "
                f"the budget is {ground.max_params:,}"
            )
        elif genotype.hash not in {other.hash for _, other in found}:
            found.append((name, genotype))
    return found, notes


def measure_speed(ground: Ground, genotypes: Sequence[Genotype]) -> Probed:
    """Probe with a typical cohort, or with half of it where that is too large for the memory.

    Raises:
        DataError: not even one trial fits into memory.
    """
    training = ground.spec.training
    try:
        return probe(
            ground.backbone,
            genotypes,
            task=ground.task,
            settings=ground.settings,
            train=ground.train,
            validation=ground.validation,
            precision=training.precision,
            kernel=training.attention,
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if len(genotypes) == 1:
        raise DataError("one trial alone is too large for the memory; reduce training.batch_size")
    return measure_speed(ground, genotypes[: len(genotypes) // 2])


def bound_space(ground: Ground, space: SpaceSpec) -> SearchSpace:
    """The space on this model and budget."""
    return bind(space, ground.backbone.shape, ground.max_params)


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
        "training": spec.training.model_dump(mode="json"),
        "methods": list(spec.methods),
        "sampler": spec.sampler,
        "seed": spec.seed,
    }
