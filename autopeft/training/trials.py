"""K trials in one copy of the frozen backbone: what they make of rows."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autopeft.errors import DataError
from autopeft.model.anatomy import Anatomy
from autopeft.model.answers import decoder_inputs
from autopeft.model.backbone import Backbone
from autopeft.model.head import StackedHead, pooled_logits
from autopeft.model.inject import Injection, fill
from autopeft.model.words import Words, word_states
from autopeft.ops.sending import sent
from autopeft.space.genotype import Genotype
from autopeft.tasks.encode import Batch, Encoded, Places, collate
from autopeft.tasks.language import Language, Written
from autopeft.tasks.task import AnyTask
from autopeft.training.batches import evaluation_order
from autopeft.training.frozen import FrozenCache
from autopeft.training.settings import TrainingSettings
from autopeft.training.words import losses_of, mean_losses
from autopeft.training.writing import written

EVALUATION_FACTOR = 2
"""Evaluation batches are larger: they keep nothing for a backward pass."""

Beat = Callable[[], None]
"""Called again and again while something else than a step goes on: a sign of life."""


class Trials(AbstractContextManager[Any, None]):
    """K genotypes in one model. Use as a context: leaving it restores the model.

    Args:
        backbone: the frozen model, in the precision of the settings.
        genotypes: one for each trial.
        seeds: one for each trial; initialises its ops and head.
        task: its loss and predictions.
        settings: shared by all trials.
        cache: frozen states of all rows that will be read, at the forks of all genotypes.

    Raises:
        ConfigError: a genotype does not fit the model; the model is as before.
        DataError: the model's head cannot be stacked; the model is as before.
    """

    def __init__(
        self,
        backbone: Backbone,
        genotypes: Sequence[Genotype],
        seeds: Sequence[int],
        task: AnyTask,
        settings: TrainingSettings,
        cache: FrozenCache | None = None,
    ) -> None:
        if backbone.precision != settings.precision:
            raise ValueError(f"a backbone in {backbone.precision} for {settings.precision}")
        self.backbone, self.task, self.settings = backbone, task, settings
        self._cache = cache
        self.genotypes = tuple(genotypes)
        self.n_trials = len(genotypes)
        self._anatomy = Anatomy(backbone.model, backbone.fresh)
        self._seeds = tuple(seeds)
        self.injection = self._inject()
        self._words = Words(backbone.model) if isinstance(task, Language) else None
        try:
            self.head = StackedHead(backbone.model, backbone.fresh, seeds)
        except DataError:
            self.injection.remove()
            raise
        self._device = next(backbone.model.parameters()).device

    def __exit__(self, *_: object) -> None:
        self.head.remove()
        self.injection.remove()

    def _inject(self, *, apart: bool = False) -> Injection:
        self._apart = apart
        return Injection(
            self.backbone.model,
            self.genotypes,
            self._seeds,
            self.settings.kernel,
            fresh=self.backbone.fresh,
            given=self._cache is not None and not apart,
            first_token=self._anatomy.first_token and not isinstance(self.task, Language),
            apart=apart,
            checkpointing=self.settings.checkpointing,
        )

    def losses(self, rows: Encoded, indices: Sequence[int]) -> Float[Tensor, " trial"]:
        """The mean loss of each trial for one batch of examples, in fp32."""
        batch = self._batch(rows, indices)
        if isinstance(self.task, Language):
            smoothing = self.task.generation.label_smoothing
            return mean_losses(self.words, self._read(batch)[0], batch.labels, smoothing)
        return self.task.loss(self._pooled(batch), batch.labels)

    def logits(self, rows: Encoded, indices: Sequence[int]) -> Float[Tensor, "trial place output"]:
        """The outputs of all trials for one batch of examples, in fp32.

        One place a row; of a task whose answers are texts, one for every token to write; where
        words have tags, one for the first token of each.
        """
        batch = self._batch(rows, indices)
        if isinstance(self.task, Language):
            return self.words(self._read(batch)[0]).float()
        return self._pooled(batch)

    @property
    def words(self) -> Words:
        """What words come of, where answers are texts."""
        if self._words is None:
            raise ValueError("the answers of this task are no texts")
        return self._words

    def _batch(self, rows: Encoded, indices: Sequence[int]) -> Batch:
        """Some examples on the device, and the frozen states to begin with, if they are kept."""
        if self._cache is not None:
            for fork in set(self.injection.forks.forks) - {0}:
                self.injection.states[fork] = self._cache.take(rows, fork, indices)
        batch = collate(rows, indices, self.backbone.tokenizer.pad_token_id or 0)
        return batch.to(partial(sent, device=self._device))

    def _pooled(self, batch: Batch) -> Float[Tensor, "trial place output"]:
        model, head, pool = self.backbone.model, self._anatomy.family.head, self._anatomy.pool
        if batch.places is not None:  # of words with tags
            each: Tensor = model(**batch.inputs).logits
            by_trial = each.float().reshape(self.n_trials, -1, each.shape[-1])
            return by_trial[:, batch.places.states]
        out: Tensor = (
            pooled_logits(model, head, pool, batch.inputs, self.backbone.tokenizer.pad_token_id)
            if head
            else model(**batch.inputs).logits
        )
        return out.float().view(self.n_trials, len(batch.labels), -1)

    def _read(self, batch: Batch) -> tuple[Float[Tensor, "trial position d"], Places]:
        """The states that the tokens to write are read from."""
        if (places := batch.places) is None:
            raise ValueError("these rows have no answers")
        inputs, model = dict(batch.inputs), self.backbone.model
        if batch.targets is not None:
            inputs["decoder_input_ids"] = decoder_inputs(model, batch.targets)
        states = word_states(model, inputs)
        by_trial = states.reshape(self.n_trials, -1, states.shape[-1])
        return by_trial[:, places.states], places

    @torch.no_grad()
    def predict(self, rows: Encoded, beat: Beat | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Predictions [trial, row] and whether each trial's outputs are all finite [trial].

        Predictions are class numbers, numbers, where words have tags arrays of class numbers, and
        where answers are texts, `Written`.

        Args:
            rows: to predict.
            beat: called with every batch.

        Raises:
            ValueError: there are no rows.
        """
        tell = beat or (lambda: None)
        if not len(rows):
            raise ValueError("there are no rows to predict")
        order = evaluation_order(rows.lengths, self.settings.part_size * EVALUATION_FACTOR)
        if isinstance(self.task, Language):
            return self._written(self.task, rows, order, tell)
        found, finite = [], []
        for indices in order:
            logits = self.logits(rows, indices)
            finite.append(logits.isfinite().flatten(1).all(1))
            found.append(self.task.predictions(logits))
            tell()
        # Fetched once, or every batch would wait for the one before.
        predicted = torch.cat(found, 1).cpu().numpy()
        by_row = rows.by_row(predicted, np.concatenate(order).tolist())
        return by_row, torch.stack(finite).all(0).cpu().numpy()

    def _written(
        self, task: Language, rows: Encoded, order: Sequence[Sequence[int]], tell: Beat
    ) -> tuple[np.ndarray, np.ndarray]:
        of_tokens, row_of = [], []
        for indices in order:
            each, place = self._token_losses(rows, indices)
            of_tokens.append(each)
            row_of.append(sent(torch.tensor(indices), self._device)[place])
            tell()
        losses = torch.zeros(self.n_trials, len(rows))
        losses.index_add_(1, torch.cat(row_of).cpu(), torch.cat(of_tokens, 1).cpu())
        texts: dict[tuple[int, int], str] = {}
        if task.generates:
            size = self.settings.part_size * EVALUATION_FACTOR // task.generation.beams
            for indices in evaluation_order(rows.lengths, max(1, size)):  # each beam is a row
                for trial, some in enumerate(self.answers(rows, indices)):
                    texts |= {(trial, row): text for row, text in zip(indices, some, strict=True)}
                tell()
        out = np.empty(losses.shape, dtype=object)
        for trial, row in np.ndindex(*losses.shape):
            out[trial, row] = Written(
                float(losses[trial, row]), int(rows.labels[row]), texts.get((trial, row))
            )
        return out, losses.isfinite().all(1).numpy()

    @torch.no_grad()
    def token_losses(self, rows: Encoded, indices: Sequence[int]) -> Float[Tensor, "trial token"]:
        """The loss of every token of some answers, in nats, one answer after the other, on the CPU.

        Raises:
            ValueError: the answers of this task are no texts.
        """
        return self._token_losses(rows, indices)[0].cpu()

    def _token_losses(self, rows: Encoded, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """That, and the place of each one's row in `indices`, on the device."""
        batch = self._batch(rows, indices)
        states, places = self._read(batch)
        return losses_of(self.words, states, batch.labels), places.rows

    def answers(
        self, rows: Encoded, indices: Sequence[int], *, cached: bool = True
    ) -> list[list[str]]:
        """What each trial writes for some rows, by trial and row.

        Args:
            rows: where the rows are.
            indices: their positions.
            cached: keep keys and values of what was written. The answers are the same without;
                prompts and gates do without.

        Raises:
            TypeError: the answers of this task are no texts.
        """
        task = self.task
        if not isinstance(task, Language):
            raise TypeError("the answers of this task are no texts")
        self._stand_apart()
        whole = any(genotype.needs_whole_rows for genotype in self.genotypes)
        return written(
            self.backbone.model,
            self.backbone.tokenizer,
            rows,
            indices,
            n_trials=self.n_trials,
            generation=task.generation,
            cached=cached and not whole,
        )

    def _stand_apart(self) -> None:
        """Let trials have rows of their own from the first layer on, as writing needs them."""
        if self._apart:
            return
        every = range(self.n_trials)
        trained = [self.injection.tensors(trial) for trial in every]
        remembered = [self.injection.memory(trial) for trial in every]
        self.injection.remove()
        self.injection = self._inject(apart=True)
        for trial in every:
            self.injection.load(trial, trained[trial])
            fill(self.injection.memory(trial), remembered[trial])

    def tensors(self, trial: int) -> dict[str, Tensor]:
        """A copy of one trial's parameters on the CPU, by full name, without padding."""
        own = self.injection.tensors(trial) | self.head.tensors(trial)
        return {name: tensor.detach().cpu().clone() for name, tensor in own.items()}

    @torch.no_grad()
    def load(self, trial: int, tensors: dict[str, Tensor]) -> None:
        """Put parameters from `tensors` back.

        Raises:
            ValueError: names or shapes are not those of this trial.
        """
        own = self.injection.tensors(trial) | self.head.tensors(trial)
        fill(own, tensors)
