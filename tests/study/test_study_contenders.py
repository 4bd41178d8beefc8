"""Who takes part in the final selection."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selected_study import (
    BESIDE,
    BITFIT,
    LORA,
    OPS,
    STUDY,
    genotype,
    scores_of,
    searched,
    selected,
    who,
)

from autopeft.front import front_of, points_of
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.study.contenders import affordable, contenders, kind_of, may_be_best


@pytest.mark.parametrize(
    ("ops", "kind"),
    [
        ((), "head"),
        ((LORA,), "lora"),
        ((BESIDE,), "lowrank"),
        ((BITFIT,), "bias"),
        ((LORA, BITFIT), None),
    ],
)
def test_kind_of_a_genotype(ops, kind):
    assert kind_of(genotype(*ops)) == kind
    assert genotype_from_dict(genotype(*ops)).is_lora == (kind == "lora")


def test_most_important_come_first():
    """On the front are 0, 2, 4, 5 and 6; 4 is within one standard error of 6."""
    everybody = {
        4: "recommended",
        5: "lora",
        0: "head",
        6: "front",
        2: "front",
        7: "method",
    }
    found = who(STUDY)
    assert found == everybody
    assert list(found) == list(everybody)
    for most in (2, 3, 5):
        assert list(who(STUDY, most).items()) == list(everybody.items())[:most]


def test_baseline_that_is_recommended_stays_a_baseline():
    assert who(searched(("head", 0.6, 0), ("lora", 0.8, 100)), 2) == {1: "lora", 0: "head"}
    assert who(searched(("head", 0.6, 0), ("mixed", 0.601, 100)), 2) == {0: "head", 1: "front"}


@pytest.mark.parametrize(
    ("trainings", "seeds", "expected"),
    [
        (36, 3, (12, 3)),
        (16, 3, (5, 3)),
        (11, 3, (5, 2)),
        (4, 3, (2, 2)),
        (3, 3, (0, 0)),
        (9, 1, (0, 0)),
        (9, 0, (0, 0)),
        (50, 5, (10, 5)),
        (12, 5, (4, 3)),
    ],
)
def test_contenders_and_seeds_shrink_to_what_is_affordable(trainings, seeds, expected):
    assert affordable(trainings, seeds) == expected
    assert expected[0] * expected[1] <= trainings


def test_contenders_are_ordered_by_the_scores_of_all_rungs():
    """Of two of a kind, and of two on the front, the one that was good at the lower rung, too."""
    kinds = (("lora", 0.80, 1000), ("lora", 0.81, 1100), ("bias", 0.70, 90), ("bias", 0.71, 100))
    top = [replace(record, rung=1) for record in searched(*kinds)]
    assert list(who(top).items()) == [(0, "recommended"), (1, "lora"), (3, "front"), (2, "front")]
    below = searched(*((kind, 0.7 - 0.1 * (i % 2), n) for i, (kind, _, n) in enumerate(kinds)))
    assert list(who([*below, *top]).items()) == [
        (0, "lora"),
        (1, "front"),
        (2, "front"),
        (3, "front"),
    ]


def test_method_measured_by_another_metric_comes_last():
    """However good it is by that one."""
    records = searched(("bias", 0.6, 100), ("head", 0.9, 0))
    paused = searched(("bottleneck", 0.99, 100), n_before=2)
    front = front_of(records, "accuracy", "maximize", 10_000, str)
    points, others = (points_of(some, "accuracy", 10_000) for some in (records, paused))
    roles = contenders(points, front, 20, others)
    assert list(roles.items()) == [(1, "head"), (0, "method"), (2, "method")]


KINDS = st.sampled_from([*OPS])
MEASURED = st.tuples(KINDS, st.sampled_from([0.6, 0.7, 0.8]), st.integers(0, 3))


@given(st.lists(MEASURED, min_size=1, max_size=12), st.data())
def test_who_may_be_the_best_is_known_before_others_fall(trials, data):
    """Those that go on change, for better or worse, and have new weights; the others stay."""
    numbers = st.sets(st.sampled_from(range(len(trials))))
    final, going = data.draw(numbers), data.draw(numbers)
    may_be = may_be_best(points_of(searched(*trials), "accuracy", 9999), final)
    going -= final
    new = {i: data.draw(st.sampled_from([0.5, 0.75, 0.9])) for i in going}
    after = [(kind, new.get(i, score), n) for i, (kind, score, n) in enumerate(trials)]
    chosen = {trial for trial, role in who(searched(*after)).items() if role != "front"}
    alone = {i for i in chosen if kind_of(genotype(*OPS[trials[i][0]])) is not None}
    recommended = front_of(searched(*after), "accuracy", "maximize", 10_000, str).recommended
    assert alone <= may_be | going | {recommended}
    assert len(may_be & final) <= len(OPS), "or this keeps everything"


def test_who_was_paused_may_be_the_best_where_nobody_is_final():
    points = points_of(searched(("lora", 0.6, 100), ("bias", 0.6, 10)), "accuracy", 9999)
    paused = points_of(searched(("lora", 0.9, 90), ("bias", 0.1, 9), n_before=2), "accuracy", 9999)
    assert may_be_best(points, {0}, paused) == {0, 1, 2, 3}
    assert may_be_best(points, {0, 1}, paused[:1]) == {0, 1, 2}


def test_records_of_the_selection_leave_the_front_alone():
    scores = scores_of(np.random.default_rng(0), {5: 3.0})
    more = selected(5, scores[5], STUDY)
    assert who([*STUDY, *more]) == who(STUDY)
