"""Which trial is exported, and why."""

from dataclasses import replace

import pytest
from record_factory import make_failure, make_record

from autopeft.errors import ConfigError, DataError
from autopeft.export.pick import pick, shipped
from autopeft.front import front_of
from autopeft.records import Metric


def record(trial, accuracy, params, **more):
    metrics = {"accuracy": Metric(accuracy, 0.02)}
    values = {
        "trial": trial,
        "metrics": metrics,
        "trainable_params": params,
        "hash": f"{trial:016x}",
    }
    return make_record(**{**values, "fraction": params / 1_000_000, "cohort": (trial,), **more})


RECORDS = [
    record(0, 0.60, 0),
    record(1, 0.80, 1_000),
    record(2, 0.83, 5_000),
    record(3, 0.84, 90_000),
    record(4, 0.70, 2_000),
]
FRONT = front_of(RECORDS, "accuracy", "maximize", 100_000, lambda _: "ops")


def test_the_front_that_is_picked_from():
    assert [point.trial for point in FRONT.points] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("how", "trial", "reason"),
    [
        ("best", 3, "the best accuracy of the front"),
        ("knee", 1, "the knee"),
        ("cheapest", 2, "within one standard error (0.0200) of the best accuracy, the 0.8400 of"),
        ("4", 4, "not on the front"),
        ("1", 1, "it is on the front"),
        ("params<0.5%", 1, "with params<0.5%"),
        ("params <= 0.5%", 2, "with params <= 0.5%"),
        ("params<5_000", 1, "with params<5_000"),
        ("params<=5e3", 2, "with params<=5e3"),
        ("params<9% and quality>=0.6", 2, "of the front with"),
        ("quality>0.8, params<10%", 3, "of the front with"),
        ("accuracy > 79% and params < 90000", 2, "of the front with"),
    ],
)
def test_ways_to_pick(how, trial, reason):
    choice = pick(FRONT, RECORDS, how)
    assert choice.trial == trial
    assert reason in choice.reason


def test_best_is_told_by_all_rungs_with_conditions_as_without():
    """Of 3 and 4 the one that was good at the lower rung, too; conditions are on scores."""
    records = [record(3, 0.84, 10), record(4, 0.85, 20)]
    records += [record(3, 0.80, 10, rung=0), record(4, 0.60, 20, rung=0)]
    front = front_of(records, "accuracy", "maximize", 100_000, lambda _: "ops")
    assert [point.trial for point in front.points] == [3, 4]
    best, conditioned = (pick(front, records, how) for how in ("best", "params<=100%"))
    assert best.trial == conditioned.trial == 3
    assert best.reason == "the best accuracy of the front, by the scores at all rungs"
    assert conditioned.reason.endswith("with params<=100%, by the scores at all rungs")
    assert pick(front, records, "quality>=0.85").trial == 4


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("7", "trial 7 has not been completed; completed: 0, 1, 2, 3, 4"),
        ("largest", "allowed: cheapest, best, knee, the number of a trial"),
        ("params<", "allowed: cheapest"),
        ("params<--3", "allowed: cheapest"),
        ("params<-3", "no point of the front is like that"),
        ("size<3", "no `size`; allowed: params, quality, accuracy"),
        ("quality>0.9", "no point of the front is like that; it has: 0 (0%) with 0.6000"),
        ("params>0 and quality<0.5", "no point of the front"),
    ],
)
def test_what_cannot_be_picked_is_refused_with_what_can(how, said):
    with pytest.raises(ConfigError) as refusal:
        pick(FRONT, RECORDS, how)
    assert said in str(refusal.value)


@pytest.mark.parametrize("name", ["pearson", "my-own.py:neg_mae"])
def test_scores_may_be_negative_and_of_a_metric_of_ones_own(name):
    scores = {0: -0.6, 1: -0.4, 2: 0.1}
    records = [
        record(i, 0, 1 + i, metrics={name: Metric(score, 0.02)}) for i, score in scores.items()
    ]
    front = front_of(records, name, "maximize", 100_000, lambda _: "ops")
    for metric in ("quality", name):
        assert pick(front, records, f"{metric}>-0.5 and params<=2").trial == 1
        assert pick(front, records, f"{metric} <= -5e-1").trial == 0


def test_an_empty_front_has_no_winner():
    with pytest.raises(DataError, match="no point yet"):
        pick(replace(FRONT, points=(), recommended=None), [], "best")


def test_a_failed_trial_is_not_exported():
    failed = make_failure(trial=9, cohort=(9,))
    with pytest.raises(ConfigError, match="trial 9 has not been completed"):
        pick(FRONT, [*RECORDS, failed], "9")


@pytest.mark.parametrize(
    ("scores", "median"), [([0.5], 0), ([0.9, 0.5, 0.7], 2), ([0.9, 0.5], 1), ([4, 1, 3, 2], 3)]
)
def test_of_several_replicates_the_median_one_is_shipped(scores, median):
    top = [record(1, score, 10, rung=2, replicate=i) for i, score in enumerate(scores)]
    lower = record(1, 0.6, 10, rung=1, replicate=7)
    assert shipped([lower, *top], 1, "accuracy").replicate == median
