"""Seconds a trial of whole searches against the number of workers that share the cores."""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Measured, emit, parser, summary
from report import finish, ratio, resolve_model, run_all


def measure(args: argparse.Namespace) -> Measured:
    """A search as a user starts it, loading included; `peak_mib` is of its largest process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "autopeft", "search", *_options(args, folder)]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    return {
        "seconds": seconds / args.trials,
        "trials_per_hour": 3600 * args.trials / seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10,
    }


def _options(args: argparse.Namespace, folder: str) -> list[str]:
    given = {
        "model": args.model,
        "data": args.data,
        "train-rows": args.rows,
        "epochs": 1,
        "batch-size": args.batch_size,
        "max-length": args.max_length,
        "max-params": "1%",
        "trials": args.trials,
        "cohort": args.cohort,
        "sampler": "random",  # others would know less with more workers, and try other trials
        "rungs": 1,
        "seeds": 0,
        "seed": args.seed + args.repeat,
        "precision": args.precision,
        "workers": args.way,
        "out": f"{folder}/study",
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def decide(args: argparse.Namespace) -> Measured:
    """What the probe finds."""
    import ours  # noqa: PLC0415  # brings torch, which the parent of a search does without

    return ours.decide(args, "lora")


def main() -> None:
    """Measure one number of workers, or all of them in turn."""
    options = parser(__doc__ or "", "workers.json")
    add = options.add_argument
    add("--workers", default=f"1,{os.cpu_count()}", help="numbers of them, the usual one first")
    add("--cohort", type=int, default=4, help="trials that a worker trains together")
    add("--trials", type=int, default=24, help="of a search")
    options.set_defaults(rows=600)
    args = options.parse_args()
    model = resolve_model(args)
    if args.way is not None:
        emit(lambda: decide(args) if args.way == "decide" else measure(args))
        return
    workers = args.workers.split(",")
    decided, measured = run_all(args, Path(__file__).resolve(), workers)
    rates = {way: summary([one["trials_per_hour"] for one in m]) for way, m in measured.items()}
    ratios = {f"{workers[0]}/{way}": ratio(measured, workers[0], way) for way in workers[1:]}
    told = {"benchmark": "workers", "model": model, "decided": decided, "trials_per_hour": rates}
    finish(args, measured, ratios, told)


if __name__ == "__main__":
    main()
