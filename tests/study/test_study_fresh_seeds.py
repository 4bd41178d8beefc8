"""Which fresh seeds of the final selection count: after failures, and where rows differ."""

from dataclasses import replace

import numpy as np
import pytest
from record_factory import make_failure
from selected_study import STUDY, scores_of, selected

from autopeft.errors import DataError
from autopeft.estimate import difference, pooled_seeds
from autopeft.front import points_of
from autopeft.objectives import MEMORY
from autopeft.records import Objective
from autopeft.study.select import selection_of


def test_contender_that_fails_with_a_fresh_seed_is_left_out():
    scores = scores_of(np.random.default_rng(0), {4: 1.0, 5: 1.0, 6: 1.0})
    records = [*STUDY, *(r for trial in scores for r in selected(trial, scores[trial], STUDY)[:2])]
    records.append(
        make_failure(trial=6, replicate=3, genotype=STUDY[6].genotype, split="selection")
    )
    roles = {4: "recommended", 5: "lora", 6: "front", 0: "head"}
    points = points_of(STUDY, "accuracy", 9999)
    more = {"points": points, "metric": "accuracy", "summarize": str}
    found = selection_of(records, roles, **more)
    assert [item.trial for item in found.contenders] == [4, 5]
    assert found.notes == ("trial 6 is left out: with a fresh seed it failed (nan)",)
    assert selection_of(records, {4: "recommended", 6: "front"}, **more) is None
    assert selection_of(STUDY, roles, **more) is None


def failing(kinds, *, split="selection", costs=("trainable_params",)):
    """The selection if fresh seeds of LoRA, by number, failed so; each measured another memory."""
    scores = scores_of(np.random.default_rng(0), {4: 1.0, 5: 1.0})
    records = [r for trial in scores for r in selected(trial, scores[trial], STUDY)]
    records = [
        replace(r, split=split, objectives={MEMORY: Objective(float(r.replicate), "B", None)})
        for r in records
        if (r.trial, r.replicate) not in {(5, seed) for seed in kinds}
    ]
    records += [
        make_failure(kind, trial=5, replicate=seed, genotype=STUDY[5].genotype, split=split)
        for seed, kind in kinds.items()
    ]
    found = selection_of(
        records,
        {4: "recommended", 5: "lora"},
        points=points_of(STUDY, "accuracy", 9999),
        metric="accuracy",
        summarize=str,
        costs=costs,
    )
    return found, scores


@pytest.mark.parametrize("kind", ["crash", "timeout", "out_of_memory", "error"])
def test_accident_with_a_fresh_seed_takes_nothing_from_the_others(kind):
    found, scores = failing({2: kind})
    lora = found.contender(5)
    assert (lora.seeds, found.contender(4).seeds) == (2, 3)
    assert lora.quality == pytest.approx(scores[5][[0, 2]].mean())
    assert [item.trial for item in found.comparisons] == [4]
    (note,) = found.notes
    assert note == f"trial 5 failed with a fresh seed ({kind}): its other seeds count"


def test_accidents_that_leave_one_seed_leave_none():
    found, _ = failing({2: "crash", 3: "timeout"})
    assert found is None


def test_accident_beside_a_failure_of_the_genotype_excuses_nothing():
    found, _ = failing({1: "crash", 4: "nan"})
    assert found is None


def test_with_folds_an_accident_takes_its_rows_from_all():
    found, scores = failing({2: "crash"}, split="fold")
    assert {item.seeds for item in found.contenders} == {2}
    assert found.contender(4).quality == pytest.approx(scores[4][[0, 2]].mean())
    told, cut = found.notes
    assert told.startswith("trial 5 failed with a fresh seed (crash)")
    assert cut.startswith("fresh seed 2 does not count")


def test_costs_are_those_of_the_first_seed_that_did_not_fail():
    found, _ = failing({1: "crash"}, costs=("trainable_params", MEMORY))
    assert found.contender(4).costs[MEMORY].value == 1
    assert found.contender(5).costs[MEMORY].value == 2


def folds_of(scores, search, seeds):
    """Records of contenders that each seed has scored on rows of its own."""
    return [
        replace(record, split="fold")
        for trial in scores
        for record in selected(trial, scores[trial], search)
        if record.replicate in seeds[trial]
    ]


def selection_of_folds(scores, seeds):
    return selection_of(
        folds_of(scores, STUDY, seeds),
        {4: "recommended", 5: "lora", 6: "front"},
        points=points_of(STUDY, "accuracy", 9999),
        metric="accuracy",
        summarize=str,
    )


def test_with_folds_only_the_seeds_that_all_have_count():
    scores = scores_of(np.random.default_rng(0), {4: 1.0, 5: 1.0, 6: 1.0})
    found = selection_of_folds(scores, {4: {1, 2, 3}, 5: {1, 2, 3}, 6: {1, 3}})
    pooled = pooled_seeds([scores[trial][[0, 2]] for trial in scores], crossed=False)
    for item in found.contenders:
        assert item.seeds == 2
        assert item.quality == pytest.approx(scores[item.trial][[0, 2]].mean())
    (against,) = found.within_size
    expected = difference(scores[4][[0, 2]], scores[5][[0, 2]], pooled)
    assert (against.low, against.high) == pytest.approx(expected.interval())
    assert found.rows == 800
    (note,) = found.notes
    assert note.startswith("fresh seed 2 does not count: not all contenders were trained with it")
    everything = selection_of_folds(scores, dict.fromkeys(scores, frozenset({1, 2, 3})))
    assert {item.seeds for item in everything.contenders} == {3}
    assert not everything.notes


def test_with_folds_one_with_too_few_seeds_of_the_others_is_left_out():
    scores = scores_of(np.random.default_rng(0), {4: 1.0, 5: 1.0, 6: 1.0})
    found = selection_of_folds(scores, {4: {1, 2}, 5: {1, 2}, 6: {2, 3}})
    assert [item.trial for item in found.contenders] == [4, 5]
    (note,) = found.notes
    assert note == "trial 6 is left out: too few of its seeds are those of the others"


def test_different_rows_do_not_compare():
    rng = np.random.default_rng(0)
    records = [
        *selected(4, scores_of(rng, {4: 1.0}, rows=40)[4], STUDY),
        *selected(5, scores_of(rng, {5: 1.0}, rows=50)[5], STUDY),
    ]
    points = points_of(STUDY, "accuracy", 9999)
    with pytest.raises(DataError, match="different numbers of rows"):
        selection_of(
            records, {4: "recommended", 5: "lora"}, points=points, metric="accuracy", summarize=str
        )
