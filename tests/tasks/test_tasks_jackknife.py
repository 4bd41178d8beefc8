"""What each row adds to a metric: against the metric without it, and against resamples."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autopeft.tasks.jackknife import pseudo_values, rows_of_classes, rows_of_numbers
from autopeft.tasks.metrics import correlations, f1_and_mcc, measure_classes, measure_numbers


def classes(n_labels):
    pairs = hnp.arrays(
        np.int64, st.tuples(st.just(2), st.integers(1, 40)), elements=st.integers(0, n_labels - 1)
    )
    return st.tuples(st.just(n_labels), pairs)


NUMBERS = hnp.arrays(
    np.float64,
    st.tuples(st.just(2), st.integers(2, 40)),
    elements=st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3, width=32)),
)


def one_at_a_time(metric, whole, *rows):
    """The pseudo-values by their definition: the metric is computed again without each row."""
    without = [metric(*(np.delete(values, i) for values in rows)) for i in range(len(rows[0]))]
    return pseudo_values(whole, np.array(without))


@given(st.integers(2, 5).flatmap(classes), st.sampled_from(["f1", "f1_macro", "mcc"]))
def test_rows_of_classes_are_as_if_each_were_left_out(case, name):
    n_labels, (predictions, labels) = case
    if len(labels) == 1:
        return

    def metric(some, truth):
        return f1_and_mcc(some, truth, n_labels, macro=name == "f1_macro")[name == "mcc"]

    rows = rows_of_classes(name, predictions, labels, n_labels)
    expected = one_at_a_time(metric, metric(predictions, labels), predictions, labels)
    np.testing.assert_allclose(rows, expected, atol=1e-9)


@given(NUMBERS, st.sampled_from([0, 1]))
def test_rows_of_numbers_are_as_if_each_were_left_out(case, which):
    predictions, labels = case

    def metric(x, y):
        return correlations(x, y)[which]

    rows = rows_of_numbers(("pearson", "spearman")[which], predictions, labels)
    expected = one_at_a_time(metric, metric(predictions, labels), predictions, labels)
    np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_a_row_that_all_depends_on_keeps_its_digits(metric):
    rng = np.random.default_rng(0)
    labels = rng.normal(size=50)
    predictions = labels + rng.normal(size=50)
    predictions[7] = 1e12

    rows = rows_of_numbers(metric, predictions, labels)

    which = ("pearson", "spearman").index(metric)
    whole = correlations(predictions, labels)[which]
    expected = one_at_a_time(lambda x, y: correlations(x, y)[which], whole, predictions, labels)
    np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_constant_predictions_add_nothing(metric):
    labels = np.arange(30_000.0)

    assert not rows_of_numbers(metric, np.full(30_000, 0.1), labels).any()


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_many_rows_of_numbers(metric):
    rng = np.random.default_rng(0)
    labels = rng.integers(30, size=20_000).astype(float)
    predictions = labels + 10 * rng.normal(size=20_000)

    rows = rows_of_numbers(metric, predictions, labels)

    measured = measure_numbers(predictions, labels)[metric]
    assert rows.mean() == pytest.approx(measured.value, abs=1e-9)
    assert rows.std(ddof=1) / math.sqrt(20_000) == pytest.approx(measured.stderr, rel=0.15)


@pytest.mark.parametrize("metric", ["f1", "mcc"])
def test_many_rows_of_many_classes(metric):
    rng = np.random.default_rng(0)
    labels = rng.integers(2_000, size=50_000)
    predictions = np.where(rng.random(50_000) < 0.5, labels, rng.integers(2_000, size=50_000))

    rows = rows_of_classes(metric, predictions, labels, 2_000)

    assert rows.mean() == pytest.approx(
        f1_and_mcc(predictions, labels, 2_000)[("f1", "mcc").index(metric)], abs=1e-9
    )


@settings(max_examples=25)
@given(st.integers(2, 4).flatmap(classes), st.sampled_from(["accuracy", "f1", "mcc"]))
def test_mean_of_the_rows_of_classes_is_the_metric(case, metric):
    n_labels, (predictions, labels) = case
    rows = rows_of_classes(metric, predictions, labels, n_labels)
    measured = measure_classes(predictions, labels, n_labels)[metric]
    assert rows.shape == labels.shape
    assert rows.mean() == pytest.approx(measured.value, abs=1e-9)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "mcc"])
@pytest.mark.parametrize("n_labels", [2, 5])
def test_rows_of_classes_differ_as_the_metric_does_from_sample_to_sample(metric, n_labels):
    rng = np.random.default_rng(0)
    labels = rng.integers(n_labels, size=600)
    predictions = np.where(rng.random(600) < 0.7, labels, rng.integers(n_labels, size=600))
    rows = rows_of_classes(metric, predictions, labels, n_labels)
    measured = measure_classes(predictions, labels, n_labels)[metric]
    assert rows.std(ddof=1) / math.sqrt(600) == pytest.approx(measured.stderr, rel=0.15)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_rows_of_numbers_have_mean_and_error_of_the_metric(metric):
    rng = np.random.default_rng(0)
    labels = rng.normal(size=400)
    predictions = labels + rng.normal(size=400)
    rows = rows_of_numbers(metric, predictions, labels)
    measured = measure_numbers(predictions, labels)[metric]
    assert rows.mean() == pytest.approx(measured.value, abs=1e-9)
    assert rows.std(ddof=1) / math.sqrt(400) == pytest.approx(measured.stderr, rel=0.15)


def test_rows_of_one_row():
    one = np.array([1])
    assert rows_of_classes("f1", one, one, 2).tolist() == [1.0]
    assert rows_of_numbers("pearson", one.astype(float), one.astype(float)).tolist() == [0.0]
