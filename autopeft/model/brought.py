"""A head that the checkpoint brings: which of its outputs is which of the study's."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from autopeft.model.head import head_modules

_MOST_NAMED = 4


@dataclass(frozen=True)
class Meaning:
    """What the outputs of a head are for.

    Attributes:
        labels: the classes in the order of the outputs; none where the output is a number.
        mean: that a number is put out without.
        std: that it is put out in units of.
    """

    labels: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class Brought:
    """What has become of a head that the checkpoint brought.

    Attributes:
        sha256: of what is left of it, as trials begin with it.
        fresh: names of its parameters that begin anew all the same.
        note: what the user has to be told.
        is_changed: it does not begin as it lies in the checkpoint.
    """

    sha256: str
    fresh: tuple[str, ...] = ()
    note: str | None = None
    is_changed: bool = False


def adopt(model: PreTrainedModel, fresh: Sequence[str], meaning: Meaning) -> Brought | None:
    """Let the head of a checkpoint mean what the study's does; the model is changed in place.

    Classes of the same names, case aside, are put in the study's order, and classes without names
    stay in theirs; one number is put on the study's scale. A last layer that is for anything else
    begins anew.

    Args:
        model: as loaded, with as many outputs as the study has.
        fresh: names of parameters that the checkpoint did not bring.
        meaning: of the study's outputs.

    Returns:
        None if the checkpoint brought no head.
    """
    modules = dict(head_modules(model, fresh))
    brought = [name for name in modules if f"{name}.weight" not in fresh]
    if not brought:
        return None
    last = list(modules)[-1]
    anew: tuple[str, ...] = ()
    note, is_changed = None, False
    linear = modules[last]
    if last in brought and isinstance(linear, nn.Linear):
        before = [parameter.clone() for parameter in linear.parameters()]
        is_used, note = _adopt(linear, _names(model), meaning)
        is_changed = not is_used or not all(map(torch.equal, before, linear.parameters()))
        anew = () if is_used else tuple(f"{last}.{p}" for p, _ in linear.named_parameters())
    digest = hashlib.sha256()
    for name in brought:
        for part, parameter in modules[name].named_parameters():
            if f"{name}.{part}" not in anew:
                digest.update(f"{name}.{part}{tuple(parameter.shape)}".encode())
                digest.update(parameter.detach().cpu().contiguous().numpy().data)
    return Brought(digest.hexdigest(), anew, note, is_changed)


@torch.no_grad()
def _adopt(linear: nn.Linear, theirs: Sequence[str], meaning: Meaning) -> tuple[bool, str]:
    """Whether the last layer is used, and what to say of it."""
    if not meaning.labels:
        if "bias" not in dict(linear.named_parameters()):
            return False, (
                "the head that the model brings has no bias that would put it on the scale of the "
                "labels, so a fresh one is trained"
            )
        linear.weight /= meaning.std
        linear.bias.copy_((linear.bias - meaning.mean) / meaning.std)
        return True, "the head that the model brings is used, for the numbers that it puts out"
    ours = meaning.labels
    places = {name.casefold(): place for place, name in enumerate(theirs)}
    if len(places) == len(theirs) and places.keys() == {name.casefold() for name in ours}:
        order = [places[name.casefold()] for name in ours]
        for parameter in linear.parameters():
            parameter.copy_(parameter[order])
        return True, "the head that the model brings is used, its classes by their names"
    if all(name in (f"LABEL_{place}", str(place)) for place, name in enumerate(theirs)):
        pairs = [f"{name} for '{label}'" for name, label in zip(theirs, ours, strict=True)]
        return True, f"the head that the model brings is used by position: {_some(pairs)}"
    quoted = [f"'{name}'" for name in theirs]
    return False, (
        f"the head that the model brings is for other classes ({_some(quoted)}), so a fresh one is "
        "trained"
    )


def _names(model: PreTrainedModel) -> list[str]:
    """The outputs, as the checkpoint calls them."""
    return [str(name) for _, name in sorted(model.config.id2label.items())]


def _some(told: Sequence[str]) -> str:
    return ", ".join([*told[:_MOST_NAMED], *(["..."] if len(told) > _MOST_NAMED else [])])
