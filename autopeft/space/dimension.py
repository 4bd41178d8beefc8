"""Dimensions of a search space, as plain values that any sampler can be told about."""

from collections.abc import Mapping
from dataclasses import dataclass

Choice = str | int | float | bool
Params = Mapping[str, Choice]
"""The coordinates of one draw, by dimension name."""


@dataclass(frozen=True)
class Real:
    """A number from `low` to `high`, drawn on a log scale if `log`."""

    name: str
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`, both included."""

    name: str
    low: int
    high: int


@dataclass(frozen=True)
class Categorical:
    """One of several unordered values."""

    name: str
    choices: tuple[Choice, ...]


Dimension = Real | Integer | Categorical
