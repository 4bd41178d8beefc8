"""The number of points of a space: the closed form against counting them."""

import itertools

import pytest
from space_factory import (
    FILTERABLE,
    NO_LIMIT,
    bind_text,
    one_slot,
    op_set,
    two_slots,
)

from autopeft.space.bind import bind
from autopeft.space.layout import LayoutKind
from autopeft.space.shape import BERT_BASE
from autopeft.space.shipped import load_space


def test_autopeft_counts_three_sizes_and_one_mask():
    # eleven sizes three times, one mask of twelve layers, and nothing at all once
    space = bind(load_space("autopeft"), BERT_BASE, NO_LIMIT)
    assert space.cardinality() == (11**3 - 1) * (2**12 - 1) + 1


def enumerated(space):
    """All sets of ops, from the choices of each slot, by brute force."""
    n = space.shape.n_layers
    found = set()
    choices = [[(slot, variant) for variant in slot.variants] for slot in space.slots]
    layouts = {slot.layout.name: patterns(slot.layout.kind, n) for slot in space.slots}
    for variants in itertools.product(*choices):
        for drawn in itertools.product(*layouts.values()):
            pattern = dict(zip(layouts, drawn, strict=True))
            sizes = [sizes_on(slot, pattern[slot.layout.name]) for slot, _ in variants]
            for chosen in itertools.product(*sizes):
                ops = [
                    op
                    for (_, variant), size in zip(variants, chosen, strict=True)
                    for op in variant.ops(size)
                    if any(size)
                ]
                found.add(op_set(ops))
    return found


def patterns(kind, n):
    """The sets of layers that a layout can select; None where each layer has its own size."""
    if kind is LayoutKind.MASK:
        return list(itertools.product((0, 1), repeat=n))
    if kind is LayoutKind.TOP:
        return [(0,) * (n - top) + (1,) * top for top in range(1, n + 1)]
    if kind is LayoutKind.GROUPS:  # of a model so shallow that every layer is one
        return [drawn for drawn in itertools.product((0, 1), repeat=n) if any(drawn)]
    return [(1,) * n if kind is LayoutKind.SAME else None]


def sizes_on(slot, pattern):
    n, sizes = slot.shape.n_layers, (0, *slot.sizes)
    if pattern is None:
        return itertools.product(sizes, repeat=n)
    return [tuple(size * on for on in pattern) for size in sizes]


@pytest.mark.parametrize("text", [one_slot, two_slots])
@pytest.mark.parametrize(
    ("kind", "draw"),
    [*((kind, "budget") for kind in LayoutKind), *((kind, "filter") for kind in FILTERABLE)],
)
def test_cardinality_is_the_number_of_sets_of_ops(text, kind, draw):
    space = bind_text(text(kind, draw))
    assert space.cardinality() == len(enumerated(space))


@pytest.mark.parametrize("kind", FILTERABLE)
@pytest.mark.parametrize("text", [one_slot, two_slots])
def test_filter_draws_reach_every_set_of_ops(text, kind):
    space = bind_text(text(kind, "filter"))
    dims = [dim for dim in space.dimensions() if dim.name != "learning_rate"]
    values = [getattr(dim, "choices", None) or range(dim.low, dim.high + 1) for dim in dims]
    reached = set()
    for point in itertools.product(*values):
        params = dict(zip([dim.name for dim in dims], point, strict=True))
        reached.add(op_set(space.decode(params | {"learning_rate": 1e-3}).ops))
    assert reached == enumerated(space)
