"""What makes the measurements of two workers differ."""

import pytest

from autopeft.engines.inline import InlineEngine


@pytest.fixture(scope="module")
def facts(spec_of):
    return InlineEngine(spec_of().work).load()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model_hash": "0" * 64}, "another model"),
        ({"reading_hash": "0" * 64}, "another model"),
        ({"model_shape": {}}, "another model"),
        ({"head_hash": "0" * 64}, "another model"),
        ({"data_hash": "0" * 64}, "other rows"),
        ({"labels": ("good", "bad")}, "other rows"),
        ({"metric_hash": "0" * 64}, "another file of the metric"),
        ({"n_devices": 8, "notes": ("a note",)}, None),
    ],
)
def test_what_differs_is_told(facts, changed, told):
    assert facts.differs_from(facts) is None
    assert facts.model_copy(update=changed).differs_from(facts) == told
