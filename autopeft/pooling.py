"""How good a trial is by all its rungs: the noise of training is averaged, at no cost.

A trial that went up several rungs was scored on each, on the same rows. Replayed studies with rungs
lose less by their recommendation if they go by this mean instead of the score at the highest rung
alone (decision 0055, `benchmarks/search.py replay`).
"""

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean


def pooled_over_rungs(qualities: Mapping[int, Mapping[int, float]]) -> dict[int, float]:
    """Each trial's mean quality over its rungs, the lower ones moved up to its highest.

    A rung is moved by what the trials of the same highest rung gained from there in the mean, so
    a trial that is alone on its highest rung, or has one rung only, keeps its quality.

    Args:
        qualities: of each trial at each of its rungs, in units of the metric.

    Returns:
        By trial, comparable with the qualities at the highest rungs.
    """
    gains: dict[tuple[int, int], list[float]] = defaultdict(list)
    for own in qualities.values():
        top = max(own)
        for rung, quality in own.items():
            gains[top, rung].append(own[top] - quality)
    moved = {key: fmean(gain) for key, gain in gains.items()}
    return {
        trial: fmean(quality + moved[max(own), rung] for rung, quality in own.items())
        for trial, own in qualities.items()
    }
