"""Predicted memory, time per step and latency against measured ones, of genotypes held out.

A search predicts what trials cost, from a few measurements before it begins; finalists are
measured. Here the same calibration is made, and then genotypes that it has not seen are measured as
finalists are: drawn from the space, and the known methods at their largest size.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import print_table, write_result
from report import EMBEDDED
from scipy import stats

from autopeft.demo.model import embedded_model
from autopeft.engines.calibrate import calibrate, measure_alone
from autopeft.engines.decide import decide
from autopeft.engines.ground import load_ground
from autopeft.objectives import COSTS, LATENCY, MEMORY, PARAMS, STEP, CostName, predicted_costs
from autopeft.space.genotype import Genotype
from autopeft.space.shipped import load_space
from autopeft.space.words import describe
from autopeft.study.propose import propose
from autopeft.study.setup import Setup, set_up
from autopeft.study.spec import StudySpec
from autopeft.training.memory import use_heap

WANTED = (MEMORY, STEP, LATENCY)


def main() -> None:
    """Calibrate, measure, compare."""
    options = argparse.ArgumentParser(description=__doc__)
    add = options.add_argument
    add("--data", type=Path, required=True, help="folder with train.jsonl and validation.jsonl")
    add("--rows", type=int, default=500, help="training rows, whose lengths count")
    add("--space", default="unified")
    add("--max-params", default="1%")
    add("--genotypes", type=int, default=20, help="drawn ones")
    add("--batch-size", type=int, default=32)
    add("--max-length", type=int, default=64)
    add("--accumulation", type=int, default=1)
    add("--checkpointing", action="store_true")
    add("--seed", type=int, default=1, help="of the draws")
    out = Path(__file__).parent / "results" / "predictions.json"
    add("--out", type=Path, default=out)
    args = options.parse_args()
    spec = StudySpec.model_validate(
        {
            "model": str(embedded_model()),
            "data": {
                **{name: str(args.data / f"{name}.jsonl") for name in ("train", "validation")},
                "train_rows": args.rows,
                "selection_rows": 0,
            },
            "objectives": ["metric", "trainable_params", "peak_memory_bytes", "step_ms"],
            "space": args.space,
            "selection": {"seeds": 0},
            "budget": {"max_params": args.max_params},
            "training": {
                name: vars(args)[name]
                for name in ("batch_size", "max_length", "accumulation", "checkpointing")
            },
        }
    ).resolved(Path.cwd())
    # four objectives are the most of a study; here all that is predicted is
    ground = load_ground(spec.work.model_copy(update={"costs": (PARAMS, *WANTED)}))
    setup = set_up(spec, load_space(args.space), ground.facts)
    methods = [start.genotype for start in setup.starts.first if start.genotype.ops]
    settings = decide(ground, methods[:1], 1).settings
    costs = calibrate(ground, settings, setup.probes)
    ground, shape = ground.computing_in(settings.precision), setup.facts.shape
    use_heap("exact", ground.state_bytes(settings))
    rows = []
    for genotype in [*methods, *_drawn(setup, args.genotypes, args.seed)]:
        predicted = predicted_costs(genotype, shape, costs)
        measured = measure_alone(ground, settings, costs, genotype)
        rows.append(
            {
                "genotype": genotype.to_dict(),
                "summary": describe(genotype),
                "predicted": {name: predicted[name] for name in WANTED},
                "measured": {name: measured[name] for name in WANTED},
            }
        )
    result = {
        "benchmark": "predictions",
        "model": EMBEDDED,
        "settings": {k: v for k, v in vars(args).items() if k not in {"data", "out"}},
        "data": args.data.name,
        "calibrated_on": len(setup.probes),
        "start_bytes": costs.start_bytes,
        "summary": {name: _compare(rows, name, costs.start_bytes) for name in WANTED},
        "measurements": rows,
    }
    write_result(args.out, result)
    _show(result["summary"])


def _drawn(setup: Setup, n: int, seed: int) -> list[Genotype]:
    """Genotypes of the space at random."""
    return [
        propose(setup.space, "random", seed=seed, slot=i, history=[], taken=()).genotype
        for i in range(n)
    ]


def _compare(rows: list[dict[str, Any]], name: CostName, start_bytes: int) -> dict[str, float]:
    """Predicted over measured, memory also without what the process holds before it trains."""
    predicted, measured = (
        np.array([row[how][name] for row in rows]) for how in ("predicted", "measured")
    )
    told = _ratios(predicted / measured)
    told["tau"] = float(stats.kendalltau(predicted, measured).statistic)
    if name == MEMORY:
        grown = (predicted - start_bytes) / (measured - start_bytes)
        told |= {f"growth_{key}": value for key, value in _ratios(grown).items()}
    return told


def _ratios(ratios: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    quantiles = np.quantile(ratios, [0, 0.1, 0.5, 0.9, 1])
    return dict(
        zip(("least", "tenth", "median", "ninetieth", "most"), map(float, quantiles), strict=True)
    )


def _show(summary: dict[CostName, dict[str, float]]) -> None:
    keys = ("least", "tenth", "median", "ninetieth", "most", "tau")
    lines = [
        [COSTS[name].label, *(f"{one[key]:.2f}" for key in keys)] for name, one in summary.items()
    ]
    print_table(["predicted / measured", *keys], lines)


if __name__ == "__main__":
    main()
