"""What a search reaches at what cost: rungs against none, samplers against each other.

    table      trains every genotype of table/space.yaml to every rung (an hour, resumable)
    replay     searches in that table, in seconds a study, with the study's own planner
    surrogate  the same in a larger space, with a model of the table in place of the table
    live       searches with real training in a large space (hours, resumable)

The measure is the hypervolume of the front that the search rows give, computed with what its
trials score on test rows that no search sees.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from report import EMBEDDED
from scipy import stats
from search_bench import (
    METRIC,
    Bench,
    Kept,
    Rows,
    Scored,
    every_genotype,
    jobs_of,
    study_spec,
    write_rows,
)
from search_curves import Step, compare, show
from search_estimates import regrets
from search_surrogate import Surrogate

from autopeft.demo.model import embedded_model
from autopeft.engines.job import Job
from autopeft.engines.work import Facts
from autopeft.files import write_atomic
from autopeft.front import place, volume
from autopeft.objectives import PARAMS
from autopeft.records import Record
from autopeft.space.methods import DEFAULT_METHODS, method
from autopeft.space.shipped import load_space
from autopeft.study.lessons import Lessons, highest_rung, lowest_rung
from autopeft.study.planner import Known, Planner
from autopeft.study.promote import rung_steps
from autopeft.study.rungs import Rungs, rungs_of
from autopeft.study.setup import Setup, set_up
from autopeft.study.spec import SamplerName, StudySpec

HERE = Path(__file__).parent
TABLE, FACTS, SPACE, LARGE = "trec.jsonl", "trec.json", "space.yaml", "large.yaml"


@dataclass(frozen=True)
class Strategy:
    """How a search goes about it.

    Attributes:
        sampler: of the study file.
        rungs: of the study file.
        lessons: which rung the sampler learns from.
        too_low: there are rungs that a study leaves out as too low.
        methods: known ones that it tries beside what the sampler proposes.
    """

    sampler: SamplerName
    rungs: int
    lessons: Lessons = lowest_rung
    too_low: bool = False
    methods: tuple[str, ...] = ()

    @property
    def spec(self) -> dict[str, Any]:
        """What it changes in a study file."""
        return {"sampler": self.sampler, "rungs": self.rungs, "methods": self.methods}


REPLAYED = {
    "tpe with rungs": Strategy("tpe", 3),
    "tpe with rungs, highest": Strategy("tpe", 3, highest_rung()),
    "tpe with three rungs": Strategy("tpe", 3, too_low=True),
    "tpe": Strategy("tpe", 1),
    "random": Strategy("random", 1),
    "random with rungs": Strategy("random", 3),
    "nsga2": Strategy("nsga2", 1),
}
MODELLED = ("tpe with rungs", "tpe with rungs, highest", "tpe", "random", "random with rungs")
REGRETTED = ("tpe with rungs", "tpe", "random")
LIVE = {
    # as a study does by default, but for the head alone, which no sampler can propose: on the
    # logarithmic axis of parameters it would be half of the hypervolume
    "ours": Strategy("tpe", 3, methods=tuple(m for m in DEFAULT_METHODS if m != "head")),
    "tpe": Strategy("tpe", 1),
    "random": Strategy("random", 1),
}


Study = tuple[list[Step], list[Record]]
"""A curve, and what was measured."""


def run_study(
    setup: Setup, strategy: Strategy, cohort: int, fetch: Callable[[Job, Rungs], Sequence[Scored]]
) -> Study:
    """Plan jobs until the budget is spent, as a driver with one worker does."""
    spec = setup.spec
    rungs = rungs_of(setup.steps, spec.budget.trials, spec.rungs, spec.reduction)
    if strategy.too_low:
        rungs = Rungs(rung_steps(setup.steps, spec.rungs, spec.reduction), spec.reduction)
    planner = Planner(
        setup, rungs, trial_seconds=1.0, cohort=cohort, n_workers=1, lessons=strategy.lessons
    )
    known, tops = Known([], {}), dict[int, Scored]()
    steps: list[Step] = []
    trainings = seconds = 0.0
    while True:
        began = time.process_time()
        job = planner.next_job(known)
        seconds += time.process_time() - began
        if job is None:
            return steps, known.ordered
        known.jobs.append(job)
        for item in fetch(job, rungs):
            tops[item.record.trial] = item
            known.records[item.record.key] = item.record
            trainings += rungs.share(item.record.rung)
            seconds += item.record.seconds
        front = planner.front(known)
        tested = [
            (place(PARAMS, p.trainable_params, setup.space.max_params), tops[p.trial].test_quality)
            for p in front.points
        ]
        steps.append(Step(trainings, seconds, volume(tested), front.hypervolume))


def make_table(args: argparse.Namespace) -> None:
    """Train what is missing of the table."""
    folder = args.work / "table"
    rows = Rows(args.train_rows, args.search_rows, args.test_rows)
    n_search = write_rows(args.data, rows, folder)
    spec = _spec(args, folder, trials=1, cohort=args.cohort)
    bench = Bench(spec, n_search, folder)
    setup = set_up(spec, load_space(SPACE, HERE / "table"), bench.facts)
    genotypes = every_genotype(setup.space)
    steps = rung_steps(setup.steps, spec.rungs, spec.reduction)
    kept = Kept(args.table / TABLE)
    decided = bench.begin(genotypes[-1:], folder / "decided.json")
    _write_facts(args.table / FACTS, spec, bench.facts, decided.precision, rows)
    jobs = list(jobs_of(genotypes, steps, args.cohort, spec.seed))
    for i, job in enumerate(jobs, 1):
        _from_bench(bench, kept, job, None)
        print(f"job {i}/{len(jobs)}", file=sys.stderr)


def replay(args: argparse.Namespace) -> dict[str, Any]:
    """Studies in the table: mean curves, cost ratios, agreement between rungs."""
    facts, table = _read_table(args)
    curves, studies = _searched(args, REPLAYED, SPACE, facts, partial(_from_table, table))
    return {
        "genotypes": len({key for key, _ in table}),
        "trials": args.trials,
        "seeds": args.seeds,
        "rungs": _agreement(table),
        "regrets": {name: regrets(studies[name], table, facts.shape) for name in REGRETTED},
        **compare(curves),
    }


def model(args: argparse.Namespace) -> dict[str, Any]:
    """Studies in a larger space, on the surrogate of the table."""
    facts, table = _read_table(args)
    surrogate = Surrogate(table, facts.shape)
    strategies = {name: REPLAYED[name] for name in MODELLED}
    curves, _ = _searched(args, strategies, LARGE, facts, surrogate.fetch)
    return {
        "trials": args.trials,
        "seeds": args.seeds,
        "held_out": {name: asdict(one) for name, one in surrogate.held_out.items()},
        **compare(curves),
    }


def _read_table(args: argparse.Namespace) -> tuple[Facts, dict[tuple[str, int], Scored]]:
    told = json.loads((args.table / FACTS).read_text(encoding="utf-8"))
    items = Kept(args.table / TABLE).scored.values()
    table = {(item.record.hash, item.record.steps): item for item in items}
    return Facts.model_validate(told["facts"]), table


def _searched(
    args: argparse.Namespace,
    strategies: Mapping[str, Strategy],
    space: str,
    facts: Facts,
    fetch: Callable[[Job, Rungs], Sequence[Scored]],
) -> tuple[dict[str, list[list[Step]]], dict[str, list[list[Record]]]]:
    """Curves and records of studies that cost no training."""
    told = json.loads((args.table / FACTS).read_text(encoding="utf-8"))
    base = StudySpec.model_validate(told["spec"])
    budget = base.budget.model_copy(update={"trials": args.trials})
    curves: dict[str, list[list[Step]]] = {}
    studies: dict[str, list[list[Record]]] = {}
    for name, strategy in strategies.items():
        for seed in range(args.seeds):
            update = {**strategy.spec, "seed": seed, "budget": budget}
            spec = base.model_copy(update=update)
            setup = set_up(spec, load_space(space, HERE / "table"), facts)
            run = partial(run_study, setup, strategy, args.cohort, fetch)
            file = args.work and args.work / args.part / f"{name}-{seed}.json"
            steps, records = _once(file, run) if file else run()
            curves.setdefault(name, []).append(steps)
            studies.setdefault(name, []).append(records)
            print(f"seed {seed}  {name:24} {steps[-1].test:.4f}", file=sys.stderr)
    return curves, studies


def _once(file: Path, run: Callable[[], Study]) -> Study:
    """What a study came to, from its file if it has been run before."""
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        return [Step(*step) for step in kept["steps"]], list(map(Record.from_dict, kept["records"]))
    steps, records = run()
    told = {"steps": [astuple(step) for step in steps], "records": [r.to_dict() for r in records]}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(told))
    return steps, records


def live(args: argparse.Namespace) -> dict[str, Any]:
    """Studies with real training, strategies in turn for each seed."""
    rows = Rows(args.train_rows, args.search_rows, args.test_rows)
    folder = args.work / "live"
    n_search = write_rows(args.data, rows, folder)
    curves: dict[str, list[list[Step]]] = {}
    for seed in range(args.first_seed, args.seeds):
        for name in args.strategies.split(","):
            strategy = LIVE[name]
            spec = _spec(
                args, folder, trials=args.trials, cohort=args.cohort, seed=seed, **strategy.spec
            )
            kept = Kept(folder / f"{name}-{seed}.jsonl")
            bench = Bench(spec, n_search, folder / f"{name}-{seed}")
            setup = set_up(spec, load_space(args.space), bench.facts)
            typical = method("lora").largest(bench.facts.shape, setup.space.max_params)
            assert typical is not None
            bench.begin([typical], folder / "decided.json")
            fetch = partial(_from_bench, bench, kept)
            steps, _ = run_study(setup, strategy, args.cohort, fetch)
            curves.setdefault(name, []).append(steps)
            print(f"seed {seed}  {name:14} {steps[-1]}", file=sys.stderr)
    return {"trials": args.trials, "seeds": args.seeds, "space": args.space, **compare(curves)}


def _agreement(table: Mapping[tuple[str, int], Scored]) -> dict[str, dict[str, float]]:
    """Kendall's tau of each rung's search score with the top rung's, and with the test score."""
    hashes = sorted({key for key, _ in table})
    every = sorted({steps for _, steps in table})

    def seen(steps: int) -> list[float]:
        return [table[key, steps].record.metrics[METRIC].value for key in hashes]

    final = [table[key, every[-1]].test_quality for key in hashes]
    return {
        name: {
            "tau_with_top_search": float(stats.kendalltau(found, seen(every[-1])).statistic),
            "tau_with_top_test": float(stats.kendalltau(found, final).statistic),
        }
        for name, found in {
            **{str(steps): seen(steps) for steps in every},
            "mean of all": np.mean([seen(steps) for steps in every], axis=0),
            "mean of all but the lowest": np.mean([seen(s) for s in every[1:]], axis=0),
        }.items()
    }


def _from_table(table: Mapping[tuple[str, int], Scored], job: Job, rungs: Rungs) -> list[Scored]:
    """What the table says of a job; what lies between two rungs of a study is paid for too."""
    reached, below = rungs.steps[job.rung], rungs.steps[job.rung - 1] if job.rung else 0
    found = []
    for trial in job.trials:
        one = trial.genotype.hash
        seconds = sum(
            item.record.seconds
            for (key, steps), item in table.items()
            if key == one and below < steps <= reached
        )
        item, n = table[one, reached], trial.number
        record = replace(item.record, trial=n, rung=job.rung, cohort=(n,), seconds=seconds)
        found.append(replace(item, record=record))
    return found


def _from_bench(bench: Bench, kept: Kept, job: Job, _: Rungs | None) -> list[Scored]:
    """What was kept of a job; what was not is trained."""
    missing = {number for number, *rung in job.keys if (number, *rung) not in kept.scored}
    if missing:
        for item in bench.run(job, missing):
            kept.add(item)
    return [kept.scored[key] for key in job.keys]


def _spec(
    args: argparse.Namespace, folder: Path, *, trials: int, cohort: int, seed: int = 0, **more: Any
) -> StudySpec:
    training = {
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "max_length": args.max_length,
        "cohort": cohort,
        "precision": args.precision,
        "attention": args.attention,
    }
    return study_spec(
        str(embedded_model()),
        folder,
        training=training,
        budget={"trials": trials, "max_params": args.max_params},
        seed=seed,
        **more,
    ).resolved(folder)


def _write_facts(path: Path, spec: StudySpec, facts: Facts, precision: str, rows: Rows) -> None:
    """What a replay needs beside the records, without paths of this machine."""
    bare = spec.model_dump(mode="json", exclude_defaults=True)
    bare["model"] = EMBEDDED
    bare["data"] = {"train": "train.jsonl", "validation": "validation.jsonl", "selection_rows": 0}
    told = {
        "facts": {**facts.model_dump(mode="json"), "model": EMBEDDED},
        "spec": bare,
        "precision": precision,
        "rows": asdict(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


PARTS = {"replay": replay, "surrogate": model, "live": live}


def main() -> None:
    """Run one of the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["table", *PARTS])
    add = parser.add_argument
    add("--data", type=Path, help="folder with train, validation and test.jsonl")
    add("--work", type=Path, help="folder for what is unfinished, so that a run can go on")
    add("--table", type=Path, default=HERE / "table", help="folder of the table")
    add("--space", default="unified", help="of live studies")
    add("--trials", type=int, default=60)
    add("--seeds", type=int, default=20)
    add("--strategies", default=",".join(LIVE), help="of live studies")
    add("--first-seed", type=int, default=0, help="of live studies, which several may share")
    add("--cohort", type=int, default=6)
    add("--train-rows", type=int, default=1000)
    add("--search-rows", type=int, default=500)
    add("--test-rows", type=int, default=1000)
    add("--epochs", type=int, default=4)
    add("--batch-size", type=int, default=16)
    add("--max-length", type=int, default=48)
    add("--max-params", default="2%")
    add("--precision", default="auto", help="fp32, bf16, or what is measured to be faster")
    add("--attention", default="auto", help="eager, sdpa, or what is measured to be faster")
    add("--out", type=Path, help="result (default: results/search_PART.json)")
    args = parser.parse_args()
    if args.part == "table":
        make_table(args)
        return
    result = PARTS[args.part](args)
    show(result)
    out = args.out or HERE / "results" / f"search_{args.part}.json"
    write_result(out, {"benchmark": f"search {args.part}", **result})


if __name__ == "__main__":
    main()
