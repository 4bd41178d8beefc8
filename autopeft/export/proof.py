"""The proof of an export: loaded again in a fresh process it puts out what was trained."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from autopeft.errors import DataError
from autopeft.export.adapter import Outputs
from autopeft.export.winner import Winner

TOLERANCE: Mapping[str, float] = {"native": 1e-5, "peft": 1e-5, "merged": 1e-4}
"""Largest difference of an output, relative to the largest output if that is above 1."""
BATCH_SIZE = 32
_RELOAD = Path(__file__).with_name("reload.py")
_SHOWN_LINES = 5


@dataclass(frozen=True)
class Proof:
    """What was found.

    Attributes:
        rows: that were compared.
        difference: the largest one of an output.
        tolerance: what it may be.
        changed: predictions that differ; only where two classes are as close as the tolerance.
    """

    rows: int
    difference: float
    tolerance: float
    changed: int


def prove(
    target: str,
    folder: Path,
    winner: Winner,
    expected: Float[Tensor, "row output"] | None = None,
) -> Proof:
    """Load an export in a fresh process and compare it with the weights that it came from.

    Args:
        target: "native", "peft" or "merged".
        folder: of the export.
        winner: that was exported.
        expected: what it puts out, if that is not what was trained.

    Raises:
        DataError: it cannot be loaded, or puts out something else.
    """
    question = question_of(target, folder, winner)
    expected = winner.logits if expected is None else expected
    return compare(ask(question), expected, winner.outputs, TOLERANCE[target])


def question_of(target: str, folder: Path, winner: Winner) -> dict[str, Any]:
    """What `reload.py` is asked."""
    return {
        "target": target,
        "folder": str(folder),
        "backbone": winner.description.backbone,
        "revision": winner.description.revision,
        "pad_token_id": winner.tokenizer.pad_token_id,
        "n_outputs": winner.outputs.n_outputs,
        "texts": [list(texts) for texts in winner.ground.dataset.validation.texts],
        "max_length": winner.description.max_length,
        "batch_size": BATCH_SIZE,
    }


def ask(question: Mapping[str, Any]) -> Float[Tensor, "row output"]:
    """Run `reload.py`.

    Raises:
        DataError: it failed, with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="autopeft-proof-") as folder:
        asked, answered = Path(folder) / "question.json", Path(folder) / "answer.safetensors"
        asked.write_text(json.dumps(question), encoding="utf-8")
        done = subprocess.run(  # noqa: S603 - this very file, by this very Python
            [sys.executable, "-P", str(_RELOAD), str(asked), str(answered)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not answered.is_file():
            last = " | ".join(done.stderr.strip().splitlines()[-_SHOWN_LINES:])
            raise DataError(f"the export cannot be loaded again: {last}")
        return load_file(answered)["logits"]


def compare(
    found: Float[Tensor, "row output"],
    expected: Float[Tensor, "row output"],
    outputs: Outputs,
    tolerance: float,
) -> Proof:
    """Compare outputs and predictions.

    Raises:
        DataError: they differ by more than rounding.
    """
    if found.shape != expected.shape:
        raise DataError(f"the export puts out {list(found.shape)}, not {list(expected.shape)}")
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    difference = float((found - expected).abs().max())
    # Not `>`: NaN is no smaller than anything.
    if not difference <= allowed:
        raise DataError(
            f"the export is not what was trained: an output differs by {difference:.2g}, allowed "
            f"are {allowed:.2g}"
        )
    changed = 0
    if outputs.kind == "classification":
        changed = int((found.argmax(-1) != expected.argmax(-1)).sum())
    return Proof(len(expected), difference, allowed, changed)
