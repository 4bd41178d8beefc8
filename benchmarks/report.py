"""From measurements to medians, ratios and a table."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import Measured, alternate, as_options, fresh, print_table, summary, write_result

Measurements = Mapping[str, Sequence[Measured]]

EMBEDDED = "all-MiniLM-L6-v2 (embedded)"


def resolve_model(args: argparse.Namespace) -> str:
    """Put the embedded model's folder where no model is given; its name for the result."""
    if args.model is not None:
        return Path(args.model).name if Path(args.model).is_dir() else str(args.model)
    from autopeft.demo.model import embedded_model  # noqa: PLC0415  # the peers lack autopeft

    args.model = str(embedded_model())
    return EMBEDDED


def run_all(
    args: argparse.Namespace,
    script: Path,
    ways: Sequence[str],
    elsewhere: Mapping[str, Sequence[str | Path]] | None = None,
) -> tuple[Measured, dict[str, list[Measured]]]:
    """Let autopeft probe the machine once, then measure all ways in turn.

    Args:
        args: of the benchmark.
        script: measures a way in its process.
        ways: their names.
        elsewhere: the command of a way that has another interpreter and script.

    Returns:
        What the probe decided, and the measurements of each way.
    """

    def run(way: str, repeat: int) -> Measured:
        command = (elsewhere or {}).get(way, [sys.executable, script])
        changes = {"way": way, "repeat": repeat, "repeats": None, "out": None, "venv": None}
        return fresh([*command, *as_options(args, **changes)])

    decided = run("decide", 0)
    args.precision, args.attention = decided["precision"], decided["attention"]
    return decided, alternate(ways, args.repeats, run)


def ratio(measured: Measurements, slow: str, fast: str) -> Measured:
    """Seconds of one way over those of another, in each repeat and as the median of these."""
    pairs = zip(measured[slow], measured[fast], strict=True)
    each = [a["seconds"] / b["seconds"] for a, b in pairs]
    return summary(each) | {"each": each}


def summarise(measured: Measurements) -> dict[str, Measured]:
    """Seconds and memory of each way over the repeats; losses over all trials of all repeats."""
    out: dict[str, Measured] = {}
    for way, results in measured.items():
        out[way] = {key: summary([r[key] for r in results]) for key in ("seconds", "peak_mib")}
        for one, all_of in (("loss", "losses"), ("accuracy", "accuracies")):
            values = [value for r in results for value in r.get(all_of, ())]
            if values:
                out[way][one] = summary(values) | {"mean": round(sum(values) / len(values), 5)}
    return out


def differing(measured: Measurements, *keys: str) -> list[str]:
    """What is not equal in all measurements and ought to be, as sentences."""
    out = []
    for key in keys:
        values = {way: {r[key] for r in rs if key in r} for way, rs in measured.items()}
        if len(set().union(*values.values())) > 1:
            told = ", ".join(f"{way} {sorted(v)}" for way, v in values.items() if v)
            out.append(f"{key} differs: {told}")
    return out


def finish(
    args: argparse.Namespace,
    measured: Measurements,
    ratios: Mapping[str, Measured],
    result: Mapping[str, Any],
) -> None:
    """Write the result, print the table, and fail if the ways did not do the same work.

    Raises:
        SystemExit: naming what differs.
    """
    told = summarise(measured)
    problems = differing(measured, "op_params", "head_params", "tokens", "steps")
    hidden = {"way", "repeat", "out", "venv", "model", "data"}
    write_result(
        args.out,
        dict(result)
        | {
            "settings": {k: v for k, v in vars(args).items() if k not in hidden},
            "data": args.data.name,
            "measurements": measured,
            "summary": told,
            "ratios": ratios,
            "differences": problems,
        },
    )
    _tables(told, ratios)
    if problems:
        raise SystemExit("\n".join(problems))


def _tables(told: Mapping[str, Measured], ratios: Mapping[str, Measured]) -> None:
    def show(form: Callable[[float], str], values: Measured | None, middle: str) -> str:
        if values is None:
            return ""
        return f"{form(values[middle])} ({form(values['min'])}-{form(values['max'])})"

    rows = [
        [
            way,
            show("{:.2f}".format, what["seconds"], "median"),
            show("{:.4f}".format, what.get("loss"), "mean"),
            show("{:.4f}".format, what.get("accuracy"), "mean"),
            f"{what['peak_mib']['median']:,.0f}",
        ]
        for way, what in told.items()
    ]
    print_table(["way", "seconds a trial", "validation loss", "accuracy", "peak MiB"], rows)
    print()
    lines = [[name, show("{:.3f}".format, what, "median")] for name, what in ratios.items()]
    print_table(["ratio of seconds", "median (min-max)"], lines)
