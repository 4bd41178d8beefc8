"""The studies under version control: what they claim follows from what they measured."""

import functools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from autopeft.front import front_of, full_points_of, points_of
from autopeft.selection import best_of, candidates
from autopeft.selection_file import read_selection, selection_to_dict
from autopeft.space.words import FROZEN, HEAD
from autopeft.study.folder import Study
from autopeft.study.planner import words
from autopeft.study.select import selection_of
from autopeft.study.spec import load_study_spec
from autopeft.tasks.spec import LANGUAGE

ROOT = Path(__file__).resolve().parents[1]
REFERENCES = sorted((ROOT / "trials").glob("reference-*"))


def words_of(study):
    """Says what a genotype of a study is."""
    task = load_study_spec(study.spec_file).task
    return functools.partial(words, nothing=FROZEN if task in LANGUAGE else HEAD)


def test_there_are_some():
    assert REFERENCES


@pytest.mark.parametrize("folder", REFERENCES, ids=lambda folder: folder.name)
def test_front_follows_from_the_records(folder):
    study = Study(folder)
    front = study.front()
    again = front_of(
        study.records(),
        front.metric,
        front.direction,
        front.reference.trainable_params,
        words_of(study),
    )
    assert again == front


def rounded(value):
    """JSON values without the last bits of numbers, which differ between machines."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 9) if isinstance(value, float) else value


SELECTED = [folder for folder in REFERENCES if (folder / "selection.json").exists()]


@pytest.mark.parametrize("folder", SELECTED, ids=lambda folder: folder.name)
def test_selection_follows_from_the_records(folder):
    study = Study(folder)
    told = read_selection(study.selection_file)
    records, most = study.records(), study.front().reference.trainable_params
    again = selection_of(
        records,
        {item.trial: item.role for item in told.contenders},
        points=points_of(records, told.metric, most) + full_points_of(records, told.metric),
        metric=told.metric,
        summarize=words_of(study),
        other_answers=None if told.search_compares else told.notes[-1],
        seen=told.seen,
    )
    # Labels are not under version control, so what one answer scores is taken as it is told.
    assert rounded(selection_to_dict(again)) == rounded(selection_to_dict(replace(told, lead=None)))
    if (lead := told.lead) is not None:
        best = best_of(candidates(told.contenders))
        assert lead.constant + lead.difference == pytest.approx(best.quality)


@pytest.mark.parametrize("folder", SELECTED, ids=lambda folder: folder.name)
def test_what_was_tested_has_the_role_that_the_selection_gave_it(folder):
    study = Study(folder)
    selection = study.selection()
    *_, opening = json.loads(study.test_file.read_text(encoding="utf-8"))["openings"]
    tested = {item["role"]: item["trial"] for item in opening["results"]}
    assert tested.pop("recommended") == selection.recommended
    named = {"lora": "tuned LoRA", "head": load_study_spec(study.spec_file).without_ops}
    assert tested.items() <= {named.get(c.role): c.trial for c in selection.contenders}.items()


@pytest.mark.parametrize("folder", REFERENCES, ids=lambda folder: folder.name)
def test_study_file_names_no_machine(folder):
    spec = load_study_spec(folder / "study.yaml")
    paths = [spec.data.train, spec.data.validation, spec.data.test]
    assert not any(path and path.is_absolute() for path in paths)
    for file in folder.iterdir():
        assert not re.search(r'"(/|[A-Z]:\\)', file.read_text(encoding="utf-8")), file
