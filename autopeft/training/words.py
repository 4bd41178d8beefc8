"""The loss of words, trial by trial and few positions at a time, so that many trials fit.

A vocabulary is a hundred times as wide as a state: the logits of a cohort's batch would be the
largest tensor there is, and autograd would keep it twice. The output embeddings are frozen, so the
gradient by the states is all that is needed, and it is taken with the loss, chunk by chunk (as in
Liger Kernel's fused linear cross-entropy, Hsu et al. 2024). No chunk has positions of two trials.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from autopeft.model.words import Words

MOST_LOGITS = 2**23
"""Logits that are there at once."""


def mean_losses(
    words: Words,
    states: Float[Tensor, "trial position d"],
    labels: Int[Tensor, " position"],
    smoothing: float,
) -> Float[Tensor, " trial"]:
    """Mean cross-entropy for each trial, in nats, in fp32.

    Args:
        words: of the model.
        states: that the words are read from.
        labels: the words to put out, the same for all trials.
        smoothing: part of the probability that is spread over all words (Szegedy et al. 2016).
    """
    if not words.is_frozen:  # of a model that is trained whole
        each = [
            cross_entropy(words(own).float(), labels, label_smoothing=smoothing) for own in states
        ]
        return torch.stack(each)
    out: Tensor = _MeanLosses.apply(states, words, labels, smoothing)  # type: ignore[no-untyped-call]
    return out


@torch.no_grad()
def losses_of(
    words: Words, states: Float[Tensor, "trial position d"], labels: Int[Tensor, " position"]
) -> Float[Tensor, "trial position"]:
    """Cross-entropy of every word, in nats, in fp32."""
    return torch.stack(
        [
            torch.cat(
                [
                    cross_entropy(words(own[part]).float(), labels[part], reduction="none")
                    for part in chunks(len(labels), words.n_words)
                ]
            )
            for own in states
        ]
    )


def chunks(n_positions: int, n_words: int) -> list[slice]:
    """Parts of so many positions that their logits are `MOST_LOGITS` at most."""
    size = max(1, MOST_LOGITS // n_words)
    return [slice(first, first + size) for first in range(0, n_positions, size)]


def passing_bytes(n_positions: int, n_words: int) -> int:
    """What the words of some positions take while their loss is computed, however many trials.

    The logits, in fp32 as well, and their gradient.
    """
    return 3 * torch.float32.itemsize * min(MOST_LOGITS, n_positions * n_words)


class _MeanLosses(Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        words: Words,
        labels: Tensor,
        smoothing: float,
    ) -> Tensor:
        """The losses; the gradient of each by its states is kept."""
        needed = ctx.needs_input_grad[0]
        gradients = torch.empty_like(states) if needed else None
        losses = states.new_zeros(len(states), dtype=torch.float32)
        for trial, own in enumerate(states):
            for part in chunks(len(labels), words.n_words):
                x = own[part].detach().requires_grad_(needed)
                with torch.set_grad_enabled(needed):
                    loss = cross_entropy(
                        words(x).float(), labels[part], reduction="sum", label_smoothing=smoothing
                    )
                losses[trial] += loss.detach()
                if gradients is not None:
                    (gradients[trial, part],) = torch.autograd.grad(loss, x)
        ctx.n_positions = len(labels)
        if gradients is not None:
            ctx.save_for_backward(gradients)
        return losses / len(labels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Each trial's gradient by its states."""
        (gradients,) = ctx.saved_tensors
        by_trial = (grads[0] / ctx.n_positions).to(gradients.dtype)
        return gradients * by_trial[:, None, None], None, None, None
