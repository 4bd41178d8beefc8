"""A genotype as numbers in which similar genotypes are close."""

import math
from collections import defaultdict

from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype
from autopeft.space.shape import ModelShape
from autopeft.space.taps import Tap

ATTENTION = frozenset(Tap) - {
    *(Tap.FFN_IN, Tap.FFN_GATE, Tap.FFN_UP, Tap.FFN_MID, Tap.FFN_OUT, Tap.FFN_NORM),
    *(Tap.EMBED, Tap.BLOCK_OUT),
}
"""Where what an op writes belongs to attention."""


def features(genotype: Genotype, shape: ModelShape) -> tuple[float, ...]:
    """Numbers of like scale, as many for every genotype of a model.

    The logarithms of the parameters in all, of each form and of attention and the rest; of the
    learning rate; and how high in the model the parameters sit, from 0 to 1.

    Args:
        genotype: any.
        shape: of the model.
    """
    by_form: dict[Form, int] = defaultdict(int)
    in_attention = elsewhere = 0
    height = 0.0
    for op in genotype.ops:
        layers = [op.params_in_layer(size, shape) for size in op.sizes]
        count = sum(layers)
        by_form[op.form] += count
        height += sum(i * n for i, n in enumerate(layers)) / max(1, shape.n_layers - 1)
        if op.write in ATTENTION:
            in_attention += count
        else:
            elsewhere += count
    total = in_attention + elsewhere
    return (
        math.log1p(total),
        *(math.log1p(by_form[form]) for form in Form),
        math.log1p(in_attention),
        math.log1p(elsewhere),
        height / total if total else 0.5,
        math.log(genotype.learning_rate),
    )
