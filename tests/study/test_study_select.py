"""Who takes part in the final selection, and what its records come to."""

from dataclasses import replace

import numpy as np
import pytest
from record_factory import make_failure, make_record
from scipy import stats

from autopeft.errors import DataError
from autopeft.estimate import adjusted, difference, pooled_seeds, quality
from autopeft.front import front_of, full_points_of, points_of
from autopeft.records import Metric
from autopeft.row_scores import pack
from autopeft.selection import read_selection, write_selection
from autopeft.space.genotype import Genotype, Op
from autopeft.study.contenders import affordable, contenders, kind_of
from autopeft.study.select import selection_of

LORA = Op("lowrank", "attn_in", "q", (4, 4))
BESIDE = Op("lowrank", "attn_in", "attn_out", (4, 4))
BITFIT = Op("bias", "q", "q", (1, 1))
ADAPTER = Op("bottleneck", "ffn_out", "ffn_out", (2, 2), "relu")


def genotype(*ops, rate=1e-3):
    return Genotype(2, ops, learning_rate=rate).to_dict()


OPS = {
    "head": (),
    "lora": (LORA,),
    "bias": (BITFIT,),
    "bottleneck": (ADAPTER,),
    "mixed": (LORA, ADAPTER),
}


def searched(*trials, n_before=0):
    """A record of the search for each (kind, quality, parameters), numbered from `n_before`."""
    return [
        make_record(
            trial=i,
            rung=0,
            genotype=genotype(*OPS[kind], rate=(i + 1) / 1000),
            metrics={"accuracy": Metric(score, 0.02)},
            trainable_params=params,
            split="validation",
        )
        for i, (kind, score, params) in enumerate(trials, n_before)
    ]


def selected(trial, scores, search, **changes):
    """Records of the final selection, from scores [seed, row]."""
    return [
        make_record(
            trial=trial,
            rung=2,
            replicate=seed,
            split="selection",
            genotype=search[trial].genotype,
            trainable_params=search[trial].trainable_params,
            metrics={"accuracy": Metric(float(row.mean()), 0.01)},
            row_scores=pack(row),
            **changes,
        )
        for seed, row in enumerate(scores, 1)
    ]


def who(records, most=20):
    front = front_of(records, "accuracy", "maximize", 10_000, str)
    return contenders(points_of(records, "accuracy", 10_000), front, most)


STUDY = searched(
    ("head", 0.60, 0),
    ("lora", 0.80, 1000),
    ("bias", 0.75, 90),
    ("bottleneck", 0.74, 400),
    ("mixed", 0.81, 800),
    ("lora", 0.82, 1200),
    ("mixed", 0.83, 2000),
    ("bottleneck", 0.76, 900),
)


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


def scores_of(rng, accuracies, rows=400):
    """[seed, row] for each trial; how hard a row is is shared."""
    hard = rng.normal(size=rows)
    return {
        trial: np.array(
            [(0.7 * rng.normal(size=rows) + 0.7 * hard < level).astype(float) for _ in range(3)]
        )
        for trial, level in accuracies.items()
    }


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
    # 0 is the head, 6 is larger than LoRA
    p_values = {t: difference(scores[t], scores[5], pooled).p_value for t in (2, 4, 7)}
    together = adjusted(p_values, 4)
    assert {c.trial: c.p_value for c in found.comparisons} == pytest.approx(together)
    assert {c.baseline for c in found.comparisons} == {5}
    assert found.comparisons[0].trial == 4
    assert found.comparisons[0].beats
    assert found.recommended == 4
    assert "this beats tuned LoRA (trial 5" in found.verdict


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


def test_seeds_of_one_that_collapses_are_its_own():
    roles = who(STUDY)
    scores = scores_of(np.random.default_rng(0), dict.fromkeys(roles, 1.0))
    scores[7][0] = 0
    records = [*STUDY, *(r for trial in scores for r in selected(trial, scores[trial], STUDY))]
    points = points_of(records, "accuracy", 9999)
    found = selection_of(records, roles, points=points, metric="accuracy", summarize=str)
    own = pooled_seeds([scores[7]])
    pooled = pooled_seeds([scores[trial] for trial in roles if trial != 7])
    for item in found.contenders:
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
    assert "search_compares" not in alike.to_dict()
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


def test_records_of_the_selection_leave_the_front_alone():
    scores = scores_of(np.random.default_rng(0), {5: 3.0})
    more = selected(5, scores[5], STUDY)
    assert who([*STUDY, *more]) == who(STUDY)


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
