"""Exports of a real study: do they predict what the study's own trials predicted, row by row?

    python benchmarks/exports.py --data FOLDER --work FOLDER

Searches on the embedded MiniLM (or goes on with the study that is in the work folder), exports
points of its front to each target, and predicts every row that the shipped trial was scored on:
native exports with autopeft, the others by an interpreter that cannot import it. A record keeps
which rows its trial predicted rightly; with two classes these are its predictions.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Measured, print_table, write_result

from autopeft.demo.model import embedded_model
from autopeft.export.native import load
from autopeft.export.winner import Winner, winner_of
from autopeft.study.folder import Study

HERE = Path(__file__).resolve().parent
TARGETS = ("native", "peft", "merged")
PICKS = ("best", "params<0.07%", "params<0.005%", "cheapest")
SPEC = """\
model: {model}
data:
  train: {data}/train.jsonl
  validation: {data}/validation.jsonl
  test: {data}/test.jsonl
  text: [text]
  label: label
  train_rows: 2000
space: mergeable
methods: [head, lora, ia3, bitfit]
budget: {{max_params: 1%, trials: 12}}
training: {{epochs: 1, batch_size: 32, max_length: 64, precision: fp32}}
selection: {{seeds: 2}}
seed: 0
"""


def autopeft(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "autopeft", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def searched(data: Path, work: Path) -> Study:
    """The study, once it is done.

    Raises:
        SystemExit: the search failed.
    """
    study = Study(work / "study")
    if study.selection() is None:
        spec = work / "study.yaml"
        spec.write_text(SPEC.format(model=embedded_model(), data=data.resolve()), encoding="utf-8")
        done = autopeft("search", spec, "--out", study.folder)
        if done.returncode:
            raise SystemExit(done.stderr)
    return study


def without_autopeft(work: Path) -> Path:
    """An interpreter with all that this one has but autopeft; links, in an environment of its own.

    Editable installs and whatever else is done by .pth files are left out.
    """
    venv, libraries = work / "plain", work / "libraries"
    if not venv.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        libraries.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if "autopeft" not in path.name and path.suffix != ".pth":
                (libraries / path.name).symlink_to(path)
        (packages,) = venv.glob("[Ll]ib/**/site-packages")
        (packages / "libraries.pth").write_text(f"{libraries.resolve()}\n", encoding="utf-8")
    return venv / ("Scripts" if os.name == "nt" else "bin") / "python"


def native_classes(question: Measured) -> list[int]:
    """What a native export predicts."""
    model, tokenizer = load(question["folder"])
    cut = {"truncation": True, "max_length": question["max_length"]}
    classes: list[int] = []
    for start in range(0, len(question["texts"]), 64):
        some = question["texts"][start : start + 64]
        with torch.no_grad():
            logits = model(**tokenizer(some, padding=True, return_tensors="pt", **cut)).logits
        classes += logits.argmax(-1).tolist()
    return classes


def plain_classes(python: Path, question: Measured) -> list[int]:
    """What another export predicts without autopeft.

    Raises:
        SystemExit: it cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as place:
        asked = Path(place) / "question.json"
        asked.write_text(json.dumps(question), encoding="utf-8")
        command = [python, "-I", HERE / "exports_plain.py", asked]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place)
    if done.returncode:
        raise SystemExit(done.stderr)
    classes: list[int] = json.loads(done.stdout.splitlines()[-1])
    return classes


def exported(study: Study, how: str, winner: Winner, python: Path, work: Path) -> list[Measured]:
    """One point in every target, and how its predictions compare with the study's."""
    record = winner.record
    if record.row_scores is None:
        raise SystemExit(f"trial {record.trial} has no scores of rows")
    split = next(s for s in winner.ground.dataset.splits if s.name == record.split)
    right = record.row_scores.values() > 0.5  # noqa: PLR2004 - they are 0 and 1
    value = record.metrics[winner.front.metric].value
    about = {"pick": how, "trial": record.trial, "params": record.trainable_params}
    about |= {"split": record.split, "rows": len(split), "study": value}
    found = []
    for target in TARGETS:
        out = Path(tempfile.mkdtemp(dir=work)) / "export"
        flags = ("--pick", how, "--to", target, "-o", out, "--format", "json")
        done = autopeft("export", study.folder, *flags)
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1].removeprefix("error: ")
            found.append({**about, "target": target, "refused": said})
            continue
        question = {
            "target": target,
            "folder": str(out),
            "backbone": winner.description.backbone,
            "n_outputs": winner.outputs.n_outputs,
            "texts": [texts[0] for texts in split.texts],
            "max_length": winner.description.max_length,
        }
        classes = (
            native_classes(question) if target == "native" else plain_classes(python, question)
        )
        hits = np.array(classes) == np.array(split.labels)
        proof: dict[str, Any] = json.loads(done.stdout)["proof"]
        compared = {"export": float(hits.mean()), "rows_that_differ": int((hits != right).sum())}
        size = sum(path.stat().st_size for path in out.iterdir())
        found.append({**about, "target": target, **compared, "proof": proof, "bytes": size})
    return found


def print_exports(found: list[Measured]) -> None:
    """A table, and below it what was refused."""
    header = "point", "trial", "parameters", "target", "rows", "study", "export", "differ", "proof"
    rows = []
    for one in found:
        rest = ["refused", "", ""]
        if "proof" in one:
            rest = [f"{one['export']:.4f}", str(one["rows_that_differ"])]
            rest.append(f"{one['proof']['difference']:.1e}")
        first = [one["pick"], str(one["trial"]), f"{one['params']:,}", one["target"]]
        rows.append([*first, f"{one['rows']:,} {one['split']}", f"{one['study']:.4f}", *rest])
    print_table(header, rows)
    for one in found:
        if "refused" in one:
            print(f"{one['pick']}: {one['refused']}")


def main() -> None:
    """Search, export, compare, write the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, required=True, help="train, validation, test .jsonl")
    options.add_argument("--work", type=Path, required=True, help="for study and exports")
    options.add_argument("--picks", nargs="+", default=PICKS, help="points of the front")
    options.add_argument("--out", type=Path, default=HERE / "results" / "exports.json")
    args = options.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    study, python = searched(args.data, args.work), without_autopeft(args.work)
    found = []
    for how in args.picks:
        found += exported(study, how, winner_of(study, how), python, args.work)
    front = study.front()
    points = [
        {"trial": p.trial, "params": p.trainable_params, "quality": p.quality, "what": p.summary}
        for p in front.points
    ]
    result = {"benchmark": "exports", "front": points, "exports": found}
    libraries = ("safetensors", "tokenizers", "huggingface_hub")
    result["libraries"] = {name: importlib.metadata.version(name) for name in libraries}
    write_result(args.out, result)
    print_exports(found)
    if any(one.get("rows_that_differ") for one in found):
        raise SystemExit("an export predicts something else than the study did")


if __name__ == "__main__":
    main()
