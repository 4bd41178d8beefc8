"""Seconds to train LoRA for one epoch: transformers + peft against autopeft, alone and in fours."""

import argparse
from pathlib import Path

from common import Measured, emit, parser
from report import finish, ratio, resolve_model, run_all

METHOD = "lora"
CLASSIFICATION = "classification"
WAYS = ("trainer", "expert", "alone", "cohort4", "products", "products4")
RATIOS = (
    *(("trainer", "cohort4"), ("expert", "cohort4"), ("trainer", "alone"), ("expert", "alone")),
    *(("products4", "cohort4"), ("products", "alone")),
)


def measure(args: argparse.Namespace) -> Measured:
    """One measurement, in this process. Each way imports what it needs and nothing else."""
    if args.way in ("trainer", "expert") and args.task != CLASSIFICATION:
        import peft_writing  # noqa: PLC0415

        return peft_writing.train(args, expert=args.way == "expert")
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
    options = parser(__doc__ or "", "training.json")
    tasks = [CLASSIFICATION, "seq2seq", "causal"]
    options.add_argument("--task", choices=tasks, default=CLASSIFICATION, help="what is learnt")
    options.add_argument("--max-target-length", type=int, default=64, help="tokens of an answer")
    args = options.parse_args()
    writes = args.task != CLASSIFICATION
    if writes and args.model is None:
        options.error("--model: none that writes is embedded; see pretrain_tiny.py")
    if writes and args.out == options.get_default("out"):
        args.out = args.out.with_stem(f"training_{args.task}")
    model = resolve_model(args)
    if args.way is not None:
        emit(lambda: measure(args))
        return
    ways = [way for way in WAYS if not (writes and way.startswith("products"))]
    decided, measured = run_all(args, Path(__file__).resolve(), ways)
    ratios = {
        f"{slow}/{fast}": ratio(measured, slow, fast) for slow, fast in RATIOS if slow in ways
    }
    finish(
        args,
        measured,
        ratios,
        {"benchmark": "training", "method": METHOD, "model": model, "decided": decided},
    )


if __name__ == "__main__":
    main()
