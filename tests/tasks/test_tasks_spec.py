"""The data section of a study file."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from autopeft.tasks.spec import DataSpec


def test_one_column_and_two_columns():
    assert DataSpec(train="a.csv", text="sentence").text == ("sentence",)
    assert DataSpec(train="a.csv", text=["a", "b"]).text == ("a", "b")
    assert DataSpec(train="a.csv").text is None


def test_survives_its_own_json():
    spec = DataSpec(train="a.csv", validation=Path("b.csv"), text=["a", "b"], train_rows=20)
    assert DataSpec(**spec.model_dump(mode="json", exclude_none=True)) == spec


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "either `train`"),
        ({"train": "a.csv", "hub": "glue/sst2"}, "either `train`"),
        ({"hub": "glue/sst2", "test": "a.csv"}, "not with `hub`"),
        ({"hub": "a b"}, "hub"),
        ({"hub": "a/b/c/d"}, "hub"),
        ({"train": "a.csv", "text": []}, "text"),
        ({"train": "a.csv", "text": ["a", "b", "c"]}, "text"),
        ({"train": "a.csv", "text": ["a", "a"]}, "named twice"),
        ({"train": "a.csv", "text": "label"}, "named twice"),
        ({"train": "a.csv", "train_rows": 1}, "train_rows"),
        ({"train": "a.csv", "rows": 10}, "rows"),
    ],
)
def test_refused(fields, says):
    with pytest.raises(ValidationError, match=says):
        DataSpec(**fields)


def test_frozen():
    spec = DataSpec(train="a.csv")
    with pytest.raises(ValidationError):
        spec.label = "other"
