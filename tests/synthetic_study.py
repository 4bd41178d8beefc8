"""Studies that look real and cost nothing: genotypes of a shipped space, made-up scores.

Quality grows with the logarithm of the parameters, falls with the distance from a good learning
rate, and is noisy over seeds and rows. Trials are promoted over three rungs, the best get three
seeds, some fail in every way there is, one is over the budget.
"""

import json
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from autopeft.front import front_of
from autopeft.front_file import write_front
from autopeft.objectives import PARAMS
from autopeft.records import Failure, Metric, Objective, Record
from autopeft.space.bind import bind
from autopeft.space.dimension import Categorical, Integer
from autopeft.space.genotype import Genotype
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.methods import method
from autopeft.space.search_space import SearchSpace
from autopeft.space.shape import ModelShape, encoder_shape
from autopeft.space.shipped import load_space
from autopeft.space.words import describe
from autopeft.study.folder import Study

MINILM = encoder_shape(6, 384, 1536, 22_713_216)
ROWS = 872
COHORT = 4
METHODS = ("head", "lora", "scaled_parallel", "pfeiffer", "bitfit", "ia3")
FAILURES = (
    Failure("nan", "the loss at step 12 of 189 is not finite"),
    Failure("out_of_memory", "DefaultCPUAllocator: can't allocate memory"),
    Failure("crash", "the worker ended with signal 9"),
    Failure("error", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
)
START = datetime(2026, 1, 31, 12, tzinfo=UTC)


def make_study(
    folder: Path,
    n_trials: int,
    *,
    failing: float = 0.04,
    seed: int = 0,
    rungs: int = 3,
    metric: str = "accuracy",
    worker: str = "worker",
    shape: ModelShape = MINILM,
) -> Study:
    """Write a study with its manifest, compiled records and front.

    Args:
        folder: made if it is not there.
        n_trials: how many.
        failing: part of the trials that fails.
        seed: of everything.
        rungs: levels of the training budget.
        metric: name of the quality.
        worker: name of the workers, before their number.
        shape: of the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    space = bind(load_space("unified"), shape, shape.backbone_params // 100)
    records: list[Record] = []
    clock = {0: START, 1: START}
    for first in range(0, n_trials, COHORT):
        cohort = range(first, min(first + COHORT, n_trials))
        place = first // COHORT % 2
        for trial in cohort:
            genotype = _genotype(space, trial, rng)
            records += _records(
                genotype, trial, rng, space, failing, rungs, metric, tuple(cohort), clock[place],
                f"{worker}-{place}",
            )  # fmt: skip
        spent = sum(r.seconds for r in records if r.trial in cohort and r.rung == 0)
        clock[place] += timedelta(seconds=spent + rng.uniform(1, 9))
    write_manifest(folder, space.max_params, shape)
    if records:
        lines = "".join(record.to_json() + "\n" for record in records)
        (folder / "records.jsonl").write_text(lines, encoding="utf-8")
        write_front(folder, front_for(records, metric, space.max_params))
    return Study(folder)


def front_for(records, metric="accuracy", max_params=MINILM.backbone_params // 100):
    return front_of(
        records, metric, "maximize", max_params, lambda g: describe(genotype_from_dict(g))
    )


def write_manifest(folder: Path, max_params: int, shape: ModelShape, **changes) -> None:
    manifest = {
        "version": 2,
        "created": START.isoformat(),
        "command": ["autopeft", "search", "study.yaml"],
        "versions": {"python": "3.11.7", "autopeft": "0.1.0", "torch": "2.13.0"},
        "machine": {"processor": "x86_64", "device": "cpu"},
        "fingerprint": {},
        "model": {"name": "MiniLM-L6", "revision": None, "sha256": "0" * 64, **shape.to_dict()},
        "data": {
            "sha256": "0" * 64,
            "rows": {"train": 2000, "validation": ROWS, "test": 1821},
            "labels": ["negative", "positive"],
            "notes": [
                "train: 2,000 of 6,920 rows are used (train_rows)",
                "validation: 12 of 872 rows have a text that is also in train",
            ],
        },
        "settings": {"epochs": 3, "precision": "bf16"},
        "cohort": COHORT,
        "max_params": max_params,
        "trial_seconds": 15.0,
        "trial_bytes": 10**8,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes), encoding="utf-8")


def _genotype(space: SearchSpace, trial: int, rng: random.Random) -> Genotype:
    if trial < len(METHODS):
        largest = method(METHODS[trial]).largest(space.shape, space.max_params)
        assert largest is not None
        return largest
    if trial == 40:  # measured before the budget was lowered
        return method("lora_all").genotype(space.shape)
    params = {}
    for dimension in space.dimensions():
        match dimension:
            case Categorical(choices=choices):
                params[dimension.name] = rng.choice(choices)
            case Integer(low=low, high=high):
                params[dimension.name] = rng.randint(low, high)
            case _ if dimension.log:
                low, high = math.log(dimension.low), math.log(dimension.high)
                params[dimension.name] = math.exp(rng.uniform(low, high))
            case _:
                params[dimension.name] = rng.uniform(dimension.low, dimension.high)
    return space.decode(params)


def _records(genotype, trial, rng, space, failing, rungs, metric, cohort, started, worker):
    shape = space.shape
    params = genotype.count_params(shape)
    truth = _truth(genotype, params)
    top = 0
    while top < rungs - 1 and (trial < len(METHODS) or rng.random() < 0.15 + truth / 3):
        top += 1
    cause = rng.choice(FAILURES) if rng.random() < failing else None
    out = []
    for rung in range(top + 1):
        repeats = 3 if rung == rungs - 1 and truth > 0.84 else 1
        for replicate in range(repeats):
            failed = cause if rung == top else None
            score = truth - 0.03 * (rungs - 1 - rung) + rng.gauss(0, 0.008)
            score = round(score * ROWS) / ROWS
            out.append(
                Record(
                    version=1,
                    trial=trial,
                    rung=rung,
                    replicate=replicate,
                    state="failed" if failed else "complete",
                    genotype=genotype.to_dict(),
                    hash=genotype.hash,
                    seed=trial * 10 + replicate,
                    metrics={} if failed else {metric: Metric(score, _stderr(score))},
                    objectives={} if failed else _objectives(metric, score, params, rng),
                    trainable_params=params,
                    fraction=params / shape.backbone_params,
                    head_params=770,
                    steps=63 * (rung + 1),
                    seconds=round(rng.uniform(4, 6), 3),
                    started=(started + timedelta(minutes=20 * rung + replicate)).isoformat(),
                    worker=worker,
                    cohort=cohort,
                    precision="bf16",
                    split="validation",
                    failure=failed,
                    weights=None,
                )
            )
    return out


def _objectives(metric, score, params, rng):
    latency = 4 + params / 1e5 + rng.uniform(0, 0.2)
    return {
        metric: Objective(score, "1", _stderr(score)),
        PARAMS: Objective(float(params), "parameters", None),
        "latency_ms": Objective(round(latency, 3), "ms", 0.05),
    }


def _truth(genotype: Genotype, params: int) -> float:
    size = min(1.1, math.log1p(params) / math.log1p(227_132))
    rate = math.log10(genotype.learning_rate / 2e-3)
    return 0.66 + 0.2 * size**3 - 0.03 * rate**2 - 0.01 * (len(genotype.ops) > 6)


def _stderr(score: float) -> float:
    return math.sqrt(score * (1 - score) / ROWS)
