"""Weight deltas that are dense while training and sparse in the end (LT-SFT, diff pruning)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autopeft.ops.base import Declared, StackedOp
from autopeft.ops.entries import largest
from autopeft.ops.sending import sent
from autopeft.space.forms import Form
from autopeft.space.seed import seed_of

DENSE_RATE = 0.05
"""Of the learning rate for a delta that is dense: what suits a few entries of a weight is some
twenty times what suits all of them."""


class DenseDelta(StackedOp):
    """delta: [member, 1, d_write * d_read], row by row of the weight; starts at 0: a no-op.

    The size of a member is how many entries it keeps, `chosen` which ones.
    """

    delta: nn.Parameter

    def declare(self) -> Mapping[str, Declared]:
        """Every entry of the weight."""
        return {"delta": Declared("one", self.d_write * self.d_read, rate=DENSE_RATE)}

    @torch.no_grad()
    def reset(self) -> None:
        """Start anew, with nothing chosen."""
        super().reset()
        everything = torch.ones_like(self.delta, dtype=torch.bool)
        self.register_buffer("chosen", everything, persistent=False)
        self._settled = torch.zeros(len(self.stack), 1, dtype=torch.bool)

    @property
    def has_chosen(self) -> bool:
        """Whether the entries have been chosen, for all members at once."""
        return bool(self._settled.all())

    def memory(self, member: int) -> dict[str, Tensor]:
        """Which entries were chosen, if they were."""
        return {"chosen": self.get_buffer("chosen")[member], "settled": self._settled[member]}

    @torch.no_grad()
    def choose(self) -> None:
        """Keep the entries that have moved the most."""
        chosen = self.get_buffer("chosen").zero_()
        for i, own in enumerate(self.delta):
            chosen[i, 0, largest(own[0].abs())[: self.stack[i].size]] = True
        self._settled.fill_(value=True)

    def rate(self, name: str) -> float:
        """That of a dense delta, then that of a few entries."""
        return 1.0 if self.has_chosen and name == "delta" else super().rate(name)

    def current(self) -> Float[Tensor, "member 1 entry"]:
        """D as it is now."""
        return self.delta * self.get_buffer("chosen") if self.has_chosen else self.delta

    def forward(
        self, h: Float[Tensor, "member token d_write"], x: Float[Tensor, "member token d_read"]
    ) -> Float[Tensor, "member token d_write"]:
        """H + x D^T."""
        delta = self.current().view(-1, self.d_write, self.d_read).to(x.dtype)
        return torch.baddbmm(h, x, delta.transpose(1, 2))

    @torch.no_grad()
    def stored(self, member: int) -> tuple[int, dict[str, Tensor]]:
        """A sparse delta of the entries that were chosen."""
        size = self.stack[member].size
        own, chosen = self.current()[member, 0], self.get_buffer("chosen")[member, 0]
        entries = largest(own.abs().where(chosen, -1.0))[:size].sort().values
        values = {"values": own[entries, None], "entries": entries[:, None].to(torch.int32)}
        return size, values


class LotteryTicket(DenseDelta):
    """LT-SFT: the entries that a dense training moves the most, trained anew (Ansell et al. 2022).

    The dense training is a whole one; then everything is as at the start and trained again, this
    time with the chosen entries alone, at the rate of entries.
    """

    form = Form.LT_SFT
    chooses = "rehearsed"

    @torch.no_grad()
    def choose(self) -> None:
        """Keep the entries that have moved the most, and go back to the start."""
        super().choose()
        self.delta.zero_()


LOW, HIGH = -1.5, 1.5
"""What a gate is stretched to before it is clipped to 0 and 1."""

SPARSITY = 1.25e-7
"""Weight of the expected number of open gates in the loss."""

OPEN = 5.0
"""Where the logit of a gate starts."""

NOISE_EPS = 1e-6
"""What keeps uniform noise from 0 and 1, whose logits are infinite."""

GATE_RATE = 20.0
"""Of the learning rate, for the logits: the authors train them some thousand times faster than the
weights, which here have a twentieth."""


class DiffPruning(DenseDelta):
    """Diff pruning: D = z w with hard-concrete gates z under an L0 penalty (Guo et al. 2021).

    After the first part of the training the gates are closed but for the entries with the largest
    |z w| (their magnitude pruning), and those are trained on. Gates are for every entry by itself;
    the structured variant has one more for each weight. Constants are those of the authors' code.
    """

    form = Form.DIFF_PRUNING
    chooses = "midway"
    logits: nn.Parameter
    _step = 0

    def declare(self) -> Mapping[str, Declared]:
        """Every entry of the weight, and a gate for each."""
        gates = Declared("one", self.d_write * self.d_read, decays=False, rate=GATE_RATE)
        return {**super().declare(), "logits": gates}

    def initial(
        self, name: str, rows: int, width: int, generator: torch.Generator
    ) -> Float[Tensor, "rows width"]:
        """No change, all gates open."""
        if name == "logits":
            return torch.full((rows, width), OPEN)
        return super().initial(name, rows, width, generator)

    def begin(self, step: int) -> None:
        """Draw the noise of the gates anew, by the seed of a member and the step."""
        self._step = step

    def _noise(self) -> Float[Tensor, "member 1 entry"]:
        drawn = []
        for member in self.stack:
            seed = seed_of(member.seed, member.path, "gates", str(self._step))
            generator = torch.Generator().manual_seed(seed)
            drawn.append(torch.rand(self.delta.shape[1:], generator=generator))
        return sent(torch.logit(torch.stack(drawn), eps=NOISE_EPS), self.delta.device)

    def current(self) -> Float[Tensor, "member 1 entry"]:
        """The delta behind its gates, which are drawn anew in every step of the training."""
        if self.has_chosen:
            # Logits have to take part, or the optimizer would miss their gradient.
            return super().current() + 0.0 * self.logits
        logits: Tensor = self.logits
        if torch.is_grad_enabled():
            logits = logits + self._noise()
        return self.delta * (torch.sigmoid(logits) * (HIGH - LOW) + LOW).clamp(0.0, 1.0)

    def penalty(self) -> Float[Tensor, "member"] | None:
        """The expected number of open gates."""
        if self.has_chosen:
            return None
        # Of a gate to be above 0: sigmoid(logit - log(-LOW / HIGH)), and the two are as large.
        return SPARSITY * torch.sigmoid(self.logits).flatten(1).sum(1)

    @torch.no_grad()
    def choose(self) -> None:
        """Keep the entries that change the weight the most, by as much as they do."""
        self.delta.copy_(self.current())
        super().choose()

    def settle(self) -> None:
        """Choose now, if that was to come."""
        if not self.has_chosen:
            self.choose()
