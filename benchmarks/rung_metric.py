"""Which metric of a low rung tells best what a trial that writes texts is worth at the end?

Draws genotypes at random from the space of a study file, trains each of them to every rung, and
scores it there by everything that the task measures: BLEU and others of the texts that it writes,
and the likelihood of the references, for which nothing is written. The answer is Kendall's tau of
each rung's metric with a metric of the top rung, with an interval by resampling genotypes; and
what a rung costs with and without writing. All scores are on the same validation rows.

Resumable: what is trained is kept in `--work`, an hour of one core.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from numpy.typing import NDArray
from scipy import stats
from search_bench import decided_once, jobs_of

from autopeft.engines.job import Job
from autopeft.engines.work import Decided
from autopeft.engines.workbench import Workbench
from autopeft.files import write_atomic
from autopeft.records import Record
from autopeft.space.genotype import Genotype
from autopeft.space.shipped import load_space
from autopeft.study.promote import rung_steps
from autopeft.study.propose import propose
from autopeft.study.setup import Setup, set_up
from autopeft.study.spec import StudySpec, load_study_spec

HERE = Path(__file__).parent
CHEAP = "likelihood"
RESAMPLES = 2000


@dataclass(frozen=True)
class Tables:
    """What genotypes score, by metric and by steps trained, in one order of genotypes."""

    scores: Mapping[str, Mapping[int, NDArray[np.float64]]]
    seconds: Mapping[int, float]

    def agreement(self, metric: str, final: str) -> dict[str, Any]:
        """Kendall's tau of a metric at each rung with another at the top, and its interval."""
        *_, top = self.seconds
        truth = self.scores[final][top]
        picks = np.random.default_rng(0).integers(len(truth), size=(RESAMPLES, len(truth)))
        found = {}
        for steps, told in self.scores[metric].items():
            again = [_tau(told[pick], truth[pick]) for pick in picks]
            low, high = np.nanquantile(again, [0.025, 0.975])
            found[str(steps)] = {"tau": _tau(told, truth), "low": float(low), "high": float(high)}
        return found


def _tau(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(stats.kendalltau(one, other).statistic)


def random_genotypes(setup: Setup, number: int) -> list[Genotype]:
    """Distinct ones, none of which needs a cohort of its own."""
    found: dict[str, Genotype] = {}
    for slot in range(10 * number):
        one = propose(
            setup.space, "random", seed=setup.spec.seed, slot=slot, history=(), taken=found
        ).genotype
        if not one.alone:
            found[one.hash] = one
        if len(found) == number:
            return list(found.values())
    raise SystemExit(f"the space has no {number} genotypes that can share a cohort")


class Bench:
    """Trains jobs in this process, keeps their records, and can score rungs without writing."""

    def __init__(self, spec: StudySpec, folder: Path) -> None:
        self.spec, self._folder = spec, folder
        self.bench = Workbench(spec.work)

    def begin(self, typical: Sequence[Genotype]) -> Decided:
        """Get ready for jobs; how to compute is measured once and kept."""
        kept = self._folder / "decided.json"
        decided = decided_once(self.bench, typical, self.spec.training.cohort, kept)
        self.bench.begin(decided, self._folder, "bench")
        return decided

    def run(self, job: Job) -> list[Record]:
        """Train and score; seconds are those of the processor, scoring included, for each trial."""
        kept = self._folder / f"{job.numbers[0]:03d}-{job.rung}.jsonl"
        if not kept.exists():
            began = time.process_time()
            records = list(self.bench.run(job, job.numbers, lambda _, __: None))
            each = (time.process_time() - began) / len(records)
            lines = [json.dumps(replace(r, seconds=each).to_dict()) + "\n" for r in records]
            write_atomic(kept, "".join(lines))
        with kept.open(encoding="utf-8") as file:
            return [Record.from_dict(json.loads(line)) for line in file]


def measured(bench: Bench, jobs: Sequence[Job]) -> Tables:
    """Train what is not kept yet."""
    records: list[Record] = []
    for i, job in enumerate(jobs, 1):
        records += bench.run(job)
        print(f"job {i}/{len(jobs)}", file=sys.stderr)
    failed = {record.trial for record in records if record.failure}
    by_steps: dict[int, list[Record]] = {}
    for record in sorted(records, key=lambda r: (r.steps, r.trial)):
        if record.trial not in failed:
            by_steps.setdefault(record.steps, []).append(record)
    names = next(iter(by_steps.values()))[0].metrics
    return Tables(
        scores={
            name: {
                steps: np.array([r.metrics[name].value for r in found])
                for steps, found in by_steps.items()
            }
            for name in names
        },
        seconds={
            steps: float(np.mean([r.seconds for r in found])) for steps, found in by_steps.items()
        },
    )


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Genotypes of a study file to all rungs, and the first cohort's low ones without writing."""
    spec = load_study_spec(args.study).resolved(args.data)
    spec = spec.model_copy(update={"methods": (), "rung_metric": None})
    folders = args.work / "written", args.work / "likelihood"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(spec, folders[0])
    setup = set_up(spec, load_space(str(spec.space)), bench.bench.facts)
    genotypes = random_genotypes(setup, args.genotypes)
    decided = bench.begin(genotypes[:1])
    steps = rung_steps(setup.steps, spec.rungs, spec.reduction)
    jobs = list(jobs_of(genotypes, steps, args.cohort, spec.seed))
    tables = measured(bench, jobs)
    (folders[1] / "decided.json").write_text(decided.model_dump_json(), encoding="utf-8")
    cheap = Bench(spec.model_copy(update={"rung_metric": CHEAP}), folders[1])
    cheap.begin(genotypes[:1])
    without = {job.until: cheap.run(job)[0].seconds for job in jobs[: len(steps)] if job.until}
    with_ = {job.until: bench.run(job)[0].seconds for job in jobs[: len(steps)] if job.until}
    metric = spec.chosen_metric
    return {
        "study": str(args.study.parent.name),
        "genotypes": len(tables.scores[metric][steps[-1]]),
        "precision": decided.precision,
        "agreement": {
            final: {name: tables.agreement(name, final) for name in (metric, CHEAP)}
            for final in (metric, "chrf", CHEAP)
        },
        "trial_seconds_of_rung": {str(steps): value for steps, value in tables.seconds.items()},
        "first_cohort_seconds": {
            str(until): {"writing": with_[until], CHEAP: without[until]} for until in without
        },
        "scores": {
            name: {str(at): told.tolist() for at, told in tables.scores[name].items()}
            for name in (metric, CHEAP)
        },
    }


def main() -> None:
    """Run it for one study file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--study", type=Path, required=True, help="study file whose task writes texts")
    add("--data", type=Path, required=True, help="folder that its paths start from")
    add("--work", type=Path, required=True, help="where what is trained is kept")
    add("--genotypes", type=int, default=24, help="drawn at random (default: 24)")
    add("--cohort", type=int, default=4, help="trained together (default: 4)")
    add("--out", type=Path, default=HERE / "results" / "rung_metric.json", help="result")
    args = parser.parse_args()
    result = compare(args)
    write_result(args.out, result)
    for final, by_metric in result["agreement"].items():
        for name, rungs in by_metric.items():
            told = ", ".join(
                f"{at}: {r['tau']:.2f} ({r['low']:.2f} to {r['high']:.2f})"
                for at, r in rungs.items()
            )
            print(f"tau of {name} with {final} at the top, by steps: {told}")


if __name__ == "__main__":
    main()
