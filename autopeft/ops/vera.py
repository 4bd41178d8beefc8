"""VeRA: h + s ((x A^T * d) B) * b, A and B random and frozen (Kopiczko et al. 2024, eq. 2)."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.base import Declared, Member, StackedOp
from autopeft.ops.lowrank import kaiming
from autopeft.space.forms import Form
from autopeft.space.seed import seed_of

D_INITIAL = 0.1
"""Where d starts, as in `peft` and in most of the paper's experiments."""
GAIN = math.sqrt(6.0)
"""Of the random factors: times 1 / sqrt(fan-in) it bounds them, as the paper and `peft` have it."""
_WAS_D = ".d"
"""The end of d's name when the factors were smaller by `GAIN` each."""
_IS_D = ".lambda_d"


class Vera(StackedOp):
    """d (`lambda_d`): [member, rank, 1] and b: [member, 1, d_write]; b starts at 0: a no-op.

    A: [member, rank, d_read] and B: [member, rank, d_write] are the same for all trials and layers
    of these widths and this rank; nobody stores them.
    """

    form = Form.VERA
    lambda_d: nn.Parameter
    b: nn.Parameter

    def __init__(
        self, members: Sequence[Member], *, layout: Sequence[int], d_read: int, d_write: int
    ) -> None:
        super().__init__(members, layout=layout, d_read=d_read, d_write=d_write)
        for name, width in (("down", d_read), ("up", d_write)):
            frozen = torch.zeros(len(members), self.padded, width)
            for i, member in enumerate(members):
                frozen[i, : member.size] = random_factor(name, member.size, width)
            self.register_buffer(name, frozen, persistent=False)

    def declare(self) -> Mapping[str, Declared]:
        """Two vectors."""
        return {"lambda_d": Declared("size", 1), "b": Declared("one", self.d_write)}

    def initial(
        self,
        name: str,
        rows: int,
        width: int,
        generator: torch.Generator,  # noqa: ARG002
    ) -> Float[Tensor, "rows width"]:
        """All of d 0.1, b zero."""
        return torch.full((rows, width), D_INITIAL if name == "lambda_d" else 0.0)

    def as_factors(
        self, member: int
    ) -> tuple[Float[Tensor, "rank d_read"], Float[Tensor, "rank d_write"]]:
        """With d in A, s and b in B: they are low-rank without what made them few parameters."""
        size = self.stack[member].size
        down, up = (self.get_buffer(name)[member, :size] for name in ("down", "up"))
        up = up * self.own("b", member) * self.factor_of(member)
        return down * self.own("lambda_d", member), up

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """H + s ((x A^T * d) B) * b."""
        down, up = self.get_buffer("down"), self.get_buffer("up")
        hidden = torch.bmm(x, (self.lambda_d * down).to(x.dtype).transpose(1, 2))
        return torch.baddbmm(h, hidden, (up * self.scaled(self.b)).to(x.dtype))


def random_factor(name: str, rank: int, width: int) -> Float[Tensor, "rank width"]:
    """A (`down`) or B (`up`), Kaiming uniform over their fan-ins: the width and the rank."""
    generator = torch.Generator().manual_seed(seed_of(0, "vera", name, str(rank), str(width)))
    if name == "down":
        return GAIN * kaiming(rank, width, generator)
    return GAIN * kaiming(width, rank, generator).T


def name_now(name: str) -> str:
    """The name of a stored tensor, or of a moment of one, of d where that had another one."""
    path, slash, moment = name.partition("/")
    if f".{Form.VERA}." not in path or not path.endswith(_WAS_D):
        return name
    return path.removesuffix(_WAS_D) + _IS_D + slash + moment


def as_now(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stored tensors and moments of a trial, where d is that of smaller factors as it is now.

    What a VeRA computes stays what it was.
    """
    return {name_now(name): _of_d(name, tensor) for name, tensor in tensors.items()}


def _of_d(name: str, tensor: Tensor) -> Tensor:
    if name_now(name) == name:
        return tensor
    factor = GAIN**2  # of both random factors; gradients grow as d falls
    return tensor * {"": 1 / factor, "m": factor, "v": factor**2}[name.partition("/")[2]]
