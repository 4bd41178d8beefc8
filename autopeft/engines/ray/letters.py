"""What the driver and a station say to each other: JSON, and the bytes of files beside it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from autopeft.engines.protocol import Calibrated, Decision, Done, Loaded, Measured, Refused
from autopeft.space.spec import Strict

Wire = tuple[bytes, dict[str, bytes]]
"""A letter on its way: JSON, and files by name."""


class Stepped(Strict):
    """A sign of life: these trials have come so far."""

    kind: Literal["stepped"] = "stepped"
    trials: tuple[int, ...]
    step: int
    steps: int


Message = Loaded | Decision | Calibrated | Stepped | Measured | Done | Refused

_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


@dataclass(frozen=True)
class Letter:
    """A message of a station.

    Attributes:
        message: what it says.
        files: bytes of the files that belong to it, by their names below the study's folder.
    """

    message: Message
    files: Mapping[str, bytes] = field(default_factory=dict)

    def to_wire(self) -> Wire:
        """As it travels: nothing of this package is pickled."""
        return self.message.model_dump_json().encode(), dict(self.files)

    @classmethod
    def from_wire(cls, wire: Wire) -> "Letter":
        """The inverse of `to_wire`.

        Raises:
            ValueError: this is no letter.
        """
        text, files = wire
        return cls(_MESSAGE.validate_json(text), files)


def latest(letters: Iterable[Letter]) -> list[Letter]:
    """Letters without those signs of life that a later one follows."""
    kept: list[Letter] = []
    for letter in letters:
        if kept and all(isinstance(one.message, Stepped) for one in (kept[-1], letter)):
            kept.pop()
        kept.append(letter)
    return kept
