"""Fitting a search space file to a model and a parameter budget."""

from collections.abc import Sequence

from autopeft.errors import ConfigError, NoFeasibleTrialError
from autopeft.space.fit import fit, fit_sizes
from autopeft.space.layout import Layout, LayoutKind
from autopeft.space.search_space import SearchSpace
from autopeft.space.shape import ModelShape
from autopeft.space.slot import Slot, listed_sizes
from autopeft.space.spec import SlotSpec, SpaceSpec
from autopeft.space.taps import Tap


def bind(
    spec: SpaceSpec, shape: ModelShape, max_params: int, max_trained: int | None = None
) -> SearchSpace:
    """Fit a space to a model and a budget.

    What a slot needs of taps and gates that the model lacks is left out, sizes that it has no place
    for, and, in a space by construction, slots and choices whose smallest op is over the budget;
    each with a note.

    Args:
        spec: the validated file.
        shape: the model.
        max_params: hard limit on the parameters of the ops, as they are stored.
        max_trained: hard limit on those that are trained, or None.

    Raises:
        ConfigError: the model has no tap that the space uses.
        NoFeasibleTrialError: no op of the space fits the budget.
    """
    if max_trained is not None:  # what is stored was trained
        max_params = min(max_params, max_trained)
    exchange = max_params / max_trained if max_trained else 0.0
    notes: list[str] = []
    fitted = [_slot(slot_spec, spec, shape, exchange, notes) for slot_spec in spec.slots]
    slots = [slot for slot in fitted if slot is not None]
    if not slots:
        raise ConfigError(
            f"nothing of space {spec.name} can stand in the model: {'; '.join(notes)}; "
            f"it has: {', '.join(shape.widths)}"
        )
    least = min(slot.least for slot in slots)
    if least > max_params:
        raise NoFeasibleTrialError(
            f"nothing in space {spec.name} fits {max_params:,} parameters; "
            f"its smallest op has {least:,}"
        )
    if spec.draw == "budget":
        limit = "" if max_trained is None else f", {max_trained:,} of them trained"
        slots = _payable(slots, max_params, f"the budget is {max_params:,}{limit}", notes)
    return SearchSpace(spec, shape, max_params, tuple(slots), tuple(notes), max_trained)


def _payable(slots: Sequence[Slot], most: int, budget: str, notes: list[str]) -> list[Slot]:
    """The slots without what is over the budget in any case; `notes` are added to."""
    found = []
    for slot in slots:
        if slot.least > most:
            notes.append(
                f"slot {slot.name} is left out: its smallest op has {slot.least:,} parameters, "
                f"{budget}"
            )
            continue
        kept, lost = slot.within(most)
        if lost:
            told = ", ".join(f"{choice} ({price:,} parameters)" for choice, price in lost.items())
            notes.append(f"slot {slot.name} goes without {told}: {budget}")
        found.append(kept)
    return found


def _slot(
    listed: SlotSpec, spec: SpaceSpec, shape: ModelShape, exchange: float, notes: list[str]
) -> Slot | None:
    """The slot in this model, None if nothing of it remains; `notes` are added to."""
    slot_spec, lacking = fit(listed, shape)
    notes += lacking
    if slot_spec is None:
        return None
    sizes, note = fit_sizes(slot_spec, listed_sizes(slot_spec, shape.widths[Tap.ATTN_IN]), shape)
    notes += [note] if note else []
    if not sizes:
        return None
    shared = slot_spec.layout in spec.layouts
    kind = spec.layouts[slot_spec.layout] if shared else LayoutKind(slot_spec.layout)
    layout = Layout(slot_spec.layout if shared else slot_spec.name, kind)
    return Slot(slot_spec, layout, sizes, shape, exchange)
