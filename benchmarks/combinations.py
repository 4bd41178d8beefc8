"""Whether samplers find combinations: whole plans of studies on a truth that is made up.

Kinds of ops add up, as far as four: a trial is the better the more parameters it has, the nearer
its learning rate is to a good one, and the more kinds of ops it combines. With `--edge` all rates
above it diverge. Nothing is trained; a study takes seconds.
"""

import argparse
import json
import math
import random
import statistics
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from common import write_result
from search import FACTS, HERE, Strategy, run_study
from search_bench import METRIC, Scored

from autopeft.engines.job import Job
from autopeft.engines.outcome import record_of
from autopeft.engines.work import Facts
from autopeft.records import Failure, Metric
from autopeft.space.genotype import Genotype
from autopeft.space.methods import DEFAULT_METHODS
from autopeft.space.seed import seed_of
from autopeft.space.shape import ModelShape
from autopeft.space.shipped import load_space
from autopeft.study.rungs import Rungs
from autopeft.study.setup import Setup, set_up
from autopeft.study.spec import StudySpec

NOISE = 0.012
"""Standard deviation of a score."""
GOOD_RATE = 2e-3
START = datetime(2026, 1, 1, tzinfo=UTC)
FIRST = 16
"""Trials whose genotypes are not counted: methods come first, and samplers begin by chance."""


@dataclass(frozen=True)
class Found:
    """What studies of a sampler came to.

    Attributes:
        hypervolume: of the fronts, by their true qualities, in the mean.
        stderr: of it, over studies.
        kinds: of ops in a genotype from the `FIRST` on, in the mean: proposals, and in some slots
            known methods and LoRA.
        diverged: the part of these that did.
    """

    hypervolume: float
    stderr: float
    kinds: float
    diverged: float


def truth(genotype: Genotype, shape: ModelShape, max_params: int) -> float:
    """What a genotype is worth."""
    size = math.log1p(genotype.count_params(shape)) / math.log1p(max_params)
    rate = math.log10(genotype.learning_rate / GOOD_RATE)
    kinds = len({op.kind for op in genotype.ops})
    return 0.6 + 0.2 * size**3 - 0.03 * rate**2 + 0.012 * min(4, kinds)


def fetch(setup: Setup, edge: float, job: Job, rungs: Rungs) -> list[Scored]:
    """What a job would have measured."""
    shape, found = setup.facts.shape, []
    for trial in job.trials:
        worth = truth(trial.genotype, shape, setup.space.max_params)
        rng = random.Random(seed_of(job.rung, trial.genotype.hash))
        diverges = trial.genotype.learning_rate > edge
        record = record_of(
            job,
            trial,
            facts=setup.facts,
            precision="fp32",
            worker="none",
            seconds=0.0,
            started=START,
            failure=Failure("diverged", "its rate is beyond the edge") if diverges else None,
            metric=METRIC,
            metrics=None if diverges else {METRIC: Metric(worth + rng.gauss(0, NOISE), NOISE)},
            steps=rungs.steps[job.rung],
        )
        found.append(Scored(record, np.array([worth])))
    return found


def main() -> None:
    """Compare the samplers."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--space", default="unified")
    add("--trials", type=int, default=60)
    add("--seeds", type=int, default=24)
    add("--samplers", default="tpe,random", help="with commas between them")
    add("--edge", type=float, default=math.inf, help="learning rate beyond which trials diverge")
    add("--out", type=Path, default=HERE / "results" / "combinations.json")
    args = parser.parse_args()
    told = json.loads((HERE / "table" / FACTS).read_text(encoding="utf-8"))
    facts, base = Facts.model_validate(told["facts"]), StudySpec.model_validate(told["spec"])
    result = {}
    for sampler in args.samplers.split(","):
        strategy = Strategy(sampler, 3, methods=DEFAULT_METHODS)
        ends, kinds, diverged = [], [], []
        for seed in range(args.seeds):
            budget = base.budget.model_copy(update={"trials": args.trials, "max_params": "1%"})
            update = {**strategy.spec, "seed": seed, "budget": budget}
            setup = set_up(base.model_copy(update=update), load_space(args.space), facts)
            steps, records = run_study(setup, strategy, 4, partial(fetch, setup, args.edge))
            ends.append(steps[-1].test)
            for record in records:
                if record.rung == 0 and record.trial >= FIRST:
                    kinds.append(len(record.genotype["ops"]))
                    diverged.append(record.failure is not None)
        spread = statistics.stdev(ends) / math.sqrt(len(ends))
        result[sampler] = Found(
            statistics.mean(ends), spread, statistics.mean(kinds), statistics.mean(diverged)
        )
        print(f"{sampler:8} {result[sampler]}")
    options = {name: getattr(args, name) for name in ("space", "trials", "seeds")}
    edge = None if math.isinf(args.edge) else args.edge
    samplers = {name: asdict(found) for name, found in result.items()}
    write_result(args.out, {"benchmark": "combinations", **options, "edge": edge, **samplers})


if __name__ == "__main__":
    main()
