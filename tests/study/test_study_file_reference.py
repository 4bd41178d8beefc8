"""docs/study-file.md names every key of a study file, with its default."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from autopeft.study.spec import StudySpec
from autopeft.tasks.spec import METRICS, GenerationSpec

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "study-file.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z_.]+)` \| (.+?) \| (.+) \|$", re.MULTILINE)
SECTIONS = {
    "data": StudySpec.model_fields["data"].annotation,
    "generation": GenerationSpec,
    **{
        name: type(field.default)
        for name, field in StudySpec.model_fields.items()
        if isinstance(field.default, BaseModel)
    },
}


def keys():
    """Each key as it is written in the page, with its field."""
    for name, field in StudySpec.model_fields.items():
        if name not in SECTIONS:
            yield name, field
    for section, kind in SECTIONS.items():
        for name, field in kind.model_fields.items():
            yield f"{section}.{name}", field


def told(default):
    """A default as the page tells it."""
    if default == "-":
        return None
    value = yaml.safe_load(default.strip("`"))
    return tuple(value) if isinstance(value, list) else value


def test_all_keys_are_there_once():
    rows = [key for key, _, _ in ROW.findall(PAGE)]

    assert sorted(rows) == sorted(name for name, _ in keys())


@pytest.mark.parametrize("name", dict(keys()))
def test_default_is_that_of_the_code(name):
    rows = {key: default for key, default, _ in ROW.findall(PAGE)}
    field = dict(keys())[name]

    if field.is_required():
        assert rows[name] == "required"
    else:
        assert told(rows[name]) == field.default


def test_all_metrics_are_there():
    (row,) = [what for key, _, what in ROW.findall(PAGE) if key == "metric"]

    assert {name for names in METRICS.values() for name in names} <= set(
        re.findall(r"`([a-z_0-9]+)`", row)
    )
