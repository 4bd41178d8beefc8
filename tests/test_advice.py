"""What is said of trials beside which one to use."""

import pytest
from record_factory import make_failure, make_record

from autopeft.advice import trained_in_part

RECORDS = [
    make_record(trial=0, rung=0, steps=9),
    make_record(trial=0, rung=1, steps=27),
    make_record(trial=1, rung=0, steps=9),
    make_record(trial=2, rung=0, steps=9),
    make_failure("out_of_memory", trial=2, rung=1, steps=27),
    make_record(trial=3, rung=0, steps=12),
]


@pytest.mark.parametrize(
    ("trials", "told"),
    [
        ((0,), None),
        ((), None),
        ((0, 1), "trial 1 was trained for 9 of 27 steps; a final selection trains to the end"),
        ((2, 1, 3), "trials 1, 2, 3 were trained for 9 or 12 of 27 steps; a final selection"),
    ],
)
def test_trials_that_wait_at_a_lower_rung_are_told(trials, told):
    found = trained_in_part(RECORDS, trials, 27)
    assert found == told if told is None else found.startswith(told)
    assert trained_in_part(RECORDS, trials, None) is None
