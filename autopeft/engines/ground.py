"""Model and data of a study, loaded and checked."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path

import torch

from autopeft.engines.work import Facts, Work
from autopeft.errors import DataError
from autopeft.model.anatomy import Anatomy
from autopeft.model.answers import own_tokens
from autopeft.model.backbone import DTYPES, Backbone, cast, load_backbone
from autopeft.model.brought import Meaning
from autopeft.model.checkpoint import Writes
from autopeft.model.computing import Precision
from autopeft.records import FOLD, SELECTION
from autopeft.space.taps import Tap
from autopeft.tasks.constant import constant_of, constant_rows
from autopeft.tasks.data import Dataset, load, unseen
from autopeft.tasks.encode import Encoded
from autopeft.tasks.ideal import remark_on_ideal, remark_on_tokens
from autopeft.tasks.language import Language
from autopeft.tasks.remarks import of_which_class
from autopeft.tasks.spec import Kind
from autopeft.tasks.splits import N_FOLDS, Split, fold
from autopeft.tasks.task import AnyTask, Regression, encode_for, make_task
from autopeft.training.memory import release_memory, use_heap
from autopeft.training.settings import TrainingSettings

_OF_THE_PLACE = {"_name_or_path", "_commit_hash", "transformers_version"}
"""Keys of a configuration that do not decide what the model computes."""


WRITES: Mapping[Kind, Writes] = {
    "seq2seq": "seq2seq",
    "causal": "causal",
    "token_classification": "tags",
}
"""How the model of a task writes, if it does."""


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
        selection: encoded rows of the final selection, if some were set aside.
        notes: what the user has to be told.
    """

    work: Work
    dataset: Dataset
    backbone: Backbone
    task: AnyTask
    train: Encoded
    validation: Encoded
    selection: Encoded | None
    notes: tuple[str, ...]

    def rows(self, replicate: int) -> tuple[Encoded, Encoded, str]:
        """What a trial is trained and scored on, and the name of the latter.

        Args:
            replicate: 0 is the search's, the others are those of the final selection.
        """
        if not replicate:
            return self.train, self.validation, self.dataset.validation.name
        if self.selection is not None:
            return self.train, self.selection, SELECTION
        parts = fold(self.dataset.train, replicate - 1, self.work.seed)
        rest, left_out = map(self.encode, parts)
        return rest, left_out, FOLD

    def encode(self, split: Split) -> Encoded:
        """Tokenise rows as the study reads them."""
        longest = self.work.training.max_length
        return encode_for(self.task, split, self.backbone.tokenizer, longest)

    def cut_note(self, name: str, rows: Encoded) -> str | None:
        """That rows are cut, if some are; of words with tags, how many that leaves out.

        Args:
            name: of the split.
            rows: of it.
        """
        if not rows.truncated_fraction:
            return None
        note = (
            f"{100 * rows.truncated_fraction:.1f} % of the {name} rows are cut at "
            f"{self.work.training.max_length} tokens"
            f"{self.task.cut if isinstance(self.task, Language) else ''}"
        )
        if rows.tags is None or not (behind := rows.tags.behind):
            return note
        what = "are not learnt" if rows is self.train else "count as wrong"
        return f"{note}; the words behind the cut, {100 * behind:.1f} % of all, {what}"

    @property
    def scored(self) -> tuple[Encoded, ...]:
        """The splits that trials are scored on."""
        return (self.validation,) if self.selection is None else (self.validation, self.selection)

    @property
    def settings(self) -> TrainingSettings:
        """Training settings, before the probe."""
        return self.work.training.settings

    def another_backbone(self) -> Backbone:
        """The same backbone, loaded once more in fp32, for who changes it.

        Raises:
            DataError: it cannot be loaded, or is another one by now.
        """
        found = _backbone(self.work, self.task, self.dataset, str(self.device))
        if (found.fingerprint, found.brought) != (self.backbone.fingerprint, self.backbone.brought):
            raise DataError(f"model `{self.work.model}` has changed while the search ran")
        return found

    def computing_in(self, precision: Precision) -> "Ground":
        """The same with the backbone's weights in another precision."""
        return replace(self, backbone=cast(self.backbone, precision))

    def state_bytes(self, settings: TrainingSettings) -> int:
        """A layer's state for as many of the longest rows as one trial runs at once."""
        width = self.backbone.shape.widths[Tap.BLOCK_OUT]
        item = DTYPES[settings.precision].itemsize
        return settings.part_size * max(self.train.lengths) * width * item

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        parameter: torch.Tensor = next(self.backbone.model.parameters())
        return parameter.device

    @property
    def facts(self) -> Facts:
        """What the driver has to know."""
        dataset = self.dataset
        scored = unseen(self.work.data, dataset)
        brought = self.backbone.brought
        folds = (fold(dataset.train, number, self.work.seed)[1] for number in range(N_FOLDS))
        held_out = folds if scored == "fold" else filter(None, [scored and dataset.selection])
        return Facts(
            model_shape=self.backbone.shape.to_dict(),
            model=self.backbone.name,
            revision=self.backbone.revision,
            model_hash=self.backbone.fingerprint,
            data_hash=dataset.fingerprint,
            reading_hash=self.reading_hash,
            n_rows={split.name: len(split) for split in dataset.splits},
            unseen=scored,
            labels=dataset.label_names,
            notes=self.notes,
            device=self.device.type,
            n_devices=torch.cuda.device_count() if self.device.type == "cuda" else 1,
            metric_hash=self.metric_hash,
            constant=constant_of(self.task, dataset.validation, dataset.label_names),
            constant_rows=tuple(filter(None, map(partial(constant_rows, self.task), held_out))),
            other_answers=dataset.other_answers(scored),
            room=self.room,
            answered=self.work.task == "causal",
            head_hash=brought.sha256 if brought else None,
            head_is_changed=brought is not None and brought.is_changed,
            seen=dataset.count_seen(dataset.selection) if dataset.selection else 0,
        )

    @property
    def metric_hash(self) -> str | None:
        """SHA-256 of the file whose function is the metric, if it is one."""
        return self.task.own.sha256 if self.task.own else None

    @property
    def room(self) -> int | None:
        """Tokens that the longest row leaves of the model's positions; None if they are endless."""
        n_positions = Anatomy(self.backbone.model, self.backbone.fresh).n_positions
        return None if n_positions is None else self.work.room(n_positions)

    @property
    def _ends_in_padding(self) -> bool:
        """A row itself ends with what pads, and the head looks for the token before."""
        pad, splits = self.backbone.tokenizer.pad_token_id, (self.train, *self.scored)
        ends = {ids[-1] for rows in splits for ids in rows.input_ids if ids}
        return pad in ends and self.backbone.finds_padding

    @property
    def reading_hash(self) -> str:
        """SHA-256 of what decides beside weights and rows how the model reads them; see `Facts`."""
        config = self.backbone.model.config.to_dict()
        told = {key: value for key, value in config.items() if key not in _OF_THE_PLACE}
        told |= own_tokens(self.backbone.model)
        digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
        for rows in (self.train, *self.scored):
            for tokens, types in zip_longest(rows.input_ids, rows.token_type_ids or ()):
                digest.update(f"{tokens}{types}".encode())
            if rows.answers is not None:
                digest.update(f"{rows.answers.targets}".encode())
            if rows.tags is not None:
                digest.update(f"{rows.tags.targets}".encode())
        if self._ends_in_padding:
            digest.update(b"a head reads the last token before what pads")
        return digest.hexdigest()


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
    chat = work.data.messages is not None
    task = make_task(
        work.task, work.metric, dataset, work.generation, chat=chat, positive=work.positive
    )
    remark = _remark(work, task, dataset)
    backbone = _backbone(work, task, dataset, place)
    work.check_writing(Anatomy(backbone.model, backbone.fresh).longest_row())
    longest = work.training.max_length

    def encoded(split: Split) -> Encoded:
        return encode_for(task, split, backbone.tokenizer, longest)

    train, validation = encoded(dataset.train), encoded(dataset.validation)
    selection = None if dataset.selection is None else encoded(dataset.selection)
    of_tokens = None
    if isinstance(task, Language):
        of_tokens = remark_on_tokens(task, dataset.validation, backbone.tokenizer)
    release_memory()  # that tokenizers took
    ground = Ground(work, dataset, backbone, task, train, validation, selection, ())
    splits = {"train": train, "validation": validation, SELECTION: selection}
    cut = (ground.cut_note(name, rows) for name, rows in splits.items() if rows is not None)
    notes = (*dataset.notes, remark, of_tokens, *backbone.notes, *cut)
    return replace(ground, notes=tuple(filter(None, notes)))


def _remark(work: Work, task: AnyTask, dataset: Dataset) -> str | None:
    """What has to be known of the metric on these rows."""
    if isinstance(task, Language):
        return remark_on_ideal(task, dataset.validation)
    if task.metric == "f1" and len(names := dataset.label_names) == 2:  # noqa: PLR2004
        positive = names.index(work.positive) if work.positive else 1
        return of_which_class(positive, names, chosen=work.positive is not None)
    return None


def _backbone(work: Work, task: AnyTask, dataset: Dataset, place: str) -> Backbone:
    meaning = None if isinstance(task, Language) else Meaning(dataset.label_names)
    if isinstance(task, Regression):
        meaning = Meaning(mean=task.label_mean, std=task.label_std)
    writes, n_outputs = WRITES.get(work.task), max(1, len(dataset.label_names))
    return load_backbone(work.model, n_outputs, place, writes, work.quantize, meaning)
