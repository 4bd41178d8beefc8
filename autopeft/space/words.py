"""A genotype in the words of the field: "LoRA q,v r4 in layers 3-5 + parallel FFN r16 x2"."""

from collections.abc import Sequence
from itertools import groupby

from autopeft.space.forms import PREFIXES, PROMPTS, SPARSE_DELTAS, Form, is_sequential
from autopeft.space.genotype import Genotype, Op
from autopeft.space.shape import spans
from autopeft.space.taps import CROSS, LINEAR_INPUT, ORDER, THROUGH_NORM, Tap

_SHORT = {
    Tap.ATTN_OUT: "o",
    Tap.FFN_GATE: "gate",
    Tap.FFN_UP: "up",
    Tap.FFN_OUT: "down",
    Tap.FFN_MID: "ffn",
    Tap.ATTN_NORM: "attn LN",
    Tap.CROSS_OUT: "cross_o",
    Tap.CROSS_NORM: "cross LN",
    Tap.FFN_NORM: "ffn LN",
}

_ON_WEIGHTS = {
    Form.LOWRANK: "LoRA",
    Form.LOWRANK_FA: "LoRA-FA",
    Form.DORA: "DoRA",
    Form.ADALORA: "AdaLoRA",
    Form.VERA: "VeRA",
    Form.KRONECKER: "KronA",
    Form.SPARSE: "sparse",
    Form.FISH: "FISH",
    Form.LT_SFT: "LT-SFT",
    Form.DIFF_PRUNING: "diff pruning",
}

_INSIDE = {
    Form.PREFIX: "prefix",
    Form.PREFIX_MLP: "prefix by an MLP",
    Form.MULTIHEAD: "multi-head adapter",
    Form.PROMPT: "prompt",
    Form.PROMPT_MLP: "prompt by an MLP",
}
"""What stands in the heads, or before the text."""

_KINDS = {
    Form.LOWRANK: "linear ",
    Form.LOWRANK_FA: "linear FA ",
    Form.VERA: "VeRA ",
    Form.KRONECKER: "KronA ",
    Form.PHM: "Compacter ",
    Form.SPARSE_BOTTLENECK: "sparse ",
    Form.ADALORA: "AdaLoRA ",
}
"""What stands beside or behind a sublayer and is not a bottleneck."""

_USUAL = {Form.PHM: "gelu"}
"""Activations that go without saying, of forms where it is not relu."""

_LETTERS = {
    Form.KRONECKER: "f",
    **dict.fromkeys((*PREFIXES, *PROMPTS), "l"),
    **dict.fromkeys(SPARSE_DELTAS, "k"),
}
"""What sizes are called; ranks otherwise."""


HEAD, FROZEN = "head only", "frozen backbone"
"""What is left without any op, of a model with a head to train and of one that has none."""


def describe(genotype: Genotype, nothing: str = HEAD) -> str:
    """One line of what the ops are, where and how large; `nothing` without any."""
    if genotype.full:
        return "full fine-tuning"
    parts = []
    ordered = sorted(genotype.ops, key=lambda op: (_group(op), ORDER[op.write]))
    for _, group in groupby(ordered, key=_group):
        ops = list(group)
        words = [_name(ops), _size(ops[0]), _scale(ops[0]), _layers(ops[0].sizes)]
        parts.append(" ".join(word for word in words if word))
    return " + ".join(parts) or nothing


def _group(op: Op) -> tuple[str, str, str, tuple[int, ...], str]:
    """Ops that are told together: one kind and size, on several weights or vectors."""
    place = "weight" if _is_weight(op) else f"{op.read}>{op.write}"
    if op.form in (Form.BIAS, Form.SCALE):
        place = "vector"
    return (op.form, place, op.activation or "", op.sizes, str(op.scale))


def _is_weight(op: Op) -> bool:
    return op.form in _ON_WEIGHTS and LINEAR_INPUT.get(op.write) == op.read


def _name(ops: Sequence[Op]) -> str:
    op = ops[0]
    taps = ",".join(_SHORT.get(op.write, str(op.write)) for op in ops)
    if _is_weight(op):
        return f"{_ON_WEIGHTS[op.form]} {taps}"
    if op.form in _INSIDE:
        return f"{'cross ' if op.write in CROSS else ''}{_INSIDE[op.form]}"
    if op.form in (Form.BIAS, Form.SCALE):
        return f"{'BitFit' if op.form is Form.BIAS else 'IA3'} {taps}"
    kind = _KINDS.get(op.form, "")
    side = "sequential" if is_sequential(op.read, op.write) else "parallel"
    if op.read in THROUGH_NORM:
        side = "Pfeiffer"
    where = "FFN" if op.write in (Tap.FFN_OUT, Tap.FFN_UP, Tap.FFN_MID) else "attention"
    where = "cross-attention" if op.write in CROSS else where
    unusual = op.activation not in (None, _USUAL.get(op.form, "relu"))
    activation = f" {op.activation}" if unusual else ""
    return f"{side} {kind}{where}{activation}"


def _size(op: Op) -> str:
    if op.form in (Form.BIAS, Form.SCALE):
        return ""
    sizes = sorted({size for size in op.sizes if size})
    letter = _LETTERS.get(op.form, "r")
    return f"{letter}{sizes[0]}" if len(sizes) == 1 else f"{letter}{sizes[0]}-{sizes[-1]}"


def _scale(op: Op) -> str:
    if isinstance(op.scale, str):
        return f"x {op.scale}"
    return "" if op.scale == 1.0 else f"x{op.scale:g}"


def _layers(sizes: Sequence[int]) -> str:
    """`in layers 0-2,5`, counted from 0 at the bottom; nothing if in all."""
    present = [i for i, size in enumerate(sizes) if size]
    if len(present) == len(sizes):
        return ""
    return f"in {spans(present)}"
