"""Operations that a device is sent in a step of training, for each trial, by the cohort's size.

A small model leaves a GPU waiting for them. They are counted on a device that is none
(`tests/gpu/strict_device.py`), so this needs no GPU and tells no time.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jaxtyping
from cohort import genotypes
from common import parser, write_result
from ours import Setup, load
from report import resolve_model

from autopeft.space.genotype import Genotype
from autopeft.training.cohort import Cohort

sys.path.append(str(Path(__file__).parents[1] / "tests" / "gpu"))
import strict_device

FEW = {"rows": 4, "batch_size": 2, "max_length": 16}
"""As many operations as of a batch of any size."""


def operations(setup: Setup, together: Sequence[Genotype]) -> int:
    """Of one step of a cohort: those of two steps less those of one."""
    counted = []
    for steps in (1, 2):
        seeds = range(len(together))
        with Cohort(setup.backbone, together, seeds, setup.task, setup.settings) as cohort:
            with strict_device.watch() as seen:
                cohort.train(setup.train, order_seed=0, until=steps)
            counted.append(seen.n_sent)
    return counted[1] - counted[0]


def for_each(setup: Setup, trials: Sequence[Genotype], size: int) -> float:
    """Operations of a step for each trial, all of them in cohorts of one size."""
    cohorts = [trials[first : first + size] for first in range(0, len(trials), size)]
    return round(sum(operations(setup, some) for some in cohorts) / len(trials), 1)


def main() -> None:
    """Count for mixed trials and for trials of one kind."""
    options = parser(__doc__ or "", "operations.json")
    options.add_argument("--sizes", default="1,2,4,8,16,32", help="of cohorts, the first one alone")
    options.add_argument("--trials", type=int, default=32, help="genotypes, as in `cohort.py`")
    options.set_defaults(precision="bf16", attention="eager")
    args = options.parse_args()
    jaxtyping.config.update("jaxtyping_disable", value=True)
    device, model = strict_device.register(), resolve_model(args)
    setup = load(argparse.Namespace(**vars(args) | FEW), "lora")
    budget = setup.backbone.shape.backbone_params // 100
    kinds = {
        "mixed": genotypes(setup.backbone, budget, args.trials),
        "lora": [setup.genotype] * args.trials,
    }
    there = replace(setup.backbone, model=setup.backbone.model.to(device))
    setup = replace(setup, backbone=there)
    sizes = [int(size) for size in args.sizes.split(",")]
    found = {
        kind: {str(size): for_each(setup, trials, size) for size in sizes}
        for kind, trials in kinds.items()
    }
    for kind, each in found.items():
        print(kind, *(f"{size}: {count}" for size, count in each.items()), sep="   ")
    told = {"benchmark": "operations", "model": model, "trials": args.trials}
    write_result(args.out, told | {"precision": args.precision, "operations_per_trial": found})


if __name__ == "__main__":
    main()
