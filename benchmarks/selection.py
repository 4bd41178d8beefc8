"""Do the intervals and the verdict of the final selection tell the truth?

Studies are simulated whose truth is known: a search scores contenders with one seed on rows of its
own, then each is trained with fresh seeds and scored on other rows. Whether a row is answered right
depends on how good the contender is, how hard the row is, what the seed does, and chance (a probit
model; the true quality has a closed form).

- A/A: nothing is better than tuned LoRA. How often is something said to be? How many of the 95 %
  intervals hold the truth? The usual interval, over the seeds on the same rows, is there for
  comparison.
- A/B: one contender is better by three standard errors of the difference. How often is it found?
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from autopeft.estimate import adjusted, difference, quality, seeds_of_each

LEVEL = 0.05
GUESSED = 0.5
"""Accuracy of what has collapsed."""


@dataclass(frozen=True)
class World:
    """What simulated studies are like.

    Attributes:
        contenders: beside tuned LoRA.
        seeds: of the final selection.
        rows: of the selection split.
        search_rows: of the split that the search scores on.
        accuracy: of what is no better than LoRA.
        seed_sd: standard deviation between seeds, in accuracy.
        row_sd: of how hard a row is for everybody, on the probit scale.
        own_row_sd: of how hard it is for one contender in particular.
        uneven: seeds of the noisiest contender differ so many times as much as of the calmest.
        collapse: chance that the last contender answers by chance alone with a seed.
        frozen: the last contender trains nothing, so that all its seeds answer alike; as the
            frozen backbone it is not compared with LoRA.
    """

    contenders: int = 7
    seeds: int = 3
    rows: int = 600
    search_rows: int = 600
    accuracy: float = 0.84
    seed_sd: float = 0.008
    row_sd: float = 1.5
    own_row_sd: float = 0.7
    uneven: float = 2.0
    collapse: float = 0.0
    frozen: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a simulated study.

    Attributes:
        covered: for each contender, LoRA first, whether the interval holds the truth.
        width: of the interval of each.
        usual: the same for an interval over seeds alone.
        found: contenders that the verdict says are better than LoRA.
    """

    covered: tuple[bool, ...]
    width: tuple[float, ...]
    usual: tuple[bool, ...]
    found: tuple[int, ...]


def studies(world: World, *, gain: float, number: int, seed: int) -> Iterator[Outcome]:
    """Simulate studies.

    Args:
        world: what they are like.
        gain: how much better contender 1 is than LoRA, in accuracy; 0 for an A/A check.
        number: of studies.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    truth = np.full(world.contenders + 1, world.accuracy)
    truth[1] += gain
    for _ in range(number):
        yield _study(world, truth, rng)


def standard_error(world: World, *, number: int, seed: int) -> float:
    """The true standard error of a contender's difference to LoRA, by simulation."""
    rng = np.random.default_rng(seed)
    truth, world = np.full(2, world.accuracy), replace(world, collapse=0.0, frozen=False)
    pairs = (_scores(world, truth, world.seeds, world.rows, rng) for _ in range(number))
    return float(np.std([pair[1].mean() - pair[0].mean() for pair in pairs]))


def _study(world: World, truth: NDArray[np.float64], rng: np.random.Generator) -> Outcome:
    searched = _scores(world, truth, 1, world.search_rows, rng).mean(axis=(1, 2))
    scores = list(_scores(world, truth, world.seeds, world.rows, rng))
    seeds = seeds_of_each(scores, frozen={world.contenders} if world.frozen else set())
    estimates = [quality(*item) for item in zip(scores, seeds, strict=True)]
    intervals = [estimate.interval() for estimate in estimates]
    expected = truth.copy()
    expected[-1] += world.collapse * (GUESSED - truth[-1])
    p_values = {
        i: difference(scores[i], scores[0], seeds[i], seeds[0]).p_value
        for i in range(1, len(scores) - world.frozen)
    }
    first = int(np.argmax(searched[1 : len(p_values) + 1])) + 1
    decided = adjusted(p_values, first)
    return Outcome(
        tuple(low <= q <= high for (low, high), q in zip(intervals, expected, strict=True)),
        tuple(high - low for low, high in intervals),
        tuple(_usual(item, q) for item, q in zip(scores, expected, strict=True)),
        tuple(i for i, p in decided.items() if p < LEVEL),
    )


def _usual(scores: NDArray[np.float64], truth: float) -> bool:
    means = scores.mean(axis=1)
    half = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means))
    return bool(abs(means.mean() - truth) <= half)


def _scores(
    world: World, truth: NDArray[np.float64], seeds: int, rows: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Whether each contender is right, [contender, seed, row]."""
    n = len(truth)
    # from standard deviations in accuracy to the probit scale, where the curve has this slope
    spread = math.hypot(1, world.row_sd, world.own_row_sd)
    slope = stats.norm.pdf(stats.norm.ppf(world.accuracy)) / spread
    seed_sds = rng.permutation(np.geomspace(world.uneven**-0.5, world.uneven**0.5, n))
    seed_sds = seed_sds * world.seed_sd / slope
    if world.frozen:
        seed_sds[-1] = 0
    means = stats.norm.ppf(truth) * np.hypot(spread, seed_sds)
    shared = world.row_sd * rng.normal(size=(1, 1, rows))
    own = world.own_row_sd * rng.normal(size=(n, 1, rows))
    of_seeds = seed_sds[:, None, None] * rng.normal(size=(n, seeds, 1))
    chance = rng.normal(size=(n, seeds, rows))
    right = means[:, None, None] + shared + own + of_seeds + chance > 0
    if world.frozen:
        right[-1] = right[-1, :1]
    if world.collapse:
        collapsed = rng.random(seeds) < world.collapse
        right[-1, collapsed] = rng.random((int(collapsed.sum()), rows)) < GUESSED
    return right.astype(np.float64)


def check(world: World, *, number: int, seed: int) -> dict[str, float | int]:
    """Both checks on as many studies each."""
    error = standard_error(world, number=4000, seed=seed + 1)
    none = list(studies(world, gain=0.0, number=number, seed=seed + 2))
    some = list(studies(world, gain=3 * error, number=number, seed=seed + 3))
    every = none + some
    return {
        "studies": number,
        "standard_error_of_difference": error,
        "coverage": float(np.mean([held for outcome in every for held in outcome.covered])),
        "coverage_of_others": float(np.mean([held for o in every for held in o.covered[:-1]])),
        "width_of_others": float(np.mean([width for o in every for width in o.width[:-1]])),
        "coverage_of_usual_interval": float(np.mean([held for o in every for held in o.usual])),
        "false_better_than_lora": sum(bool(outcome.found) for outcome in none),
        "gain_of_three_standard_errors_found": sum(1 in outcome.found for outcome in some),
        "false_beside_it": sum(bool({*outcome.found} - {1}) for outcome in some),
    }


WORLDS = {
    "usual": World(),
    "few rows": World(rows=200, search_rows=200),
    "many rows": World(rows=2000, search_rows=2000),
    "calm seeds": World(seed_sd=0.002),
    "wild seeds": World(seed_sd=0.02),
    "three contenders": World(contenders=3),
    "two seeds": World(seeds=2),
    "easy task": World(accuracy=0.95),
    "one collapses": World(collapse=0.3),
    "one is frozen": World(frozen=True),
    "one of four is frozen, two wild seeds": World(
        contenders=3, seeds=2, seed_sd=0.02, frozen=True
    ),
}


def main() -> None:
    """Run all worlds and write the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--studies", type=int, default=200, help="of each kind and world")
    options.add_argument("--seed", type=int, default=0, help="of everything")
    out = Path(__file__).parent / "results" / "selection.json"
    options.add_argument("--out", type=Path, default=out, help="result")
    args = options.parse_args()
    results = [
        {"world": name, **asdict(world), **check(world, number=args.studies, seed=args.seed)}
        for name, world in WORLDS.items()
    ]
    args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
