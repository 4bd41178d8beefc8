"""What a study optimises: names, exact costs, and what samplers and records are told."""

import pytest
from record_factory import make_record
from tiny import TASK, tiny_backbone

from autopeft.errors import DataError
from autopeft.objectives import (
    BYTES,
    LATENCY,
    PARAMS,
    TRAINED,
    amount,
    cost_of,
    directions_of,
    exact_costs,
    objectives_of,
    ordered,
    values_of,
)
from autopeft.records import Metric, Objective
from autopeft.space.methods import method, methods
from autopeft.training.cohort import Cohort
from autopeft.training.settings import TrainingSettings


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("bert")


@pytest.mark.parametrize("name", list(methods()))
def test_costs_in_closed_form_are_what_is_stored(backbone, name):
    if method(name).misfit(backbone.shape):
        pytest.skip("not for this model")
    genotype = method(name).smallest(backbone.shape)
    costs = exact_costs(genotype, backbone.shape)
    with Cohort(backbone, [genotype], [0], TASK, TrainingSettings()) as cohort:
        _, tensors = cohort.injection.stored(0)
    assert costs[BYTES] == 4 * sum(tensor.numel() for tensor in tensors.values())
    floats = sum(t.numel() for t in tensors.values() if t.is_floating_point())
    assert costs[PARAMS] == floats == genotype.count_params(backbone.shape)
    assert costs[TRAINED] == genotype.count_trained(backbone.shape)


def test_samplers_see_orders_of_magnitude_of_sizes_and_times_as_they_are():
    assert values_of(0.5, {PARAMS: 0}) == (0.5, 0.0)
    assert values_of(0.5, {PARAMS: 999, BYTES: 9999}) == pytest.approx((0.5, 3.0, 4.0))
    assert values_of(0.5, {LATENCY: 7.5}) == (0.5, 7.5)
    assert directions_of(2) == ["maximize", "minimize", "minimize"]


def test_order_given_does_not_matter():
    given = ["latency_ms", "metric", "adapter_bytes"]
    assert ordered(given) == ordered(given[::-1]) == ("metric", "adapter_bytes", "latency_ms")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["metric", "speed"], "no objective `speed`; allowed: metric, trainable_params, "),
        (["metric", "step_ms", "step_ms"], "given twice"),
        (["trainable_params", "step_ms"], "`metric`, the study's own one, has to be among"),
        (["metric"], "2 to 4 objectives, not 1"),
        (["metric", "trainable_params", "adapter_bytes", "step_ms", "latency_ms"], "not 5"),
    ],
)
def test_wrong_objectives_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        ordered(names)


def test_records_tell_what_is_predicted_from_what_is_exact():
    metrics = {"f1": Metric(0.5, 0.1)}
    costs = {PARAMS: 8.0, BYTES: 32.0, LATENCY: 1.5}
    assert objectives_of("f1", metrics, costs, (BYTES, LATENCY), {}) == {
        "f1": Objective(0.5, "1", 0.1),
        "trainable_params": Objective(8.0, "parameters", None),
        "adapter_bytes": Objective(32.0, "B", None),
        "latency_ms": Objective(1.5, "ms", None, "predicted"),
    }
    measured = objectives_of("f1", metrics, costs, (LATENCY,), {LATENCY: 1.25})
    assert measured["latency_ms"] == Objective(1.25, "ms", None, "measured")


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.0, "B", "0 B"),
        (1536.0, "B", "1.5 KiB"),
        (6 * 2.0**30, "B", "6 GiB"),
        (12.34, "ms", "12.34 ms"),
        (1000.0, "B", "1000 B"),
        (12345.0, "parameters", "12,345"),
    ],
)
def test_amounts_for_people(value, unit, words):
    assert amount(value, unit) == words


def test_missing_cost_is_named():
    record = make_record()
    assert cost_of(record, "trainable_params") == record.trainable_params
    assert cost_of(record, "latency_ms") == record.objectives["latency_ms"].value
    with pytest.raises(DataError, match="trial 3 has no step_ms, it has: trainable_params, lat"):
        cost_of(record, "step_ms")
