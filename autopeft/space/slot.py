"""A slot bound to a model: its choices resolved, its ops built, its costs known."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from autopeft.space.dimension import Categorical, Choice, Dimension, Params
from autopeft.space.forms import FORMS, Activation, Form, shared_params, shared_trained_params
from autopeft.space.genotype import Op, Scale
from autopeft.space.layout import Layout
from autopeft.space.shape import ModelShape
from autopeft.space.spec import Halvings, SlotSpec, resolve_read
from autopeft.space.taps import Tap

_FIELDS = ("form", "read", "write", "activation", "scale")


@dataclass(frozen=True)
class Variant:
    """One combination of a slot's choices."""

    form: Form
    read: str
    write: str
    activation: Activation | None
    scale: Scale

    def ops(self, sizes: Sequence[int]) -> tuple[Op, ...]:
        """The ops of this variant, one for each tap it writes."""
        out = []
        for part in self.write.split("+"):
            write = Tap(part)
            read = resolve_read(self.read, write)
            out.append(Op(self.form, read, write, tuple(sizes), self.activation, self.scale))
        return tuple(out)


@dataclass(frozen=True)
class Slot:
    """A slot of a space for one model.

    Attributes:
        spec: what the file says.
        layout: how sizes are laid over the layers.
        sizes: the allowed positive sizes, ascending.
        shape: the model.
        exchange: how many parameters of `max_params` one of `max_trained` is worth.
    """

    spec: SlotSpec
    layout: Layout
    sizes: tuple[int, ...]
    shape: ModelShape
    exchange: float = 0.0

    @property
    def name(self) -> str:
        """The slot's name in the file."""
        return self.spec.name

    def dimensions(self) -> list[Dimension]:
        """A categorical for each field with more than one choice."""
        return [
            Categorical(f"{self.name}.{field}", tuple(_plain(v) for v in self._choices(field)))
            for field in _FIELDS
            if len(self._choices(field)) > 1
        ]

    def variant(self, params: Params) -> Variant:
        """The variant that a draw selects."""
        picked = {
            field: self._pick(field, params) if self._choices(field) else None for field in _FIELDS
        }
        return self._variant(**picked)

    @cached_property
    def variants(self) -> Mapping[Variant, Sequence[Params]]:
        """Every distinct variant, with all coordinates that select it.

        There are several where a choice does not matter, such as the activation of a LoRA.
        """
        found: dict[Variant, list[Params]] = {}
        for values in product(*(self._choices(field) or (None,) for field in _FIELDS)):
            params = {
                f"{self.name}.{field}": _plain(value)
                for field, value in zip(_FIELDS, values, strict=True)
                if len(self._choices(field)) > 1
            }
            found.setdefault(self._variant(*values), []).append(params)
        return found

    def standing(self, variant: Variant) -> Sequence[tuple[Op, Sequence[int]]]:
        """The ops of the variant, without sizes, and the layers where each can stand.

        They are the same layers for all of them, but in a hybrid.
        """
        if variant not in self._standing:
            ops = variant.ops([0])
            found = [(op, self.shape.layers_with((op.read, op.write))) for op in ops]
            self._standing[variant] = found
        return self._standing[variant]

    @cached_property
    def _standing(self) -> dict[Variant, Sequence[tuple[Op, Sequence[int]]]]:
        return {}

    def layers(self, variant: Variant) -> list[int]:
        """The layers where some of the variant can stand."""
        return sorted({i for _, layers in self.standing(variant) for i in layers})

    def ops(self, variant: Variant, sizes: Sequence[int]) -> tuple[Op, ...]:
        """The ops of a variant, with sizes for all layers; each absent where it cannot stand."""
        return tuple(
            replace(op, sizes=tuple(size if i in layers else 0 for i, size in enumerate(sizes)))
            for op, layers in self.standing(variant)
        )

    def costs(self, variant: Variant, size: int) -> Sequence[int]:
        """Parameters of a size in each layer, in the currency of `max_params`.

        They are those stored, or more where more of `max_trained` is used up, so what costs at
        most `max_params` in all is within both limits.
        """
        known = self._costs.setdefault(variant, {})
        if size not in known:
            standing = self.standing(variant)
            there = [
                tuple(op for op, layers in standing if i in layers)
                for i in range(self.shape.n_layers)
            ]
            cost = {ops: self._cost(ops, size) for ops in set(there)}
            known[size] = [cost[ops] for ops in there]
        return known[size]

    @cached_property
    def _costs(self) -> dict[Variant, dict[int, Sequence[int]]]:
        return {}

    def _cost(self, ops: Sequence[Op], size: int) -> int:
        stored = sum(op.params_in_layer(size, self.shape) for op in ops)
        trained = sum(op.trained_in_layer(size, self.shape) for op in ops)
        return max(stored, math.ceil(trained * self.exchange))

    def entry(self, variant: Variant) -> int:
        """Parameters that all ops of the variant share, in the same currency."""
        stored = shared_params([FORMS[variant.form].becomes or variant.form])
        d_model = self.shape.widths[Tap.ATTN_IN]
        trained = shared_trained_params(variant.form, max(self.sizes), d_model)
        return max(stored, math.ceil(trained * self.exchange))

    def price(self, variant: Variant, layers: Sequence[int]) -> int:
        """Parameters at the cheapest size in some layers."""
        costs = (self.costs(variant, size) for size in self.sizes)
        return min(sum(each[i] for i in layers) for each in costs) + self.entry(variant)

    @cached_property
    def prices(self) -> Mapping[Variant, int]:
        """Parameters of each variant at its cheapest size, in as few layers as can be."""
        found = {}
        for variant in self.variants:
            parts = self.layout.parts(self.layers(variant), self.shape.n_layers)
            found[variant] = min(self.price(variant, part) for part in self.layout.alone(parts))
        return found

    @property
    def least(self) -> int:
        """Parameters of the cheapest op that the slot can have."""
        return min(self.prices.values())

    def within(self, most: int) -> tuple["Slot", dict[str, int]]:
        """The slot without the choices that no variant within a limit has.

        Args:
            most: the limit; no less than `least`.

        Returns:
            The slot, and of each choice that it goes without what it takes at least.
        """
        kept: dict[str, tuple[object, ...]] = {}
        lost: dict[str, int] = {}
        for field in _FIELDS:
            least = self._least_of(field)
            kept[field] = tuple(choice for choice, price in least.items() if price <= most)
            lost |= {str(choice): price for choice, price in least.items() if price > most}
        if not lost:
            return self, {}
        return replace(self, spec=self.spec.model_copy(update=kept)), lost

    def _least_of(self, field: str) -> dict[object, int]:
        """Parameters of the cheapest variant with each choice of a field."""
        choices, name = self._choices(field), f"{self.name}.{field}"
        return {
            choice: min(
                self.prices[variant]
                for variant, ways in self.variants.items()
                if any(params.get(name, _plain(choice)) == _plain(choice) for params in ways)
            )
            for choice in choices
        }

    def _choices(self, field: str) -> tuple[object, ...]:
        value = getattr(self.spec, field)
        return tuple(dict.fromkeys(value))

    def _pick(self, field: str, params: Params) -> object:
        choices = self._choices(field)
        if len(choices) == 1:
            return choices[0]
        wanted = params[f"{self.name}.{field}"]
        return next(choice for choice in choices if _plain(choice) == wanted)

    @staticmethod
    def _variant(
        form: object, read: object, write: object, activation: object, scale: object
    ) -> Variant:
        rule = FORMS[Form(str(form))]
        factor: Scale = scale if scale in ("learned", "gated") else float(str(scale))
        return Variant(
            form=Form(str(form)),
            read=str(read),
            write=str(write),
            activation=Activation(str(activation)) if rule.activated else None,
            scale=factor if rule.scalable or factor == "gated" else 1.0,
        )


def listed_sizes(spec: SlotSpec, d_model: int) -> tuple[int, ...]:
    """The positive sizes of a slot, ascending, halvings of the model's width worked out."""
    if isinstance(spec.size, Halvings):
        raw = {d_model // 2**k for k in range(spec.size.halvings + 1)}
    else:
        raw = set(spec.size)
    return tuple(sorted(size for size in raw if size > 0))


def _plain(value: object) -> Choice:
    return value if isinstance(value, int | float) else str(value)
