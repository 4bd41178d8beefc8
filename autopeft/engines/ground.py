"""Model and data of a study, loaded and checked."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autopeft.engines.work import Facts, Work
from autopeft.model.backbone import Backbone, cast, load_backbone
from autopeft.model.computing import Precision
from autopeft.tasks.data import Dataset, load
from autopeft.tasks.encode import Encoded, encode
from autopeft.tasks.task import Task, make_task
from autopeft.training.memory import use_heap
from autopeft.training.settings import TrainingSettings


@dataclass(frozen=True)
class Ground:
    """Model and data, ready to train on.

    Attributes:
        work: what was loaded.
        dataset: the rows.
        backbone: the frozen model.
        task: loss and metrics.
        train: encoded training rows.
        validation: encoded search-validation rows.
        notes: what the user has to be told.
    """

    work: Work
    dataset: Dataset
    backbone: Backbone
    task: Task
    train: Encoded
    validation: Encoded
    notes: tuple[str, ...]

    @property
    def settings(self) -> TrainingSettings:
        """Training settings, before the probe."""
        training = self.work.training
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
    def facts(self) -> Facts:
        """What the driver has to know."""
        dataset = self.dataset
        return Facts(
            model_shape=self.backbone.shape.to_dict(),
            model=self.backbone.name,
            revision=self.backbone.revision,
            model_hash=self.backbone.fingerprint,
            data_hash=dataset.fingerprint,
            n_rows={split.name: len(split) for split in dataset.splits},
            labels=dataset.label_names,
            notes=self.notes,
            device=self.device.type,
            n_devices=torch.cuda.device_count() if self.device.type == "cuda" else 1,
        )


def load_ground(work: Work, device: int = 0) -> Ground:
    """Load data and model.

    Args:
        work: with absolute paths.
        device: index of the GPU to use, where there are any.

    Raises:
        ConfigError: something does not fit together.
        DataError: data or model cannot be used.
    """
    use_heap("pooled")
    dataset = load(work.data, work.task, Path(), work.seed)
    place = f"cuda:{device}" if torch.cuda.is_available() else "cpu"
    backbone = load_backbone(work.model, max(1, len(dataset.label_names)), place)
    task = make_task(work.task, work.metric, dataset)
    longest = work.training.max_length
    train = encode(dataset.train, backbone.tokenizer, longest)
    validation = encode(dataset.validation, backbone.tokenizer, longest)
    notes = [*dataset.notes]
    for name, rows in (("train", train), ("validation", validation)):
        if rows.truncated_fraction:
            notes.append(
                f"{100 * rows.truncated_fraction:.1f} % of the {name} rows are cut at "
                f"{longest} tokens"
            )
    return Ground(work, dataset, backbone, task, train, validation, tuple(notes))
