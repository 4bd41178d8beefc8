"""Gates: a factor s for every example, from what an op reads (UniPELT, Mao et al. 2022, eq. 1).

s = mean over the example's real tokens of sigmoid(x w + b). So a gate sees whole rows: ops that see
one token at a time, as behind a cache of keys and values, cannot have one.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from autopeft.errors import DataError
from autopeft.ops.base import PAD, Declared, Member, Stack
from autopeft.ops.per_thread import PerThread

Real = Float[Tensor, "example token"]
"""1 for a real token and 0 for padding, of the examples that all blocks have."""


class _Told(PerThread):
    """What was told last, if anything."""

    def __init__(self) -> None:
        self.anything = False
        self.real: Real | None = None


class Tokens:
    """Which tokens of a batch are real; told before every call of a model."""

    def __init__(self) -> None:
        self._here = _Told()
        self._last: Real | None = None

    @property
    def real(self) -> Real | None:
        """As told in this thread; in one of autograd's, which is told nothing, as told last."""
        return self._here.real if self._here.anything else self._last

    def tell(self, real: Real | None) -> None:
        """Of the call that begins; None where it has others than whole rows."""
        self._here.anything, self._here.real = True, real
        self._last = real


class Gate(Stack):
    """w: [member, 1, d] and b: [member, 1, 1], both 0 at the start: s is one half.

    Args:
        members: those of the op that it is for.
        d_read: width of what it reads.
    """

    pads = False
    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, members: Sequence[Member], d_read: int) -> None:
        super().__init__([Member(m.trial, m.seed, f"{m.path}.gate", 1) for m in members])
        self.d_read, self.tokens = d_read, Tokens()
        self._fill(self.declare())

    def declare(self) -> Mapping[str, Declared]:
        """A linear map to one number."""
        return {
            "weight": Declared("one", self.d_read),
            "bias": Declared("one", 1, decays=False),
        }

    def forward(self, x: Float[Tensor, "member token d"]) -> Float[Tensor, "member example 1 1"]:
        """The gate of each example.

        Raises:
            DataError: x is not of all tokens of the examples.
        """
        real = self.tokens.real
        if real is None or x.shape[1] != real.numel():
            raise DataError(
                "a gate is a mean over all tokens of a row, and this call has others; "
                "generate with use_cache=False"
            )
        # A product with one output takes another path, with other bits, when it is alone.
        weight = functional.pad(self.weight, (0, 0, 0, PAD - 1)).to(x.dtype)
        scores = torch.bmm(x, weight.transpose(1, 2))[..., :1] + self.bias
        # In fp32 the last elements of a tensor have a sigmoid with other bits than the first ones.
        of_tokens = scores.double().sigmoid().view(len(x), *real.shape)
        mean = (of_tokens * real).sum(-1) / real.sum(-1)
        return mean[..., None, None].to(scores.dtype)
