"""The YAML of a search space, validated strictly. What it means is in `search_space.py`."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from autopeft.space.forms import FORMS, Activation, Compose, Form, misplaced, weight_input
from autopeft.space.layout import LayoutKind
from autopeft.space.rates import rate_at
from autopeft.space.taps import CROSS, LINEAR_INPUT, Tap
from autopeft.space.yaml import Problem, refuse_if_any

NAME = r"^[a-z][a-z0-9_]{0,40}$"


def _listed(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


class Strict(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Halvings(Strict):
    """Sizes `d_model // 2**k` for k from 0 to `halvings`."""

    halvings: Annotated[int, Field(strict=True, ge=1, le=20)]


class Range(Strict):
    """A number drawn between two ends, on a log scale unless told otherwise."""

    low: Annotated[float, Field(strict=True, gt=0)]
    high: Annotated[float, Field(strict=True, gt=0)]
    log: Annotated[bool, Field(strict=True)] = True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


PositiveScale = Annotated[float, Field(strict=True, gt=0, le=1000)]
Size = Annotated[int, Field(strict=True, ge=0, le=2**24)]


class SlotSpec(Strict):
    """A place where ops of some kinds may stand.

    A list is a choice. `write: q+v` writes at both taps with one size. `read: weight` reads the
    input of the weight matrix whose output is written; `read: same` reads where it writes.
    `activation: own` is that of the model's FFN.
    """

    name: Annotated[str, Field(pattern=NAME)]
    form: Annotated[tuple[Form, ...], BeforeValidator(_listed), Field(min_length=1)]
    read: Annotated[
        tuple[Tap | Literal["weight", "same"], ...], BeforeValidator(_listed), Field(min_length=1)
    ]
    write: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
    size: Annotated[Halvings | tuple[Size, ...], Field(default=(1,), validate_default=True)]
    activation: Annotated[tuple[Activation | Literal["own"], ...], BeforeValidator(_listed)] = ()
    compose: Compose | None = None
    scale: Annotated[
        tuple[PositiveScale | Literal["learned", "gated"], ...],
        BeforeValidator(_listed),
        Field(min_length=1),
    ] = (1.0,)
    layout: str = LayoutKind.SAME

    @field_validator("size", mode="before")
    @classmethod
    def _size(cls, value: object) -> object:
        return value if isinstance(value, dict | Halvings) else _listed(value)

    @field_validator("write")
    @classmethod
    def _taps(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for joint in value:
            parts = joint.split("+")
            for name in parts:
                if name not in set(Tap):
                    raise ValueError(f"no tap `{name}`; allowed: {', '.join(Tap)}, joined by +")
            if len(set(parts)) < len(parts):
                raise ValueError(f"`{joint}` names a tap twice")
        return value

    @model_validator(mode="after")
    def _meaningful(self) -> Self:
        refuse_if_any([*self._form_problems(), *self._place_problems()])
        return self

    def places(self) -> set[tuple[Form, Tap, Tap]]:
        """Every (form, read, write) that an op of this slot can have."""
        return {
            (form, resolve_read(read, Tap(part)), Tap(part))
            for form in self.form
            for read in self.read
            for joint in self.write
            for part in joint.split("+")
        }

    def stored_places(self) -> set[tuple[Form, Tap, Tap]]:
        """What becomes of them once they are trained."""
        return {(FORMS[form].becomes or form, read, write) for form, read, write in self.places()}

    def taps(self) -> set[Tap]:
        """Every tap that an op of this slot can read or write."""
        return {tap for _, *taps in self.places() for tap in taps}

    @property
    def crosses(self) -> bool:
        """Whether it is at a decoder's attention to an encoder and nowhere else."""
        return self.taps() <= CROSS

    @property
    def gates(self) -> bool:
        """Whether it writes at the gate of an FFN and nowhere else."""
        return {write for _, _, write in self.places()} == {Tap.FFN_GATE}

    def _form_problems(self) -> Iterator[Problem]:
        for form in self.form:
            rule = FORMS[form]
            if self.compose not in (None, rule.compose):
                yield ("compose",), f"a {form} composes by `{rule.compose}`"
            if rule.activated and not self.activation:
                yield ("activation",), f"a {form} needs an activation: {', '.join(Activation)}"
            if not rule.sized and self.size != (1,):
                yield ("size",), f"a {form} has no size"
            if not rule.scalable and not set(self.scale) <= {1.0, "gated"}:
                yield ("scale",), f"a {form} has no scale"
            if not rule.learnable and "learned" in self.scale:
                yield ("scale",), f"the scale of a {form} is a number"
            if "gated" in self.scale and not rule.gated:
                yield ("scale",), f"a {form} has no gate"
        if self.activation and not any(FORMS[form].activated for form in self.form):
            yield ("activation",), f"no form here has an activation ({', '.join(self.form)})"
        if isinstance(self.size, tuple) and not any(self.size):
            yield ("size",), "at least one size has to be above 0"

    def _place_problems(self) -> Iterator[Problem]:
        for form in self.form:
            for read in self.read:
                for write in (Tap(part) for joint in self.write for part in joint.split("+")):
                    if read == "weight" and write not in LINEAR_INPUT:
                        allowed = ", ".join(LINEAR_INPUT)
                        yield (
                            ("write",),
                            f"no weight matrix writes at `{write}`; with `read: weight`: {allowed}",
                        )
                    elif reason := misplaced(form, resolve_read(read, write), write):
                        yield ("write",), f"{form} {read}->{write}: {reason}"


def resolve_read(read: str, write: Tap) -> Tap:
    """The read tap that `weight`, `same` or a tap's own name stands for."""
    if read == "weight":
        return weight_input(write)
    return write if read == "same" else Tap(read)


class TrainingSpec(Strict):
    """Training hyperparameters: a fixed number or a range.

    Attributes:
        learning_rate: peak learning rate of AdamW.
        at_width: d_model of the models that it is for; in wider ones it is lower (`rate_at`).
            Without it, it is for all models.
        weight_decay: of AdamW.
    """

    learning_rate: Annotated[float, Field(strict=True, gt=0)] | Range
    at_width: Annotated[int, Field(strict=True, gt=0)] | None = None
    weight_decay: Annotated[float, Field(strict=True, ge=0)] | Range = 0.0

    def rate(self, d_model: int) -> float | Range:
        """The learning rate in a model, fixed or drawn."""
        rate, width = self.learning_rate, self.at_width
        if width is None:
            return rate
        if not isinstance(rate, Range):
            return rate_at(rate, width, d_model)
        ends = {
            "low": rate_at(rate.low, width, d_model),
            "high": rate_at(rate.high, width, d_model),
        }
        return rate.model_copy(update=ends)


class SpaceSpec(Strict):
    """A search space file."""

    name: Annotated[str, Field(pattern=NAME)]
    description: Annotated[str, Field(max_length=2000)]
    draw: Literal["budget", "filter"] = "budget"
    layouts: dict[Annotated[str, Field(pattern=NAME)], LayoutKind] = {}
    slots: Annotated[tuple[SlotSpec, ...], Field(min_length=1, max_length=50)]
    training: TrainingSpec

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        refuse_if_any([*self._name_problems(), *self._layout_problems(), *self._overlap_problems()])
        return self

    def _name_problems(self) -> Iterator[Problem]:
        names = [slot.name for slot in self.slots]
        for i, name in enumerate(names):
            if name in names[:i]:
                yield ("slots", i, "name"), f"slot `{name}` is given twice"
        for name in self.layouts:
            if name in set(LayoutKind):
                yield ("layouts", name), "named like a kind of layout"
            if name in names:  # coordinates are named after slots and layouts
                yield ("layouts", name), "named like a slot"

    def _layout_problems(self) -> Iterator[Problem]:
        known = [*self.layouts, *LayoutKind]
        for i, slot in enumerate(self.slots):
            if slot.layout not in known:
                text = f"no layout `{slot.layout}`; allowed: {', '.join(known)}"
                yield ("slots", i, "layout"), text
            elif self.draw == "filter" and self._kind(slot) is LayoutKind.SHAPE:
                yield ("slots", i, "layout"), "layout `shape` needs `draw: budget`"

    def _kind(self, slot: SlotSpec) -> LayoutKind:
        return LayoutKind(self.layouts.get(slot.layout, slot.layout))

    def _overlap_problems(self) -> Iterator[Problem]:
        owner: dict[tuple[Form, Tap, Tap], str] = {}
        for i, slot in enumerate(self.slots):
            for place in sorted({*slot.places(), *slot.stored_places()}):
                if (other := owner.setdefault(place, slot.name)) != slot.name:
                    form, read, write = place
                    text = f"slots {other} and {slot.name} both put a {form} at {read}->{write}"
                    yield ("slots", i), text
