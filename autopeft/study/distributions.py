"""Dimensions of a space as Optuna distributions."""

from typing import Self

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from autopeft.space.dimension import Categorical, Dimension, Integer
from autopeft.space.search_space import SearchSpace


class _Shared:
    """Not copied with every trial of an in-memory study; nobody changes a distribution."""

    def __deepcopy__(self, _: dict[int, object]) -> Self:
        return self


class SharedFloat(_Shared, FloatDistribution):
    """A range of numbers that many trials share."""


class SharedInt(_Shared, IntDistribution):
    """A range of whole numbers that many trials share."""


class SharedCategorical(_Shared, CategoricalDistribution):
    """Choices that many trials share."""


_PLAIN = (CategoricalDistribution, IntDistribution, FloatDistribution)
_SHARED = (SharedCategorical, SharedInt, SharedFloat)
_Kinds = tuple[type[CategoricalDistribution], type[IntDistribution], type[FloatDistribution]]


def distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The distribution of every coordinate, by name."""
    return {dim.name: _distribution(dim, _PLAIN) for dim in space.dimensions()}


def shared_distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The same for a study in memory: copying them took most of the time to build one."""
    return {dim.name: _distribution(dim, _SHARED) for dim in space.dimensions()}


def _distribution(dim: Dimension, kinds: _Kinds) -> BaseDistribution:
    categorical, integer, number = kinds
    if isinstance(dim, Categorical):
        return categorical(dim.choices)
    if isinstance(dim, Integer):
        return integer(dim.low, dim.high)
    return number(dim.low, dim.high, log=dim.log)
