"""The front: laws of dominance, a hypervolume checked by brute force, and front.json."""

import copy
import json
import math
from itertools import pairwise, product
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from jsonschema import Draft202012Validator
from record_factory import make_failure, make_record

from autopeft.errors import ConfigError, DataError
from autopeft.front import front_of, place, points_of, unbeaten, volume
from autopeft.front_file import front_from_dict, front_to_dict, read_front, write_front
from autopeft.objectives import PARAMS, cost_of, objective
from autopeft.records import Metric

SCHEMA = Path(__file__).parents[1] / "docs" / "schema" / "front.schema.json"
BUDGET = 1000


def measured(trial, quality, params, *, stderr=0.0, **changes):
    return make_record(
        trial=trial,
        trainable_params=params,
        metrics={"accuracy": Metric(quality, stderr)},
        genotype={"number": trial},
        **changes,
    )


def front(records, max_params=BUDGET, metric="accuracy"):
    return front_of(records, metric, "maximize", max_params, lambda g: f"genotype {g['number']}")


def trials(result):
    return [point.trial for point in result.points]


def study(*points):
    """One complete record for each (quality, params), trials counted from 0."""
    return [measured(i, quality, params) for i, (quality, params) in enumerate(points)]


# few distinct values, so that ties and duplicates are common; a sixth of the sizes over budget
qualities = st.integers(-2, 8).map(lambda n: n / 8)
sizes = st.sampled_from([0, 1, 10, 100, 1000, 1001])
studies = st.lists(st.tuples(qualities, sizes), max_size=12).map(lambda points: study(*points))
fractions = st.floats(-1, 1)


def quality_of(record):
    return record.metrics["accuracy"].value


def beats(one, two):
    """Better, or as good and first."""
    as_good = quality_of(one) >= quality_of(two) and one.trainable_params <= two.trainable_params
    same = (quality_of(one), one.trainable_params) == (quality_of(two), two.trainable_params)
    return as_good and (not same or one.trial < two.trial)


@given(studies)
def test_front_is_exactly_the_records_that_nothing_in_the_budget_beats(records):
    fitting = [record for record in records if record.trainable_params <= BUDGET]
    unbeaten = [r.trial for r in fitting if not any(beats(other, r) for other in fitting)]
    assert sorted(trials(front(records))) == unbeaten


@given(studies, st.sets(st.integers(0, 11)))
def test_what_only_changing_trials_beat_may_be_on_the_front(records, final):
    points, names = points_of(records, "accuracy", BUDGET), ("trainable_params",)
    fitting = [record for record in records if record.trainable_params <= BUDGET]
    ends = [record for record in fitting if record.trial in final]
    expected = {r.trial for r in fitting if not any(beats(end, r) for end in ends)}
    assert unbeaten(points, final, names) == expected
    assert unbeaten(points, range(12), names) == set(trials(front(records))) <= expected


@given(studies)
def test_points_ascend_in_parameters_and_quality(records):
    points = front(records).points
    for one, two in pairwise(points):
        assert one.trainable_params < two.trainable_params
        assert one.quality < two.quality


@given(st.data())
def test_order_of_records_changes_nothing(data):
    firsts = data.draw(studies)
    records = [
        *firsts,
        *(
            measured(r.trial, 0.3, r.trainable_params, replicate=1, objectives={})
            for r in firsts[::2]
        ),
        *(measured(r.trial, 0.6, r.trainable_params, replicate=2) for r in firsts[::3]),
    ]
    assert front(data.draw(st.permutations(records))) == front(records)


@given(studies, qualities, sizes)
def test_a_beaten_record_changes_nothing(records, quality, params):
    newcomer = measured(99, quality, params)
    before = front(records)
    if params > BUDGET or any(beats(r, newcomer) for r in records if r.trial in trials(before)):
        assert front([*records, newcomer]) == before
    else:
        assert 99 in trials(front([*records, newcomer]))


@given(studies, st.sampled_from(["nan", "diverged", "out_of_memory", "crash", "error"]))
def test_failed_trials_and_those_over_budget_are_never_on_the_front(records, kind):
    failed = make_failure(kind, trial=99, trainable_params=0)
    over = measured(100, 1.0, BUDGET + 1)
    assert front([*records, failed, over]) == front(records)


@pytest.mark.parametrize("kind", ["nan", "diverged"])
@pytest.mark.parametrize("where", [{"rung": 2}, {"rung": 0}, {"replicate": 1}])
def test_trial_that_ever_diverged_is_left_out(kind, where):
    fine = measured(0, 0.9, 10)
    diverged = make_failure(kind, trial=0, trainable_params=10, **where)
    assert front([fine, diverged]).points == ()


@pytest.mark.parametrize("kind", ["out_of_memory", "crash", "error"])
def test_accident_takes_nothing_from_what_was_measured_before(kind):
    fine = measured(0, 0.9, 10)
    accident = make_failure(kind, trial=0, trainable_params=10, rung=2)
    assert front([fine, accident]) == front([fine])


def test_duplicates_keep_the_first_trial():
    records = study((0.5, 10), (0.5, 10), (0.5, 20), (0.4, 10))
    assert trials(front(records)) == trials(front(records[::-1])) == [0]


def test_highest_rung_counts():
    early = measured(0, 0.9, 10, rung=0)
    late = measured(0, 0.7, 10, rung=2)
    assert [point.quality for point in front([early, late]).points] == [0.7]


def test_replicates_are_averaged_over_seeds_and_rows():
    replicates = [
        measured(0, quality, 10, stderr=stderr, replicate=number)
        for number, (quality, stderr) in enumerate([(0.7, 0.03), (0.8, 0.04), (0.9, 0.05)])
    ]
    (point,) = front(replicates).points
    assert point.quality == pytest.approx(0.8)
    over_rows = (0.03**2 + 0.04**2 + 0.05**2) / 3
    assert point.stderr == pytest.approx(math.sqrt(over_rows + 0.01 / 3))


def test_recommendation_goes_by_the_scores_of_all_rungs():
    """Two at the top, of which the dearer was worse at every rung but the last."""
    scores = {0: (10, [0.70, 0.80]), 1: (500, [0.60, 0.82]), 2: (0, [0.50])}
    records = [
        measured(trial, quality, params, rung=rung, stderr=0.01)
        for trial, (params, qualities) in scores.items()
        for rung, quality in enumerate(qualities)
    ]
    result = front(records)
    assert [(p.trial, p.quality) for p in result.points] == [(2, 0.50), (0, 0.80), (1, 0.82)]
    gained = (0.10 + 0.22) / 2
    expected = [0.50, (0.80 + 0.70 + gained) / 2, (0.82 + 0.60 + gained) / 2]
    assert [point.pooled for point in result.points] == pytest.approx(expected)
    assert result.judged == ", by the scores at all rungs"
    assert (result.best.trial, result.recommended, result.knee) == (0, 0, 0)
    measured_there = [(point.trainable_params, point.quality) for point in result.points]
    assert result.hypervolume == hypervolume(measured_there, BUDGET)
    at_the_top = front([record for record in records if record.rung == 1 or record.trial == 2])
    assert not at_the_top.judged
    assert (at_the_top.best.trial, at_the_top.recommended) == (1, 1)
    assert front_from_dict(front_to_dict(result)) == result
    validator().validate(front_to_dict(result))


def test_knee_goes_by_the_scores_of_all_rungs():
    """Of two whose scores lie as far above the line, the one that was good before is the knee."""
    scores = {0: (0, [0.0, 0.2]), 1: (9, [0.5, 0.6]), 2: (30, [0.0, 0.75]), 3: (999, [0.7, 0.8])}
    records = [
        measured(trial, quality, params, rung=rung)
        for trial, (params, qualities) in scores.items()
        for rung, quality in enumerate(qualities)
    ]
    at_the_top = front([record for record in records if record.rung == 1])
    assert (trials(at_the_top), at_the_top.knee) == ([0, 1, 2, 3], 2)
    assert front(records).knee == 1


def of_two_rungs(scores, **more):
    """Records of trials by (parameters, quality at the lower rung, quality at the top)."""
    return [
        measured(trial, quality, params, rung=rung, **more)
        for trial, (params, *qualities) in enumerate(scores)
        for rung, quality in enumerate(qualities)
    ]


def test_recommendation_is_near_what_is_best_at_all_rungs():
    """The cheapest is within one standard error of the best at the top alone, which is another."""
    records = of_two_rungs([(10, 0.725, 0.70), (100, 0.72, 0.80), (500, 0.60, 0.82)], stderr=0.01)
    result = front(records)
    cheapest, best, last = result.points
    assert result.best == best
    assert last.pooled - last.stderr < cheapest.pooled < best.pooled - best.stderr
    assert result.recommended == best.trial


def test_single_replicate_keeps_its_bits():
    (point,) = front([measured(0, 0.1 + 0.2, 10, stderr=0.1)]).points
    assert (point.quality, point.stderr) == (0.1 + 0.2, 0.1)


def test_point_carries_what_was_recorded():
    record = measured(4, 0.5, 10, stderr=0.25)
    (point,) = front([record]).points
    assert point.objectives == record.objectives
    assert point.genotype == record.genotype
    assert point.fraction == record.fraction
    assert point.summary == "genotype 4"


def test_summaries_are_made_for_points_only():
    asked = []

    def summarize(genotype):
        asked.append(genotype["number"])
        return "words"

    front_of(study((0.5, 10), (0.4, 20), (0.6, 30)), "accuracy", "maximize", BUDGET, summarize)
    assert asked == [0, 2]


def test_missing_metric_is_named():
    with pytest.raises(DataError, match="trial 0, rung 1, replicate 0 has no metric 'mcc', it has"):
        front(study((0.5, 10)), metric="mcc")


def test_different_splits_do_not_compare():
    with pytest.raises(DataError, match="different splits do not compare: test, validation"):
        front([measured(0, 0.5, 10), measured(1, 0.5, 10, split="test")])


def test_one_trial_is_one_genotype():
    with pytest.raises(DataError, match="trial 0 are of different genotypes"):
        front([measured(0, 0.5, 10), measured(0, 0.5, 11, rung=2)])


def test_one_measurement_counts_once():
    with pytest.raises(DataError, match="trial 0 has two records for one rung and replicate"):
        front([measured(0, 0.5, 10), measured(0, 0.5, 10)])


def test_unknown_direction_and_negative_budget_are_refused():
    with pytest.raises(ConfigError, match="direction is 'minimize', allowed: maximize"):
        front_of([], "loss", "minimize", BUDGET, str)
    with pytest.raises(ConfigError, match="max_params is -1"):
        front([], max_params=-1)


@pytest.mark.parametrize("records", [[], study((0.5, BUDGET + 1)), [make_failure()]])
def test_front_of_nothing_is_empty(records):
    result = front(records)
    assert (result.points, result.hypervolume) == ((), 0.0)
    assert (result.recommended, result.knee) == (None, None)


def hypervolume(points, max_params):
    """Of (parameters, quality), dominated ones allowed."""
    return volume([(place(PARAMS, params, max_params), quality) for params, quality in points])


def area_cell_by_cell(points, max_params):
    """The plane cut at every coordinate; a cell counts if some point dominates its far corner."""
    scaled = [(math.log10(1 + p) / math.log10(1 + max_params), max(q, 0)) for p, q in points]
    costs = sorted({1.0, *(cost for cost, _ in scaled)})
    heights = sorted({0.0, *(quality for _, quality in scaled)})
    return sum(
        (right - left) * (top - bottom)
        for left, right in pairwise(costs)
        for bottom, top in pairwise(heights)
        if any(cost <= left and quality >= top for cost, quality in scaled)
    )


@given(
    st.integers(1, 10**9).flatmap(
        lambda budget: st.tuples(
            st.just(budget),
            st.lists(st.tuples(st.integers(0, budget), fractions), max_size=10),
        )
    )
)
def test_hypervolume_is_the_area_counted_cell_by_cell(case):
    budget, points = case
    assert hypervolume(points, budget) == pytest.approx(
        area_cell_by_cell(points, budget), abs=1e-12
    )


@given(st.lists(st.tuples(st.integers(0, BUDGET), qualities), max_size=12))
def test_hypervolume_of_front_is_that_of_all_its_records(points):
    result = front(study(*((quality, params) for params, quality in points)))
    assert result.hypervolume == pytest.approx(hypervolume(points, BUDGET), abs=1e-12)
    assert 0 <= result.hypervolume <= 1


def test_hypervolume_by_hand():
    assert hypervolume([(9, 0.5)], 99) == pytest.approx(0.25)
    assert hypervolume([(9, 0.5), (0, 0.25)], 99) == pytest.approx(0.375)
    assert hypervolume([(9, -0.5)], 99) == 0
    assert hypervolume([(99, 1.0)], 99) == 0
    assert hypervolume([(0, 0.75)], 0) == 0.75


def test_knee_is_farthest_above_the_chord():
    assert front(study((0.1, 0), (0.7, 9), (0.8, 99), (0.9, 999))).knee == 1
    assert front(study((0.1, 0), (0.3, 9), (0.8, 99), (0.9, 999))).knee == 2


@pytest.mark.parametrize(
    "points",
    [
        [(0.5, 10)],
        [(0.5, 10), (0.6, 100)],
        [(0.1, 0), (0.2, 9), (0.9, 999)],
        [(-0.5, 0), (-0.2, 9)],
    ],
)
def test_knee_is_the_best_where_nothing_bulges(points):
    assert front(study(*points)).knee == len(points) - 1


def test_knee_counts_a_negative_correlation_as_nothing():
    """From -0.8 the second point would rise most, from 0 the third."""
    assert front(study((-0.8, 0), (0.1, 9), (0.5, 99), (0.6, 999))).knee == 2


def test_knee_of_negative_correlations_alone_is_the_best_at_all_rungs():
    """And that is not the last one, which is the best at the top."""
    result = front(of_two_rungs([(0, -0.1, -0.5), (9, -0.9, -0.2)]))
    assert [point.pooled for point in result.points] == pytest.approx([-0.225, -0.475])
    assert result.knee == 0


@given(st.lists(st.tuples(st.integers(0, BUDGET), fractions), min_size=1, max_size=8))
def test_no_point_is_farther_above_the_chord_than_the_knee(points):
    result = front(study(*((quality, params) for params, quality in points)))
    plane = {
        point.trial: complex(math.log10(1 + point.trainable_params) / 3, max(point.quality, 0))
        for point in result.points
    }
    first, last = plane[result.points[0].trial], plane[result.points[-1].trial]
    turn = (last - first).conjugate() / (abs(last - first) or 1)
    above = {trial: ((place - first) * turn).imag for trial, place in plane.items()}
    assert above[result.knee] == pytest.approx(max(above.values()), abs=1e-12)


@pytest.mark.parametrize(("stderr", "expected"), [(0.0, 2), (0.04, 2), (0.06, 1), (0.5, 0)])
def test_recommended_is_the_cheapest_within_one_standard_error_of_the_best(stderr, expected):
    records = [
        measured(0, 0.5, 0, stderr=0.9),
        measured(1, 0.85, 10, stderr=0.9),
        measured(2, 0.9, 100, stderr=stderr),
    ]
    assert front(records).recommended == expected


NAMES = ("trainable_params", "adapter_bytes", "latency_ms", "peak_memory_bytes")


@st.composite
def costly_studies(draw):
    """Records with one to three costs, few distinct values of each; and the costs' names."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    records = []
    for trial in range(draw(st.integers(0, 9))):
        params = draw(sizes)
        costs = {name: draw(st.sampled_from([0.0, 1.0, 3.0, 8.0])) for name in NAMES[1:]}
        objectives = {name: objective(name, value) for name, value in costs.items()}
        records.append(measured(trial, draw(qualities), params, objectives=objectives))
    return records, dict.fromkeys(names)


def costly_front(records, costs):
    return front_of(records, "accuracy", "maximize", BUDGET, lambda _: "words", costs)


def losses(record, names):
    costs = (record.trainable_params if n == PARAMS else record.objectives[n].value for n in names)
    return (*costs, -quality_of(record))


@given(costly_studies())
def test_with_several_costs_the_front_is_what_nothing_beats_in_all_of_them(study):
    records, names = study
    fitting = {r.trial: losses(r, names) for r in records if r.trainable_params <= BUDGET}

    def beats_it(other, trial):
        pairs = list(zip(fitting[other], fitting[trial], strict=True))
        return all(a <= b for a, b in pairs) and (any(a < b for a, b in pairs) or other < trial)

    unbeaten = [t for t in fitting if not any(beats_it(other, t) for other in fitting)]
    points = costly_front(records, names).points
    assert sorted(point.trial for point in points) == unbeaten
    assert [fitting[point.trial] for point in points] == sorted(map(fitting.get, unbeaten))


@given(costly_studies(), st.data())
def test_with_several_costs_the_order_of_records_changes_nothing(study, data):
    records, names = study
    assert costly_front(data.draw(st.permutations(records)), names) == costly_front(records, names)


@given(costly_studies())
def test_hypervolume_is_counted_cell_by_cell_with_several_costs_too(study):
    records, names = study
    result = costly_front(records, names)
    worst = result.worst
    places = [
        (*(place(n, cost_of(point, n), worst[n]) for n in worst), max(point.quality, 0.0))
        for point in result.points
    ]
    corner = (*[1.0] * len(worst), 0.0)
    *axes, heights = [sorted({*axis}) for axis in zip(*places, corner, strict=True)]
    total = 0.0
    for cell in product(*(pairwise(axis) for axis in (*axes, heights))):
        *costs, (_, top) = cell
        inside = any(
            all(a <= left for a, (left, _) in zip(one, costs, strict=False)) and one[-1] >= top
            for one in places
        )
        total += inside * math.prod(right - left for left, right in cell)
    assert result.hypervolume == pytest.approx(total, abs=1e-12)


@given(costly_studies())
def test_recommended_and_knee_follow_from_the_places_on_the_axes(study):
    records, names = study
    result = costly_front(records, names)
    if not result.points:
        assert (result.recommended, result.knee, result.best) == (None, None, None)
        return
    best = max(point.quality for point in result.points)  # its standard error is 0
    chosen = next(p for p in result.points if p.trial == result.recommended)
    assert chosen.quality == best
    means = {
        p.trial: sum(place(n, cost_of(p, n), end) for n, end in result.worst.items())
        for p in result.points
    }
    assert means[chosen.trial] == min(means[p.trial] for p in result.points if p.quality == best)
    assert result.knee in means
    assert (result.best.quality, result.best in result.points) == (best, True)


def test_knee_with_several_costs_by_hand():
    records = [
        measured(0, 0.2, 0, objectives={"latency_ms": objective("latency_ms", 1.0)}),
        measured(1, 0.7, 9, objectives={"latency_ms": objective("latency_ms", 9.0)}),
        measured(2, 0.6, 99, objectives={"latency_ms": objective("latency_ms", 1.0)}),
        measured(3, 0.8, 999, objectives={"latency_ms": objective("latency_ms", 9.0)}),
    ]
    # above the line by 0, 5/6 - (1/3 + 1) / 2, 4/6 - (2/3 + 0) / 2, 0
    assert costly_front(records, dict.fromkeys(("trainable_params", "latency_ms"))).knee == 2
    assert costly_front(records, {"trainable_params": None}).knee == 1


@given(costly_studies())
def test_front_of_several_costs_survives_json_and_fits_the_schema(study):
    records, names = study
    result = costly_front(records, names)
    data = json.loads(json.dumps(front_to_dict(result), allow_nan=False))
    validator().validate(data)
    assert data["version"] == (1 if list(names) == [PARAMS] else 2)
    assert front_from_dict(data) == result


def test_a_budget_is_where_the_axis_of_its_cost_ends():
    points = [measured(0, 0.5, 10, objectives={"latency_ms": objective("latency_ms", 2.0)})]
    assert costly_front(points, {"latency_ms": None}).hypervolume == 0
    assert costly_front(points, {"latency_ms": 8.0}).hypervolume == pytest.approx(0.75 * 0.5)


def test_missing_cost_is_named():
    with pytest.raises(DataError, match="trial 0 has no step_ms, it has: trainable_params, lat"):
        costly_front(study((0.5, 10)), {"step_ms": None})


@pytest.mark.parametrize(
    ("worst", "message"),
    [
        ({}, "worst names no cost"),
        ({"speed": 1.0}, "worst names speed, allowed: trainable_params"),
        ({"step_ms": 1.0}, r"points\[0\].objectives has no step_ms"),
        ({"latency_ms": -1.0}, "worst.latency_ms is -1.0"),
    ],
)
def test_wrong_costs_of_a_front_are_refused(worst, message):
    data = front_to_dict(example()) | {"version": 2, "worst": worst}
    with pytest.raises(ConfigError, match=message):
        front_from_dict(data)


def example():
    return front(
        [measured(0, 0.5, 0), measured(1, 0.8, 10, stderr=0.01), measured(2, 0.9, 500, stderr=0.2)]
    )


def test_document_has_exactly_the_agreed_keys():
    data = front_to_dict(example())
    assert " ".join(data) == ("version metric direction points hypervolume reference recommended")
    assert " ".join(data["points"][0]) == (
        "trial quality stderr trainable_params fraction objectives genotype summary"
    )
    assert data["reference"] == {"quality": 0.0, "trainable_params": BUDGET}


@given(studies)
def test_front_survives_json_and_fits_the_schema(records):
    result = front(records)
    data = json.loads(json.dumps(front_to_dict(result), allow_nan=False))
    validator().validate(data)
    assert front_from_dict(data) == result
    assert front_from_dict(data).knee == result.knee


def test_file_is_written_read_and_replaced(tmp_path):
    path = write_front(tmp_path, front([]))
    assert path == tmp_path / "front.json"
    assert read_front(path) == front([])
    write_front(tmp_path, example())
    assert read_front(path) == example()
    assert [path.name for path in tmp_path.iterdir()] == ["front.json"]


def validator():
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def changed(key, value):
    """The example with one dotted key replaced; a number in it counts points."""
    data = copy.deepcopy(front_to_dict(example()))
    place = data
    *parents, last = key.split(".")
    for parent in parents:
        place = place[int(parent)] if parent.isdigit() else place[parent]
    place[last] = value
    return data


@pytest.mark.parametrize(
    ("key", "value", "in_schema"),
    [
        ("version", 3, True),
        ("metric", "", True),
        ("direction", "minimize", True),
        ("points", {}, True),
        ("points.1.trial", -1, True),
        ("points.1.trial", 0, False),
        ("points.1.quality", float("nan"), False),
        ("points.1.quality", "0.8", True),
        ("points.1.quality", 0.95, False),
        ("points.1.quality", 0.5, False),
        ("points.1.stderr", -1, True),
        ("points.1.trainable_params", 500, False),
        ("points.1.trainable_params", 0.5, True),
        ("points.1.fraction", None, True),
        ("points.1.objectives", [], True),
        ("points.1.objectives.latency_ms.extra", 1, True),
        ("points.1.genotype", "lora", True),
        ("points.1.summary", "", True),
        ("points.1.pooled", "high", True),
        ("points.1.extra", 1, True),
        ("hypervolume", -1, True),
        ("hypervolume", float("inf"), False),
        ("reference", None, True),
        ("reference.quality", None, True),
        ("reference.trainable_params", 499, False),
        ("reference.extra", 1, True),
        ("recommended", 7, False),
        ("recommended", None, False),
        ("recommended", "0", True),
        ("knee", 1, True),
    ],
)
def test_malformed_front_is_refused_by_name(tmp_path, key, value, in_schema):
    data = changed(key, value)
    named = key.removesuffix(".extra").replace("points.1", "points").split(".")
    with pytest.raises(ConfigError, match=r"^here\.json: ") as caught:
        front_from_dict(data, "here.json")
    assert all(part in str(caught.value) for part in named)
    if in_schema:
        assert not validator().is_valid(data)
    (tmp_path / "front.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"front\.json"):
        read_front(tmp_path / "front.json")


@pytest.mark.parametrize("key", list(front_to_dict(example())))
def test_missing_key_is_refused_by_name(key):
    data = front_to_dict(example())
    del data[key]
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        front_from_dict(data)
    assert not validator().is_valid(data)


def test_empty_front_recommends_nothing():
    with pytest.raises(ConfigError, match="recommended is 0, allowed: None"):
        front_from_dict(front_to_dict(front([])) | {"recommended": 0})
