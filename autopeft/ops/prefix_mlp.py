"""A prefix that an MLP puts out while it is trained (Li and Liang 2021, section 4.3).

One embedding of the prefix and one hidden layer for all layers of a trial, and for each layer the
part of the last projection that makes its keys and values. What is stored is a plain prefix.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.base import Declared, Member, SharedStack, shared_by
from autopeft.ops.lowrank import kaiming
from autopeft.ops.prefix import Prefix
from autopeft.space.forms import PREFIX_HIDDEN, Form


class PrefixEmbedding(SharedStack):
    """Embedding [member, length, d_model], N(0, 1) at the start, and the hidden layer's weights."""

    form = Form.PREFIX_MLP
    embedding: nn.Parameter
    down: nn.Parameter
    down_bias: nn.Parameter

    def declare(self) -> Mapping[str, Declared]:
        """The embedding, as long as the longest prefix, and the hidden layer."""
        return {
            "embedding": Declared("size", self.d_model),
            "down": Declared(PREFIX_HIDDEN, self.d_model),
            "down_bias": Declared("one", PREFIX_HIDDEN, decays=False),
        }

    def initial(
        self, name: str, rows: int, width: int, generator: torch.Generator
    ) -> Float[Tensor, "rows width"]:
        """As torch initialises an Embedding and a Linear, the bias zero."""
        if name == "embedding":
            return torch.empty(rows, width).normal_(0.0, 1.0, generator=generator)
        return kaiming(rows, width, generator) if name == "down" else torch.zeros(rows, width)


class PrefixMlp(Prefix):
    """`up` [member, hidden, 2 d_kv] and `up_bias`: (Pk, Pv) = tanh(E Wd + bd) Wu + bu."""

    form = Form.PREFIX_MLP
    up: nn.Parameter
    up_bias: nn.Parameter

    def __init__(
        self,
        members: Sequence[Member],
        *,
        layout: Sequence[int],
        d_read: int,
        d_write: int,
        shared: Sequence[PrefixEmbedding],
    ) -> None:
        super().__init__(members, layout=layout, d_read=d_read, d_write=d_write)
        self.shared = nn.ModuleList(shared)

    def declare(self) -> Mapping[str, Declared]:
        """A layer's part of the last projection."""
        return {
            "up": Declared(PREFIX_HIDDEN, 2 * self.d_read),
            "up_bias": Declared("one", 2 * self.d_read, decays=False),
        }

    def initial(
        self, name: str, rows: int, width: int, generator: torch.Generator
    ) -> Float[Tensor, "rows width"]:
        """As torch initialises a Linear, the bias zero."""
        return kaiming(width, rows, generator).T if name == "up" else torch.zeros(rows, width)

    def pairs(
        self,
    ) -> tuple[Float[Tensor, "member length d_kv"], Float[Tensor, "member length d_kv"]]:
        """Keys and values, made anew at every step."""
        both = torch.stack([self._of(i) for i in range(len(self.stack))])
        keys, values = both.chunk(2, -1)
        return keys, values

    def stored(self, member: int) -> tuple[int, dict[str, Tensor]]:
        """What the MLP has come to put out: a prefix."""
        size = self.stack[member].size
        with torch.no_grad():
            keys, values = self._of(member)[:size].chunk(2, -1)
        return size, {"keys": keys.clone(), "values": values.clone()}

    def _of(self, member: int) -> Float[Tensor, "length both"]:
        # Member by member: the bits of a batched product depend on how many there are.
        embedding, down, bias = (
            shared_by(self.shared, name, self.stack[member])
            for name in ("embedding", "down", "down_bias")
        )
        hidden = torch.tanh(embedding[: self.padded] @ down.T + bias)
        return hidden @ self.up[member] + self.up_bias[member]
