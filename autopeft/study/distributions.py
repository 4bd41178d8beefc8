"""Dimensions of a space as Optuna distributions."""

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from autopeft.space.dimension import Categorical, Dimension, Integer
from autopeft.space.search_space import SearchSpace


def distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The distribution of every coordinate, by name."""
    return {dim.name: _distribution(dim) for dim in space.dimensions()}


def _distribution(dim: Dimension) -> BaseDistribution:
    if isinstance(dim, Categorical):
        return CategoricalDistribution(dim.choices)
    if isinstance(dim, Integer):
        return IntDistribution(dim.low, dim.high)
    return FloatDistribution(dim.low, dim.high, log=dim.log)
