"""What all benchmarks share: options, fresh processes, results. Imports nothing heavy.

A measurement is one fresh process that prints one line of JSON. The parent stays small: on Linux
the peak memory that a process reports begins with that of the process that started it.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Measured = dict[str, Any]

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PACKAGES = ("autopeft", "torch", "transformers", "peft", "accelerate", "numpy")


def parser(description: str, out: str) -> argparse.ArgumentParser:
    """The options that all benchmarks of training have, each the same for every way."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = options.add_argument
    add("--data", type=Path, required=True, help="folder with train.jsonl and validation.jsonl")
    add("--model", help="Hub name or folder (default: the embedded MiniLM)")
    add("--rows", type=int, default=2000, help="training rows")
    add("--repeats", type=int, default=3, help="measurements of each way")
    add("--batch-size", type=int, default=32, help="rows of a batch")
    add("--max-length", type=int, default=128, help="tokens of a row at most")
    add("--learning-rate", type=float, default=2e-3, help="peak, of every way")
    add("--weight-decay", type=float, default=0.0, help="of every way")
    add("--warmup", type=float, default=0.06, help="part of the steps that warms up")
    add("--clip", type=float, default=1.0, help="largest norm of the gradient")
    add("--dropout", action="store_true", help="let the peers use the checkpoint's dropout")
    add("--expert-attention", default="eager", choices=["eager", "sdpa"], help="of `expert`")
    add("--expert-weights", default="fp32", choices=["fp32", "bf16"], help="of `expert`, frozen")
    add("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="of autopeft")
    add("--attention", default="auto", choices=["auto", "eager", "sdpa"], help="of autopeft")
    add("--seed", type=int, default=0, help="draws the rows; repeat i trains with seed + i")
    add("--out", type=Path, default=Path(__file__).parent / "results" / out, help="result")
    add("--way", help=argparse.SUPPRESS)  # one measurement, in this process
    add("--repeat", type=int, default=0, help=argparse.SUPPRESS)
    return options


def as_options(args: argparse.Namespace, **changes: Any) -> list[str]:
    """Command line options that give these arguments again, some of them changed or left out."""
    out: list[str] = []
    for name, value in (vars(args) | changes).items():
        if value is None or value is False:
            continue
        out.append(f"--{name.replace('_', '-')}")
        if value is not True:
            out.append(str(value))
    return out


def read_rows(
    file: Path,
    n_rows: int | None = None,
    seed: int = 0,
    columns: tuple[str, str] = ("text", "label"),
) -> tuple[list[str], list[Any]]:
    """Texts and labels of a JSONL file.

    Args:
        file: objects with these columns, one a line.
        n_rows: draw so many; all if None.
        seed: of the draw.
        columns: of the text and of the label.
    """
    text, label = columns
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    if n_rows is not None:
        chosen = random.Random(seed).sample(range(len(rows)), min(n_rows, len(rows)))
        rows = [rows[i] for i in sorted(chosen)]
    return [row[text] for row in rows], [row[label] for row in rows]


def peak_mib() -> float:
    """Peak memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10, 1)


def emit(measure: Callable[[], Measured]) -> None:
    """Measure, and print the result alone on stdout, whatever libraries print meanwhile."""
    with contextlib.redirect_stdout(sys.stderr):
        result = measure()
    print(json.dumps(result))


def fresh(command: Sequence[str | Path]) -> Measured:
    """What a fresh process measures.

    Args:
        command: prints one line of JSON.

    Raises:
        SystemExit: it failed; with its stderr.
    """
    words = [str(word) for word in command]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{done.stderr}\nexit status {done.returncode}: {' '.join(words)}")
    result: Measured = json.loads(done.stdout)
    return result


def alternate(
    ways: Sequence[str], repeats: int, run: Callable[[str, int], Measured]
) -> dict[str, list[Measured]]:
    """Measure every way so often, in the order A B C, A B C, ...

    Args:
        ways: their names.
        repeats: measurements of each.
        run: measures a way in a process of its own, given its name and the repeat from 0.
    """
    measured: dict[str, list[Measured]] = {way: [] for way in ways}
    for repeat in range(repeats):
        for way in ways:
            result = run(way, repeat)
            measured[way].append(result)
            seconds = f"{result['seconds']:.2f} s a trial"
            print(f"repeat {repeat + 1}/{repeats}  {way:10} {seconds}", file=sys.stderr)
    return measured


def median(values: Sequence[float]) -> float:
    """The median, to a precision that can be read."""
    return round(statistics.median(values), 5)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest."""
    return round(min(values), 5), round(max(values), 5)


def summary(values: Sequence[float]) -> Measured:
    """Median, smallest and largest."""
    least, most = spread(values)
    return {"median": median(values), "min": least, "max": most}


def machine() -> Measured:
    """What was measured on."""
    import torch  # noqa: PLC0415  # the parent stays small until everything is measured

    lines = _cpuinfo()
    flags = lines.get("flags", "").split()
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": lines.get("model name") or platform.processor() or platform.machine(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "ram_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
    }


def _cpuinfo() -> dict[str, str]:
    """The entries of one core."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    first = file.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of installed packages."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON, with date, command line, machine and versions.

    Args:
        path: its folder is made.
        result: plain values.
    """
    told = dict(result) | {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [_basename(word) for word in sys.argv],
        "machine": machine(),
        "versions": versions(*PACKAGES),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"written: {path.name}")


def _basename(word: str) -> str:
    return Path(word).name if os.sep in word else word


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns, the first one to the left and all others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells]))
