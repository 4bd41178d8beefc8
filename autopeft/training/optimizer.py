"""AdamW for stacked parameters: a learning rate, a clip and a state for each trial."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.model.inject import fill

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Stacked:
    """A stacked parameter and whose it is.

    Attributes:
        parameter: [member, rows, width].
        trials: the trial of each member.
        rows: rows of each member that are not padding.
        decays: weight decay applies.
        names: full name of the parameter in each member's trial; unique there.
        rate: factor of the learning rates.
    """

    parameter: nn.Parameter
    trials: tuple[int, ...]
    rows: tuple[int, ...]
    decays: bool
    names: tuple[str, ...]
    rate: float = 1.0


class _Group:
    """All parameters of one width as one matrix, a row for each row of theirs.

    Operations on a hundred small tensors are a hundred operations; on one matrix they are one.

    Args:
        items: whose parameters they are.
        weight_decays: one for each trial.

    Attributes:
        items: as given.
        parameters: one for each item.
        first: the first row of each item.
        owners: the trial of each row [row].
        mean: of the gradients [row, width].
        square: mean of their squares [row, width].
        rates: the learning rate of each row, without its schedule [row, 1].
    """

    def __init__(self, items: Sequence[Stacked], weight_decays: Sequence[float]) -> None:
        self.items = tuple(items)
        self.parameters: list[Tensor] = [item.parameter for item in items]
        self._counts = [len(p) * p.shape[1] for p in self.parameters]
        self.first = list(accumulate(self._counts[:-1], initial=0))
        like = self.parameters[0]
        owners = [t for item in items for t in item.trials for _ in range(item.parameter.shape[1])]
        self.owners = torch.tensor(owners, device=like.device)
        self.mean = like.new_zeros(len(owners), like.shape[2])
        self.square = torch.zeros_like(self.mean)
        self.rates = self.of_rows([[0.0] * len(weight_decays)] * len(items))
        self._decays = self.of_rows(
            [[decay if item.decays else 0.0 for decay in weight_decays] for item in items]
        )

    def of_rows(self, values: Sequence[Sequence[float]]) -> Float[Tensor, "row 1"]:
        """Numbers for every row, from those of each item and trial."""
        each = [
            own[trial]
            for item, own in zip(self.items, values, strict=True)
            for trial in item.trials
            for _ in range(item.parameter.shape[1])
        ]
        return torch.tensor(each, device=self.owners.device).view(-1, 1)

    def joined(self, tensors: Sequence[Tensor]) -> Float[Tensor, "row width"]:
        """Tensors that are like the parameters as one matrix, a copy."""
        return torch.cat([tensor.reshape(-1, self.mean.shape[1]) for tensor in tensors])

    def cut(self, matrix: Float[Tensor, "row width"]) -> list[Tensor]:
        """The matrix in pieces that are like the parameters; views."""
        pieces = torch.split(matrix, self._counts)
        return [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]

    def gradient(self) -> Float[Tensor, "row width"]:
        """The gradient of all parameters.

        Raises:
            RuntimeError: a parameter has none.
        """
        found = [parameter.grad for parameter in self.parameters]
        if any(gradient is None for gradient in found):
            raise RuntimeError("a trainable parameter took no part in the forward pass")
        return self.joined([gradient for gradient in found if gradient is not None])

    def update(self, gradient: Float[Tensor, "row width"], step: int, factor: float) -> None:
        """One step of AdamW, counted from 1."""
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        denominators = (self.square / (1 - BETA2**step)).sqrt_().add_(EPS)
        steps = (self.mean / (1 - BETA1**step)).div_(denominators)
        steps.addcmul_(self._decays, self.joined(self.parameters)).mul_(self.rates)
        torch._foreach_add_(self.parameters, self.cut(steps), alpha=-factor)


class CohortAdamW:
    """AdamW (Loshchilov and Hutter 2019) with everything per trial.

    No number ever crosses from one trial to another: not in the clip, which is by the norm of a
    trial's own gradient, and not in the update. A trial that has become NaN stays alone with it.

    Args:
        stacked: all trainable parameters; none, where a frozen model without a head is scored.
        learning_rates: one for each trial.
        weight_decays: one for each trial, decoupled.
        clip: largest gradient norm of a trial.
    """

    def __init__(
        self,
        stacked: Sequence[Stacked],
        *,
        learning_rates: Sequence[float],
        weight_decays: Sequence[float],
        clip: float,
    ) -> None:
        self._stacked = tuple(stacked)
        self._clip = clip
        self._learning_rates = tuple(learning_rates)
        by_width: dict[int, list[Stacked]] = {}
        for item in stacked:
            by_width.setdefault(item.parameter.shape[2], []).append(item)
        self._groups = [_Group(items, weight_decays) for items in by_width.values()]
        self.use_rates([item.rate for item in stacked])
        self._step = 0
        self._own_rows = self._rows_of_trials()

    def use_rates(self, factors: Sequence[float]) -> None:
        """Go on with these factors of the learning rates, one for each parameter."""
        of = {id(item): factor for item, factor in zip(self._stacked, factors, strict=True)}
        for group in self._groups:
            group.rates = group.of_rows(
                [[rate * of[id(item)] for rate in self._learning_rates] for item in group.items]
            )

    def _rows_of_trials(self) -> list[Tensor]:
        """Where each trial's rows are among the rows of all groups, padding left out.

        Each trial sums the squares of exactly its own rows by the names of what they belong to, so
        that its norm has the same bits in every company: what its layers share comes where the
        first layer of the company is that has it.
        """
        where: list[dict[str, range]] = [{} for _ in self._learning_rates]
        start = 0
        for group in self._groups:
            for item, first in zip(group.items, group.first, strict=True):
                padded = item.parameter.shape[1]
                for i, (trial, rows) in enumerate(zip(item.trials, item.rows, strict=True)):
                    own = start + first + i * padded
                    where[trial][item.names[i]] = range(own, own + rows)
            start += len(group.owners)
        device = self._groups[0].owners.device if self._groups else None
        rows_of = [[row for _, rows in sorted(named.items()) for row in rows] for named in where]
        return [torch.tensor(rows, dtype=torch.long, device=device) for rows in rows_of]

    def _norms(self, gradients: Sequence[Tensor]) -> Float[Tensor, "trial"]:
        """The norm of each trial's gradient."""
        rows = torch.cat([_row_sums(gradient.square()) for gradient in gradients])
        return torch.stack([rows[own].sum() for own in self._own_rows]).sqrt()

    def state(self, trial: int) -> dict[str, Tensor]:
        """A trial's parameters and moments without padding, copied to the CPU."""
        return {name: view.detach().cpu().clone() for name, view in self._views(trial)}

    @torch.no_grad()
    def resume(self, states: Sequence[Mapping[str, Tensor]], step: int) -> None:
        """Go on where trials have been paused, all of them after the same number of steps.

        Args:
            states: of each trial, as `state` gave it.
            step: that they have done.

        Raises:
            ValueError: a state is not that of its trial.
        """
        for trial, state in enumerate(states):
            fill(dict(self._views(trial)), state)
        self._step = step

    def _views(self, trial: int) -> Iterator[tuple[str, Tensor]]:
        for group in self._groups:
            moments = group.cut(group.mean), group.cut(group.square)
            for item, mean, square in zip(group.items, *moments, strict=True):
                for i, (owner, rows) in enumerate(zip(item.trials, item.rows, strict=True)):
                    if owner == trial:
                        for kind, tensor in (("", item.parameter), ("/m", mean), ("/v", square)):
                            yield f"{item.names[i]}{kind}", tensor[i, :rows]

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Update all parameters and forget their gradients.

        Args:
            factor: of the learning rates, from the schedule.

        Raises:
            RuntimeError: a parameter has no gradient.
        """
        gradients = [group.gradient() for group in self._groups]
        for item in self._stacked:
            item.parameter.grad = None  # there is a copy now
        self._step += 1
        if not gradients:
            return
        norms = self._norms(gradients)
        # A NaN norm keeps its NaN: the trial is lost, and nothing else sees it.
        clips = torch.where(norms > self._clip, self._clip / norms, torch.ones_like(norms))
        for group, gradient in zip(self._groups, gradients, strict=True):
            gradient.mul_(clips[group.owners].view(-1, 1))
            group.update(gradient, self._step, factor)


def _row_sums(matrix: Float[Tensor, "row width"]) -> Float[Tensor, "row"]:
    """The sum of each row, with the same bits however many rows there are.

    A single long one would be shared by threads, and be summed up in another order.
    """
    return matrix.expand(2, -1).sum(-1)[:1] if len(matrix) == 1 else matrix.sum(-1)


def schedule(step: int, total: int, warmup: float) -> float:
    """The factor of the learning rate at a step: linear warm-up, then linear decay to 0.

    Args:
        step: from 0.
        total: steps of the whole training.
        warmup: part of the steps that warms up.
    """
    rising = max(1, round(warmup * total))
    if step < rising:
        return (step + 1) / rising
    return max(0.0, (total - step) / max(1, total - rising))
