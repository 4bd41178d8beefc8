"""The winner: one trained trial of a study, with everything that an export says of it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from autopeft.engines.ground import Ground
from autopeft.errors import DataError
from autopeft.export.adapter import (
    Configuration,
    Description,
    Outputs,
    head_tensors,
    keeps_keys,
    name_outputs,
    name_padding,
)
from autopeft.export.pick import Choice, pick
from autopeft.front import Front
from autopeft.model.backbone import Backbone
from autopeft.model.inject import fill
from autopeft.model.quantized import in_full
from autopeft.records import Record
from autopeft.space.genotype import Genotype
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.study.folder import Study
from autopeft.study.manifest import Manifest, read_manifest
from autopeft.study.prepare import check_unchanged, prepare
from autopeft.study.shipped import shipped
from autopeft.study.spec import load_study_spec
from autopeft.tasks.encode import Encoded
from autopeft.tasks.language import Language
from autopeft.tasks.task import Regression
from autopeft.training.cohort import Cohort
from autopeft.training.tensors import read_tensors
from autopeft.training.writing import writing

BATCH_SIZE = 32
"""Rows that are put out at once."""
ANSWERS = 16
"""Validation rows for which texts are compared."""


@dataclass(frozen=True)
class Winner:
    """A trained trial, in fp32.

    Attributes:
        study: that it comes from.
        manifest: of the study.
        front: of the study.
        records: of the study.
        choice: why this trial.
        record: what was measured with the weights.
        ground: model and data.
        genotype: as it is stored.
        weights: parameters of ops and head, by full name, as they were trained; empty where only
            the genotype is exported.
    """

    study: Study
    manifest: Manifest
    front: Front
    records: Sequence[Record]
    choice: Choice
    record: Record
    ground: Ground
    genotype: Genotype
    weights: dict[str, Tensor]

    @property
    def backbone(self) -> Backbone:
        """The pretrained model."""
        return self.ground.backbone

    @cached_property
    def _last_bias(self) -> str | None:
        """The bias of the task head's last Linear, if it has one."""
        last = list(head_tensors(self.backbone.model, self.backbone.fresh))[-1:]
        return last[0] if last and last[0].endswith(".bias") else None

    @property
    def outputs(self) -> Outputs:
        """What the outputs mean once the head of a regression has its label's own scale."""
        if isinstance(self.ground.task, Language):
            task = self.ground.task
            return Outputs(task.kind, generation=task.generation, chat=task.chat)
        if isinstance(self.ground.task, Regression):
            mean, std = self.ground.task.label_mean, self.ground.task.label_std
            return Outputs("regression", (), *((0.0, 1.0) if self._last_bias else (mean, std)))
        return Outputs(self.ground.work.task, self.ground.dataset.label_names)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters of ops and head, the head putting out what `outputs` says."""
        task, last = self.ground.task, self._last_bias
        if not isinstance(task, Regression) or last is None:
            return self.weights
        weight = last.removesuffix("bias") + "weight"
        scaled = {
            weight: self.weights[weight] * task.label_std,
            last: self.weights[last] * task.label_std + task.label_mean,
        }
        return self.weights | scaled

    @property
    def ops(self) -> dict[str, Tensor]:
        """Those of the ops."""
        head = head_tensors(self.backbone.model, self.backbone.fresh)
        return {name: tensor for name, tensor in self.tensors.items() if name not in head}

    @property
    def head(self) -> dict[str, Tensor]:
        """Those of the head."""
        return {name: t for name, t in self.tensors.items() if name not in self.ops}

    @property
    def tokenizer(self) -> Any:
        """Of the backbone, as it is exported."""
        return self.backbone.tokenizer

    @property
    def writes(self) -> dict[str, Any] | None:
        """How a plain model writes as this was scored, for `generate`; None with a head."""
        if (generation := self.outputs.generation) is None:
            return None
        cached = keeps_keys(self.backbone, self.genotype)
        return writing(self.backbone.model, self.tokenizer, generation, cached=cached)

    @property
    def in_full(self) -> list[str] | None:
        """Weight matrices that are not in few bits, by name; None where none is."""
        return None if self.backbone.scheme is None else in_full(self.backbone.model)

    def model_with_head(self) -> PreTrainedModel:
        """The backbone's own model with the trained head, and without ops."""
        model = self.backbone.model
        with torch.no_grad():
            fill(head_tensors(model, self.backbone.fresh), self.head)
        name_outputs(model, self.outputs)
        name_padding(self.backbone, self.tokenizer)
        return model

    @property
    def description(self) -> Description:
        """It as an adapter."""
        name, _, _ = self.backbone.name.partition("@")
        return Description(
            backbone=name if self.backbone.revision else self.backbone.name,
            revision=self.backbone.revision,
            backbone_sha256=self.backbone.fingerprint,
            genotype=self.genotype,
            seed=self.record.seed,
            outputs=self.outputs,
            max_length=self.ground.work.training.max_length,
            scheme=self.backbone.scheme,
            configuration=Configuration.of(self.backbone),
        )

    @property
    def compared(self) -> str:
        """The metric that is told of outputs: the study's, or for texts that of given words."""
        return "likelihood" if self.outputs.writes else self.front.metric

    def score(self, outputs: Float[Tensor, "row output"]) -> float:
        """The metric `compared` of outputs for the validation rows; see `logits`."""
        task, rows = self.ground.task, self.ground.validation
        if isinstance(task, Language):
            return math.exp(float(outputs.mean()))
        if isinstance(task, Regression):  # whose scale may be in the head by now
            task = replace(task, label_mean=self.outputs.mean, label_std=self.outputs.std)
        places = task.predictions(outputs.unsqueeze(0)).numpy()
        (predictions,) = rows.by_row(places, range(len(rows)))
        return task.metrics(predictions, rows.truth)[self.front.metric].value

    @cached_property
    def logits(self) -> Float[Tensor, "row output"]:
        """What the trained weights put out for the validation rows, computed as in the search.

        Where answers are texts, a row for each token of the answers, with its log-probability;
        where words have tags, one for the first token of each.
        """
        task, rows = self.ground.task, self.ground.validation
        with torch.no_grad(), self._trained() as trial:
            if isinstance(task, Language):
                losses = [trial.token_losses(rows, some)[0] for some in _in_order(rows)]
                return -torch.cat(losses).unsqueeze(1)
            out = torch.cat([trial.logits(rows, some)[0].cpu() for some in _in_order(rows)])
        if isinstance(task, Regression) and self._last_bias:
            return out * task.label_std + task.label_mean
        return out

    @cached_property
    def answers(self) -> list[str]:
        """What the trained weights write for the first validation rows; nothing with a head."""
        rows = self.ground.validation
        if not self.outputs.writes:
            return []
        with self._trained() as trial:
            (texts,) = trial.answers(rows, range(min(ANSWERS, len(rows))))
        return texts

    @contextmanager
    def _trained(self) -> Iterator[Cohort]:
        """The trial in fp32."""
        settings = self.manifest.settings
        settings = replace(settings, precision="fp32", frozen_cache=False)
        task, seed = self.ground.task, self.record.seed
        with Cohort(self.backbone, [self.genotype], [seed], task, settings) as trial:
            trial.load(0, self.weights)
            yield trial


def _in_order(rows: Encoded) -> list[range]:
    """All rows in batches, in their order."""
    n_rows = len(rows)
    return [range(i, min(i + BATCH_SIZE, n_rows)) for i in range(0, n_rows, BATCH_SIZE)]


def winner_of(study: Study, how: str, *, trained: bool = True) -> Winner:
    """Choose a trial of a study and load what it has become.

    Args:
        study: on disk.
        how: see `pick`.
        trained: with its weights.

    Raises:
        ConfigError: no trial is like that, or model, data or metric have changed since.
        DataError: the study cannot be read, or the weights are not there.
    """
    study.check_begun()
    front, records = study.front(), study.records()
    choice = pick(front, records, how)
    if how.strip() == "cheapest" and (selection := study.selection()) is not None:
        reason = "the cheapest within one standard error of the best in the final selection"
        choice = Choice(selection.recommended, reason)
    record = shipped(records, choice.trial, front.metric)
    manifest = read_manifest(study.manifest_file)
    path = _weights_file(study, record) if trained else None
    ground = prepare(load_study_spec(study.spec_file), study.folder)
    check_unchanged(ground, manifest, study.folder)
    genotype = genotype_from_dict(record.stored_genotype)
    weights = {} if path is None else read_tensors(path, record.weights_sha256)
    return Winner(study, manifest, front, records, choice, record, ground, genotype, weights)


def _weights_file(study: Study, record: Record) -> Path:
    path = study.folder / (record.weights or "")
    if record.weights is None or not path.is_file():
        raise DataError(
            f"the weights of trial {record.trial} are not kept, only those of the front and of "
            "what the final selection compares; to train it again: "
            f"autopeft front {study.folder} --genotype {record.trial} > genotype.yaml && "
            f"autopeft train genotype.yaml --study {study.spec_file} --out trained; what that "
            "writes can be exported like a study"
        )
    return path
