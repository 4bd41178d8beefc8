"""Losses of trials that do not meet."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


def mean_cross_entropy(
    logits: Float[Tensor, "trial place output"], labels: Int[Tensor, " place"]
) -> Float[Tensor, " trial"]:
    """Mean cross-entropy for each trial, in nats, in fp32; the labels are the same for all."""
    n_trials, n_places, _ = logits.shape
    losses = cross_entropy(logits.float().flatten(0, 1), labels.repeat(n_trials), reduction="none")
    return losses.view(n_trials, n_places).mean(dim=1)
