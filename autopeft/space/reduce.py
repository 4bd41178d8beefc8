"""A draw made smaller until it fits, where hardly any draw does."""

from autopeft.space.dimension import Choice, Integer, Params, Real
from autopeft.space.genotype import Genotype
from autopeft.space.search_space import SearchSpace
from autopeft.space.seed import seed_of


def reduced(space: SearchSpace, params: Params, seed: int) -> Genotype | None:
    """The genotype at some coordinates once it is within the limits of its space.

    Sizes, layers and a total are halved, one after the other in an order drawn with the seed, but
    never so far that nothing is there.

    Args:
        space: bound to a model and a budget.
        params: of a draw.
        seed: of the order.

    Returns:
        The genotype, or None if its least does not fit either.
    """
    least: dict[str, Choice] = {
        dim.name: dim.low
        for dim in space.dimensions()
        if isinstance(dim, Integer) or (isinstance(dim, Real) and dim.name == "total")
    }
    order = sorted(least, key=lambda name: seed_of(seed, name))
    genotype = space.decode(params)
    while genotype.ops and not space.admits(genotype):
        smaller = None
        for name in order:
            halved = {**params, name: max(least[name], _half(params[name]))}
            if halved == params or not (found := space.decode(halved)).ops:
                continue
            params, smaller = halved, found
            if space.admits(found):
                break
        if smaller is None:
            return None
        genotype = smaller
    return genotype if genotype.ops else None


def _half(value: Choice) -> Choice:
    return value // 2 if isinstance(value, int) else float(value) / 2
