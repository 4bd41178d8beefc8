"""Files of a study that anybody may have written: refused by name, shown, or left out."""

import copy
import json
import random
from dataclasses import replace
from functools import reduce

import pytest
from synthetic_study import make_study

from autopeft.dashboard.info import study_info
from autopeft.dashboard.report import records_csv
from autopeft.errors import DataError
from autopeft.handle import Study

LEDGER = {
    "version": 1,
    "openings": [
        {
            "opened": "2026-11-30T06:00:00+00:00",
            "nth": 1,
            "rows": 20,
            "metric": "accuracy",
            "results": [
                {
                    "trial": 3,
                    "role": "recommended",
                    "trainable_params": 100,
                    "summary": "LoRA",
                    "metrics": {"accuracy": {"value": 0.5, "stderr": 0.1}},
                }
            ],
            "notes": [],
            "seen": 0,
        }
    ],
}
SCORE = ("openings", 0, "results", 0, "metrics", "accuracy")
GONE = object()
VALUES = (
    *(None, True, -1, 0, 1e308, -1e308, 10**30, 1.5, "", "x", "\ud800", "\x1b[31m", GONE),
    *([], {}, [[]], {"a": 1}, [1, 2, 3]),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    study = make_study(tmp_path_factory.mktemp("made") / "study", 6, failing=0.0, rungs=1)
    (study.folder / "test.json").write_text(json.dumps(LEDGER))
    return Study(study.folder)


@pytest.fixture
def changed(made):
    """Put a value at a place of a file; afterwards all files are as they were."""
    files = {path: path.read_text() for path in made.folder.glob("*.json*")}

    def change(name, place, value):
        data = json.loads(files[made.folder / name])
        owner = reduce(lambda inner, key: inner[key], place[:-1], data)
        if value is GONE:
            del owner[place[-1]]
        else:
            owner[place[-1]] = copy.deepcopy(value)
        (made.folder / name).write_text(json.dumps(data))
        return made

    yield change
    for path, text in files.items():
        path.write_text(text)


@pytest.mark.parametrize(
    ("name", "place", "value", "told"),
    [
        ("test.json", (*SCORE, "value"), "0.5", "openings[0].results[0].metrics.accuracy.value is"),
        ("test.json", ("openings",), -1, "openings is -1, allowed: a list"),
        ("test.json", ("openings", 0, "seen"), [[]], "openings[0].seen is [[]], allowed: a whole"),
        ("test.json", ("openings", 0, "rows"), GONE, "openings[0].rows is missing"),
        ("manifest.json", ("versions",), True, "versions is True, allowed: an object"),
        ("manifest.json", ("machine",), 3, "machine is 3, allowed: an object"),
        ("manifest.json", ("model",), True, "model is True, allowed: an object"),
        ("manifest.json", ("model", "widths"), "x", "model.widths is 'x', allowed: an object"),
        (
            "manifest.json",
            ("model", "n_layers"),
            2000,
            "model.n_layers is 2000, allowed: a whole n",
        ),
        ("manifest.json", ("model", "widths", "ffn_out"), GONE, "at ffn_out, which its study's"),
        ("manifest.json", ("model", "only_in"), {"q": "x"}, "model.only_in.q is 'x', allowed: a"),
        ("manifest.json", ("settings",), 1e308, "settings is 1e+308, allowed: an object"),
        ("manifest.json", ("data",), "", "data is '', allowed: an object"),
        ("manifest.json", ("data", "rows", "validation"), None, "data.rows.validation is None"),
        ("manifest.json", ("data", "notes"), -1, "data.notes is -1, allowed: a list"),
        ("front.json", ("metric",), "beauty", "is on the front, and its records have no beauty"),
    ],
)
def test_malformed_file_is_refused_with_its_key(changed, name, place, value, told):
    study = changed(name, place, value)
    with pytest.raises(DataError) as refusal:
        study.report()
    assert told in str(refusal.value)


def _places(value, at=()):
    if at:
        yield at
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(item, (*at, key))


def test_whatever_stands_in_a_file_ends_in_no_traceback(changed, made):
    draw, shown = random.Random(0), 0
    files = {n: json.loads((made.folder / n).read_text()) for n in ("manifest.json", "test.json")}
    cases = [(n, p, v) for n, data in files.items() for p in _places(data) for v in VALUES]
    for name, place, value in draw.sample(cases, 60):
        study = changed(name, place, value)
        try:
            study.front()
            study_info(study)
            shown += 1
        except DataError:
            pass
        changed(name, place[:1], files[name][place[0]])
    assert 10 < shown < 50


def test_seconds_that_add_up_to_no_number_are_refused(made, changed):
    path = made.folder / "records.jsonl"
    endless = [replace(record, seconds=1e308).to_json() for record in made.records()]
    changed("manifest.json", ("cohort",), 1)
    path.write_text("".join(f"{line}\n" for line in endless))
    with pytest.raises(DataError, match="the seconds of its records have no finite sum"):
        made.report()


def test_names_that_utf8_lacks_are_spelled_out(made, changed, tmp_path):
    changed("manifest.json", ("versions", "autopeft"), "\ud800")
    folder = tmp_path / "\udcff\udcfe"
    made.folder.rename(folder)
    try:
        text = Study(folder).report().save(tmp_path / "report.html").read_text("utf-8")
        csv = records_csv([(folder.name, Study(folder).records())])
    finally:
        folder.rename(made.folder)
    assert r"\udcff\udcfe" in text
    assert r"autopeft \ud800" in text
    assert r"\udcff\udcfe" in csv.encode().decode()
