"""Training K trials together on one copy of the frozen backbone, and scoring them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autopeft.model.inject import fill
from autopeft.space.genotype import Genotype
from autopeft.tasks.encode import Encoded
from autopeft.training.batches import batch_order, parts
from autopeft.training.memory import RELEASE_ABOVE, release_memory, resident_bytes
from autopeft.training.optimizer import CohortAdamW, Stacked, schedule
from autopeft.training.paused import Paused
from autopeft.training.ranks import RankBudget
from autopeft.training.trials import Trials

LOOKS = 128
"""Training rows, in whole batches, that ops which choose by the data look at before training."""

MIDWAY = 2 / 3
"""Part of the training after which ops choose that do so in the midst of it."""

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


def _report(progress: Progress | None, before: int, steps: int, step: int, _: int) -> None:
    """Tell somebody of the steps of one of several runs."""
    if progress is not None:
        progress(before + step, steps)


@dataclass(frozen=True)
class Trained:
    """What training left of one trial.

    Attributes:
        losses: training loss at every step; NaN or infinite from where it diverged. Of a training
            that is repeated, those of the last time.
        steps: of the optimizer, in all.
        predictions: one for each evaluation row.
        stored: the genotype that the tensors are of; of most methods the one that was trained.
        tensors: parameters of ops and head, without padding, on the CPU.
        head_params: parameters of the head, counted.
        finite: all losses and logits were.
        paused: what it needs to go on, if it is to.
    """

    losses: tuple[float, ...]
    steps: int
    predictions: np.ndarray
    stored: Genotype
    tensors: dict[str, Tensor]
    head_params: int
    finite: bool
    paused: Paused | None = None


class Cohort(Trials):
    """Trials that are trained together. Use as a context: leaving it restores the model."""

    def stacked(self) -> list[Stacked]:
        """Every trainable parameter with its owners."""
        every = tuple(range(self.n_trials))
        out = []
        for op in self.injection.stacks():
            for name, what in op.declared.items():
                rows = tuple(op.rows_of(name, i) for i in range(len(op.stack)))
                parameter = op.get_parameter(name)
                trials = tuple(member.trial for member in op.stack)
                names = tuple(f"{member.path}.{name}" for member in op.stack)
                out.append(Stacked(parameter, trials, rows, what.decays, names, op.rate(name)))
        for path, module in self.head.modules.items():
            for name, parameter in module.named_parameters():
                rows = (parameter.shape[1],) * self.n_trials
                names = (f"{path}.{name}",) * self.n_trials
                out.append(Stacked(parameter, every, rows, module.decays(name), names))
        return out

    def train(
        self,
        rows: Encoded,
        *,
        order_seed: int,
        until: int | None = None,
        paused: Sequence[Paused] = (),
        trial_bytes: int | None = None,
        rest_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> Float[Tensor, "step trial"]:
        """Train all trials to the end, or to a rung.

        Batches and schedule are those of the whole training, so a trial that pauses and goes on,
        in whatever company, is the trial that did not.

        Args:
            rows: the training rows.
            order_seed: of the order of batches.
            until: steps from the start of the trials; all if None.
            paused: where each trial goes on from, all after the same number of steps; none to
                start afresh.
            trial_bytes: memory that each trial is expected to take, to hold the process to it.
            rest_bytes: memory that the process holds when it trains nothing; as now if None.
            progress: called with (steps done, steps to do in all), from the start of the trials.

        Returns:
            The loss of each trial at each new step, on the CPU.

        Raises:
            ValueError: trials were paused after different numbers of steps, or are others.
        """
        self._growth = (
            math.inf if trial_bytes is None else RELEASE_ABOVE * trial_bytes * self.n_trials
        )
        self._most_bytes = (rest_bytes or resident_bytes()) + self._growth
        settings = self.settings
        order = batch_order(rows.lengths, settings.batch_size, settings.epochs, order_seed)
        last = len(order) if until is None else until
        (first,) = {item.steps for item in paused} or {0}
        rehearsed = len(order) * (self.runs - 1)
        if first == 0:
            if rehearsed:
                self._rehearse(rows, order, partial(_report, progress, 0, rehearsed + last))
            self._look(rows, order)
        states = [dict(item.tensors) for item in paused]
        for trial, state in enumerate(states):
            memory = self.injection.memory(trial)
            fill(memory, {name: state.pop(name) for name in memory if name in state})
        self._optimizer = self.new_optimizer()
        self._optimizer.resume(states, first)
        report = partial(_report, progress, rehearsed, rehearsed + last)
        return self._run(rows, order, self._optimizer, range(first, last), report)

    @property
    def runs(self) -> int:
        """How often the trials go through their training."""
        return 1 + any(op.chooses == "rehearsed" for op in self.injection.stacks())

    def _rehearse(self, rows: Encoded, order: Sequence[Sequence[int]], progress: Progress) -> None:
        """Train once for ops that choose by what became of it, and put everything back."""
        head = [p for module in self.head.modules.values() for p in module.parameters()]
        start = [parameter.detach().clone() for parameter in head]
        self._run(rows, order, self.new_optimizer(), range(len(order)), progress)
        for op in self.injection.stacks():
            if op.chooses == "rehearsed":
                op.choose()
            else:
                op.reset()
        with torch.no_grad():
            for parameter, old in zip(head, start, strict=True):
                parameter.copy_(old)
        release_memory()

    def _look(self, rows: Encoded, order: Sequence[Sequence[int]]) -> None:
        """Show the first batches to ops that choose by them."""
        ops = [op for op in self.injection.stacks() if op.chooses == "looking"]
        parameters = [item.parameter for item in self.stacked()]
        seen = 0
        for indices in order if ops else ():
            for part, share in self._parts(rows, indices):
                for op in ops:
                    op.watch(len(part))
                torch.autograd.backward((share * self.losses(rows, part)).sum())
            for parameter in parameters:
                parameter.grad = None
            seen += len(indices)
            if seen >= LOOKS:
                break
        for op in ops:
            op.choose()

    def new_optimizer(self) -> CohortAdamW:
        """An optimizer of all trials that has done no step."""
        return CohortAdamW(
            self.stacked(),
            learning_rates=[g.learning_rate for g in self.genotypes],
            weight_decays=[g.weight_decay for g in self.genotypes],
            clip=self.settings.clip,
        )

    def _run(
        self,
        rows: Encoded,
        order: Sequence[Sequence[int]],
        optimizer: CohortAdamW,
        steps: range,
        progress: Progress,
    ) -> Float[Tensor, "step trial"]:
        """Some steps of a training, once."""
        self._ranks = RankBudget(self.injection.stacks(), len(order), steps.start)
        history = []
        for step in steps:
            indices = order[step]
            for op in self.injection.stacks():
                op.begin(step)
            losses = self.learn(rows, indices)
            self._ranks.observe()
            optimizer.step(schedule(step, len(order), self.settings.warmup))
            self._ranks.cut(step + 1)
            if step + 1 == round(MIDWAY * len(order)):
                self._choose_midway(optimizer)
            history.append(losses)
            if resident_bytes() > self._most_bytes:
                # What is left was not freed, and is no reason to do so again.
                self._most_bytes = max(self._most_bytes, release_memory() + self._growth)
            progress(step + 1, steps.stop)
        return torch.stack(history).cpu()

    def learn(self, rows: Encoded, indices: Sequence[int]) -> Float[Tensor, " trial"]:
        """Add the gradients of a batch to those that are there, part by part, and tell its loss.

        What ops add to the loss of their trial is learnt from, but not told.

        Args:
            rows: where the batch is.
            indices: of its examples.
        """
        told: Tensor | None = None
        for part, share in self._parts(rows, indices):
            losses = share * self.losses(rows, part)
            if losses.requires_grad:  # of a frozen model without a head nothing is learnt
                total = self._with_penalties(losses) if told is None else losses.sum()
                torch.autograd.backward(total)
            told = losses.detach() if told is None else told + losses.detach()
        if told is None:
            raise ValueError("a batch of no rows")
        return told

    def _parts(self, rows: Encoded, indices: Sequence[int]) -> list[tuple[list[int], float]]:
        """The parts of a batch, and the share that each one has in the mean over its labels."""
        every = rows.n_labels(indices)
        found = parts(indices, self.settings.part_size)
        if len(found) == 1 or not every:
            return [(list(indices), 1.0)]
        return [(part, own / every) for part in found if (own := rows.n_labels(part))]

    def _choose_midway(self, optimizer: CohortAdamW) -> None:
        """Let ops choose that do so in the midst of a training; the rest goes on as before."""
        ops = [op for op in self.injection.stacks() if op.chooses == "midway"]
        for op in ops:
            op.choose()
        if ops:
            optimizer.use_rates([item.rate for item in self.stacked()])

    def pause(self, trial: int, losses: Sequence[float]) -> Paused:
        """What a trial needs to go on from where `train` has ended.

        Args:
            trial: index in the cohort.
            losses: of all its steps, from its start.
        """
        memory = self.injection.memory(trial)
        own = {name: view.detach().cpu().clone() for name, view in memory.items()}
        return Paused(tuple(losses), self._optimizer.state(trial) | own)

    def settle(self) -> None:
        """Let all trials be what is stored of them, if their training was to end here.

        What ops choose or cut later in a training is chosen and cut now, so that what is scored is
        what is stored, and no larger than a genotype says. It is no state to go on from: `pause`
        comes before.
        """
        for op in self.injection.stacks():
            op.settle()
        self._ranks.settle()

    def _with_penalties(self, losses: Float[Tensor, "trial"]) -> Float[Tensor, ""]:
        """The sum of the losses and of what ops add to them; no gradient knows of another trial."""
        total = losses.sum()
        for op in self.injection.stacks():
            if (penalty := op.penalty()) is not None:
                total = total + penalty.sum()
        return total

    def _runs_of(self, trial: int) -> int:
        return 1 + any(
            op.chooses == "rehearsed" and any(m.trial == trial for m in op.stack)
            for op in self.injection.stacks()
        )

    def trained(
        self, trial: int, losses: Sequence[float], predictions: np.ndarray, *, finite: bool
    ) -> Trained:
        """What a trial has come to, its tensors copied to the CPU."""
        stored, ops = self.injection.stored(trial)
        own = ops | self.head.tensors(trial)
        return Trained(
            losses=tuple(losses),
            steps=len(losses) * self._runs_of(trial),
            predictions=predictions,
            stored=stored,
            tensors={name: tensor.detach().cpu().clone() for name, tensor in own.items()},
            head_params=self.head.count(),
            finite=finite,
        )
