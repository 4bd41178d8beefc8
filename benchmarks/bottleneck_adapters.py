"""Seconds to train Pfeiffer adapters for one epoch: the `adapters` library against autopeft.

The library needs an older transformers, so it runs in an environment of its own, which is made at
the first run.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

from common import Measured, emit, parser
from report import finish, ratio, resolve_model, run_all

METHOD = "pfeiffer"
ADAPTERS = "1.3.0"
PEERS = ("adapters", "expert")
OURS = ("alone", "cohort4")
PEER_PACKAGES = ("adapters", "transformers", "torch", "accelerate", "numpy")

_VERSIONS = (
    "import importlib.metadata as m, json, platform; "
    f"print(json.dumps({{n: m.version(n) for n in {PEER_PACKAGES}}}"
    " | {'python': platform.python_version()}))"
)


def default_venv() -> Path:
    """A folder in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "autopeft-benchmarks" / f"adapters-{ADAPTERS}"


def peer_versions(python: Path) -> dict[str, str] | None:
    """What is installed beside the library, None if it is not."""
    if not python.is_file():
        return None
    done = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True, check=False)
    versions: dict[str, str] = json.loads(done.stdout) if done.returncode == 0 else {}
    return versions or None


def prepare_venv(venv: Path) -> tuple[Path, dict[str, str]]:
    """The interpreter of the library's environment, made if it is not there, and its versions.

    Raises:
        SystemExit: it has another torch than ours, so the comparison would not be one.
    """
    python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    torch = importlib.metadata.version("torch")
    if peer_versions(python) is None:
        public = torch.partition("+")[0]
        wanted = [f"adapters=={ADAPTERS}", f"torch=={public}", "accelerate"]
        print(f"installing {', '.join(wanted)} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    found = peer_versions(python)
    if found is None or (found["adapters"], found["torch"]) != (ADAPTERS, torch):
        raise SystemExit(f"wanted adapters {ADAPTERS} and torch {torch}, found {found}")
    return python, found


def measure(args: argparse.Namespace) -> Measured:
    """One measurement of autopeft, in this process."""
    import ours  # noqa: PLC0415  # the parent stays small

    if args.way == "decide":
        return ours.decide(args, METHOD)
    return ours.train(args, METHOD, ours.COHORT if args.way == "cohort4" else 1)


def main() -> None:
    """Measure one way, or all of them in turn."""
    options = parser(__doc__ or "", "bottleneck_adapters.json")
    options.add_argument("--venv", type=Path, default=default_venv(), help="of the library")
    args = options.parse_args()
    model = resolve_model(args)
    if args.way is not None:
        emit(lambda: measure(args))
        return
    python, versions = prepare_venv(args.venv)
    here = Path(__file__).resolve()
    peer = [python, here.with_name("bottleneck_adapters_peer.py")]
    decided, measured = run_all(args, here, (*PEERS, *OURS), dict.fromkeys(PEERS, peer))
    ratios = {f"{slow}/{fast}": ratio(measured, slow, fast) for slow in PEERS for fast in OURS}
    about = {"benchmark": "bottleneck_adapters", "method": METHOD, "model": model}
    finish(args, measured, ratios, about | {"decided": decided, "peer_versions": versions})


if __name__ == "__main__":
    main()
