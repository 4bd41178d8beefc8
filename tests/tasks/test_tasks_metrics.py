"""Metrics against scikit-learn and scipy, standard errors against the truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from autopeft.tasks.metrics import correlations, f1_and_mcc, measure_classes, measure_numbers


def classes(n_labels):
    pairs = hnp.arrays(
        np.int64, st.tuples(st.just(2), st.integers(1, 40)), elements=st.integers(0, n_labels - 1)
    )
    return st.tuples(st.just(n_labels), pairs)


@given(st.integers(2, 5).flatmap(classes))
def test_resampled_f1_and_mcc_are_those_of_sklearn(case):
    n_labels, (predictions, labels) = case
    average = "binary" if n_labels == 2 else "macro"
    f1, mcc = f1_and_mcc(predictions, labels, n_labels)
    assert f1 == pytest.approx(f1_score(labels, predictions, average=average, zero_division=0.0))
    constant = np.ptp(labels) == 0 or np.ptp(predictions) == 0
    expected = 0.0 if constant else matthews_corrcoef(labels, predictions)
    assert mcc == pytest.approx(expected, abs=1e-12)


@given(
    hnp.arrays(np.float64, st.tuples(st.just(2), st.integers(3, 40)), elements=st.integers(-20, 20))
)
def test_resampled_correlations_are_those_of_scipy(case):
    x, y = case
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert correlations(x, y) == (0.0, 0.0)
        return
    pearson, spearman = correlations(x, y)
    assert pearson == pytest.approx(pearsonr(x, y).statistic, abs=1e-12)
    assert spearman == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


@settings(max_examples=25)
@given(st.integers(2, 4).flatmap(classes))
def test_class_metrics_are_finite_and_in_range(case):
    n_labels, (predictions, labels) = case
    measured = measure_classes(predictions, labels, n_labels)
    assert list(measured) == ["accuracy", "f1", "mcc"]
    assert measured["accuracy"].value == np.mean(predictions == labels)
    assert measured["accuracy"].stderr > 0
    assert all(-1 <= m.value <= 1 and 0 <= m.stderr <= 1 for m in measured.values())


def test_f1_is_that_of_class_one_or_macro():
    labels = np.array([0, 0, 0, 1, 1])
    predictions = np.array([0, 0, 1, 1, 0])
    assert measure_classes(predictions, labels, 2)["f1"].value == pytest.approx(1 / 2)
    # Classes 0 and 1 have F1 2/3 and 1/2; class 2 occurs nowhere.
    assert measure_classes(predictions, labels, 3)["f1"].value == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_f1_of_two_classes_is_their_mean_if_wanted():
    labels, predictions = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0])
    found = measure_classes(predictions, labels, 2, macro=True)["f1"]
    assert found.value == pytest.approx(f1_score(labels, predictions, average="macro"))
    rng = np.random.default_rng(0)
    rows = rng.integers(5, size=(2_000, 5))
    spread = np.std([f1_and_mcc(predictions[r], labels[r], 2, macro=True)[0] for r in rows])
    assert found.stderr == pytest.approx(spread, rel=0.2)


def test_f1_and_mcc_are_0_where_they_are_undefined():
    negative = np.zeros(5, np.int64)
    measured = measure_classes(negative, negative, 2)
    assert (measured["f1"].value, measured["mcc"].value) == (0, 0)


def test_a_perfect_accuracy_is_not_certain():
    labels = np.array([0, 1] * 50)
    perfect = measure_classes(labels, labels, 2)
    assert perfect["accuracy"].value == 1
    assert perfect["accuracy"].stderr == pytest.approx(1 / 202)
    assert (perfect["f1"].stderr, perfect["mcc"].stderr) == (0, 0)


def test_accuracy_stderr_is_the_binomial_one_on_many_rows():
    labels = np.ones(10_000, np.int64)
    predictions = (np.arange(10_000) % 5 > 0).astype(np.int64)
    stderr = measure_classes(predictions, labels, 2)["accuracy"].stderr
    assert stderr == pytest.approx(math.sqrt(0.8 * 0.2 / 10_000), rel=1e-3)


def test_pearson_stderr_is_the_spread_over_samples():
    n_rows, correlation = 200, 0.6
    rng = np.random.default_rng(0)

    def sample():
        x = rng.normal(size=n_rows)
        return x, correlation * x + math.sqrt(1 - correlation**2) * rng.normal(size=n_rows)

    truth = (1 - correlation**2) / math.sqrt(n_rows)  # for two normal variables
    stderrs = [measure_numbers(*sample())["pearson"].stderr for _ in range(10)]
    assert np.mean(stderrs) == pytest.approx(truth, rel=0.15)


def test_f1_and_mcc_stderrs_are_the_spread_over_samples():
    rng = np.random.default_rng(0)

    def sample():
        labels = rng.integers(2, size=300)
        return np.where(rng.random(300) < 0.8, labels, 1 - labels), labels

    samples = [measure_classes(*sample(), 2) for _ in range(100)]
    for name in ("accuracy", "f1", "mcc"):
        spread = np.std([measured[name].value for measured in samples])
        assert np.mean([m[name].stderr for m in samples]) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e8])
def test_a_constant_prediction_correlates_with_nothing(value):
    labels = np.linspace(0, 5, 7)
    for measured in (
        measure_numbers(np.full(7, value, np.float32), labels),
        measure_numbers(labels, np.full(7, value)),
    ):
        assert [(m.value, m.stderr) for m in measured.values()] == [(0.0, 0.0), (0.0, 0.0)]


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_very_few_rows(n_rows):
    numbers = measure_numbers(np.arange(n_rows, dtype=float), np.arange(n_rows, dtype=float))
    assert all(math.isfinite(m.value) and math.isfinite(m.stderr) for m in numbers.values())
    labels = np.zeros(n_rows, np.int64)
    for measured in (measure_classes(labels, labels, 2), measure_classes(labels + 1, labels, 3)):
        assert all(math.isfinite(m.value) and m.stderr >= 0 for m in measured.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_prediction_has_no_correlation(bad):
    predictions = np.array([1.0, bad, 2.0])
    for measured in measure_numbers(predictions, np.array([1.0, 2.0, 3.0])).values():
        assert math.isnan(measured.value)
        assert math.isnan(measured.stderr)


def test_measuring_twice_gives_the_same_numbers():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(3, size=50), rng.integers(3, size=50)
    assert measure_classes(predictions, labels, 3) == measure_classes(predictions, labels, 3)
    x, y = rng.normal(size=(2, 50))
    assert measure_numbers(x, y) == measure_numbers(x, y)
