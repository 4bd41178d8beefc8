"""What the records of the final selection come to."""

import math
from dataclasses import replace

import numpy as np
import pytest
from record_factory import make_failure
from scipy import stats
from selected_study import STUDY, genotype, scores_of, searched, selected, who

from autopeft.estimate import adjusted, difference, pooled_seeds, quality
from autopeft.front import front_of, full_points_of, points_of
from autopeft.row_scores import pack
from autopeft.selection_file import read_selection, selection_to_dict, write_selection
from autopeft.study.contenders import contenders
from autopeft.study.select import selection_of


def test_selection_is_what_the_estimates_say():
    rng = np.random.default_rng(0)
    roles = who(STUDY)
    scores = scores_of(rng, {4: 1.3, 5: 0.8, 0: 0.1, 6: 1.1, 2: 0.6, 7: 0.9})
    records = [*STUDY, *(r for trial in scores for r in selected(trial, scores[trial], STUDY))]
    rng.shuffle(records)
    found = selection_of(
        records,
        roles,
        points=points_of(records, "accuracy", 9999),
        metric="accuracy",
        summarize=str,
    )
    assert [item.trial for item in found.contenders] == [0, 2, 4, 7, 5, 6]
    assert (found.rows, found.metric) == (400, "accuracy")
    pooled = pooled_seeds([scores[trial] for trial in roles])
    for item in found.contenders:
        estimate = quality(scores[item.trial], pooled)
        assert (item.quality, item.stderr) == pytest.approx((estimate.mean, estimate.stderr))
        assert (item.low, item.high) == pytest.approx(estimate.interval())
        assert item.search_quality == STUDY[item.trial].metrics["accuracy"].value
        assert item.role == roles[item.trial]
    # 0 is the head; 6, which the search thought best, is larger than LoRA
    p_values = {t: difference(scores[t], scores[5], pooled).p_value for t in (2, 4, 6, 7)}
    together = adjusted(p_values, 4)
    assert {c.trial: c.p_value for c in found.comparisons} == pytest.approx(together)
    assert {c.baseline for c in found.comparisons} == {5}
    assert found.comparisons[0].trial == 4
    assert found.comparisons[0].beats
    assert found.recommended == 4
    assert "this beats tuned LoRA (trial 5" in found.verdict


LORAS = searched(
    ("head", 0.60, 0),
    ("lora", 0.82, 500),
    ("lora", 0.70, 300),
    ("lora", 0.80, 1200),
    ("lora", 0.79, 1500),
    ("mixed", 0.75, 400),
    ("bias", 0.70, 900),
    ("bottleneck", 0.85, 2000),
)


def selection_of_loras(roles, records=()):
    scores = scores_of(np.random.default_rng(0), dict.fromkeys(roles, 1.0))
    again = [r for trial in scores for r in selected(trial, scores[trial], LORAS)]
    return selection_of(
        [*again, *records],
        roles,
        points=points_of(LORAS, "accuracy", 9999),
        metric="accuracy",
        summarize=str,
    )


def test_every_lora_is_a_baseline_and_none_is_compared_with_another():
    """Of those that are as large the search's best, whatever it was chosen for."""
    found = selection_of_loras(
        {
            7: "recommended",
            1: "lora",
            0: "head",
            2: "front",
            3: "front",
            4: "front",
            5: "front",
            6: "method",
        }
    )
    assert {item.trial: item.baseline for item in found.comparisons} == {5: 1, 6: 3, 7: 1}
    assert {item.trial for item in found.within_size} == {5, 6}
    assert found.contender(1).role == "lora"
    assert found.contender(3).role == "front"
    smaller = selection_of_loras({1: "lora", 2: "front", 7: "recommended"})
    assert not smaller.within_size
    assert smaller.verdict.startswith(
        "Nothing else was tried again at as few parameters as tuned LoRA has. Of what is larger "
        "than every LoRA that was tried again nothing beats tuned LoRA (trial 1, 500 parameters) "
        "beyond noise; the nearest is trial 7 (2,000 parameters) by "
    )
    beside = selection_of_loras({1: "lora", 0: "head"})
    (head,) = (item for item in beside.contenders if item.role == "head")
    assert beside.verdict.startswith(
        f'Nothing but "{head.summary}" ({head.quality:.4f}) was tried again at as few parameters'
    )


def test_without_a_lora_nothing_is_compared():
    found = selection_of_loras({5: "front", 6: "front", 7: "recommended"})
    assert not found.comparisons
    assert found.verdict == "There is no tuned LoRA to compare with."


def test_lora_of_the_same_size_is_one_to_compare_with():
    search = searched(("lora", 0.80, 900), ("bias", 0.70, 900), ("bias", 0.71, 901))
    scores = scores_of(np.random.default_rng(0), dict.fromkeys(range(3), 1.0))
    found = selection_of(
        [r for trial in scores for r in selected(trial, scores[trial], search)],
        {0: "lora", 1: "front", 2: "front"},
        points=points_of(search, "accuracy", 9999),
        metric="accuracy",
        summarize=str,
    )
    assert [(item.trial, item.baseline) for item in found.within_size] == [(1, 0)]


def test_where_the_best_lora_drops_out_the_next_has_its_place():
    roles = {1: "lora", 4: "front", 3: "front", 6: "method", 2: "front"}
    failure = make_failure(trial=1, replicate=4, genotype=LORAS[1].genotype, split="selection")
    found = selection_of_loras(roles, [failure])
    assert {c.trial: c.role for c in found.contenders if c.role == "lora"} == {3: "lora"}
    assert [(item.trial, item.baseline) for item in found.comparisons] == [(6, 3)]
    assert "tuned LoRA (trial 3, 1,200 parameters)" in found.verdict


def test_what_the_search_thought_best_goes_by_all_rungs():
    """The LoRA to compare with, and who keeps half of the error rate."""
    kinds = (("lora", 0.80, 1000), ("lora", 0.79, 1100), ("mixed", 0.75, 400), ("mixed", 0.74, 500))
    top = [replace(record, rung=1) for record in searched(*kinds)]
    below = searched(*((kind, 0.5 + 0.2 * (i % 2), n) for i, (kind, _, n) in enumerate(kinds)))
    scores = scores_of(np.random.default_rng(0), {0: 1.0, 1: 1.0, 2: 1.1, 3: 1.2})
    found = selection_of(
        [r for trial in scores for r in selected(trial, scores[trial], top)],
        {0: "lora", 1: "front", 2: "front", 3: "front"},
        points=points_of([*top, *below], "accuracy", 9999),
        metric="accuracy",
        summarize=str,
    )
    pooled = pooled_seeds([*scores.values()])
    p_values = {t: difference(scores[t], scores[1], pooled).p_value for t in (2, 3)}
    assert {item.trial: item.baseline for item in found.comparisons} == {2: 1, 3: 1}
    assert {c.trial: c.p_value for c in found.comparisons} == pytest.approx(adjusted(p_values, 3))
    assert found.contender(0).search_quality == 0.80


def test_full_fine_tuning_is_a_baseline_whose_seeds_are_its_own():
    rng = np.random.default_rng(0)
    search = [*STUDY, *searched(("head", 0.9, 9999), n_before=len(STUDY))]
    search[-1] = replace(search[-1], genotype=genotype() | {"full": True}, trainable_params=99999)
    (full,) = full_points_of(search, "accuracy")
    points = [*points_of(search, "accuracy", 9999), full]
    front = front_of(search, "accuracy", "maximize", 9999, str)
    roles = contenders(points, front, 5)
    assert (full.trial, roles[full.trial]) == (8, "full")
    scores = scores_of(rng, dict.fromkeys(set(roles) - {8}, 1.0)) | {8: np.ones((3, 400))}
    scores[8][0, :40] = 0  # one of its seeds is worse
    records = [*search, *(r for trial in scores for r in selected(trial, scores[trial], search))]
    found = selection_of(records, roles, points=points, metric="accuracy", summarize=str)
    pooled = pooled_seeds([scores[trial] for trial in scores if trial != 8])
    for item in found.contenders:
        own = pooled_seeds([scores[8]]) if item.trial == 8 else pooled
        assert item.stderr == pytest.approx(quality(scores[item.trial], own).stderr)
    assert max(found.contenders, key=lambda item: item.quality).trial == 8
    assert found.recommended != 8
    assert 8 not in {item.trial for item in found.comparisons}
    assert "Full fine-tuning, 99,999 parameters, comes to 0.9667" in found.verdict


def test_one_that_trains_nothing_leaves_the_seeds_of_the_others_alone():
    """Without a head, the frozen backbone answers alike with every seed."""
    roles = who(STUDY)
    scores = scores_of(np.random.default_rng(0), dict.fromkeys(roles, 1.0))
    for trial in roles:
        scores[trial][0, :30] = 0  # seeds differ
    scores[0][:] = scores[0][0]
    records = [*STUDY, *(r for trial in scores for r in selected(trial, scores[trial], STUDY))]
    records = [replace(record, head_params=0) for record in records]
    points = points_of(records, "accuracy", 9999)
    found = selection_of(records, roles, points=points, metric="accuracy", summarize=str)
    pooled = pooled_seeds([scores[trial] for trial in roles if trial != 0])
    assert pooled.variance > 0
    for item in found.contenders[1:]:
        expected = quality(scores[item.trial], pooled)
        assert (item.low, item.high) == pytest.approx(expected.interval())
    frozen = found.contenders[0]
    assert frozen.stderr == pytest.approx(scores[0][0].std(ddof=1) / np.sqrt(400))
    with_a_head = [replace(record, head_params=9) for record in records]
    found = selection_of(with_a_head, roles, points=points, metric="accuracy", summarize=str)
    everybody = pooled_seeds([scores[trial] for trial in roles])
    assert found.contenders[0].stderr == pytest.approx(quality(scores[0], everybody).stderr)


@pytest.mark.parametrize("head_params", [770, 0])
def test_seeds_of_one_that_collapses_are_its_own(head_params):
    """Beside "head only" or a frozen backbone, which says nothing of seeds."""
    roles = who(STUDY)
    scores = scores_of(np.random.default_rng(0), dict.fromkeys(roles, 1.0))
    scores[7][0] = 0
    records = [*STUDY, *(r for trial in scores for r in selected(trial, scores[trial], STUDY))]
    records = [replace(record, head_params=head_params) for record in records]
    points = points_of(records, "accuracy", 9999)
    found = selection_of(records, roles, points=points, metric="accuracy", summarize=str)
    own = pooled_seeds([scores[7]])
    apart = {7} if head_params else {7, 0}
    pooled = pooled_seeds([scores[trial] for trial in roles if trial not in apart])
    for item in found.contenders[not head_params :]:
        expected = quality(scores[item.trial], own if item.trial == 7 else pooled)
        assert item.stderr == pytest.approx(expected.stderr)
    (against,) = (item for item in found.comparisons if item.trial == 7)
    expected = difference(scores[7], scores[against.baseline], own, pooled)
    assert (against.low, against.high) == pytest.approx(expected.interval())
    means = ", ".join(f"{mean:.4f}" for mean in sorted(scores[7].mean(axis=1)))
    (note,) = found.notes
    assert note.startswith(f"trial 7 depends on its seed far more than the others ({means}): ")


def test_scores_of_a_search_on_other_rows_are_not_compared(tmp_path):
    roles = who(STUDY)
    scores = scores_of(np.random.default_rng(0), dict.fromkeys(roles, 0.5))
    records = [*STUDY, *(r for trial in scores for r in selected(trial, scores[trial], STUDY))]
    points = points_of(records, "accuracy", 9999)
    more = {"points": points, "metric": "accuracy", "summarize": str}
    alike = selection_of(records, roles, **more)
    assert alike.drop is not None
    assert "search_compares" not in selection_to_dict(alike)
    other = selection_of(records, roles, **more, other_answers="selection: 1.0 answers a row")
    assert other.drop is None
    assert other.flattery == ""
    assert other.notes == (*alike.notes, "selection: 1.0 answers a row")
    write_selection(tmp_path / "selection.json", other)
    assert read_selection(tmp_path / "selection.json") == other


def selection_by(metric, scores):
    """The selection of two contenders, were their scores of this metric."""

    def named(record):
        return replace(record, metrics={metric: record.metrics["accuracy"]})

    records = [*STUDY, *(r for trial in scores for r in selected(trial, scores[trial], STUDY))]
    return selection_of(
        [named(record) for record in records],
        {4: "recommended", 5: "lora"},
        points=points_of([named(record) for record in STUDY], metric, 9999),
        metric=metric,
        summarize=str,
    )


@pytest.mark.parametrize("metric", ["accuracy", "mine.py:fn"])
def test_contender_that_is_always_right(metric, tmp_path):
    """Its interval ends where the metric does, and is no surer than half a row."""
    scores = {4: np.ones((3, 50)), 5: np.ones((3, 50))}
    for seed, wrong in enumerate([[0, 1], [2, 3], [4]]):
        scores[4][seed, wrong] = 0
    assert pooled_seeds([*scores.values()]).variance == 0, "seeds differ by chance alone"
    found = selection_by(metric, scores)
    write_selection(tmp_path / "selection.json", found)
    perfect = found.contender(5)
    assert perfect.quality == perfect.high == 1
    if metric == "accuracy":
        assert perfect.stderr == 0.5 / 50
        assert perfect.low == pytest.approx(1 - stats.t.ppf(0.975, 4) * 0.01)
    else:
        assert perfect.stderr == 0, "what a row can change is not known"


def test_interval_ends_where_the_metric_does():
    scores = scores_of(np.random.default_rng(0), {4: 1.0, 5: 1.0})
    scores[4][:] = [[-2], [2], [1]]

    def ends(metric):
        found = selection_by(metric, scores).contender(4)
        return found.low, found.high

    low, high = ends("mine.py:fn")
    assert low < -1
    assert high > 1
    assert ends("accuracy") == (0, 1)
    assert ends("mcc") == (-1, 1)


def test_on_the_same_rows_numbers_of_seeds_may_differ():
    scores = scores_of(np.random.default_rng(0), {4: 1.0, 5: 1.0})
    scores[4] = scores[4][:2]
    found = selection_by("accuracy", scores)
    assert {item.trial: item.seeds for item in found.contenders} == {4: 2, 5: 3}
    assert found.rows == 400
    assert not found.notes


def led(scores, constant, *, records=None):
    """The selection of 4, 5 and, full fine-tuning, 6, with what one answer scores."""
    found = [*STUDY, *(r for trial in scores for r in selected(trial, scores[trial], STUDY))]
    return selection_of(
        found if records is None else records,
        {4: "recommended", 5: "lora", 6: "full"},
        points=points_of(STUDY, "accuracy", 9999),
        metric="accuracy",
        summarize=str,
        constant=[pack(rows) for rows in constant],
    )


def test_best_candidate_is_held_against_one_answer_on_its_own_rows(tmp_path):
    rng = np.random.default_rng(0)
    scores = scores_of(rng, {4: 0.4, 5: 0.6, 6: 2.0})
    answer = (rng.random(400) < 0.66).astype(float)
    found = led(scores, [answer])
    best = max((4, 5), key=lambda trial: scores[trial].mean())
    pooled = pooled_seeds([scores[4], scores[5]])
    nothing = replace(pooled, variance=0.0, observed=0.0, df=math.inf)
    alone = difference(scores[best], np.stack([answer]), pooled, nothing)
    assert found.lead.constant == pytest.approx(answer.mean())
    assert found.lead.difference == pytest.approx(scores[best].mean() - answer.mean())
    assert (found.lead.low, found.lead.high) == pytest.approx(alone.interval())
    assert found.lead.p_value == pytest.approx(2 * alone.p_value), "of two candidates"
    write_selection(tmp_path / "selection.json", found)
    assert read_selection(tmp_path / "selection.json") == found


def test_rows_that_the_answer_has_right_too_make_the_lead_surer():
    hard = np.random.default_rng(0).permutation(400) / 400
    scores = {
        trial: np.stack([hard < level] * 3).astype(float) for trial, level in ((4, 0.70), (5, 0.65))
    }
    alike, other = (hard < 0.66).astype(float), (hard >= 0.34).astype(float)
    assert alike.mean() == other.mean()
    assert led(scores, [alike]).lead.p_value < 0.01
    assert led(scores, [other]).lead.p_value > 0.05


def test_each_fold_has_its_own_answer():
    scores = scores_of(np.random.default_rng(0), {4: 1.0, 5: 0.6})
    records = [*STUDY]
    for trial in scores:
        for record in selected(trial, scores[trial], STUDY):
            number = {1: 2, 2: 5, 3: 6}[record.replicate]
            records.append(replace(record, replicate=number, split="fold"))
    answers = [np.full(400, level) for level in (0.1, 0.2, 0.3, 0.4, 0.5)]
    found = led(scores, answers, records=records).lead
    assert found.constant == pytest.approx(np.mean([0.2, 0.5, 0.1])), "folds begin anew"
    best = max(scores[trial].mean() for trial in scores)
    assert found.difference == pytest.approx(best - found.constant)


@pytest.mark.parametrize("constant", [[], [np.zeros(399)]])
def test_without_an_answer_to_these_rows_there_is_no_lead(constant):
    scores = scores_of(np.random.default_rng(0), {4: 1.0, 5: 0.6})
    assert led(scores, constant).lead is None
