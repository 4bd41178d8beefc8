"""Metrics, each with its standard error. All are better when higher.

The value is scikit-learn's or scipy's. Its standard error is in closed form for accuracy; for the
others it is the spread over resamples of the rows (prediction and label together), for which the
same formulas stand here without the libraries' checks, that cost a millisecond a call.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, rankdata, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from autopeft.records import Metric

N_RESAMPLES = 200

_RESAMPLING_SEED = 0  # the same rows for every trial: differences among trials are not its noise
_CONSTANT = 1e-13  # spread relative to the mean below which scipy calls an input constant

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
AnyFloats = NDArray[np.floating[Any]]


def measure_classes(
    predictions: Ints, labels: Ints, n_labels: int, *, macro: bool = False
) -> dict[str, Metric]:
    """Accuracy, F1 and Matthews correlation.

    F1 is that of class 1 where there are two classes, otherwise, or if wanted, the unweighted mean
    over the classes that occur in the labels or predictions (macro). F1 and MCC are 0 where they
    are undefined. The standard error of the accuracy is half the Wilson interval at z = 1, which is
    close to sqrt(p (1 - p) / n) but not 0 at p = 0 or 1; those of F1 and MCC are 0 if every
    prediction is right.

    Args:
        predictions: [row], class numbers.
        labels: [row], class numbers.
        n_labels: number of classes.
        macro: F1 is the mean over the classes, also of two.
    """
    accuracy = float(accuracy_score(labels, predictions))
    average = "binary" if n_labels == 2 and not macro else "macro"  # noqa: PLR2004
    f1 = float(f1_score(labels, predictions, average=average, zero_division=0.0))
    mcc = 0.0
    if not (is_constant(predictions) or is_constant(labels)):
        mcc = float(matthews_corrcoef(labels, predictions))
    f1_stderr, mcc_stderr = _bootstrap(
        lambda rows: f1_and_mcc(predictions[rows], labels[rows], n_labels, macro=macro),
        len(labels),
    )
    return {
        "accuracy": share(accuracy, len(labels)),
        "f1": Metric(f1, f1_stderr),
        "mcc": Metric(mcc, mcc_stderr),
    }


def measure_numbers(predictions: AnyFloats, labels: AnyFloats) -> dict[str, Metric]:
    """Pearson's and Spearman's correlation.

    Both are 0 where predictions or labels are constant, and NaN where a prediction is not finite.

    Args:
        predictions: [row].
        labels: [row], finite.
    """
    x, y = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    if not np.isfinite(x).all():
        undefined = Metric(float("nan"), float("nan"))
        return {"pearson": undefined, "spearman": undefined}
    pearson = spearman = 0.0
    if not (is_constant(x) or is_constant(y)):
        pearson, spearman = float(pearsonr(x, y).statistic), float(spearmanr(x, y).statistic)
    pearson_stderr, spearman_stderr = _bootstrap(
        lambda rows: correlations(x[rows], y[rows]), len(y)
    )
    return {
        "pearson": Metric(pearson, pearson_stderr),
        "spearman": Metric(spearman, spearman_stderr),
    }


def _bootstrap(
    statistics: Callable[[Ints], tuple[float, float]], n_rows: int
) -> tuple[float, float]:
    """Standard deviations of two statistics over resamples of the rows."""
    rng = np.random.default_rng(_RESAMPLING_SEED)
    values = [statistics(rng.integers(n_rows, size=n_rows)) for _ in range(N_RESAMPLES)]
    first, second = np.std(values, axis=0, ddof=1)
    return float(first), float(second)


def share(part: float, n_rows: int) -> Metric:
    """The part of the rows that are right; half of Wilson's interval is its standard error."""
    stderr = sqrt(part * (1 - part) / n_rows + 1 / (4 * n_rows**2)) / (1 + 1 / n_rows)
    return Metric(part, stderr)


def f1_and_mcc(
    predictions: Ints, labels: Ints, n_labels: int, *, macro: bool = False
) -> tuple[float, float]:
    """F1 and Matthews' correlation of class numbers, each [row]; 0 where they are undefined."""
    hits = np.bincount(labels[labels == predictions], minlength=n_labels)
    true = np.bincount(labels, minlength=n_labels)
    predicted = np.bincount(predictions, minlength=n_labels)
    either = true + predicted
    f1 = 2 * hits / np.maximum(either, 1)
    n_rows = len(labels)
    covariance = hits.sum() * n_rows - true @ predicted  # Gorodkin (2004), times n squared
    variances = float(n_rows**2 - true @ true) * float(n_rows**2 - predicted @ predicted)
    return (
        float(f1[1] if n_labels == 2 and not macro else f1[either > 0].mean()),  # noqa: PLR2004
        float(covariance / sqrt(variances)) if variances else 0.0,
    )


def correlations(x: Floats, y: Floats) -> tuple[float, float]:
    """Pearson's and Spearman's correlation of finite numbers, each [row]; 0 of constant ones."""
    return _correlation(x, y), _correlation(rankdata(x), rankdata(y))


def _correlation(x: Floats, y: Floats) -> float:
    if is_constant(x) or is_constant(y):
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def is_constant(values: Floats | Ints) -> bool:
    """Whether they are so near to each other that no correlation can be told."""
    return bool(np.ptp(values) <= _CONSTANT * abs(values.mean()))
