"""A point: where in a model a tap is, as a module, a side of it, and perhaps a part of that."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from autopeft.errors import ConfigError

Side = Literal["in", "out"]


@dataclass(frozen=True)
class Part:
    """One of several parts of a module's output, such as the query of a fused projection.

    Attributes:
        index: which, from 0.
        widths: of all parts, in their order; they make up the whole output.
    """

    index: int
    widths: tuple[int, ...]

    def of(self, whole: Tensor, dim: int = 0) -> Tensor:
        """The part's of a tensor with a number for each output along a dimension; a view."""
        return whole.split_with_sizes(self.widths, dim)[self.index]


class Point(NamedTuple):
    """The input or output of a module, or a part of its output.

    Attributes:
        module: that is hooked.
        side: of the module.
        part: of the output; None for the whole.
    """

    module: nn.Module
    side: Side
    part: Part | None = None

    @property
    def is_weight(self) -> bool:
        """Whether the state is the output of a weight matrix."""
        return self.side == "out" and isinstance(self.module, nn.Linear | Conv1D)

    @property
    def width(self) -> int:
        """The width of the state, of a module that is a weight matrix."""
        if self.part is not None:
            return self.part.widths[self.part.index]
        if isinstance(self.module, Conv1D):
            sides = {"in": self.module.nx, "out": self.module.nf}
        else:
            sides = {"in": self.module.in_features, "out": self.module.out_features}
        return int(sides[self.side])

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        """The weights that the state is computed with, whatever way the module keeps them.

        A view, but of weights in few bits.

        Raises:
            ConfigError: it keeps its weights in few bits in a way of its own.
            TypeError: the module is no weight matrix.
        """
        if not isinstance(self.module, nn.Linear | Conv1D):
            raise TypeError(f"a {type(self.module).__name__} is no weight matrix")
        weight: Tensor = self.module.weight
        if not weight.is_floating_point():
            raise ConfigError(
                f"a {type(self.module).__name__} whose weights are packed cannot be read by ops "
                "that need them; load the model in fp32, or search with `quantize: nf4`"
            )
        weight = weight.T if isinstance(self.module, Conv1D) else weight
        return weight if self.part is None else self.part.of(weight)

    @property
    def bias(self) -> Float[Tensor, " d_out"] | None:
        """The bias that the state is computed with, if there is one; a view."""
        bias: Tensor | None = getattr(self.module, "bias", None)
        return bias if bias is None or self.part is None else self.part.of(bias)
