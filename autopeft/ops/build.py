"""From genotypes to stacked ops: the one place that knows every form."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from autopeft.ops.adalora import AdaLora
from autopeft.ops.base import Member, SharedStack, StackedOp
from autopeft.ops.bias import Bias
from autopeft.ops.bottleneck import Bottleneck
from autopeft.ops.dense import DiffPruning, LotteryTicket
from autopeft.ops.dora import Dora
from autopeft.ops.gate import Gate
from autopeft.ops.kronecker import Kronecker
from autopeft.ops.lowrank import LowRank
from autopeft.ops.lowrank_fa import LowRankFrozenA
from autopeft.ops.multihead import MultiHead
from autopeft.ops.phm import PhmBottleneck, PhmRule
from autopeft.ops.prefix import Prefix
from autopeft.ops.prefix_mlp import PrefixEmbedding, PrefixMlp
from autopeft.ops.prompt import Prompt, PromptMlp
from autopeft.ops.scale import ElementwiseScale
from autopeft.ops.sparse import Fish, SparseDelta
from autopeft.ops.sparse_bottleneck import SparseBottleneck
from autopeft.ops.vera import Vera
from autopeft.space.forms import FORMS, Form, gate_tap
from autopeft.space.genotype import Genotype, Op
from autopeft.space.taps import Tap

FORM_CLASSES: Mapping[Form, type[StackedOp]] = {
    cls.form: cls
    for cls in (
        *(LowRank, LowRankFrozenA, Dora, Vera, Kronecker, AdaLora),
        *(SparseDelta, Fish, LotteryTicket, DiffPruning, SparseBottleneck),
        *(Bottleneck, PhmBottleneck, Prefix, PrefixMlp, MultiHead, Bias, ElementwiseScale),
        *(Prompt, PromptMlp),
    )
}

SHARED_CLASSES: Mapping[Form, type[SharedStack]] = {
    Form.PHM: PhmRule,
    Form.PREFIX_MLP: PrefixEmbedding,
}
"""What the layers of a trial have in common, of forms that have such."""


def loop_obstacle(genotype: Genotype) -> str | None:
    """Say why a training loop of one's own would train something else; None if it would not."""
    ops = [op for op in genotype.ops if FORM_CLASSES[op.form].chooses]
    if not ops:
        return None
    names = ", ".join(f"{op.form} {op.read}->{op.write}" for op in ops)
    return f"a loop of one's own lets no op choose what to train, as these have to: {names}"


class Group(NamedTuple):
    """What the members of a stack share.

    The bits of a matrix product depend on its shape. So nobody is padded to a size that is not a
    function of their own.

    Attributes:
        form: of all of them.
        read: the tap.
        write: the tap.
        activation: its name, or nothing.
        factor: how the scale comes about if it is no constant: learned or gated.
        padded: their size, padded if the form pads; 0 for forms without a size.
        nth: of a trial's ops that share all this, since every member is another trial.
    """

    form: Form
    read: Tap
    write: Tap
    activation: str
    factor: str
    padded: int
    nth: int


def op_path(layer: int, op: Op) -> str:
    """Name of an op in its trial; the key of its seed and of its tensors in a file."""
    words: list[str] = [op.form, op.read, op.write, *([op.activation] if op.activation else [])]
    if isinstance(op.scale, str):
        words.append(op.scale)
    elif op.scale != 1.0:
        words.append(f"x{float(op.scale)!r}".removesuffix(".0").replace(".", "_"))
    return ".".join(["layers", str(layer), *words])


Shared = Mapping[Form, Sequence[SharedStack]]
"""What the layers of each trial have in common, by form; each trial is in one of the stacks."""


@contextmanager
def _in_fp32() -> Iterator[None]:
    """Whatever the caller lets torch make by default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@_in_fp32()
def build_shared(genotypes: Sequence[Genotype], seeds: Sequence[int], d_model: int) -> Shared:
    """What the layers of each trial have in common, stacked over the trials that have it."""
    members: dict[tuple[Form, int], list[Member]] = {}
    for trial, (genotype, seed) in enumerate(zip(genotypes, seeds, strict=True)):
        for form, cls in SHARED_CLASSES.items():
            if size := max((max(op.sizes) for op in genotype.ops if op.form is form), default=0):
                member = Member(trial, seed, f"shared.{form}", size)
                members.setdefault((form, cls.room(size)), []).append(member)
    out: dict[Form, list[SharedStack]] = {}
    for (form, _), some in sorted(members.items()):
        out.setdefault(form, []).append(SHARED_CLASSES[form](some, d_model))
    return out


@_in_fp32()
def build_layer(
    genotypes: Sequence[Genotype],
    seeds: Sequence[int],
    layer: int,
    widths: Mapping[Tap, int],
    layout: Sequence[int],
    shared: Shared,
) -> dict[Group, StackedOp]:
    """The stacked ops of one layer, for all trials of a cohort.

    Args:
        genotypes: one for each trial.
        seeds: one for each trial.
        layer: index from the bottom.
        widths: the model's width at each tap.
        layout: whose rows the layer computes, block by block.
        shared: what the layers have in common, by form.

    Returns:
        The stacks in a fixed order that does not depend on the company.
    """
    grouped: dict[Group, list[Member]] = {}
    for trial, (genotype, seed) in enumerate(zip(genotypes, seeds, strict=True)):
        kinds: Counter[Group] = Counter()
        for op in genotype.ops:
            if size := op.sizes[layer]:
                first = _group(op, size)
                group = first._replace(nth=kinds[first])
                kinds[first] += 1
                member = Member(trial, seed, op_path(layer, op), size, op.scale)
                grouped.setdefault(group, []).append(member)
    return {
        group: _build(group, grouped[group], layout, widths, shared) for group in sorted(grouped)
    }


def _group(op: Op, size: int) -> Group:
    padded = FORM_CLASSES[op.form].room(size) if FORMS[op.form].sized else 0
    factor = op.scale if isinstance(op.scale, str) else ""
    return Group(op.form, op.read, op.write, op.activation or "", factor, padded, 0)


def _build(
    group: Group,
    members: Sequence[Member],
    layout: Sequence[int],
    widths: Mapping[Tap, int],
    shared: Shared,
) -> StackedOp:
    more: dict[str, Any] = {"activation": group.activation} if group.activation else {}
    if group.form in shared:
        own = {member.trial for member in members}
        more["shared"] = [s for s in shared[group.form] if own & {m.trial for m in s.stack}]
    cls = FORM_CLASSES[group.form]
    d_read, d_write = widths[group.read], widths[group.write]
    op = cls(members, layout=layout, d_read=d_read, d_write=d_write, **more)
    if group.factor == "gated":
        op.gate = Gate(members, widths[gate_tap(group.read)])
    return op
