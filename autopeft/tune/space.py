"""A search space as Tune knows them."""

from typing import Any

from ray import tune

from autopeft.space.dimension import Categorical, Dimension, Integer
from autopeft.space.search_space import SearchSpace


def param_space(space: SearchSpace) -> dict[str, Any]:
    """The coordinates of a space as domains that any of Tune's searchers can draw from.

    In a space by construction the coordinates themselves keep every draw within the budget; of a
    filtered one the Trainable refuses what exceeds it, untrained.

    Args:
        space: bound to model and budget, such as `prepare(...).setup.space`.
    """
    return {dim.name: _domain(dim) for dim in space.dimensions()}


def _domain(dim: Dimension) -> Any:
    if isinstance(dim, Categorical):
        return tune.choice(list(dim.choices))
    if isinstance(dim, Integer):
        return tune.randint(dim.low, dim.high + 1)
    return tune.loguniform(dim.low, dim.high) if dim.log else tune.uniform(dim.low, dim.high)
