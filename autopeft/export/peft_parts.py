"""A genotype taken apart into what peft has names for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from autopeft.errors import ConfigError
from autopeft.export.merged import FoldedLayer, affine_of
from autopeft.export.refusal import IA3_INPUTS, LORA_LIKE, lora_obstacle
from autopeft.model.anatomy import Anatomy
from autopeft.model.inject import Injection
from autopeft.ops.base import StackedOp
from autopeft.ops.point import Point
from autopeft.ops.vera import Vera
from autopeft.space.forms import Form
from autopeft.space.taps import LINEAR_INPUT, Tap

NORMS = (Tap.ATTN_NORM, Tap.CROSS_NORM, Tap.FFN_NORM)


@dataclass
class Update:
    """What LoRA adds to one module.

    Attributes:
        down: first factor.
        up: second factor, the scale in it.
        magnitude: of DoRA: the norm of each output's weights once the update is added.
    """

    down: Float[Tensor, "rank d_in"]
    up: Float[Tensor, "rank d_out"]
    magnitude: Float[Tensor, " d_out"] | None = None

    def joined(self, other: "Update") -> "Update":
        """Both updates at once."""
        if self.magnitude is not None or other.magnitude is not None:
            raise ConfigError("--to peft: DoRA does not share its weight with another update")
        return Update(torch.cat([self.down, other.down]), torch.cat([self.up, other.up]))


@dataclass
class Parts:
    """A genotype taken apart into what peft has names for; modules by their full names.

    Attributes:
        updates: of low rank.
        scales: of outputs.
        input_scales: of inputs.
        norms: modules that are trained as a whole.
        vera: the ops, if all updates are VeRA's, by module.
        kroneckers: both factors of Kronecker products, the scale in the second.
        biased: a bias is trained.
    """

    updates: dict[str, Update] = field(default_factory=dict)
    scales: dict[str, Tensor] = field(default_factory=dict)
    input_scales: dict[str, Tensor] = field(default_factory=dict)
    norms: list[str] = field(default_factory=list)
    vera: dict[str, Vera] = field(default_factory=dict)
    kroneckers: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    biased: bool = False


def exact_parts(injection: Injection, plain: PreTrainedModel) -> Parts:
    """What the ops are in peft's words; biases and norms go into the plain model."""
    parts, names = Parts(), names_of(injection.model)
    anatomy = Anatomy(injection.model)
    for i, layer in injection.layers.items():
        folded = FoldedLayer(anatomy, i, layer)
        for tap, written in layer.writes.items():
            for _, op in written:
                if op.form in LORA_LIKE:
                    _add_update(parts, names, anatomy.point(i, tap), op)
                elif op.form is Form.KRONECKER:
                    _add_kronecker(parts, names, anatomy.point(i, tap), op)
                elif op.form is Form.SCALE and tap not in (*NORMS, Tap.BLOCK_OUT):
                    _add_scale(parts, names, anatomy, i, tap, op)
        biased = [
            tap for tap, ops in layer.writes.items() if any(op.form is Form.BIAS for _, op in ops)
        ]
        _write_vectors(parts, folded, plain, i, biased)
    return parts


def approximated_parts(injection: Injection, plain: PreTrainedModel, rank: int) -> Parts:
    """The best update of a rank for every weight that is changed; the rest is exact."""
    anatomy = Anatomy(injection.model)
    (genotype,) = injection.genotypes
    shape = anatomy.shape()
    found = [
        f"{op.form} {op.read}->{op.write}: {reason}"
        for op in genotype.ops
        if (reason := lora_obstacle(op, shape))
    ]
    if found:
        raise ConfigError(f"--as-lora cannot approximate this: {'; '.join(found)}")
    parts, names = Parts(), names_of(injection.model)
    for i, layer in injection.layers.items():
        folded = FoldedLayer(anatomy, i, layer)
        for tap in (tap for tap in folded.weights if tap in LINEAR_INPUT):
            point = anatomy.point(i, tap)
            change = folded.weights[tap].weight - affine_of(point).weight
            u, s, v = torch.linalg.svd(change, full_matrices=False)
            kept = slice(min(rank, len(s)))
            update = Update(v[kept].float(), (u[:, kept] * s[kept]).T.float())
            _join(parts, names[point.module], _spread(update, point))
        _write_vectors(parts, folded, plain, i, LINEAR_INPUT)
    return parts


def _add_update(parts: Parts, names: Mapping[nn.Module, str], point: Point, op: StackedOp) -> None:
    factors = op.as_factors(0)
    if factors is None:
        raise ConfigError(f"--to peft: a {op.form} has no factors")
    down, up = (factor.clone() for factor in factors)
    update = Update(down, up)
    if op.form is Form.DORA:
        norm = torch.linalg.vector_norm(point.weight, dim=1)
        update.magnitude = norm + op.own("magnitude", 0)[0]
    name = names[point.module]
    if isinstance(op, Vera) and point.part is None and name not in parts.updates:
        parts.vera[name] = op
    _join(parts, name, _spread(update, point))


def _add_kronecker(
    parts: Parts, names: Mapping[nn.Module, str], point: Point, op: StackedOp
) -> None:
    if point.part is not None or not isinstance(point.module, nn.Linear):
        raise ConfigError(
            f"--to peft: peft's LoKr stands at a whole Linear, and {names[point.module]} is "
            f"{'a fused one' if point.part else 'none'}; merged can hold it, --as-lora R comes near"
        )
    factors = op.own("a", 0).clone(), op.own("b", 0) * op.factor_of(0)
    parts.kroneckers[names[point.module]] = factors


def _join(parts: Parts, name: str, update: Update) -> None:
    parts.updates[name] = parts.updates[name].joined(update) if name in parts.updates else update


def _spread(update: Update, point: Point) -> Update:
    """The update of a whole module, where only a part of it is meant."""
    if point.part is None:
        return update
    up = _placed(update.up, point, 0.0)
    magnitude = update.magnitude
    if magnitude is not None:
        whole = torch.linalg.vector_norm(Point(point.module, "out").weight, dim=1)
        magnitude = torch.cat(
            [
                magnitude if i == point.part.index else norm
                for i, norm in enumerate(whole.split_with_sizes(point.part.widths))
            ]
        )
    return Update(update.down, up, magnitude)


def _placed(own: Float[Tensor, "*rows d"], point: Point, rest: float) -> Tensor:
    """A part's numbers among those of the whole module."""
    if point.part is None:
        return own
    whole = own.new_full((*own.shape[:-1], sum(point.part.widths)), rest)
    point.part.of(whole, -1).copy_(own)
    return whole


def _add_scale(
    parts: Parts,
    names: Mapping[nn.Module, str],
    anatomy: Anatomy,
    layer: int,
    tap: Tap,
    op: StackedOp,
) -> None:
    point = anatomy.point(layer, IA3_INPUTS.get(tap, tap))
    factors = op.own("factors", 0)[0].clone()
    held = parts.input_scales if tap in IA3_INPUTS else parts.scales
    if tap not in IA3_INPUTS:
        factors = _placed(factors, point, 1.0)
    name = names[point.module]
    held[name] = held[name] * factors if name in held else factors


def _write_vectors(
    parts: Parts, folded: FoldedLayer, plain: PreTrainedModel, layer: int, biased: Collection[Tap]
) -> None:
    """Biases and LayerNorms, which peft saves as they are, go into the plain model."""
    into, names = Anatomy(plain), names_of(plain)
    for tap, affine in folded.weights.items():
        point = into.point(layer, tap)
        if tap in NORMS:
            parts.norms.append(names[point.module])
            point.module.get_parameter("weight").copy_(affine.weight[:, 0])
        if point.bias is not None and (tap in NORMS or tap in biased):
            parts.biased = parts.biased or tap not in NORMS
            point.bias.copy_(affine.bias)


def names_of(model: PreTrainedModel) -> dict[nn.Module, str]:
    """The full name of every module."""
    return {module: name for name, module in model.named_modules()}
