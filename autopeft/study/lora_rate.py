"""The learning rate of LoRA is tuned step by step, as people tune it."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from autopeft.space.genotype import Genotype
from autopeft.space.search_space import SearchSpace
from autopeft.space.spec import Range
from autopeft.study.propose import Measured

STEP = 2.0
"""From one learning rate to the next."""


def at_another_rate(
    history: Sequence[Measured], taken: Collection[str], space: SearchSpace
) -> Genotype | None:
    """The best LoRA so far at twice its learning rate, or else at half of it.

    Sizes and places are left to the sampler, which has too few slots to find a rate for each.

    Args:
        history: measurements that may be known.
        taken: hashes of the genotypes that were proposed before.
        space: in which LoRA is tuned, whose rates are not left.

    Returns:
        None if there is no LoRA yet, or both rates were tried or are none of the space.
    """
    loras = [(one.quality, one.genotype) for one in history if one.genotype.is_lora]
    known = [(quality, genotype) for quality, genotype in loras if quality is not None]
    if not known:
        return None
    # Where nothing has learnt yet all are as good, and rates have to rise.
    _, best = max(known, key=lambda one: (one[0], one[1].learning_rate))
    drawn = space.training()["learning_rate"]
    low, high = (drawn.low, drawn.high) if isinstance(drawn, Range) else (drawn, drawn)
    for rate in (best.learning_rate * STEP, best.learning_rate / STEP):
        other = replace(best, learning_rate=float(f"{rate:.3g}"))
        if low <= other.learning_rate <= high and other.hash not in taken:
            return other
    return None
