"""Multi-head parallel adapter: a bottleneck in each attention head (He et al. 2022, section 4.4).

The head's query is read and relu(q Pk^T) Pv is added to what the head puts out: a prefix whose
softmax has become a relu of its own. Used by the attention function in `autopeft.model.attention`,
not by a hook.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.base import Declared, StackedOp
from autopeft.ops.prefix import INIT_STD
from autopeft.space.forms import Form


class MultiHead(StackedOp):
    """Pk, Pv: [member, width, n_kv_heads * d_head].

    Pk is N(0, 0.02) at the start, as in a prefix, and Pv 0: a no-op. Query heads that share keys
    and values share them here, too.
    """

    form = Form.MULTIHEAD
    keys: nn.Parameter
    values: nn.Parameter

    def declare(self) -> Mapping[str, Declared]:
        """Down and up projections of all heads."""
        return {"keys": Declared("size", self.d_write), "values": Declared("size", self.d_write)}

    def initial(
        self, name: str, rows: int, width: int, generator: torch.Generator
    ) -> Float[Tensor, "rows width"]:
        """Keys normal with standard deviation 0.02, values zero."""
        if name == "values":
            return torch.zeros(rows, width)
        return torch.empty(rows, width).normal_(0.0, INIT_STD, generator=generator)

    def forward(
        self, h: Float[Tensor, "member token d_head"], x: Float[Tensor, "member token d_head"]
    ) -> Float[Tensor, "member token d_head"]:
        """H + s relu(q Pk^T) Pv.

        Args:
            h: what every head of every token put out, heads of a token side by side.
            x: their queries, likewise.
        """
        n_members, _, d_head = x.shape
        n_heads, n_shared = self.d_write // d_head, self.d_read // self.d_write

        def of_heads(stacked: Tensor) -> Float[Tensor, "head width d_head"]:
            heads = stacked.view(n_members, self.padded, n_heads, d_head).transpose(1, 2)
            return heads.flatten(0, 1).to(x.dtype)

        queries = x.reshape(n_members, -1, n_heads, n_shared * d_head).transpose(1, 2)
        queries = queries.reshape(n_members * n_heads, -1, d_head)
        hidden = torch.bmm(queries, of_heads(self.keys).transpose(1, 2)).relu()
        added = torch.bmm(hidden, of_heads(self.scaled(self.values)))
        added = added.view(n_members, n_heads, -1, n_shared * d_head).transpose(1, 2)
        return h + added.reshape(h.shape)
