"""AdaLoRA: h + s x Q^T diag(l) P, triplets cut while training (Zhang et al. 2023, eq. 3).

Kept of the paper: the form of a singular value decomposition, so that a triplet is cut by its value
alone and can come back; the penalty that holds its vectors near orthonormal, without which
a value would not say how much its triplet does; and the importance of a triplet by smoothed
sensitivity and uncertainty. Once trained it is a plain LoRA.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.base import Declared, StackedOp
from autopeft.space.forms import Form, adalora_start

SMOOTHING = 0.85
"""Of sensitivity and uncertainty, the paper's beta1 and beta2."""

ORTHOGONALITY = 0.1
"""Weight of the penalty, the paper's gamma."""


class AdaLora(StackedOp):
    """a (Q): [member, rank, d_read], b (P): [member, rank, d_write], values (l): [member, rank, 1].

    The values start at 0: a no-op. The size of a member is the rank that it may keep on average.
    """

    form = Form.ADALORA
    chooses = "each step"
    a: nn.Parameter
    b: nn.Parameter
    values: nn.Parameter

    @classmethod
    def rows(cls, size: int) -> int:
        """It starts with half as many ranks again."""
        return adalora_start(size)

    def declare(self) -> Mapping[str, Declared]:
        """Singular vectors and values."""
        return {
            "a": Declared("size", self.d_read),
            "b": Declared("size", self.d_write),
            "values": Declared("size", 1, decays=False),
        }

    def initial(
        self, name: str, rows: int, width: int, generator: torch.Generator
    ) -> Float[Tensor, "rows width"]:
        """Vectors of about unit length, which the penalty wants, and values of zero."""
        if name == "values":
            return torch.zeros(rows, width)
        return torch.empty(rows, width).normal_(0.0, width**-0.5, generator=generator)

    @torch.no_grad()
    def reset(self) -> None:
        """Start anew, with nothing known of importance and the first ranks kept."""
        super().reset()
        for name in self.declared:
            for kind in ("sensitivity", "uncertainty"):
                nothing = torch.zeros_like(self.get_parameter(name))
                self.register_buffer(f"{name}_{kind}", nothing, persistent=False)
        place = torch.arange(self.padded, device=self.values.device)
        sizes = {"present": [self.rows(m.size) for m in self.stack]}
        sizes["kept"] = [m.size for m in self.stack]
        for name, of_members in sizes.items():
            first = torch.stack([place < size for size in of_members])
            self.register_buffer(name, first, persistent=False)

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """H + s x Q^T diag(l) P."""
        hidden = torch.bmm(x, self.a.to(x.dtype).transpose(1, 2))
        return torch.baddbmm(h, hidden, self.scaled(self.values * self.b).to(x.dtype))

    def penalty(self) -> Float[Tensor, "member"]:
        """Gamma (||P^T P - I||^2 + ||Q Q^T - I||^2), padding left out."""
        identity = torch.diag_embed(self.get_buffer("present").to(self.a.dtype))
        of_a, of_b = (torch.bmm(v, v.transpose(1, 2)) - identity for v in (self.a, self.b))
        return ORTHOGONALITY * (of_a.square() + of_b.square()).flatten(1).sum(1)

    def watched(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Parameters with their gradients, sensitivities and uncertainties.

        Raises:
            RuntimeError: a parameter has no gradient.
        """
        for name in self.declared:
            parameter = self.get_parameter(name)
            if parameter.grad is None:
                raise RuntimeError(f"{name} of an AdaLoRA took no part in the forward pass")
            sensitivity = self.get_buffer(f"{name}_sensitivity")
            yield parameter, parameter.grad, sensitivity, self.get_buffer(f"{name}_uncertainty")

    def importance(self) -> Float[Tensor, "member rank"]:
        """What each triplet is worth."""
        score = {
            name: self.get_buffer(f"{name}_sensitivity") * self.get_buffer(f"{name}_uncertainty")
            for name in self.declared
        }
        return score["values"][..., 0] + (score["a"].mean(-1) + score["b"].mean(-1))

    def memory(self, member: int) -> dict[str, Tensor]:
        """Sensitivity and uncertainty, and what has been kept."""
        rows = self.rows_of("a", member)
        names = [f"{n}_{kind}" for n in self.declared for kind in ("sensitivity", "uncertainty")]
        return {name: self.get_buffer(name)[member, :rows] for name in (*names, "kept")}

    def stored(self, member: int) -> tuple[int, dict[str, Tensor]]:
        """A LoRA of the ranks that were kept, their values multiplied in."""
        kept = self.get_buffer("kept")[member, : self.rows_of("a", member)]
        down, up, values = (self.own(name, member)[kept] for name in ("a", "b", "values"))
        return int(kept.sum()), {"a": down, "b": values * up}


@torch.no_grad()
def observe(ops: Iterable[AdaLora]) -> None:
    """Take in the gradients of a step: how much each number matters, and how much that varies."""
    watched = [one for op in ops for one in op.watched()]
    if not watched:
        return
    lists = (list(each) for each in zip(*watched, strict=True))
    parameters, gradients, sensitivities, uncertainties = lists
    new = torch._foreach_mul(parameters, gradients)  # noqa: SLF001
    torch._foreach_abs_(new)
    torch._foreach_lerp_(sensitivities, new, 1 - SMOOTHING)
    torch._foreach_sub_(new, sensitivities)
    torch._foreach_abs_(new)
    torch._foreach_lerp_(uncertainties, new, 1 - SMOOTHING)


@torch.no_grad()
def cut(ops: Iterable[AdaLora]) -> None:
    """Set the values of the triplets that are not kept to zero; their vectors stay."""
    held = [(op.values, op.get_buffer("kept")[..., None].to(op.values.dtype)) for op in ops]
    if held:
        values, kept = (list(each) for each in zip(*held, strict=True))
        torch._foreach_mul_(values, kept)
