"""AdamW for stacked parameters: a learning rate, a clip and a state for each trial."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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
        device = stacked[0].parameter.device if stacked else torch.device("cpu")
        self._n_trials = len(learning_rates)
        self._parameters: list[Tensor] = [item.parameter for item in stacked]
        # As large as the parameters: foreach is slow where it has to broadcast.
        self._learning_rates = tuple(learning_rates)
        self.use_rates([item.rate for item in stacked])
        self._decays = [
            self._spread([d if item.decays else 0.0 for d in weight_decays], item, device)
            for item in stacked
        ]
        self._trials = [torch.tensor(item.trials, device=device) for item in stacked]
        self._mean = [torch.zeros_like(p) for p in self._parameters]
        self._square = [torch.zeros_like(p) for p in self._parameters]
        self._step = 0
        self._own_rows = [index.to(device) for index in self._rows_of_trials()]

    def use_rates(self, factors: Sequence[float]) -> None:
        """Go on with these factors of the learning rates, one for each parameter."""
        self._rates = [
            self._spread([rate * factor for rate in self._learning_rates], item, p.device)
            for item, factor, p in zip(self._stacked, factors, self._parameters, strict=True)
        ]

    @staticmethod
    def _spread(values: Sequence[float], item: Stacked, device: torch.device) -> Tensor:
        of_members = torch.tensor([values[t] for t in item.trials], device=device).view(-1, 1, 1)
        return of_members.expand_as(item.parameter).contiguous()

    def _rows_of_trials(self) -> list[Tensor]:
        """Where each trial's rows are among the rows of all parameters, padding left out.

        Each trial sums the squares of exactly its own rows by the names of what they belong to, so
        that its norm has the same bits in every company: what its layers share comes where the
        first layer of the company is that has it.
        """
        where: list[dict[str, range]] = [{} for _ in range(self._n_trials)]
        start = 0
        for item in self._stacked:
            padded = item.parameter.shape[1]
            for i, (trial, rows) in enumerate(zip(item.trials, item.rows, strict=True)):
                first = start + i * padded
                where[trial][item.names[i]] = range(first, first + rows)
            start += len(item.trials) * padded
        return [
            torch.tensor(
                [row for _, rows in sorted(named.items()) for row in rows], dtype=torch.long
            )
            for named in where
        ]

    def gradient_norms(self) -> Float[Tensor, "trial"]:
        """The norm of each trial's gradient."""
        rows = torch.cat(
            [
                item.parameter.grad.square().sum(-1).flatten()
                for item in self._stacked
                if item.parameter.grad is not None
            ]
        )
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
        for item, mean, square in zip(self._stacked, self._mean, self._square, strict=True):
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
        if any(item.parameter.grad is None for item in self._stacked):
            raise RuntimeError("a trainable parameter took no part in the forward pass")
        self._step += 1
        if not self._stacked:
            return
        norms = self.gradient_norms()
        # A NaN norm keeps its NaN: the trial is lost, and nothing else sees it.
        clips = torch.where(norms > self._clip, self._clip / norms, torch.ones_like(norms))
        gradients = [
            item.parameter.grad * clips[trials].view(-1, 1, 1)
            for item, trials in zip(self._stacked, self._trials, strict=True)
            if item.parameter.grad is not None
        ]
        torch._foreach_lerp_(self._mean, gradients, 1 - BETA1)
        torch._foreach_mul_(self._square, BETA2)
        torch._foreach_addcmul_(self._square, gradients, gradients, 1 - BETA2)
        denominators = torch._foreach_div(self._square, 1 - BETA2**self._step)  # noqa: SLF001
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, EPS)
        steps = torch._foreach_div(self._mean, 1 - BETA1**self._step)  # noqa: SLF001
        torch._foreach_div_(steps, denominators)
        torch._foreach_addcmul_(steps, self._decays, self._parameters, 1.0)
        torch._foreach_mul_(steps, self._rates)
        torch._foreach_add_(self._parameters, steps, alpha=-factor)
        for parameter in self._parameters:
            parameter.grad = None


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
