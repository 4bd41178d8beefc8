"""What a method is worth by its learning rate: the table's rate times each factor, with each seed.

Trained as a study on so many rows trains at its top rung, and scored on the rows of `test.jsonl`
and training rows that are not trained on. Resumable; half an hour for two methods on two cores.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from common import write_result
from search_bench import METRIC, Bench, Kept, Rows, study_spec, write_rows

from autopeft.demo.model import embedded_model
from autopeft.engines.job import Job, JobTrial
from autopeft.space.genotype import Genotype
from autopeft.space.methods import method
from autopeft.space.seed import seed_of

COHORT = 4
SEEN = 10
"""Rows that a search would see, which are not told here."""


def trials(args: argparse.Namespace, bench: Bench, max_params: int) -> list[tuple[str, Genotype]]:
    """The methods at each rate, by name and factor."""
    found = []
    for name in args.methods.split(","):
        largest = method(name).largest(bench.facts.shape, max_params)
        if largest is None:
            raise SystemExit(f"method {name} has no size within {max_params:,} parameters")
        for factor in args.factors:
            rate = float(f"{largest.learning_rate * factor:.3g}")
            found.append((f"{name} x{factor:g}", replace(largest, learning_rate=rate)))
    return found


def jobs(wanted: list[tuple[str, Genotype]], n_seeds: int) -> Iterator[Job]:
    """Cohorts of one seed each; a trial's number says which genotype and seed it is."""
    for seed in range(n_seeds):
        numbered = [(seed * len(wanted) + i, name, g) for i, (name, g) in enumerate(wanted)]
        for first in range(0, len(numbered), COHORT):
            some = tuple(
                JobTrial(number, genotype, seed_of(seed, "init"), name)
                for number, name, genotype in numbered[first : first + COHORT]
            )
            yield Job(some, 0, 0, seed_of(seed, "order"), None)


def main() -> None:
    """Train what is missing, and write what each rate came to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with train, validation and test.jsonl")
    add("--work", type=Path, required=True, help="folder for what is unfinished")
    add("--methods", default="lora,lora_all", help="with commas between them")
    add("--factors", type=float, nargs="+", default=[0.25, 0.5, 1, 2, 4, 8])
    add("--seeds", type=int, default=3)
    add("--rows", type=int, default=2000, help="to train on")
    add("--test-rows", type=int, default=2400, help="to score on")
    add("--max-params", type=float, default=0.01, help="part of the backbone")
    add("--out", type=Path, required=True, help="result")
    args = parser.parse_args()
    n_search = write_rows(args.data, Rows(args.rows, SEEN, args.test_rows), args.work)
    training = {"epochs": 3, "batch_size": 32, "max_length": 64, "cohort": COHORT}
    spec = study_spec(
        str(embedded_model()), args.work, training=training, budget={"trials": 1, "max_params": 1}
    ).resolved(args.work)
    bench = Bench(spec, n_search, args.work)
    wanted = trials(args, bench, int(args.max_params * bench.facts.shape.backbone_params))
    bench.begin([wanted[0][1]], args.work / "decided.json")
    kept = Kept(args.work / "kept.jsonl")
    for job in jobs(wanted, args.seeds):
        if missing := {number for number, *rung in job.keys if (number, *rung) not in kept.scored}:
            for item in bench.run(job, missing):
                kept.add(item)
    table = []
    for i, (name, genotype) in enumerate(wanted):
        found = [
            kept.scored[seed * len(wanted) + i, 0, 0].test_quality for seed in range(args.seeds)
        ]
        mean = statistics.mean(found)
        spread = f" +- {statistics.stdev(found):.4f}" if len(found) > 1 else ""
        print(f"{name:16} {genotype.learning_rate:8.2g} {mean:.4f}{spread}")
        rate = genotype.learning_rate
        table.append({"name": name, "learning_rate": rate, METRIC: found, "mean": mean})
    options = {name: getattr(args, name) for name in ("rows", "test_rows", "seeds", "max_params")}
    told = {"benchmark": "rates", "data": args.data.name, **options, "trials": table}
    write_result(args.out, told)


if __name__ == "__main__":
    main()
