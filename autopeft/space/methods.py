"""The named methods: published ones as fixed points of the unified space, read from a table."""

import difflib
from functools import cache
from pathlib import Path

from pydantic import Field, RootModel

from autopeft.errors import ConfigError
from autopeft.space import yaml
from autopeft.space.fit import concerns, fit_sizes, misfits, of_experts
from autopeft.space.genotype import Genotype, Op
from autopeft.space.layout import Layout, LayoutKind
from autopeft.space.rates import rate_at
from autopeft.space.search_space import within
from autopeft.space.shape import ModelShape
from autopeft.space.slot import Slot
from autopeft.space.spec import SlotSpec, Strict
from autopeft.space.taps import Tap

DEFAULT_METHODS = (
    "head",
    "lora",
    "scaled_parallel",
    "pfeiffer",
    "mam",
    "bitfit",
    "ia3",
    "lora_all",
)
"""What a study tries first if it names no others: what people would pick by hand.

Each at the largest of its sizes that fits the budget, later at smaller ones, too.
"""

WIDTH = 384
"""d_model of MiniLM, on which the learning rates of the table were tried."""

_EXPERTS = "the FFN is a mixture of experts, whose weights are no taps"

TABLE = Path(__file__).with_name("methods.yaml")


class Method(Strict):
    """A published method.

    Attributes:
        title: its name in print.
        source: paper, and which of its variants.
        formula: what it does to h.
        slots: where it acts; several sizes are the published one and smaller ones.
        from_depth: part of the depth, from the bottom, that has no ops.
        own_biases: its ops are those biases that the model has, wherever there are any.
        learning_rate: a starting point, for models that are `WIDTH` wide; see `rate_at`.
    """

    title: str
    source: str
    formula: str
    slots: tuple[SlotSpec, ...]
    from_depth: float = Field(default=0.0, ge=0, lt=1)
    own_biases: bool = False
    learning_rate: float = Field(gt=0)

    def _slots(self, shape: ModelShape) -> list[SlotSpec]:
        """Without those that are for models of another kind, or at weights that are no taps."""
        known = (slot for slot in self.slots if concerns(slot, shape))
        slots = [slot for slot in known if not of_experts(slot, shape)]
        if not self.own_biases:
            return slots
        return [slot for slot in (_with_biases(slot, shape) for slot in slots) if slot.write]

    def n_sizes(self, shape: ModelShape) -> int:
        """How many sizes the method comes in on a model that has its taps."""
        return max((len(_sizes(slot, shape)) for slot in self._slots(shape)), default=1)

    def lacking(self, shape: ModelShape) -> tuple[Tap, ...]:
        """The taps that the method needs and the model does not have."""
        used = {tap for slot in self._slots(shape) for tap in slot.taps()}
        return tuple(tap for tap in Tap if tap in used - set(shape.widths))

    def misfit(self, shape: ModelShape) -> str | None:
        """Why the method cannot stand in the model, None if it can."""
        if self.slots and not self._slots(shape):
            return "the model has no biases" if self.own_biases else _EXPERTS
        if lacking := self.lacking(shape):
            return f"the model has no tap {', '.join(lacking)}"
        gated = [slot for slot in self._slots(shape) if "gated" in slot.scale]
        if gated and (reason := shape.ungated(w for slot in gated for _, _, w in slot.places())):
            return reason
        reasons = [
            reason
            for slot in self._slots(shape)
            if not _sizes(slot, shape)
            for reason in misfits(slot, _listed(slot), shape).values()
        ]
        return "; ".join(dict.fromkeys(reasons)) or None

    def shortened(self, shape: ModelShape) -> str | None:
        """What it has to do without in a model that it can stand in; None if nothing is lacking."""
        found = [fit_sizes(slot, _listed(slot), shape)[1] for slot in self._slots(shape)]
        if any(of_experts(slot, shape) for slot in self.slots):
            found.append(f"goes without the FFN: {_EXPERTS}")
        if self.own_biases and (without := self._unbiased(shape)):
            found.append(f"goes without biases at {', '.join(without)}, which the model lacks")
        return "; ".join(filter(None, found)) or None

    def _unbiased(self, shape: ModelShape) -> list[Tap]:
        """Taps where a model of this kind could have a bias and has none."""
        listed = {tap for slot in self.slots if concerns(slot, shape) for tap in slot.taps()}
        used = {tap for slot in self._slots(shape) for tap in slot.taps()}
        return [tap for tap in Tap if tap in listed - used]

    def genotype(self, shape: ModelShape, level: int = 0) -> Genotype:
        """The method at its published size (level 0) or a smaller one.

        Raises:
            ConfigError: the model lacks a tap that the method needs, or has other widths.
        """
        if reason := self.misfit(shape):
            raise ConfigError(f"{reason}; it has: {', '.join(shape.widths)}")
        ops: list[Op] = []
        without = round(self.from_depth * shape.n_layers)
        for spec in self._slots(shape):
            sizes = _sizes(spec, shape)
            slot = Slot(spec, Layout(spec.name, LayoutKind.SAME), sizes, shape)
            size = sizes[min(level, len(sizes) - 1)]
            present = [0] * without + [size] * (shape.n_layers - without)
            ops += slot.ops(slot.variant({}), present)
        rate = rate_at(self.learning_rate, WIDTH, shape.widths[Tap.ATTN_IN])
        return Genotype(shape.n_layers, tuple(ops), rate)

    def smallest(self, shape: ModelShape) -> Genotype:
        """The method at the least of its sizes."""
        return self.genotype(shape, self.n_sizes(shape) - 1)

    def largest(
        self, shape: ModelShape, max_params: int, max_trained: int | None = None
    ) -> Genotype | None:
        """The method at the largest of its sizes that fits the budget, None if none does."""
        for level in range(self.n_sizes(shape)):
            genotype = self.genotype(shape, level)
            if within(genotype, shape, max_params, max_trained):
                return genotype
        return None


@cache
def methods() -> dict[str, Method]:
    """All named methods, by name."""
    table = yaml.validate(RootModel[dict[str, Method]], yaml.load(TABLE))
    return table.root


def method(name: str) -> Method:
    """One named method.

    Raises:
        ConfigError: there is none of this name.
    """
    table = methods()
    if not isinstance(name, str) or name not in table:
        close = difflib.get_close_matches(str(name), table, n=1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        raise ConfigError(f"no method `{name}`: {hint}allowed: {', '.join(table)}")
    return table[name]


def _with_biases(slot: SlotSpec, shape: ModelShape) -> SlotSpec:
    """The slot at those of its taps where the model has a bias."""

    def remaining(joint: str) -> str:
        return "+".join(tap for tap in joint.split("+") if tap in shape.biased)

    return slot.model_copy(update={"write": tuple(filter(None, map(remaining, slot.write)))})


def _sizes(spec: SlotSpec, shape: ModelShape) -> tuple[int, ...]:
    """Its sizes that fit the model, the published one first."""
    return fit_sizes(spec, _listed(spec), shape)[0]


def _listed(spec: SlotSpec) -> tuple[int, ...]:
    if not isinstance(spec.size, tuple):
        raise ConfigError(f"{TABLE.name}: slot {spec.name}: a method lists its sizes")
    return spec.size
