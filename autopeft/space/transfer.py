"""A genotype of one model on another: by relative depth, without what the other lacks, shrunk."""

from dataclasses import replace

from autopeft.errors import ConfigError
from autopeft.space.forms import FORMS
from autopeft.space.genotype import Genotype, Op
from autopeft.space.search_space import within
from autopeft.space.shape import ModelShape

SHRINK = 0.8
"""Factor of the sizes, again and again until the budget is met."""


def transfer(
    genotype: Genotype, shape: ModelShape, max_params: int, max_trained: int | None = None
) -> tuple[Genotype | None, list[str]]:
    """What comes closest to a genotype in another model and budget.

    A layer has what the layer at the same relative depth had, the first and the last ones those of
    the first and the last. Ops that cannot stand in the model are left out. Where the parameters
    exceed a limit, all sizes shrink by one factor, to 1 at least.

    Args:
        genotype: of any model.
        shape: of the model.
        max_params: limit of what is stored.
        max_trained: limit of what is trained, if there is one.

    Returns:
        The genotype, the same one if nothing had to change, or None if nothing remains or fits; and
        what had to be changed.
    """
    changes, ops = [], []
    if genotype.n_layers != shape.n_layers:
        changes.append(f"from {genotype.n_layers} layers to {shape.n_layers}")
    for op in genotype.ops:
        moved = replace(op, sizes=_at_relative_depth(op, shape))
        what = f"{op.form} {op.read}->{op.write}"
        if reason := _misfit(genotype, (moved,), shape):
            changes.append(f"without {what} ({reason})")
            continue
        ops.append(moved)
        if len(op.sizes) == shape.n_layers and moved != op:
            changes.append(f"{what} only where the model has {op.write}")
    if reason := _misfit(genotype, tuple(ops), shape):
        return None, [*changes, reason]
    found = replace(genotype, n_layers=shape.n_layers, ops=tuple(ops))
    if genotype.ops and not found.ops:
        return None, [*changes, "nothing of it remains"]
    return _shrunk(found, shape, max_params, max_trained, changes)


def _at_relative_depth(op: Op, shape: ModelShape) -> tuple[int, ...]:
    """Its sizes over the layers of the model, 0 where the model has no such place."""
    old, new = len(op.sizes), shape.n_layers
    places = shape.layers_with((op.read, op.write))
    return tuple(
        op.sizes[round(i * (old - 1) / max(1, new - 1))] if i in places else 0 for i in range(new)
    )


def _misfit(genotype: Genotype, ops: tuple[Op, ...], shape: ModelShape) -> str | None:
    """Why these ops cannot stand in the model; None if they can."""
    try:
        replace(genotype, n_layers=shape.n_layers, ops=ops).check_fits(shape)
    except ConfigError as error:
        return str(error)
    return None


def _shrunk(
    genotype: Genotype,
    shape: ModelShape,
    max_params: int,
    max_trained: int | None,
    changes: list[str],
) -> tuple[Genotype | None, list[str]]:
    factor, smaller = 1.0, genotype
    while not within(smaller, shape, max_params, max_trained):
        if factor * max((max(op.sizes) for op in genotype.ops), default=0) <= 1:
            return None, [*changes, "it exceeds the budget even at its smallest"]
        factor *= SHRINK
        ops = tuple(_scaled(op, factor, shape) for op in genotype.ops)
        smaller = replace(genotype, ops=ops)
    if smaller is not genotype:
        before, after = genotype.count_params(shape), smaller.count_params(shape)
        changes = [*changes, f"from {before:,} parameters to {after:,}"]
    return smaller, changes


def _scaled(op: Op, factor: float, shape: ModelShape) -> Op:
    """The op with smaller sizes; those that its form allows nowhere near stay as they are."""
    if not FORMS[op.form].sized:
        return op
    sizes = tuple(max(1, int(size * factor)) if size else 0 for size in op.sizes)
    smaller = replace(op, sizes=sizes)
    return op if any(op.misfit(size, shape) for size in sizes) else smaller
