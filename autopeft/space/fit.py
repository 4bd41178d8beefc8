"""Cutting the slots of a space down to the taps that a model has."""

from autopeft.space.shape import ModelShape
from autopeft.space.spec import SlotSpec, resolve_read
from autopeft.space.taps import Tap

DERIVED = ("weight", "same")
"""Reads that follow from the tap that is written."""


def fit(slot: SlotSpec, shape: ModelShape) -> tuple[SlotSpec | None, str | None]:
    """The slot without what the model lacks, and a note on what that is.

    Of taps that are written together those remain that are there; a choice of which nothing
    remains is no choice any more.

    Args:
        slot: of a space file.
        shape: of the model.

    Returns:
        The slot, None if nothing of it remains; and the note, None if nothing is lacking.
    """
    used = {tap for _, *taps in slot.places() for tap in taps}
    lacking = [tap for tap in Tap if tap in used - set(shape.widths)]
    if not lacking:
        return slot, None
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
