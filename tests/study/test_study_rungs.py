"""Who waits for a place in a job, and what the rungs cost."""

import pytest
from record_factory import make_failure, make_record

from autopeft.records import Metric
from autopeft.study.rungs import Rungs, next_replicate, rungs_of

RUNGS = Rungs((10, 30, 90), 3)


def record(trial, rung, quality, params=10, **changes):
    metrics = {"accuracy": Metric(quality, 0.01)}
    values = {"replicate": 0, "split": "validation"} | changes
    return make_record(trial=trial, rung=rung, metrics=metrics, trainable_params=params, **values)


def waiting(records, asked=(), trials=27, loras=()):
    return RUNGS.waiting(records, "accuracy", ("trainable_params",), trials, asked, loras)


def test_small_studies_have_one_rung():
    assert rungs_of(900, 29, 3, 3).steps == (900,)
    assert rungs_of(900, 30, 3, 3).steps == (100, 300, 900)
    assert rungs_of(900, 30, 1, 3).steps == (900,)


def test_no_rung_is_too_low_to_tell_anything():
    assert rungs_of(576, 30, 3, 3).steps == (64, 192, 576)
    assert rungs_of(570, 30, 3, 3).steps == (190, 570)
    assert rungs_of(90, 30, 3, 3).steps == (30, 90)
    assert rungs_of(6, 30, 3, 2).steps == (2, 3, 6)
    assert rungs_of(90, 30, 3, 5).steps == (90,)


def test_shares_of_a_whole_training():
    assert [RUNGS.share(rung) for rung in range(3)] == pytest.approx([1 / 9, 2 / 9, 2 / 3])
    assert RUNGS.top == 2


def test_nobody_waits_before_a_rung_is_full():
    lowest = [record(trial, 0, trial / 100, params=trial) for trial in range(27)]
    assert waiting(lowest[:-1]) == {}
    (first,) = waiting(lowest).values()
    assert len(first) == 9
    assert 26 in first, "the best"


def test_the_best_lora_waits_though_others_beat_it():
    lowest = [record(trial, 0, trial / 100, params=100 - trial) for trial in range(27)]
    assert waiting(lowest) == {1: (8, 17, 26)}, "each bin's last beats all of it"
    assert waiting(lowest, loras=range(1, 6)) == {1: (5, 8, 17, 26)}
    assert waiting(lowest, loras={26, 3}) == {1: (8, 17, 26)}


def test_those_that_have_been_asked_for_do_not_wait():
    lowest = [record(trial, 0, trial / 100, params=trial) for trial in range(27)]
    (first,) = waiting(lowest).values()
    asked = {(trial, 1, 0) for trial in first[:4]}
    assert waiting(lowest, asked) == {1: first[4:]}
    second = [record(trial, 1, trial / 100, params=trial) for trial in first]
    everybody = {(trial, 1, 0) for trial in first}
    ((rung, top),) = waiting([*lowest, *second], everybody).items()
    assert (rung, len(top)) == (2, 3)


def test_the_highest_rung_comes_first():
    lowest = [record(trial, 0, trial / 100, params=trial) for trial in range(54)]
    found = waiting(lowest[:27], trials=54)[1]
    second = [record(trial, 1, trial / 100, params=trial) for trial in found]
    asked = {(trial, 1, 0) for trial in found}
    both = waiting([*lowest, *second], asked, trials=54)
    assert list(both) == [2, 1]
    assert set(both[1]) <= set(range(27, 54))


def test_failures_baselines_and_the_final_selection_do_not_count():
    lowest = [record(trial, 0, trial / 100) for trial in range(26)]
    failed = make_failure(trial=26, rung=0, replicate=0, split="validation")
    ((_, there),) = waiting([*lowest, failed]).items()
    assert 26 not in there
    baseline = record(26, 0, 0.99, genotype=lowest[0].genotype | {"full": True})
    ((_, there),) = waiting([*lowest, baseline]).items()
    assert 26 not in there
    later = [record(0, 2, 0.9, replicate=1, split="selection")]
    assert waiting([*lowest, failed, *later]) == {1: there}


def test_all_contenders_get_a_seed_before_any_gets_the_next():
    asked, jobs = set(), []
    while job := next_replicate([7, 3, 5], 2, 2, 2, asked):
        jobs.append(job)
        asked |= {(trial, 2, job[0]) for trial in job[1]}
    assert jobs == [(1, (7, 3)), (1, (5,)), (2, (7, 3)), (2, (5,))]
    assert next_replicate([7, 3, 5, 8], 2, 2, 2, asked) == (1, (8,))
    assert next_replicate([], 2, 2, 2, ()) is None
