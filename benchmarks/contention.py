"""Seconds to train where others compute too: threads that wait as they come, or briefly."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common import Measured, as_options, emit, parser
from report import finish, ratio, resolve_model, run_all

from autopeft.engines.waiting import POLICY, SPINS_OF_GNU, wait_briefly

WHO = ("alone", "beside", "two")
HOW = ("usual", "brief")
WAYS = tuple(f"{who}-{how}" for who in WHO for how in HOW)
RATIOS = tuple((f"{who}-usual", f"{who}-brief") for who in WHO)
_APART = 100
"""Between the seeds of two processes."""
_READY = "ready"
_PRODUCTS = """
import torch
a = torch.randn(2000, 2000)
print("ready", flush=True)
while True:
    a @ a
"""


def measure(args: argparse.Namespace) -> Measured:
    """A cohort alone, beside endless products, or the slower of two that begin at once."""
    who, how = args.way.split("-")
    one = [sys.executable, __file__, *as_options(args, way=f"cohort-{how}")]
    changes = {"way": f"cohort-{how}", "repeat": args.repeat + _APART}
    other = [sys.executable, __file__, *as_options(args, **changes)]
    found = _at_once([one, other] if who == "two" else [one], products=who == "beside")
    return max(found, key=lambda each: float(each["seconds"]))


def _at_once(commands: Sequence[list[str]], *, products: bool) -> list[Measured]:
    """What processes measure that load one after the other and begin together."""
    others = [_loaded([sys.executable, "-c", _PRODUCTS])] if products else []
    try:
        running = [_loaded(command) for command in commands]
        for process in running:
            if process.stdin is not None:
                process.stdin.write("begin\n")
                process.stdin.flush()
        return [_told(process) for process in running]
    finally:
        for process in others:
            process.kill()
            process.communicate()


def _told(process: "subprocess.Popen[str]") -> Measured:
    """What a process measured; ends with its errors if it failed."""
    out, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors)
    found: Measured = json.loads(out)
    return found


def _loaded(command: list[str]) -> "subprocess.Popen[str]":
    """A process that has said that it is ready, whose threads wait as they come."""
    environment = {k: v for k, v in os.environ.items() if k not in (POLICY, SPINS_OF_GNU)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    if process.stdout is None or process.stdout.readline().strip() != _READY:
        raise SystemExit(process.communicate()[1])
    return process


def cohort(args: argparse.Namespace) -> Measured:
    """A cohort of four in this process, once somebody says so."""
    if args.way.endswith("brief"):
        wait_briefly()
    import ours  # noqa: PLC0415  # brings torch

    def begin() -> None:
        print(_READY, file=sys.__stdout__, flush=True)
        sys.stdin.readline()

    return ours.train(args, "lora", ours.COHORT, begin=begin)


def decide(args: argparse.Namespace) -> Measured:
    """What the probe finds."""
    import ours  # noqa: PLC0415  # brings torch

    return ours.decide(args, "lora")


def main() -> None:
    """Measure one way, or all of them in turn."""
    options = parser(__doc__ or "", "contention.json")
    options.set_defaults(rows=160)
    args = options.parse_args()
    model = resolve_model(args)
    if args.way is not None:
        ways = {"decide": decide, "cohort-usual": cohort, "cohort-brief": cohort}
        emit(lambda: ways.get(args.way, measure)(args))
        return
    decided, measured = run_all(args, Path(__file__).resolve(), WAYS)
    ratios = {f"{slow}/{fast}": ratio(measured, slow, fast) for slow, fast in RATIOS}
    finish(args, measured, ratios, {"benchmark": "contention", "model": model, "decided": decided})


if __name__ == "__main__":
    main()
