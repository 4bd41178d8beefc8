"""Seconds to train LoRA for one epoch: transformers + peft against autopeft, alone and in fours."""

import argparse
from pathlib import Path

from common import Measured, emit, parser
from report import finish, ratio, resolve_model, run_all

METHOD = "lora"
WAYS = ("trainer", "expert", "alone", "cohort4", "products", "products4")
RATIOS = (
    *(("trainer", "cohort4"), ("expert", "cohort4"), ("trainer", "alone"), ("expert", "alone")),
    *(("products4", "cohort4"), ("products", "alone")),
)


def measure(args: argparse.Namespace) -> Measured:
    """One measurement, in this process. Each way imports what it needs and nothing else."""
    if args.way in ("trainer", "expert"):
        import peft_side  # noqa: PLC0415

        return peft_side.train(args, expert=args.way == "expert")
    import ours  # noqa: PLC0415

    if args.way == "decide":
        return ours.decide(args, METHOD)
    n_trials = ours.COHORT if args.way.endswith("4") else 1
    if args.way.startswith("products"):
        import products  # noqa: PLC0415

        return products.measure(args, METHOD, n_trials)
    return ours.train(args, METHOD, n_trials)


def main() -> None:
    """Measure one way, or all of them in turn."""
    args = parser(__doc__ or "", "training.json").parse_args()
    model = resolve_model(args)
    if args.way is not None:
        emit(lambda: measure(args))
        return
    decided, measured = run_all(args, Path(__file__).resolve(), WAYS)
    ratios = {f"{slow}/{fast}": ratio(measured, slow, fast) for slow, fast in RATIOS}
    finish(
        args,
        measured,
        ratios,
        {"benchmark": "training", "method": METHOD, "model": model, "decided": decided},
    )


if __name__ == "__main__":
    main()
