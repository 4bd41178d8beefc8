"""Trials an hour against the size of the cohort, for mixed genotypes, as a study trains them."""

import argparse
import time
from pathlib import Path

import torch
from common import Measured, emit, parser, peak_mib, summary
from ours import Setup, cache_of, decide, load
from report import finish, ratio, resolve_model, run_all

from autopeft.model.backbone import Backbone
from autopeft.space.bind import bind
from autopeft.space.genotype import Genotype
from autopeft.space.methods import method
from autopeft.space.shipped import load_space
from autopeft.study.propose import propose
from autopeft.training.train import train_cohort

METHODS = ("lora", "pfeiffer", "mam", "ia3")


def genotypes(backbone: Backbone, max_params: int, count: int) -> list[Genotype]:
    """Known methods, then random draws from the space `unified`."""
    found = [method(name).largest(backbone.shape, max_params) for name in METHODS]
    mixed = [genotype for genotype in found if genotype is not None][:count]
    space = bind(load_space("unified", Path()), backbone.shape, max_params)
    for slot in range(len(mixed), count):
        taken = {genotype.hash for genotype in mixed}
        drawn = propose(space, "random", seed=0, slot=slot, history=[], taken=taken)
        mixed.append(drawn.genotype)
    return mixed


def measure(args: argparse.Namespace) -> Measured:
    """All trials, in cohorts of one size."""
    setup = load(args, "lora")
    budget = setup.backbone.shape.backbone_params // 100
    mixed = genotypes(setup.backbone, budget, args.trials)
    size = int(args.way)
    _train(setup, mixed[:size], size)  # a study has many cohorts, and only its first one is cold
    start = time.perf_counter()
    _train(setup, mixed, size)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds / args.trials,
        "trials_per_hour": 3600 * args.trials / seconds,
        "peak_mib": peak_mib(),
        "peak_device_mib": torch.cuda.max_memory_allocated() / 2**20,
    }


def _train(setup: Setup, mixed: list[Genotype], size: int) -> None:
    cache = cache_of(setup)
    for first in range(0, len(mixed), size):
        some = mixed[first : first + size]
        train_cohort(
            setup.backbone,
            some,
            range(len(some)),
            task=setup.task,
            settings=setup.settings,
            train=setup.train,
            validation=setup.validation,
            order_seed=setup.seed,
            cache=cache,
        )


def main() -> None:
    """Measure one size, or all of them in turn."""
    options = parser(__doc__ or "", "cohort.json")
    options.add_argument("--sizes", default="1,2,4,8", help="of cohorts, the first one alone")
    options.add_argument("--trials", type=int, default=8, help="mixed genotypes to train")
    options.set_defaults(rows=500)
    args = options.parse_args()
    model = resolve_model(args)
    if args.way is not None:
        emit(lambda: decide(args, "lora") if args.way == "decide" else measure(args))
        return
    sizes = args.sizes.split(",")
    decided, measured = run_all(args, Path(__file__).resolve(), sizes)
    rates = {
        size: summary([one["trials_per_hour"] for one in found]) for size, found in measured.items()
    }
    ratios = {f"{sizes[0]}/{size}": ratio(measured, sizes[0], size) for size in sizes[1:]}
    told = {"benchmark": "cohort", "model": model, "decided": decided, "trials_per_hour": rates}
    finish(args, measured, ratios, told)


if __name__ == "__main__":
    main()
