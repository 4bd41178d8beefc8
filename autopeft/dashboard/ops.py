"""The ops of a genotype as the page shows them: what stands where, and what it costs there."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from autopeft.space.forms import FORMS, Activation, Form
from autopeft.space.genotype import Genotype, Op, Scale
from autopeft.space.methods import method, methods
from autopeft.space.shape import ModelShape
from autopeft.space.taps import CROSS, ORDER, Tap
from autopeft.space.words import describe

Part = Literal["embeddings", "attention", "cross-attention", "feed-forward"]


def part_of(tap: Tap) -> Part:
    """The sublayer that a tap is in, or what is below the layers."""
    if tap == Tap.EMBED:
        return "embeddings"
    if tap in CROSS:
        return "cross-attention"
    return "attention" if ORDER[tap] <= ORDER[Tap.ATTN_NORM] else "feed-forward"


ATTENTION = frozenset(tap for tap in Tap if part_of(tap) in {"attention", "cross-attention"})
"""The taps of all attention sublayers."""


@dataclass(frozen=True)
class OpInfo:
    """One op of a trial.

    Attributes:
        name: in words, without its size: `LoRA q`.
        read: tap where it reads.
        write: tap where it writes.
        sizes: rank, width or length in each layer, 0 where it is absent.
        params: parameters in each layer; empty where the widths of the model are not known.
        sized: its size is free; otherwise 1 says that it is there.
    """

    name: str
    read: str
    write: str
    sizes: tuple[int, ...]
    params: tuple[int, ...]
    sized: bool


def op_infos(genotype: Genotype, shape: ModelShape | None) -> tuple[OpInfo, ...]:
    """The ops in the order of computation.

    Args:
        genotype: of a trial.
        shape: of the backbone; None where a study does not say it.
    """
    ordered = sorted(genotype.ops, key=lambda op: (ORDER[op.write], ORDER[op.read], op.form))
    return tuple(_op_info(op, shape) for op in ordered)


def _op_info(op: Op, shape: ModelShape | None) -> OpInfo:
    return OpInfo(
        name=_name(op.form, op.read, op.write, op.activation, op.scale),
        read=str(op.read),
        write=str(op.write),
        sizes=op.sizes,
        params=tuple(op.params_in_layer(size, shape) for size in op.sizes) if shape else (),
        sized=FORMS[op.form].sized,
    )


@cache
def _name(form: Form, read: Tap, write: Tap, activation: Activation | None, scale: Scale) -> str:
    words = describe(Genotype(1, (Op(form, read, write, (1,), activation, scale),), 1.0))
    return " ".join(word for word in words.split() if word not in _OF_SIZE_1)


_OF_SIZE_1 = ("r1", "l1")


def params_by_place(ops: Iterable[OpInfo]) -> dict[tuple[int, str], int]:
    """Parameters at each (layer, tap written) that has any."""
    cells: dict[tuple[int, str], int] = defaultdict(int)
    for op in ops:
        for layer, params in enumerate(op.params):
            if params:
                cells[layer, op.write] += params
    return dict(cells)


def attention_share(ops: Iterable[OpInfo]) -> float | None:
    """Part of the parameters that stands in the attention sublayers; None without parameters."""
    cells = params_by_place(ops)
    total = sum(cells.values())
    return sum(n for (_, tap), n in cells.items() if tap in ATTENTION) / total if total else None


def mean_depth(ops: Iterable[OpInfo], n_layers: int) -> float | None:
    """Where the parameters stand on average, from 0 (the lowest layer) to 1 (the highest)."""
    cells = params_by_place(ops)
    total = sum(cells.values())
    if not total:
        return None
    return sum(layer * n for (layer, _), n in cells.items()) / total / max(1, n_layers - 1)


def average_share(placements: Sequence[Mapping[tuple[int, str], int]]) -> dict[str, list[float]]:
    """Mean over trials of each place's share of the trial's parameters, layers by tap.

    Trials without parameters (the head alone) are left out; every other one weighs the same,
    however large it is.
    """
    filled = [cells for cells in placements if cells]
    depth = 1 + max((layer for cells in filled for layer, _ in cells), default=-1)
    shares: dict[str, list[float]] = {}
    for cells in filled:
        total = sum(cells.values())
        for (layer, tap), params in cells.items():
            shares.setdefault(tap, [0.0] * depth)[layer] += params / total / len(filled)
    return shares


def named_methods(shape: ModelShape) -> dict[tuple[Op, ...], str]:
    """The ops of every named method that the model can have, at each of its sizes, and its name."""
    found: dict[tuple[Op, ...], str] = {}
    for name, item in methods().items():
        if item.misfit(shape) is None:
            for level in range(item.n_sizes(shape)):
                found.setdefault(item.genotype(shape, level).ops, name)
    return found


def published_lora(shape: ModelShape) -> Genotype | None:
    """LoRA as published (q and v, rank 8); None if the model lacks a tap for it."""
    lora = method("lora")
    return None if lora.misfit(shape) else lora.genotype(shape)


def unlike(genotype: Genotype, default: Genotype, shape: ModelShape) -> tuple[str, ...]:
    """How a genotype differs from a published one, in words.

    Returns:
        What it has beside the other, what it lacks, the ratio of parameters and of learning rates
        where they differ; of what differs in nothing, that it is as published.
    """
    theirs = {op.kind: op for op in default.ops}
    ours = {op.kind: op for op in genotype.ops}
    lines = [f"also {_words(op)}" for kind, op in ours.items() if kind not in theirs]
    lines += [f"no {_words(op)}" for kind, op in theirs.items() if kind not in ours]
    lines += [
        f"{_words(op)} instead of {_words(theirs[kind])}"
        for kind, op in ours.items()
        if kind in theirs and op.sizes != theirs[kind].sizes
    ]
    count, reference = genotype.count_params(shape), default.count_params(shape)
    rate, usual = genotype.learning_rate, default.learning_rate
    lines += _times("parameters", count / reference, f"{count:,} against {reference:,}")
    lines += _times("learning rate", rate / usual, f"{rate:.2g} against {usual:.2g}")
    return tuple(lines) or ("as published",)


def _times(what: str, ratio: float, values: str) -> list[str]:
    """A ratio in words, unless it is told as 1."""
    told = f"{ratio:.3g}"
    return [] if told == "1" else [f"{told} times the {what} ({values})"]


def _words(op: Op) -> str:
    return describe(Genotype(len(op.sizes), (op,), 1.0))
