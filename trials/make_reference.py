"""Run a reference study again, from its own study file: `make_reference.py sst2 --data FOLDER`.

FOLDER has a folder for each data set, `sst2/train.jsonl` and so on. The study is run in `--work`,
and may be interrupted and continued there; then what is under version control is copied here, with
names in place of the paths of the machine.
"""

import argparse
from pathlib import Path

from autopeft.demo.model import embedded_model
from autopeft.study.folder import Study
from autopeft.study.search import run_search
from autopeft.study.spec import StudySpec, load_study_spec

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
KEPT = ("study.yaml", "manifest.json", "records.jsonl", "front.json", "selection.json", "test.json")


def prepared(file: Path, data: Path) -> StudySpec:
    """The study of a file, its data and model where they are on this machine."""
    spec = load_study_spec(file)
    found = spec.resolved(data)
    if spec.model != MODEL:
        return found
    return found.model_copy(update={"model": str(embedded_model())})


def publish(study: Study, data: Path, folder: Path) -> None:
    """Copy the files that are kept, without paths of this machine."""
    paths = {
        f"{data.resolve()}/": "",
        str(data.resolve()): "DATA",
        str(embedded_model()): MODEL,
        str(study.folder.parent): "WORK",
    }
    for name in KEPT:
        file = study.folder / name
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            for path, instead in paths.items():
                text = text.replace(path, instead)
            (folder / name).write_text(text, encoding="utf-8")


def main() -> None:
    """Run one study and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the folder reference-NAME beside this file")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="where studies are run")
    args = parser.parse_args()
    folder = Path(__file__).parent / f"reference-{args.name}"
    spec = prepared(folder / "study.yaml", args.data)
    study = run_search(spec, args.work / args.name)
    publish(study, args.data, folder)
    print(f"{len(study.records())} records, {len(study.front().points)} points on the front")


if __name__ == "__main__":
    main()
