"""The genotypes whose costs are measured, so that those of all others can be predicted."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.search_space import SearchSpace

LEARNING_RATE = 1e-3
"""Of probes; costs do not depend on it."""


def probes_of(spaces: Iterable[SearchSpace], points: Iterable[Genotype]) -> list[Genotype]:
    """Every form that a study can train, at a few parameters and at many.

    Args:
        spaces: that genotypes are drawn from, on one model; the first one's budget counts.
        points: other genotypes that are trained.

    Returns:
        The backbone alone, an op in the highest layer alone, and for each form one genotype or two.
    """
    known = list(spaces)
    shape, most = known[0].shape, known[0].max_params
    found: dict[Form, list[Genotype]] = defaultdict(list)
    for ops in _candidates(known, points):
        found[ops[0].form].append(Genotype(shape.n_layers, ops, LEARNING_RATE))
    probes = [Genotype(shape.n_layers, (), LEARNING_RATE)]
    for genotypes in found.values():
        ordered = sorted(genotypes, key=lambda g: (g.count_params(shape), g.hash))
        fitting = [g for g in ordered if g.count_params(shape) <= most]
        probes += dict.fromkeys((ordered[0], (fitting or ordered)[-1]))
    return [*probes, *_highest(probes)]


def _candidates(
    spaces: Iterable[SearchSpace], points: Iterable[Genotype]
) -> Iterator[tuple[Op, ...]]:
    for space in spaces:
        for slot in space.slots:
            for variant in slot.variants:
                for size in slot.sizes:
                    yield slot.ops(variant, [size] * space.shape.n_layers)
    for genotype in points:
        for form in dict.fromkeys(op.form for op in genotype.ops):
            yield tuple(op for op in genotype.ops if op.form is form)


def _highest(probes: Iterable[Genotype]) -> list[Genotype]:
    """The first probe with ops in many layers, cut down to the highest of them."""
    for probe in probes:
        cut = tuple(_in_one(op, probe.n_layers - 1) for op in probe.ops)
        alone = Genotype(probe.n_layers, cut, LEARNING_RATE)
        if alone.ops and alone.fork > probe.fork:
            return [alone]
    return []


def _in_one(op: Op, layer: int) -> Op:
    sizes = tuple(size if i == layer else 0 for i, size in enumerate(op.sizes))
    return Op(op.form, op.read, op.write, sizes, op.activation, op.scale)
