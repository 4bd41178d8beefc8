"""Cutting the slots of a space down to the taps, the gates and the room that a model has."""

from collections.abc import Sequence

from autopeft.space.shape import ModelShape
from autopeft.space.spec import SlotSpec, resolve_read
from autopeft.space.taps import FFN_WEIGHTS, LINEAR_INPUT, Tap

DERIVED = ("weight", "same")
"""Reads that follow from the tap that is written."""
OWN = "own"
"""The activation of the model's FFN."""
GATED = "gated"
"""The scale that is a gate."""


def fit(slot: SlotSpec, shape: ModelShape) -> tuple[SlotSpec | None, list[str]]:
    """The slot without what the model lacks, and notes on what that is.

    Of taps that are written together those remain that are there; a choice of which nothing
    remains is no choice any more.

    Args:
        slot: of a space file.
        shape: of the model.

    Returns:
        The slot, None if nothing of it remains; and the notes, none if nothing is lacking.
    """
    notes = []
    for cut in (_activated, _scaled, _placed):
        fitted, note = cut(slot, shape)
        notes += [note] if note else []
        if fitted is None:
            return None, notes[-1:]
        slot = fitted
    return slot, notes


def concerns(slot: SlotSpec, shape: ModelShape) -> bool:
    """Whether it is for such models: those that attend to an encoder, or have a gate in the FFN."""
    if slot.crosses and not shape.n_encoder_layers:
        return False
    return not slot.gates or Tap.FFN_GATE in shape.widths


def of_experts(slot: SlotSpec, shape: ModelShape) -> bool:
    """Whether it is at the FFN's weights alone, and these are experts', which are no taps."""
    is_there = all(
        write in FFN_WEIGHTS and LINEAR_INPUT[write] is read for _, read, write in slot.places()
    )
    return is_there and Tap.FFN_UP not in shape.widths


def _activated(slot: SlotSpec, shape: ModelShape) -> tuple[SlotSpec | None, str | None]:
    """The slot with the FFN's own activation by its name."""
    if OWN not in slot.activation:
        return slot, None
    if shape.ffn_activation is None:
        why = "the FFN of the model has a gate, no biases or an activation that no op has"
        return None, f"slot {slot.name} is left out: {why}"
    known = (shape.ffn_activation if name == OWN else name for name in slot.activation)
    return slot.model_copy(update={"activation": tuple(dict.fromkeys(known))}), None


def _scaled(slot: SlotSpec, shape: ModelShape) -> tuple[SlotSpec | None, str | None]:
    """The slot without gates, where there can be none."""
    why = shape.ungated(write for _, _, write in slot.places()) if GATED in slot.scale else None
    if why is None:
        return slot, None
    scale = tuple(factor for factor in slot.scale if factor != GATED)
    if not scale:
        return None, f"slot {slot.name} is left out: {why}"
    return slot.model_copy(update={"scale": scale}), f"slot {slot.name} goes ungated: {why}"


def _placed(slot: SlotSpec, shape: ModelShape) -> tuple[SlotSpec | None, str | None]:
    """The slot without taps that are not there."""
    lacking = [tap for tap in Tap if tap in slot.taps() - set(shape.widths)]
    if not lacking:
        return slot, None
    if not concerns(slot, shape):
        return None, None
    read = tuple(r for r in slot.read if r not in lacking)

    def remains(write: str) -> bool:
        derived = [resolve_read(r, Tap(write)) for r in read if r in DERIVED]
        return not {Tap(write), *derived} & set(lacking)

    joints = ("+".join(filter(remains, joint.split("+"))) for joint in slot.write)
    write = tuple(dict.fromkeys(joint for joint in joints if joint))
    names = ", ".join(lacking)
    if not read or not write:
        return None, f"slot {slot.name} is left out: the model has no tap {names}"
    fitted = slot.model_copy(update={"read": read, "write": write})
    return fitted, f"slot {slot.name} goes without {names}, which the model lacks"


def misfits(slot: SlotSpec, sizes: Sequence[int], shape: ModelShape) -> dict[int, str]:
    """The sizes that an op of the slot cannot have in a model, and why.

    Args:
        slot: cut down to the taps that the model has.
        sizes: of the slot.
        shape: of the model.
    """
    places = sorted(slot.places())
    found = {size: [shape.misfit(form, size, *at) for form, *at in places] for size in sizes}
    return {
        size: "; ".join(dict.fromkeys(filter(None, reasons)))
        for size, reasons in found.items()
        if any(reasons)
    }


def fit_sizes(
    slot: SlotSpec, sizes: Sequence[int], shape: ModelShape
) -> tuple[tuple[int, ...], str | None]:
    """The sizes that every op of the slot can have in a model, and a note on the others.

    Args:
        slot: cut down to the taps that the model has.
        sizes: of the slot.
        shape: of the model.

    Returns:
        The sizes, in their order, and the note, None if all sizes remain.
    """
    lost = misfits(slot, sizes, shape)
    if not lost:
        return tuple(sizes), None
    others = ", ".join(map(str, lost))
    reasons = "; ".join(dict.fromkeys(lost.values()))
    if len(lost) == len(sizes):
        return (), f"slot {slot.name} is left out: no size of {others} fits: {reasons}"
    kept = tuple(size for size in sizes if size not in lost)
    return kept, f"slot {slot.name} goes without sizes {others}: {reasons}"
