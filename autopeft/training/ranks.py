"""The rank budget of AdaLoRA: which triplets of a trial remain (Zhang et al. 2023, section 3.3)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from autopeft.ops.adalora import AdaLora, cut, observe
from autopeft.ops.base import Stack

WARMUP = 0.1
"""Part of the training before the first cut, the paper's t_i."""

SETTLED = 0.5
"""Part of the training after which the ranks stay as they are, 1 - t_f of the paper."""


class RankBudget:
    """Lets all triplets of a trial compete that cost the same, over layers and weights.

    A pool is what a trial has of triplets on weights of one total width. So however its ranks are
    spread in the end, it stores as many parameters as its genotype says.

    Args:
        stacks: of a cohort; all but AdaLoRA's are ignored.
        steps: of the training.
        done: of them.
    """

    def __init__(self, stacks: Iterable[Stack], steps: int, done: int = 0) -> None:
        self._ops = [op for op in stacks if isinstance(op, AdaLora)]
        self._steps = steps
        self._pools: dict[tuple[int, int], list[tuple[AdaLora, int]]] = {}
        for op in self._ops:
            for i, member in enumerate(op.stack):
                pool = (member.trial, op.d_read + op.d_write)
                self._pools.setdefault(pool, []).append((op, i))
        self._settled = done >= SETTLED * steps

    def observe(self) -> None:
        """Take in the gradients of a step, before the optimizer forgets them."""
        if not self._settled:
            observe(self._ops)

    def cut(self, step: int) -> None:
        """Cut what is over the budget after a step.

        Args:
            step: steps that are done.
        """
        if step <= WARMUP * self._steps:
            return
        if not self._settled:
            self._choose(step)
        cut(self._ops)
        self._settled = step >= SETTLED * self._steps

    def settle(self) -> None:
        """Cut at once to what remains in the end."""
        self.cut(self._steps)

    @torch.no_grad()
    def _choose(self, step: int) -> None:
        """Let the ops know which of their triplets are kept."""
        importance = {op: op.importance() for op in self._ops}
        known: list[Tensor] = []
        new: list[Tensor] = []
        for pool in self._pools.values():
            starts = [op.rows_of("a", i) for op, i in pool]
            target = sum(op.stack[i].size for op, i in pool)
            budget = rank_budget(step / self._steps, sum(starts), target)
            every = torch.cat(
                [importance[op][i, :n] for (op, i), n in zip(pool, starts, strict=True)]
            )
            best = torch.sort(every, descending=True, stable=True).indices[:budget]
            kept = torch.zeros_like(every, dtype=torch.bool).index_fill(0, best, value=True)
            known += [op.get_buffer("kept")[i, :n] for (op, i), n in zip(pool, starts, strict=True)]
            new += torch.split(kept, starts)
        if known:
            torch._foreach_copy_(known, new)


def rank_budget(done: float, start: int, target: int) -> int:
    """Triplets that may remain, the paper's b: all of them, a cubic, then the target.

    Args:
        done: part of the training that is over.
        start: triplets at the start.
        target: triplets in the end.
    """
    left = 1 - min(max((done - WARMUP) / (SETTLED - WARMUP), 0.0), 1.0)
    return target + int((start - target) * left**3)
