"""h = W x + b: what a weight matrix computes, and what it still does with an op folded in."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Affine:
    """An affine map in double precision.

    Attributes:
        weight: columns beyond those of the model's own weight read further neurons.
        bias: zero where the model has none.
    """

    weight: Float[Tensor, "d_out d_in"]
    bias: Float[Tensor, " d_out"]

    def plus(self, matrix: Float[Tensor, "d_out fewer"]) -> "Affine":
        """Add to the weight, to its first columns if it has more."""
        n_more = self.weight.shape[1] - matrix.shape[1]
        return Affine(self.weight + nn.functional.pad(matrix, (0, n_more)), self.bias)

    def then(self, matrix: Float[Tensor, "d_out d_out"]) -> "Affine":
        """Let h + matrix h follow."""
        return Affine(self.weight + matrix @ self.weight, self.bias + matrix @ self.bias)

    def shifted(self, vector: Float[Tensor, " d_out"]) -> "Affine":
        """Let h + vector follow."""
        return Affine(self.weight, self.bias + vector)

    def scaled(self, vector: Float[Tensor, " d_out"]) -> "Affine":
        """Let h * vector follow."""
        return Affine(self.weight * vector[:, None], self.bias * vector)

    def wider(self, columns: Float[Tensor, "d_out neuron"]) -> "Affine":
        """Read further neurons as well."""
        return Affine(torch.cat([self.weight, columns], 1), self.bias)
