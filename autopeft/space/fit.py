"""Cutting the slots of a space down to the taps and the widths that a model has."""

from collections.abc import Sequence

from autopeft.space.forms import FORMS
from autopeft.space.shape import ModelShape
from autopeft.space.spec import SlotSpec, resolve_read
from autopeft.space.taps import Tap

DERIVED = ("weight", "same")
"""Reads that follow from the tap that is written."""
OWN = "own"
"""The activation of the model's FFN."""


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
    if OWN in slot.activation:
        if shape.ffn_activation is None:
            why = "the FFN of the model has a gate, no biases or an activation that no op has"
            return None, f"slot {slot.name} is left out: {why}"
        known = (shape.ffn_activation if name == OWN else name for name in slot.activation)
        slot = slot.model_copy(update={"activation": tuple(dict.fromkeys(known))})
    lacking = [tap for tap in Tap if tap in slot.taps() - set(shape.widths)]
    if not lacking:
        return slot, None
    if slot.crosses and not shape.n_encoder_layers:
        return None, None  # what is for encoder-decoders alone
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
    at, places = shape.widths, slot.places()
    kept = tuple(
        size
        for size in sizes
        if all(FORMS[form].fits.test(size, at[r], at[w]) for form, r, w in places)
    )
    if len(kept) == len(sizes):
        return kept, None
    others = ", ".join(str(size) for size in sizes if size not in kept)
    reasons = "; ".join(FORMS[form].fits.words for form in slot.form if FORMS[form].choosy)
    if not kept:
        return (), f"slot {slot.name} is left out: no size of {others} fits: {reasons}"
    return kept, f"slot {slot.name} goes without sizes {others}: {reasons}"
