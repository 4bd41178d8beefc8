"""Fitting a search space file to a model and a parameter budget."""

from collections.abc import Iterable

from autopeft.errors import ConfigError, NoFeasibleTrialError
from autopeft.space.layout import Layout, LayoutKind
from autopeft.space.search_space import SearchSpace
from autopeft.space.shape import ModelShape
from autopeft.space.slot import Slot, allowed_sizes
from autopeft.space.spec import SlotSpec, SpaceSpec
from autopeft.space.taps import Tap


def bind(spec: SpaceSpec, shape: ModelShape, max_params: int) -> SearchSpace:
    """Fit a space to a model and a budget.

    In a space by construction, slots whose smallest op is over the budget are left out, with a
    note.

    Args:
        spec: the validated file.
        shape: the model.
        max_params: hard limit on the parameters of the ops.

    Raises:
        ConfigError: a slot uses a tap that the model lacks.
        NoFeasibleTrialError: no op of the space fits the budget.
    """
    slots = [_slot(slot_spec, spec, shape) for slot_spec in spec.slots]
    least = min(slot.least_in_a_layer() for slot in slots)
    kept = slots
    if spec.draw == "budget":
        kept = [slot for slot in slots if slot.entry_price() <= max_params]
        least = min(slot.entry_price() for slot in slots)
    if least > max_params:
        raise NoFeasibleTrialError(
            f"nothing in space {spec.name} fits {max_params:,} parameters; "
            f"its smallest op has {least:,}"
        )
    notes = tuple(
        f"slot {slot.name} is left out: its smallest op has {slot.entry_price():,} parameters, "
        f"the budget is {max_params:,}"
        for slot in slots
        if slot not in kept
    )
    return SearchSpace(spec, shape, max_params, tuple(kept), notes)


def _slot(slot_spec: SlotSpec, spec: SpaceSpec, shape: ModelShape) -> Slot:
    _check_taps(slot_spec.name, (tap for place in slot_spec.places() for tap in place[1:]), shape)
    shared = slot_spec.layout in spec.layouts
    kind = spec.layouts[slot_spec.layout] if shared else LayoutKind(slot_spec.layout)
    layout = Layout(slot_spec.layout if shared else slot_spec.name, kind)
    return Slot(slot_spec, layout, allowed_sizes(slot_spec, shape.widths[Tap.ATTN_IN]), shape)


def _check_taps(slot: str, taps: Iterable[Tap], shape: ModelShape) -> None:
    if missing := sorted(set(taps) - set(shape.widths)):
        raise ConfigError(
            f"slot {slot} needs the tap {', '.join(missing)}, which this model lacks; "
            f"it has: {', '.join(shape.widths)}"
        )
