"""What it gains to keep frozen states, against the lowest layer with an op."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from common import Measured, emit, parser, peak_mib
from ours import Setup, cache_of, decide, load
from report import finish, ratio, resolve_model, run_all

from autopeft.space.genotype import Genotype
from autopeft.training.cohort import Cohort
from autopeft.training.frozen import FrozenCache

KINDS = ("uncached", "cached")


def above(genotype: Genotype, fork: int) -> Genotype:
    """The same ops, from a layer upwards."""
    ops = [
        replace(op, sizes=tuple(s if i >= fork else 0 for i, s in enumerate(op.sizes)))
        for op in genotype.ops
    ]
    return replace(genotype, ops=tuple(ops))


def measure(args: argparse.Namespace) -> Measured:
    """Train so many cohorts of trials with ops from one layer upwards."""
    kind, _, fork = args.way.partition("-")
    setup = load(args, "lora")
    genotype = above(setup.genotype, int(fork))
    start = time.perf_counter()
    cache = cache_of(setup) if kind == "cached" else None
    if cache is not None:
        cache.fill(setup.train, {genotype.fork})
    # Without states that are kept every trial computes its own: alone, one after the other.
    size = args.cohort if kind == "cached" else 1
    seeds = range(args.trials)
    losses = [
        _train(setup, genotype, seeds[first : first + size], cache)
        for first in range(0, args.trials, size)
    ]
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds / args.trials,
        "peak_mib": peak_mib(),
        "step_losses": torch.cat(losses, 1)[:, 0].tolist(),
    }


def _train(
    setup: Setup, genotype: Genotype, seeds: Sequence[int], cache: FrozenCache | None
) -> torch.Tensor:
    genotypes = [genotype] * len(seeds)
    with Cohort(setup.backbone, genotypes, seeds, setup.task, setup.settings, cache) as cohort:
        return cohort.train(setup.train, order_seed=setup.seed)


def main() -> None:
    """Measure one way, or all of them in turn."""
    options = parser(__doc__ or "", "frozen_cache.json")
    options.add_argument("--layers", type=int, default=6, help="of the model")
    options.add_argument("--forks", default="1,2,3,4,5", help="lowest layers with an op")
    options.add_argument("--cohort", type=int, default=4, help="trials trained together")
    options.add_argument("--trials", type=int, default=8, help="that share the states")
    options.set_defaults(rows=1000)
    args = options.parse_args()
    model = resolve_model(args)
    if args.way is not None:
        emit(lambda: decide(args, "lora") if args.way == "decide" else measure(args))
        return
    forks, depth = [int(fork) for fork in args.forks.split(",")], args.layers
    ways = [f"{kind}-{fork}" for fork in forks for kind in KINDS]
    decided, measured = run_all(args, Path(__file__).resolve(), ways)
    ratios, gains = {}, {}
    for fork in forks:
        gain = ratio(measured, f"uncached-{fork}", f"cached-{fork}")
        limit = (2 * depth - fork) / (2 * (depth - fork))
        apart = [
            max(abs(a - b) for a, b in zip(one["step_losses"], other["step_losses"], strict=True))
            for one, other in zip(
                measured[f"uncached-{fork}"], measured[f"cached-{fork}"], strict=True
            )
        ]
        ratios[f"uncached/cached-{fork}"] = gain
        gains[fork] = {
            "limit": limit,
            "share": gain["median"] / limit,
            "largest_difference_of_losses": max(apart),
        }
    told = {"benchmark": "frozen_cache", "model": model, "decided": decided, "gains": gains}
    finish(args, measured, ratios, told)
    for fork, gain in gains.items():
        print(f"fork {fork}: limit {gain['limit']:.2f}, reached {gain['share']:.2f} of it")


if __name__ == "__main__":
    main()
