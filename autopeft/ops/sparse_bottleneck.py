"""SparseAdapter: a wide bottleneck of which few weights are trained (He et al. 2022)."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.base import Declared, Member
from autopeft.ops.bottleneck import ACTIVATIONS
from autopeft.ops.entries import Entries, largest
from autopeft.space.forms import Activation, Form
from autopeft.space.seed import seed_of

WIDER = 4
"""A bottleneck of size r has 4 r units, of whose weights a quarter remains: as many parameters as a
dense one of r units. The paper's large-sparse setting goes from twice to four times and more."""

INIT_STD = 0.02


class SparseBottleneck(Entries):
    """values: [member, size, d_read + 1 + d_write] and up_bias: [member, 1, d_write].

    The values stand in the table of all units: of each its weights down, its bias, its weights up.
    Which ones is chosen by SNIP, the method that the paper finds best: the largest |w dL/dw| of the
    whole adapter at its start (Lee et al. 2019). So both projections start at random, as in
    the paper: not a no-op, else no weight would have any influence to choose by.
    """

    form = Form.SPARSE_BOTTLENECK
    chooses = "looking"
    up_bias: nn.Parameter
    _starts: Tensor | None = None
    _influence: Tensor | None = None

    def __init__(
        self,
        members: Sequence[Member],
        *,
        layout: Sequence[int],
        d_read: int,
        d_write: int,
        activation: Activation,
    ) -> None:
        super().__init__(members, layout=layout, d_read=d_read, d_write=d_write)
        self.activation = ACTIVATIONS[activation]

    def declare(self) -> Mapping[str, Declared]:
        """What remains of the weights, and the bias of the outcome."""
        return {
            "values": Declared("size", self.d_read + 1 + self.d_write),
            "up_bias": Declared("one", self.d_write, decays=False),
        }

    @property
    def table_shape(self) -> tuple[int, int]:
        """A row for each unit."""
        return WIDER * self.padded, self.d_read + 1 + self.d_write

    def available(self, member: int) -> int:
        """The units of a member's own size."""
        return WIDER * self.rows_of("values", member) * self.table_shape[1]

    def start(self, member: int) -> Float[Tensor, "entry"]:
        """Weights by N(0, 0.02), biases zero."""
        one = self.stack[member]
        generator = torch.Generator().manual_seed(seed_of(one.seed, one.path, "start"))
        table = torch.empty(self.available(member)).normal_(0.0, INIT_STD, generator=generator)
        table.view(-1, self.table_shape[1])[:, self.d_read] = 0.0
        return table

    def watch(self, examples: int) -> None:  # noqa: ARG002
        """Train all of the table for a moment, to see what each entry does."""
        if self._influence is not None:
            return
        starts = self.nothing()
        for i in range(len(self.stack)):
            starts[i, : self.available(i)] = self.start(i)
        self._starts, self._influence = starts, torch.zeros_like(starts)

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """H + s (act(x Wd + bd) Wu + bu)."""
        table = self.table(self.nothing() if self._starts is None else self._starts)
        if self._influence is not None and table.requires_grad:
            table.register_hook(self._see)  # type: ignore[no-untyped-call]
        down, bias, up = torch.split(table, [self.d_read, 1, self.d_write], dim=2)
        hidden = torch.baddbmm(
            bias.transpose(1, 2).to(x.dtype), x, down.to(x.dtype).transpose(1, 2)
        )
        out = torch.baddbmm(h, self.activation(hidden), self.scaled(up).to(x.dtype))
        return out + self.scaled(self.up_bias).to(x.dtype)

    def _see(self, grad: Tensor) -> None:
        if self._influence is not None:
            self._influence[:, :-1] += grad.flatten(1)

    @torch.no_grad()
    def choose(self) -> None:
        """Take the entries with the most influence, and stop watching."""
        if self._influence is None or self._starts is None:
            raise RuntimeError("a sparse bottleneck has seen no examples")
        for i, score in enumerate((self._influence * self._starts).abs()):
            self.put(i, largest(score[: self.available(i)]))
        self._starts = self._influence = None
