"""A sampler learns from one rung alone: the lowest, or the highest that has measured enough."""

from record_factory import make_failure, make_record

from autopeft.study.lessons import highest_rung, lowest_rung


def rung(number, trials):
    return [make_record(trial=trial, rung=number, cohort=(trial,)) for trial in trials]


RECORDS = [*rung(0, range(9)), *rung(1, (1, 4, 7)), *rung(2, (4,))]


def test_lowest_rung_has_every_trial_once():
    assert [record.trial for record in lowest_rung(RECORDS)] == list(range(9))


def test_highest_rung_is_the_one_that_has_enough():
    keys = {n: {r.key for r in highest_rung(n)(RECORDS)} for n in (1, 2, 3, 4)}
    assert keys[1] == {(4, 2, 0)}
    assert keys[2] == keys[3] == {(1, 1, 0), (4, 1, 0), (7, 1, 0)}
    assert keys[4] == {(trial, 0, 0) for trial in range(9)}


def test_failures_are_not_enough():
    failed = [make_failure(trial=trial, rung=1, cohort=(trial,)) for trial in (2, 3)]
    assert {r.rung for r in highest_rung(4)([*RECORDS, *failed])} == {0}
    assert highest_rung(3)([*RECORDS, *failed]) == rung(1, (1, 4, 7))
