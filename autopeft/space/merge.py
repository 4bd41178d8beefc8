"""Which ops can become part of the model's own weights; known before anything is trained."""

from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype, Op
from autopeft.space.shape import ModelShape
from autopeft.space.taps import LINEAR_INPUT, THROUGH_NORM, Tap

LINEAR = frozenset({Form.LOWRANK, Form.LOWRANK_FA, Form.VERA, Form.KRONECKER, Form.SPARSE})
"""f is a matrix, which is added to the weight or multiplied with it."""
ELEMENTWISE = frozenset({Form.BIAS, Form.SCALE})
"""A vector, which can join a bias, the rows of a weight or the gain of a LayerNorm."""
NEVER = {
    Form.PREFIX: "trained keys and values are no weights",
    Form.PROMPT: "trained tokens are no weights",
    Form.MULTIHEAD: "trained keys and values are no weights",
    Form.PHM: "only a bottleneck with projections of its own is part of a wider FFN",
    Form.SPARSE_BOTTLENECK: "only a bottleneck with all its entries is part of a wider FFN",
}
"""Forms that no weight can do."""

NORMS = {
    Tap.ATTN_NORM: Tap.ATTN_NORM,
    Tap.CROSS_NORM: Tap.CROSS_NORM,
    Tap.FFN_NORM: Tap.FFN_NORM,
    Tap.BLOCK_OUT: Tap.FFN_NORM,
}
"""Taps that are the output of a LayerNorm, and which; a layer ends with the one of its FFN."""
CONSUMERS = {
    read: tuple(tap for tap, source in LINEAR_INPUT.items() if source is read)
    for read in LINEAR_INPUT.values()
}
"""For the input of weight matrices, the taps that are their outputs."""


def is_mergeable(genotype: Genotype, shape: ModelShape) -> bool:
    """Whether a plain model can compute what the genotype does; so can the backbone itself."""
    return not obstacles(genotype, shape)


def obstacles(genotype: Genotype, shape: ModelShape) -> tuple[str, ...]:
    """Why it cannot, a sentence for each op that is in the way."""
    return tuple(
        f"{op.form} {op.read}->{op.write}: {reason}"
        for op in genotype.ops
        if (reason := obstacle(op, shape))
    )


def obstacle(op: Op, shape: ModelShape) -> str | None:
    """Why an op, once trained, cannot become part of the weights of a model; None if it can."""
    op = op.stored
    if op.scale == "gated":
        return "its gate is another one for every example"
    if op.form in NEVER:
        return NEVER[op.form]
    if op.write in shape.shared_inputs:
        return f"the weight matrices that read `{op.write}` read something else, too"
    if not _is_of_matrices(op.write, shape):
        return f"no weight matrix alone reads or puts out `{op.write}`"
    if op.form is Form.BOTTLENECK:
        return _no_neurons(op, shape)
    if op.form in ELEMENTWISE:
        return _no_vector(op, shape)
    if op.form is Form.DORA:
        return None
    if op.form in LINEAR:
        return _no_matrix(op)
    return f"nobody has said how a {op.form} becomes part of a weight"


def _is_of_matrices(tap: Tap, shape: ModelShape) -> bool:
    """Whether it is the output of one weight matrix, the input of some, or neither anywhere.

    The FFN of a mixture of experts is known as a whole.
    """
    if tap in CONSUMERS:
        return tap in shape.matrices.values()
    return tap in shape.matrices or tap not in LINEAR_INPUT


def _no_matrix(op: Op) -> str | None:
    if op.read == op.write:
        return "a LayerNorm has no matrix" if op.write in NORMS else None
    if op.read in THROUGH_NORM:
        return "it reads through a LayerNorm"
    if LINEAR_INPUT.get(op.write) is not op.read:
        return f"no single weight matrix leads from `{op.read}` to `{op.write}`"
    return None


def _no_vector(op: Op, shape: ModelShape) -> str | None:
    if op.write in NORMS and NORMS[op.write] not in shape.widths:
        return f"`{op.write}` is a sum, no output of a module"
    if op.form is Form.BIAS and (unbiased := _unbiased(op.write, shape)):
        return f"{', '.join(unbiased)} {'has' if len(unbiased) == 1 else 'have'} no bias"
    return None


def _unbiased(tap: Tap, shape: ModelShape) -> list[Tap]:
    """Of the outputs that take a vector at this tap in, those without a bias."""
    takers = CONSUMERS.get(tap, (NORMS.get(tap, tap),))
    return [taker for taker in takers if taker in shape.widths and taker not in shape.biased]


def _no_neurons(op: Op, shape: ModelShape) -> str | None:
    """A parallel adapter of the FFN is as many more neurons of it (He et al. 2022, section 3.3)."""
    if (op.read, op.write) != (Tap.FFN_IN, Tap.FFN_OUT):
        return "only a bottleneck from `ffn_in` to `ffn_out` is part of a wider FFN"
    if Tap.FFN_GATE in shape.widths:
        return "the FFN has a gate"
    if unbiased := [tap for tap in (Tap.FFN_UP, Tap.FFN_OUT) if tap not in shape.biased]:
        return f"{', '.join(unbiased)} has no bias"
    if shape.ffn_activation is None or op.activation != shape.ffn_activation:
        own = shape.ffn_activation or "another one"
        return f"its activation is {op.activation}, that of the FFN is {own}"
    return None
