"""Softmax attention, by torch's fused kernel or spelled out."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from autopeft.model.computing import Kernel

KERNELS: tuple[Kernel, ...] = ("eager", "sdpa")

_CACHED = 2**18
"""Scores that softmax takes at once on a CPU."""
_VECTOR = 16
"""Numbers in fp32 that the widest instructions of a CPU take at once."""


def attend(
    kernel: Kernel,
    query: Float[Tensor, "row head query d_head"],
    key: Float[Tensor, "row kv_head token d_head"],
    value: Float[Tensor, "row kv_head token d_head"],
    mask: Float[Tensor, "#batch #head query token"] | None,
    scaling: float,
    dropout: float,
    softcap: float | None = None,
) -> Float[Tensor, "row query head d_head"]:
    """Softmax attention by one kernel.

    Args:
        kernel: which one.
        query: of rows block by block.
        key: likewise.
        value: likewise.
        mask: additive, of the examples that every block has.
        scaling: of the scores.
        dropout: probability, of the weights.
        softcap: what scores do not exceed, as in Gemma 2, which SDPA cannot keep; None for none.
    """
    if key.shape[1] != query.shape[1]:  # grouped queries share keys and values
        shared = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(shared, 1) for t in (key, value))
    if kernel == "sdpa" and softcap is None:
        if mask is not None:
            mask = mask.repeat(len(query) // len(mask), 1, 1, 1)
        fused = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
        )
        return fused.transpose(1, 2)
    # The bits of a product depend on strides, and those on the company; matmul would copy anyway.
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    if dropout or softcap is not None:
        weights = _exact(_scores(query, key, mask, scaling, softcap), -math.inf).softmax(-1)
        weights = weights[..., : key.shape[2]].to(query.dtype)
        weights = nn.functional.dropout(weights, p=dropout) if dropout else weights
        return torch.matmul(weights, value).transpose(1, 2)
    out: Tensor = _Eager.apply(query, key, value, mask, scaling)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2)


def _scores(
    query: Float[Tensor, "row head query d_head"],
    key: Float[Tensor, "row head token d_head"],
    mask: Float[Tensor, "#batch #head query token"] | None,
    scaling: float,
    softcap: float | None = None,
) -> Float[Tensor, "row head query token"]:
    scores = torch.matmul(query, key.transpose(2, 3)).mul_(scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        # Rows are block by block of the mask's examples.
        scores.view(-1, len(mask), *scores.shape[1:]).add_(mask)
    return scores


def _few_rows(scores: Float[Tensor, "row head query token"]) -> int:
    """Rows that go through the caches of a CPU one step after the other; elsewhere all."""
    if scores.device.type != "cpu":
        return len(scores)
    return max(1, _CACHED // scores.shape[1:].numel())


def _exact(
    scores: Float[Tensor, "row head query token"], beyond: float
) -> Float[Tensor, "row head query longer"]:
    """In fp32 at least and no shorter than a CPU's vector, or softmax is several times slower.

    Scores that are exact have to sum up as in the plain model, and stay as long as they are.

    Args:
        scores: in any precision.
        beyond: what a longer row has behind its end.
    """
    exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
    missing = _VECTOR - scores.shape[-1]
    if missing <= 0 or scores.device.type != "cpu" or exact.dtype == scores.dtype:
        return exact
    return nn.functional.pad(exact, (0, missing), value=beyond)


class _Eager(Function):
    """Softmax attention that keeps its weights once, in the precision of the inputs.

    By autograd they would be kept twice and thrice as large, which for long rows is half of all
    memory.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
    ) -> Tensor:
        """Weights times values."""
        weights = _scores(query, key, mask, scaling)
        for some in torch.split(weights, _few_rows(weights)):
            some.copy_(_exact(some, -math.inf).softmax(-1)[..., : some.shape[-1]])
        ctx.save_for_backward(query, key, value, weights)
        ctx.scaling = scaling
        return torch.matmul(weights, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """With dP = dO V^T: dS = P (dP - rowsum(P dP))."""
        query, key, value, weights = ctx.saved_tensors
        grad = grads[0].contiguous()
        scores = torch.matmul(grad, value.transpose(2, 3))
        n_rows = _few_rows(scores)
        for some, own in zip(
            torch.split(scores, n_rows), torch.split(weights, n_rows), strict=True
        ):
            exact = _exact(own, 0.0)
            through = torch._softmax_backward_data(  # noqa: SLF001
                _exact(some, 0.0), exact, -1, exact.dtype
            )
            some.copy_(through.mul_(ctx.scaling)[..., : some.shape[-1]])
        return (
            torch.matmul(scores, key),
            torch.matmul(scores.transpose(2, 3), query),
            torch.matmul(weights.transpose(2, 3), grad),
            None,
            None,
        )
