"""The proof of an export: loaded again in a fresh process it puts out what was trained."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from autopeft.errors import DataError
from autopeft.export.adapter import Outputs
from autopeft.export.winner import BATCH_SIZE, Winner
from autopeft.model.part import told_beside
from autopeft.tasks.encode import IGNORED

TOLERANCE: Mapping[str, float] = {"native": 1e-5, "peft": 1e-5, "merged": 1e-4}
"""Largest difference of an output, relative to the largest output if that is above 1."""
MOST_DIFFERENT = 0.25
"""Part of the texts that may differ: a word that is as likely changes all that come after it."""
_COUNTED = {
    "seq2seq": "tokens of the answers to the validation rows",
    "causal": "tokens of the answers to the validation rows",
    "token_classification": "words of the validation rows",
}
"""What outputs are of, where it is not a row each."""
_RELOAD = Path(__file__).with_name("reload.py")
_SHOWN_LINES = 5


@dataclass(frozen=True)
class Proof:
    """What was found.

    Attributes:
        rows: that were compared, or what else outputs are of, see `counted`.
        difference: the largest one of an output.
        tolerance: what it may be.
        changed: predictions that differ; only where two classes are as close as the tolerance.
        texts: that are the same to the letter; None where answers are no texts.
        written: texts that were compared.
        counted: what `rows` are.
    """

    rows: int
    difference: float
    tolerance: float
    changed: int
    texts: int | None = None
    written: int = 0
    counted: str = "validation rows"

    @property
    def told(self) -> str:
        """In words, to go on after "loaded again in a fresh process"."""
        also = f"{self.changed} predictions differ"
        if self.texts is not None:
            also = f"{self.texts} of {self.written} texts are the same"
        return (
            f"on {self.rows:,} {self.counted} its outputs differ from those of the trained weights "
            f"by {self.difference:.1e} at most (allowed: {self.tolerance:.1e}), and {also}"
        )


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
    found, texts = ask(question)
    if expected is not None:
        return compare(found, expected, winner.outputs, TOLERANCE[target])
    proof = compare(found, winner.logits, winner.outputs, TOLERANCE[target])
    if winner.outputs.writes is None:
        return proof
    return replace(proof, texts=_same_texts(texts, winner.answers), written=len(texts))


def _same_texts(found: Sequence[str], expected: Sequence[str]) -> int:
    """How many texts are the same; where two words are equally likely, rounding decides.

    Raises:
        DataError: too few for that.
    """
    differ = [row for row, pair in enumerate(zip(found, expected, strict=True)) if len({*pair}) > 1]
    if len(differ) > len(found) * MOST_DIFFERENT:
        row = differ[0]
        raise DataError(
            f"the export is not what was trained: for validation row {row + 1} it writes "
            f"{found[row]!r}, not {expected[row]!r}"
        )
    return len(found) - len(differ)


def question_of(target: str, folder: Path, winner: Winner) -> dict[str, Any]:
    """What `reload.py` is asked."""
    outputs, part = winner.outputs, winner.backbone.part
    return {
        "target": target,
        "folder": str(folder),
        "backbone": winner.description.backbone,
        "revision": winner.description.revision,
        "in_full": winner.in_full,
        "pad_token_id": winner.tokenizer.pad_token_id,
        "finds_padding": winner.backbone.finds_padding,
        "class": outputs.auto,
        "arguments": told_beside(outputs.n_outputs, outputs.loaded_as, part),
        "part": None if part is None else dict(part.settings),
        "texts": [_read(winner, texts) for texts in winner.ground.dataset.validation.texts],
        "tagged": _tagged(winner),
        "max_length": winner.description.max_length,
        "batch_size": BATCH_SIZE,
        "answers": _answers(winner, target),
    }


def _read(winner: Winner, texts: Sequence[str]) -> list[str]:
    """The texts of a row; words with tags are read as one."""
    return list(texts) if winner.ground.validation.tags is None else [" ".join(texts)]


def _tagged(winner: Winner) -> list[list[int]] | None:
    """Where words have tags: of each row the tokens that they are read from."""
    if (tags := winner.ground.validation.tags) is None:
        return None
    return [[i for i, tag in enumerate(row) if tag != IGNORED] for row in tags.targets]


def _answers(winner: Winner, target: str) -> dict[str, Any] | None:
    """Where answers are texts: tokens to read and to write, and how many to write freely.

    How to write, the folder has to say by itself, if its format can.
    """
    rows = winner.ground.validation
    if rows.answers is None:
        return None
    return {
        "input_ids": rows.input_ids,
        "targets": rows.answers.targets,
        "continues": rows.answers.continues,
        "n_written": len(winner.answers),
        "writes": winner.writes if target == "peft" else None,
    }


def ask(question: Mapping[str, Any]) -> tuple[Float[Tensor, "row output"], list[str]]:
    """Run `reload.py`: the outputs, and texts where those are written.

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
        found = load_file(answered)
        texts: list[str] = json.loads(bytes(found["texts"].tolist()))
        return found["logits"], texts


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
    if outputs.kind == "multi_label_classification":
        changed = int(((found > 0) != (expected > 0)).any(-1).sum())
    elif outputs.labels:
        changed = int((found.argmax(-1) != expected.argmax(-1)).sum())
    counted = _COUNTED.get(outputs.kind, "validation rows")
    return Proof(len(expected), difference, allowed, changed, counted=counted)
