"""LoRA on a backbone in fp32, NF4 and int8: accuracy, and the memory of weights and of a trial."""

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import Measured, alternate, as_options, emit, fresh, parser, print_table, write_result
from ours import load
from report import resolve_model

from autopeft.model.quantized import quantize
from autopeft.training.footprint import trial_bytes
from autopeft.training.train import train_cohort

WAYS = ("fp32", "nf4", "int8")
MIB = 2**20


def measure(args: argparse.Namespace) -> Measured:
    """A cohort of LoRA with different seeds, on rows that this repeat has drawn."""
    setup = load(argparse.Namespace(**vars(args) | {"seed": args.seed + args.repeat}), "lora")
    backbone = setup.backbone
    if args.way != "fp32":
        quantize(backbone.model, args.way, backbone.fresh)
    settings = replace(setup.settings, epochs=args.epochs)
    common = {"task": setup.task, "settings": settings}
    start = time.process_time()
    trained, _ = train_cohort(
        backbone,
        [setup.genotype] * args.seeds,
        range(args.seeds),
        **common,
        train=setup.train,
        validation=setup.validation,
        order_seed=setup.seed,
    )
    seconds = time.process_time() - start
    layers = [m for layer in backbone.model.base_model.encoder.layer for m in layer.modules()]
    return {
        "seconds": seconds / args.seeds,
        "accuracies": [float(np.mean(t.predictions == setup.validation.truth)) for t in trained],
        "layers_mib": _mib(layers),
        "model_mib": _mib(list(backbone.model.modules())),
        "trial_mib": trial_bytes(backbone, [setup.genotype], **common, rows=setup.train) / MIB,
    }


def _mib(modules: list) -> float:
    """What the own parameters and buffers of modules take."""
    held = {
        tensor.data_ptr(): tensor.nbytes
        for module in modules
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    }
    return sum(held.values()) / MIB


def main() -> None:
    """Measure one way, or all of them in turn, on the same rows."""
    options = parser(__doc__ or "", "quantized.json")
    options.add_argument("--epochs", type=int, default=3, help="passes over the training rows")
    options.add_argument("--seeds", type=int, default=3, help="trials of each way, in a cohort")
    options.add_argument("--ways", default=",".join(WAYS), help="to measure")
    options.set_defaults(rows=1000)
    args = options.parse_args()
    model = resolve_model(args)
    if args.way is not None:
        emit(lambda: measure(args))
        return

    def run(way: str, repeat: int) -> Measured:
        changes = {"way": way, "repeat": repeat, "repeats": None, "out": None}
        return fresh([sys.executable, Path(__file__).resolve(), *as_options(args, **changes)])

    measured = alternate(args.ways.split(","), args.repeats, run)
    rows = []
    for way, found in measured.items():
        accuracies = [value for one in found for value in one["accuracies"]]
        mean, std = statistics.mean(accuracies), statistics.stdev(accuracies)
        sizes = [f"{found[0][key]:.1f}" for key in ("layers_mib", "model_mib", "trial_mib")]
        rows.append([way, f"{mean:.4f} ± {std:.4f}", *sizes])
    print_table(["backbone", "accuracy", "layers MiB", "model MiB", "trial MiB"], rows)
    told = {"benchmark": "quantized", "model": model, "rows": args.rows, "epochs": args.epochs}
    write_result(args.out, told | {"measured": measured})


if __name__ == "__main__":
    main()
