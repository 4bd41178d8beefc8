"""Genotype: an immutable set of ops plus the training hyperparameters, with a content hash."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations
from typing import Any, Literal, TypeVar

from autopeft.errors import ConfigError
from autopeft.space.forms import (
    FORMS,
    PREFIXES,
    Activation,
    Form,
    gate_tap,
    misplaced,
    shared_params,
    shared_trained_params,
)
from autopeft.space.shape import ModelShape, spans
from autopeft.space.taps import LINEAR_INPUT, Tap

GENOTYPE_VERSION = 1

Scale = float | Literal["learned", "gated"]

E = TypeVar("E", bound=StrEnum)


def _member(kind: type[E], value: Any, name: str) -> E:
    """A member of an enum, which may be given by its text."""
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"op: {name} is {value!r}, allowed: {', '.join(kind)}") from None


def _number(value: Any, name: str, allowed: str = "a number") -> float:
    if not isinstance(value, str | bytes | bool):
        with suppress(TypeError, ValueError, OverflowError):
            return float(value)
    raise ConfigError(f"{name} is {value!r}, allowed: {allowed}")


@dataclass(frozen=True)
class Op:
    """One modification `h <- compose(h, s * f(x))`, laid over the layers of a model.

    Form, taps and activation may be given by their texts, sizes as any sequence.

    Attributes:
        form: the function f, which also fixes how it composes.
        read: the tap where x is read.
        write: the tap where h is written.
        sizes: rank, bottleneck width or prefix length in each layer, 0 where the op is absent;
            1 where a form without a size (bias, scale) is present.
        activation: of a bottleneck, otherwise None.
        scale: the factor s: constant, learned (starting from 1), or gated, which is one for each
            example, the mean over its tokens of sigmoid(x w + b).

    Raises:
        ConfigError: a value is not allowed, or they do not go together.
    """

    form: Form
    read: Tap
    write: Tap
    sizes: tuple[int, ...]
    activation: Activation | None = None
    scale: Scale = 1.0

    def __post_init__(self) -> None:
        self._canonicalise()
        rule = FORMS[self.form]
        problems = []
        if reason := misplaced(self.form, self.read, self.write):
            problems.append(reason)
        if rule.activated != (self.activation is not None):
            problems.append(
                f"a {self.form} {'needs an' if rule.activated else 'has no'} activation"
            )
        problems += self._scale_problems()
        if not self.sizes or any(type(size) is not int or size < 0 for size in self.sizes):
            problems.append(f"sizes {list(self.sizes)} are not one non-negative integer per layer")
        elif not rule.sized and max(self.sizes) > 1:
            problems.append(f"a {self.form} is present (1) or absent (0), it has no size")
        if problems:
            raise ConfigError(f"op {self.form} {self.read}->{self.write}: " + "; ".join(problems))

    def _canonicalise(self) -> None:
        """Equal ops are of equal values, and have equal JSON: 2 and 2.0 are one number."""

        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("form", _member(Form, self.form, "form"))
        put("read", _member(Tap, self.read, "read"))
        put("write", _member(Tap, self.write, "write"))
        if self.activation is not None:
            put("activation", _member(Activation, self.activation, "activation"))
        if self.scale not in ("learned", "gated"):
            put("scale", _number(self.scale, "op: scale", "a positive number, learned, gated"))
        try:
            put("sizes", tuple(self.sizes))
        except TypeError:
            raise ConfigError(f"op: sizes are {self.sizes!r}, allowed: one per layer") from None

    def _scale_problems(self) -> Iterator[str]:
        rule = FORMS[self.form]
        if self.scale == "gated" and not rule.gated:
            yield f"a {self.form} has no gate"
        if not rule.scalable and self.scale not in (1.0, "gated"):
            yield f"a {self.form} has no scale"
        if self.scale == "learned" and not rule.learnable:
            yield f"the scale of a {self.form} is a number"
        if not isinstance(self.scale, str) and not (math.isfinite(self.scale) and self.scale > 0):
            yield f"scale {self.scale} is not a positive number"

    @property
    def kind(self) -> tuple[str, str, str, str, str]:
        """Everything but the sizes: ops of one kind and disjoint layers are one op."""
        scale = self.scale if isinstance(self.scale, str) else repr(float(self.scale))
        return (self.form, self.read, self.write, self.activation or "", scale)

    def params_in_layer(self, size: int, shape: ModelShape) -> int:
        """Parameters that are stored of this op in one layer where it has this size."""
        return self._count(FORMS[self.form].count, size, shape)

    def trained_in_layer(self, size: int, shape: ModelShape) -> int:
        """Parameters that are trained in one layer where it has this size."""
        rule = FORMS[self.form]
        return self._count(rule.trained or rule.count, size, shape)

    def _count(self, rule: Callable[[int, int, int], int], size: int, shape: ModelShape) -> int:
        if size == 0:
            return 0
        count = rule(size, shape.widths[self.read], shape.widths[self.write])
        if self.scale == "gated":
            return count + shape.widths[gate_tap(self.read)] + 1
        return count + (self.scale == "learned")

    def misfit(self, size: int, shape: ModelShape) -> str | None:
        """Why the op cannot be of this size where it stands in this model; None if it can."""
        return shape.misfit(self.form, size, self.read, self.write) if size else None

    @property
    def stored(self) -> "Op":
        """What becomes of it once it is trained; itself for most forms."""
        form = FORMS[self.form].becomes
        if form is None:
            return self
        rule = FORMS[form]
        return replace(
            self,
            form=form,
            activation=self.activation if rule.activated else None,
            scale=self.scale if rule.scalable else 1.0,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; defaults are left out."""
        out: dict[str, Any] = {
            "form": str(self.form),
            "read": str(self.read),
            "write": str(self.write),
            "sizes": list(self.sizes),
        }
        if self.activation is not None:
            out["activation"] = str(self.activation)
        if self.scale != 1.0:
            out["scale"] = self.scale
        return out


@dataclass(frozen=True)
class Genotype:
    """A point of a search space: ops and training hyperparameters.

    Two genotypes that describe the same modification are equal and have the same hash: ops are
    sorted, ops of one kind with disjoint layers are merged, absent ones dropped.

    Attributes:
        n_layers: depth of the model it is for.
        ops: the modifications; none of them is the head-only baseline.
        learning_rate: peak learning rate of AdamW.
        weight_decay: decoupled weight decay.
        full: full fine-tuning, a baseline: the backbone itself is trained, and there are no ops.

    Raises:
        ConfigError: a value is not allowed, two ops in one layer that are of one kind or become so,
            two prefixes at one place, sizes for another depth, or ops beside full fine-tuning.
    """

    n_layers: int
    ops: tuple[Op, ...]
    learning_rate: float
    weight_decay: float = 0.0
    full: bool = False

    def __post_init__(self) -> None:
        learning_rate = _number(self.learning_rate, "learning_rate")
        if not (math.isfinite(learning_rate) and learning_rate > 0):
            raise ConfigError(f"learning_rate {self.learning_rate} is not a positive number")
        weight_decay = _number(self.weight_decay, "weight_decay")
        if not (math.isfinite(weight_decay) and weight_decay >= 0):
            raise ConfigError(f"weight_decay {self.weight_decay} is not a number from 0")
        ops = tuple(self.ops) if isinstance(self.ops, Iterable) else (None,)
        if not all(isinstance(op, Op) for op in ops):
            raise ConfigError(f"ops are {self.ops!r}, allowed: `Op`s, any number of them")
        object.__setattr__(self, "learning_rate", learning_rate)
        object.__setattr__(self, "weight_decay", abs(weight_decay))  # -0.0 is 0.0
        object.__setattr__(self, "ops", _canonical(ops, self.n_layers))
        if self.full and self.ops:
            raise ConfigError("full fine-tuning trains the backbone itself and has no ops")

    def count_params(self, shape: ModelShape) -> int:
        """Parameters of the ops as they are stored, in closed form; the head is counted apart.

        Of full fine-tuning those of the backbone.
        """
        if self.full:
            return shape.backbone_params
        in_layers = sum(op.params_in_layer(size, shape) for op in self.ops for size in op.sizes)
        return in_layers + shared_params(op.stored.form for op in self.ops)

    def count_trained(self, shape: ModelShape) -> int:
        """Parameters of the ops that are trained; what is stored of some methods is less."""
        if self.full:
            return shape.backbone_params
        in_layers = sum(op.trained_in_layer(size, shape) for op in self.ops for size in op.sizes)
        largest: dict[Form, int] = {}
        for op in self.ops:
            largest[op.form] = max(*op.sizes, largest.get(op.form, 0))
        d_model = shape.widths[Tap.ATTN_IN]
        return in_layers + sum(shared_trained_params(*item, d_model) for item in largest.items())

    @property
    def is_lora(self) -> bool:
        """It is LoRA and nothing else, of whatever ranks on whatever weights."""
        return bool(self.ops) and all(
            op.form is Form.LOWRANK and LINEAR_INPUT.get(op.write) == op.read for op in self.ops
        )

    @property
    def stored(self) -> "Genotype":
        """What becomes of it once it is trained, at the sizes that it was asked for."""
        return replace(self, ops=tuple(op.stored for op in self.ops))

    @property
    def alone(self) -> bool:
        """It cannot share a cohort: it is too large while training, or its rows are longer."""
        return self.full or any(FORMS[op.form].alone for op in self.ops)

    @property
    def needs_whole_rows(self) -> bool:
        """It has to see whole rows: it cannot write behind a cache of keys and values.

        A prompt stands before a row's first token, and a gate is a mean over all tokens.
        """
        return any(op.write is Tap.EMBED or op.scale == "gated" for op in self.ops)

    @property
    def fork(self) -> int:
        """The lowest layer with an op, below which the model is as pretrained; else the depth."""
        if self.full:
            return 0
        return min(
            (layer for op in self.ops for layer, size in enumerate(op.sizes) if size),
            default=self.n_layers,
        )

    def check_fits(self, shape: ModelShape) -> None:
        """Refuse a model of another depth, without what an op needs, or with no room for it.

        Raises:
            ConfigError: naming what is missing and what the model has.
        """
        if self.n_layers != shape.n_layers:
            raise ConfigError(
                f"the genotype is for {self.n_layers} layers, the model has {shape.n_layers}"
            )
        used = {tap for op in self.ops for tap in (op.read, op.write)}
        if missing := sorted(used - set(shape.widths)):
            raise ConfigError(
                f"the model has no tap {', '.join(missing)}; it has: {', '.join(shape.widths)}"
            )
        for op in self.ops:
            layers = shape.layers_with((op.read, op.write))
            outside = [i for i, size in enumerate(op.sizes) if size and i not in layers]
            if outside:
                taps = dict.fromkeys((op.read, op.write))
                lacking = [tap for tap in taps if outside[0] not in shape.layers_with([tap])]
                raise ConfigError(
                    f"op {op.form} {op.read}->{op.write} is in {spans(outside)}, where there is no "
                    f"tap {', '.join(lacking)}; {spans(layers)} can have it"
                )
            if op.scale == "gated" and (reason := shape.ungated([op.write])):
                raise ConfigError(f"op {op.form} {op.read}->{op.write}: {reason}")
            reasons = {size: op.misfit(size, shape) for size in sorted(set(op.sizes))}
            if misfits := {size: reason for size, reason in reasons.items() if reason}:
                read, write = shape.widths[op.read], shape.widths[op.write]
                raise ConfigError(
                    f"op {op.form} {op.read}->{op.write} cannot be of size "
                    f"{', '.join(map(str, misfits))} between widths {read} and {write}: "
                    f"{'; '.join(dict.fromkeys(misfits.values()))}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "version": GENOTYPE_VERSION,
            "n_layers": self.n_layers,
            "ops": [op.to_dict() for op in self.ops],
            "training": {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay},
            **({"full": True} if self.full else {}),
        }

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no white space."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, 16 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def _canonical(ops: tuple[Op, ...], n_layers: int) -> tuple[Op, ...]:
    merged: dict[tuple[str, ...], Op] = {}
    for op in ops:
        if len(op.sizes) != n_layers:
            raise ConfigError(
                f"op {op.form} {op.read}->{op.write} has {len(op.sizes)} sizes for "
                f"{n_layers} layers"
            )
        other = merged.get(op.kind)
        if other is None:
            merged[op.kind] = op
            continue
        if any(a and b for a, b in zip(op.sizes, other.sizes, strict=True)):
            raise ConfigError(f"op {op.form} {op.read}->{op.write} is given twice in one layer")
        sizes = tuple(a + b for a, b in zip(op.sizes, other.sizes, strict=True))
        merged[op.kind] = Op(op.form, op.read, op.write, sizes, op.activation, op.scale)
    found = tuple(merged[kind] for kind in sorted(merged) if any(merged[kind].sizes))
    if any(op.stored is not op for op in found):
        _check_stored(found)
    _check_prefixes([op for op in found if op.form in PREFIXES])
    return found


def _check_prefixes(ops: Sequence[Op]) -> None:
    """Refuse two at one place, with scales of their own: a trial attends there with one prefix."""
    for one, other in combinations(ops, 2):
        both = any(a and b for a, b in zip(one.sizes, other.sizes, strict=True))
        if one.write == other.write and both:
            raise ConfigError(f"op {one.form} {one.read}->{one.write} is given twice in one layer")


def _check_stored(ops: tuple[Op, ...]) -> None:
    """Refuse ops that could not be told apart once they are trained."""
    seen: dict[tuple[str, ...], Op] = {}
    for op in ops:
        other = seen.setdefault(op.stored.kind, op)
        if other is not op:
            raise ConfigError(
                f"op {op.form} {op.read}->{op.write}: once it is trained it is a "
                f"{op.stored.form}, as {other.form} {other.read}->{other.write} is"
            )
