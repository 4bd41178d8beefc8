"""From a genotype back to coordinates, so that a sampler can learn from any measured genotype.

Much of a genotype's coordinates does not matter: how an absent slot would read, where it would
lie, the activation of a LoRA. Samplers take all coordinates for what has made a trial good or bad.
If those had some fixed value, TPE would hold that value to be as good as all trials together, and
propose it hardly ever. So they are as chance would have them, drawn with the genotype's hash.
"""

from collections.abc import Mapping, Sequence

from autopeft.space.dimension import Categorical, Choice, Dimension, Integer, Params, Real
from autopeft.space.forms import shared_params
from autopeft.space.genotype import Genotype, Op
from autopeft.space.search_space import SearchSpace
from autopeft.space.seed import seed_of
from autopeft.space.slot import Slot, Variant
from autopeft.space.spec import Range
from autopeft.space.spend import OFF

_Ops = Mapping[tuple[str, str, str, str, str], Op]


def encode(space: SearchSpace, genotype: Genotype) -> Params | None:
    """Coordinates that decode to this genotype or to one much like it.

    Where the space draws totals and shares, the sizes that come back are rounded anew, and
    numbers are clipped into their ranges. What does not matter is drawn with the genotype's hash.

    Returns:
        The coordinates, or None if the genotype has an op that is not of this space, or none.
    """
    if genotype not in space.encoded:
        space.encoded[genotype] = _coordinates(space, genotype)
    return space.encoded[genotype]


def _coordinates(space: SearchSpace, genotype: Genotype) -> Params | None:
    rest = {op.kind: op for op in genotype.ops}
    params: dict[str, Choice] = {}
    sizes: dict[str, Sequence[int]] = {}
    costs: dict[str, list[int]] = {}
    layers: dict[str, Sequence[int]] = {}
    for slot in space.slots:
        variant, sizes[slot.name] = _match(slot, rest)
        layers[slot.name] = slot.layers(variant)
        costs[slot.name] = _costs(slot, variant, sizes[slot.name])
        if any(sizes[slot.name]):
            ways = slot.variants[variant]
            params |= ways[int(_chance(genotype, slot.name) * len(ways))]
            for op in variant.ops([0]):
                rest.pop(op.kind, None)
    if rest or not genotype.ops:
        return None
    placed = (
        _shares(space, genotype, costs, layers)
        if space.by_construction
        else _sizes(space, sizes, layers)
    )
    if placed is None:
        return None
    params |= placed
    for name, value in space.training().items():
        if isinstance(value, Range):
            params[name] = min(max(getattr(genotype, name), value.low), value.high)
    return {
        dim.name: params[dim.name] if dim.name in params else _drawn(dim, genotype)
        for dim in space.dimensions()
    }


def _match(slot: Slot, ops: _Ops) -> tuple[Variant, Sequence[int]]:
    """The variant of the slot that explains most of the ops, with its sizes."""
    candidates = [(variant, _sizes_of(slot, variant, ops)) for variant in slot.variants]
    return max(candidates, key=lambda candidate: sum(_costs(slot, *candidate)))


def _costs(slot: Slot, variant: Variant, sizes: Sequence[int]) -> list[int]:
    """Parameters in each layer."""
    return [slot.costs(variant, size)[i] for i, size in enumerate(sizes)]


def _sizes_of(slot: Slot, variant: Variant, ops: _Ops) -> Sequence[int]:
    """What the ops of a variant have for sizes, all of them the same where they can stand."""
    empty = [0] * slot.shape.n_layers
    sizes: dict[int, int] = {}
    for op, layers in slot.standing(variant):
        own = ops[op.kind].sizes if op.kind in ops else empty
        if any(sizes.setdefault(i, own[i]) != own[i] for i in layers):
            return empty
    return [sizes.get(i, 0) for i in range(slot.shape.n_layers)]


def _everywhere(slot: Slot, values: Sequence[int], layers: Sequence[int]) -> list[float]:
    """Values of some layers for all of them; where an op cannot stand, those of the nearest."""
    return [float(values[i]) for i in slot.layout.nearest(layers, len(values))]


def _shares(
    space: SearchSpace,
    genotype: Genotype,
    costs: Mapping[str, list[int]],
    layers: Mapping[str, Sequence[int]],
) -> Params | None:
    shared = shared_params(op.stored.form for op in genotype.ops)
    total, most = sum(map(sum, costs.values())) + shared, max(map(sum, costs.values()))
    params: dict[str, Choice] = {
        "total": min(max(float(total), space.least_total()), space.max_params)
    }
    for slot in space.slots:
        spent = sum(costs[slot.name])
        if len(space.slots) > 1:
            name = f"{slot.name}.share"
            absent = OFF * _chance(genotype, name)
            params[name] = OFF + (1 - OFF) * spent / most if spent else absent
        if not spent:
            continue
        coordinates = slot.layout.coordinates(
            _everywhere(slot, costs[slot.name], layers[slot.name])
        )
        if coordinates is None:
            return None
        params = {**coordinates, **params}
    return params


def _sizes(
    space: SearchSpace, sizes: Mapping[str, Sequence[int]], layers: Mapping[str, Sequence[int]]
) -> Params | None:
    params: dict[str, Choice] = {}
    for name, slot, sized in space.size_axes():
        present = {sizes[slot.name][i] for i in sized} - {0} or {0}
        allowed = (0, *slot.sizes)
        if len(present) > 1 or not present <= set(allowed):
            return None
        params[name] = allowed.index(present.pop())
    for slot in space.slots:
        if slot.layout.coupled and any(sizes[slot.name]):
            coordinates = slot.layout.coordinates(
                _everywhere(slot, sizes[slot.name], layers[slot.name])
            )
            if coordinates is None or any(
                params.get(name, value) != value for name, value in coordinates.items()
            ):
                return None
            params |= coordinates
    return params


def _drawn(dim: Dimension, genotype: Genotype) -> Choice:
    """A coordinate that does not matter, as chance would have it."""
    share = _chance(genotype, dim.name)
    match dim:
        case Real():
            return dim.low + share * (dim.high - dim.low)
        case Integer():
            return dim.low + int(share * (dim.high - dim.low + 1))
        case Categorical():
            return dim.choices[int(share * len(dim.choices))]


def _chance(genotype: Genotype, name: str) -> float:
    """From 0 to below 1, the same for a genotype and a name for ever."""
    return seed_of(0, genotype.hash, name) / 2**56
