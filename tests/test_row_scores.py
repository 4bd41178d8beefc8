"""Scores of rows: small, their mean exact, damaged ones refused."""

import base64
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from record_factory import make_record

from autopeft.errors import DataError
from autopeft.records import Record
from autopeft.row_scores import LEVELS, MOST_ROWS, RowScores, pack


@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(-100, 100)))
def test_packed_scores_have_the_same_mean_and_are_close(scores):
    found = pack(scores).values()
    assert len(found) == len(scores)
    assert found.mean() == pytest.approx(scores.mean(), abs=1e-9)
    assert np.abs(found - scores).max() <= 2 * np.ptp(scores) / (LEVELS - 1) + 1e-9


@given(arrays(np.bool_, st.integers(1, 60)))
def test_right_and_wrong_are_kept_as_they_are(right):
    np.testing.assert_array_equal(pack(right.astype(np.float64)).values(), right)


def test_a_record_keeps_them_in_few_bytes():
    right = (np.random.default_rng(0).random(872) < 0.84).astype(np.float64)
    record = make_record(row_scores=pack(right))
    assert len(record.to_json()) - len(make_record().to_json()) < 350
    again = Record.from_dict(record.to_dict())
    assert again == record
    np.testing.assert_array_equal(again.row_scores.values(), right)


@pytest.mark.parametrize("codes", ["eJw=", "AAAA", "eJxjYAAAAAIAA", pack(np.arange(9.0)).codes])
def test_damaged_scores_are_refused(codes):
    with pytest.raises(DataError, match="row scores"):
        RowScores(0.0, 1.0, 2, codes).values()


def test_scores_of_more_rows_than_any_split_has_are_refused():
    packed = base64.b64encode(zlib.compress(bytes(MOST_ROWS + 1))).decode()
    assert len(packed) < 30_000
    with pytest.raises(DataError, match="or of more than 16,777,216 rows"):
        RowScores(0.0, 1.0, 2, packed).values()
