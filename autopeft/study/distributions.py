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


def distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The distribution of every coordinate, by name."""
    return {dim.name: _distribution(dim) for dim in space.dimensions()}


def _distribution(dim: Dimension) -> BaseDistribution:
    if isinstance(dim, Categorical):
        return CategoricalDistribution(dim.choices)
    if isinstance(dim, Integer):
        return IntDistribution(dim.low, dim.high)
    return FloatDistribution(dim.low, dim.high, log=dim.log)


def shared_distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The same for a study in memory: copying them took most of the time to build one."""
    return {dim.name: _shared(dim) for dim in space.dimensions()}


def _shared(dim: Dimension) -> BaseDistribution:
    if isinstance(dim, Categorical):
        return SharedCategorical(dim.choices)
    if isinstance(dim, Integer):
        return SharedInt(dim.low, dim.high)
    return SharedFloat(dim.low, dim.high, log=dim.log)
