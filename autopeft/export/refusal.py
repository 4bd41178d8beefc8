"""What a target cannot hold, told by the names of the ops, with the targets that could."""

from collections.abc import Callable, Mapping, Sequence

from autopeft.errors import ConfigError
from autopeft.export.to_adapters import adapters_obstacle, adapters_together
from autopeft.model.computing import Scheme
from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.merge import NORMS, obstacle
from autopeft.space.shape import ModelShape
from autopeft.space.taps import LINEAR_INPUT, Tap

Reason = Callable[[Op, ModelShape], str | None]

LORA_LIKE = frozenset({Form.LOWRANK, Form.LOWRANK_FA, Form.VERA, Form.DORA})
"""What LoRA of peft can do: an update of low rank, with a trained magnitude if asked for."""
IA3_INPUTS = {Tap.PRE_O: Tap.ATTN_OUT, Tap.FFN_MID: Tap.FFN_OUT}
"""Taps that one weight matrix alone reads, and the tap it puts out."""


def refuse(target: str, genotype: Genotype, shape: ModelShape) -> None:
    """Refuse what a target cannot hold.

    Raises:
        ConfigError: naming each op that is in the way, and the targets that can hold it.
    """
    problems = []
    for op in genotype.ops:
        if reason := _reason(target, op, shape):
            able = [name for name in HOLDS if _reason(name, op, shape) is None]
            problems.append(f"{op.form} {op.read}->{op.write}: {reason} ({', '.join(able)} can)")
    if not problems and target in TOGETHER:
        problems = TOGETHER[target](genotype)
    if problems:
        approximable = not any(lora_obstacle(op, shape) for op in genotype.ops)
        hint = "; --as-lora R approximates it" if target == "peft" and approximable else ""
        raise ConfigError(f"--to {target} cannot hold this: {'; '.join(problems)}{hint}")


def refuse_scheme(scheme: Scheme | None) -> None:
    """Refuse to write for peft what it would put on another backbone than was trained on.

    Raises:
        ConfigError: naming the scheme.
    """
    if scheme == "int8":
        raise ConfigError(
            "--to peft cannot hold this: what loads its backbone rounds states to 8 bits where "
            "`quantize: int8` rounds weights alone (native, merged can)"
        )


def lora_obstacle(op: Op, shape: ModelShape) -> str | None:
    """Why no update of the weights is what an op does, so that `--as-lora` cannot come near it."""
    if (reason := obstacle(op, shape)) is None and op.stored.form is Form.BOTTLENECK:
        return "a wider FFN is no update of a weight"
    return reason


def _reason(target: str, op: Op, shape: ModelShape) -> str | None:
    return HOLDS[target](op, shape)


def _peft(op: Op, shape: ModelShape) -> str | None:
    op = op.stored
    if op.scale == "gated":
        return "its gate is another one for every example"
    if op.form in LORA_LIKE or op.form is Form.KRONECKER:
        if LINEAR_INPUT.get(op.write) is op.read:
            return None
        kind = "LoRA" if op.form in LORA_LIKE else "LoKr"
        return f"peft's {kind} stands at one weight matrix, from its input to its output"
    if op.form is Form.SCALE:
        if op.write in shape.matrices or op.write in IA3_INPUTS or _is_norm(op, shape):
            return None
        return "peft's IA3 scales the output of a weight matrix, or an input that it alone reads"
    if op.form is Form.BIAS:
        if obstacle(op, shape) is None and (op.write in LINEAR_INPUT or _is_norm(op, shape)):
            return None
        return "peft trains biases that the model has"
    if op.form is Form.PROMPT:
        return "the heads of peft's models read the prompt or the padding, not the text's own token"
    return f"peft has no {op.form}"


def _share_a_layer(one: Op, other: Op) -> bool:
    return any(a and b for a, b in zip(one.sizes, other.sizes, strict=True))


def _is_norm(op: Op, shape: ModelShape) -> bool:
    return op.write in NORMS and NORMS[op.write] in shape.widths


def _peft_together(genotype: Genotype) -> list[str]:
    """Ops that peft holds, but not in one model."""
    ops = [op.stored for op in genotype.ops]
    scales = [op for op in ops if op.form is Form.SCALE and op.write not in NORMS]
    others = [op for op in ops if op.form is not Form.SCALE and op.write not in NORMS]
    if scales and others:
        names = ", ".join(f"{op.form} {op.write}" for op in others)
        told = f"peft holds one type in a model, and IA3 is another one than what {names} needs"
        return [f"scale {scales[0].write}: {told} (native, merged can)"]
    if any(op.form is Form.KRONECKER for op in ops) and (problem := _loner(ops)):
        return [f"{problem} (native, merged can)"]
    doras = {op.write: op for op in ops if op.form is Form.DORA}
    for op in ops:
        dora = doras.get(op.write)
        if (
            op.form in LORA_LIKE
            and dora is not None
            and dora is not op
            and _share_a_layer(op, dora)
        ):
            return [f"{op.form} {op.write}: DoRA does not share its weight (native, merged can)"]
    twice = {IA3_INPUTS.get(op.write, op.write) for op in scales}
    if len(twice) < len(scales):
        return ["scale: peft's IA3 scales the input or the output of a weight matrix, not both"]
    return []


def _loner(ops: Sequence[Op]) -> str | None:
    """Why peft's LoKr, which has one size of its first factor and no company, is not these ops."""
    ours = [op for op in ops if op.form is Form.KRONECKER]
    if others := [op for op in ops if op.form is not Form.KRONECKER and op.write not in NORMS]:
        names = ", ".join(f"{op.form} {op.write}" for op in others)
        told = f"and LoKr is another one than what {names} needs"
        return f"kronecker {ours[0].write}: peft holds one type in a model, {told}"
    if len({size for op in ours for size in op.sizes if size}) > 1:
        names = ", ".join(op.write for op in ours)
        return f"kronecker {names}: peft's LoKr has one size of its first factor in a model"
    if len({op.write for op in ours}) < len(ours):
        return f"kronecker {ours[0].write}: peft's LoKr does not share its weight"
    return None


HOLDS: Mapping[str, Reason] = {
    "native": lambda _, __: None,
    "peft": _peft,
    "merged": obstacle,
    "adapters": adapters_obstacle,
    "yaml": lambda _, __: None,
}
"""By target: why it cannot hold an op; None if it can."""
TOGETHER: Mapping[str, Callable[[Genotype], list[str]]] = {
    "peft": _peft_together,
    "adapters": adapters_together,
}
"""By target: what it can hold, but not in one model."""
