"""What each row adds to a metric: the jackknife's pseudo-values (Tukey 1958).

That is n times the metric less n - 1 times the metric without the row, all moved by one number so
that their mean is the metric. Their standard error is the metric's. The metrics without each row
come from sums over all rows, in O(n log^2 n) at most, as validation may have many thousands.
"""

import math

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.stats import rankdata

from autopeft.records import Metric
from autopeft.tasks.metrics import AnyFloats, Floats, Ints, correlations, f1_and_mcc, is_constant
from autopeft.tasks.spec import METRICS

_LOST = 1e-4
"""Part of a sum of squares below which what is left of it without a row has lost digits."""


def pseudo_values(whole: float, without: Floats) -> Floats:
    """What each row adds to a metric: the jackknife's pseudo-values, whose mean is the metric.

    Args:
        whole: the metric of all rows.
        without: [row], those without each row.
    """
    added = (len(without) - 1) * (whole - without)
    return np.asarray(whole + added - added.mean(), np.float64)


def ratio_rows(counts: Int[np.ndarray, "row 2"]) -> Float[np.ndarray, " row"]:
    """What each row adds to the sum of the first numbers over that of the second; 0 / 0 is 0.

    Args:
        counts: of each row.
    """
    sums = counts.sum(0)
    whole = float(_quotients(sums))
    if len(counts) == 1:
        return np.array([whole])
    return pseudo_values(whole, _quotients(sums - counts))


def measured(rows: Float[np.ndarray, " row"]) -> Metric:
    """The metric that rows add up to, and its standard error over them."""
    n_rows = len(rows)
    stderr = float(rows.std(ddof=1) / math.sqrt(n_rows)) if n_rows > 1 else 0.0
    return Metric(float(rows.mean()), stderr)


def rows_of_classes(
    metric: str, predictions: Ints, labels: Ints, n_labels: int
) -> Float[np.ndarray, " row"]:
    """What each row adds to accuracy, F1 or MCC: numbers whose mean is the metric.

    For the accuracy 1 where the prediction is right, for the others the pseudo-values.

    Args:
        metric: `accuracy`, `f1`, `f1_macro` or `mcc`.
        predictions: [row], class numbers.
        labels: [row], class numbers.
        n_labels: number of classes.
    """
    if metric == "accuracy":
        return np.asarray(predictions == labels, np.float64)
    macro = metric == "f1_macro"
    f1, mcc = f1_and_mcc(predictions, labels, n_labels, macro=macro)
    whole = mcc if metric == "mcc" else f1
    if len(labels) == 1:
        return np.array([whole])
    if metric == "mcc":
        return pseudo_values(whole, _mcc_without(predictions, labels, n_labels))
    return pseudo_values(whole, _f1_without(predictions, labels, n_labels, macro=macro))


def rows_of_numbers(
    metric: str, predictions: AnyFloats, labels: AnyFloats
) -> Float[np.ndarray, " row"]:
    """What each row adds to Pearson's or Spearman's correlation: their pseudo-values.

    Args:
        metric: one of the two.
        predictions: [row], finite.
        labels: [row], finite.
    """
    which = METRICS["regression"].index(metric)
    x, y = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    if is_constant(x) or is_constant(y):
        return np.zeros(len(y))
    without, is_sure = (_pearson_without if metric == "pearson" else _spearman_without)(x, y)
    for row in np.flatnonzero(~is_sure):
        without[row] = correlations(np.delete(x, row), np.delete(y, row))[which]
    return pseudo_values(correlations(x, y)[which], without)


def _quotients(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    above, below = counts[..., 0], counts[..., 1]
    return np.asarray(above / np.maximum(below, 1), np.float64)


def _f1_without(predictions: Ints, labels: Ints, n_labels: int, *, macro: bool) -> Floats:
    """[row], F1 without each row: that of the row's two classes changes."""
    true = np.bincount(labels, minlength=n_labels)
    predicted = np.bincount(predictions, minlength=n_labels)
    hits = np.bincount(labels[labels == predictions], minlength=n_labels)
    either = true + predicted
    f1 = 2 * hits / np.maximum(either, 1)
    is_right = predictions == labels
    sides = []  # of the label's class, and of the predicted one
    for classes in (labels, predictions):
        left = either[classes] - 1 - is_right
        sides.append((2 * (hits[classes] - is_right) / np.maximum(left, 1), left > 0))
    if n_labels == 2 and not macro:  # noqa: PLR2004
        of_one = np.where(predictions == 1, sides[1][0], f1[1])
        return np.asarray(np.where(labels == 1, sides[0][0], of_one), np.float64)
    total, n_classes = np.full(len(labels), f1.sum()), np.full(len(labels), (either > 0).sum())
    for classes, (there, is_there), counts in (
        (labels, sides[0], np.ones_like(is_right)),
        (predictions, sides[1], ~is_right),
    ):
        total += counts * (there - f1[classes])
        n_classes -= counts & ~is_there
    return np.asarray(total / n_classes, np.float64)


def _mcc_without(predictions: Ints, labels: Ints, n_labels: int) -> Floats:
    """[row], Matthews' correlation without each row (Gorodkin 2004, times n squared)."""
    true = np.bincount(labels, minlength=n_labels)
    predicted = np.bincount(predictions, minlength=n_labels)
    is_right = predictions == labels
    n_rows = len(labels) - 1
    hits = is_right.sum() - is_right
    both = true @ predicted - true[predictions] - predicted[labels] + is_right
    covariance = hits * n_rows - both
    variances = np.ones(len(labels))
    for counts, classes in ((true, labels), (predicted, predictions)):
        variances *= n_rows**2 - (counts @ counts - 2 * counts[classes] + 1)
    return np.asarray(
        np.where(variances > 0, covariance / np.sqrt(np.maximum(variances, 1)), 0.0), np.float64
    )


def _pearson_without(x: Floats, y: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """[row], the correlation without each row, and whether that has lost no digits."""
    u, v = x - x.mean(), y - y.mean()
    factor = len(x) / (len(x) - 1)
    return _ratio(
        u @ v - factor * u * v,
        (u @ u - factor * u * u, u @ u),
        (v @ v - factor * v * v, v @ v),
    )


def _spearman_without(x: Floats, y: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Likewise of ranks: those above a row's are lower by one without it, its equals' by a half."""
    n = len(x)
    ranks = [rankdata(values) for values in (x, y)]
    u, v = (r - n / 2 for r in ranks)  # the mean of n - 1 ranks
    # Of all other rows: sum (u - a) (v - b), where a and b say by how much a rank is lowered.
    cross = u @ v - u * v
    cross -= _sum_above(x, v) + _sum_above(y, u) - _both_above(x, y)
    return _ratio(cross, _squares(x, u), _squares(y, v))


def _squares(values: Floats, u: Floats) -> tuple[Floats, float]:
    """[row], the sum of (u - a)^2 over all other rows, as above; and that of u^2."""
    lowered = _sum_above(values, np.ones(len(values))) - (_equals(values) - 1) / 4
    return u @ u - u * u - 2 * _sum_above(values, u) + lowered, float(u @ u)


def _ratio(
    covariance: Floats, x: tuple[Floats, float], y: tuple[Floats, float]
) -> tuple[Floats, NDArray[np.bool_]]:
    is_sure = (x[0] > _LOST * x[1]) & (y[0] > _LOST * y[1])
    product = np.where(is_sure, x[0] * y[0], 1.0)
    return np.where(is_sure, covariance / np.sqrt(product), 0.0), is_sure


def _equals(values: Floats) -> Floats:
    """[row], how many rows have its value."""
    _, kind, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(counts[kind], np.float64)


def _sum_above(values: Floats, weights: Floats) -> Floats:
    """[row], the weights of rows with greater values, and half of those of its equals."""
    _, kind = np.unique(values, return_inverse=True)
    of_kind = np.bincount(kind, weights)
    above = of_kind.sum() - np.cumsum(of_kind)
    return np.asarray((above + of_kind / 2)[kind] - weights / 2, np.float64)


def _both_above(x: Floats, y: Floats) -> Floats:
    """[row], the sum over other rows of how far x is above times how far y is: 1, or 1/2 if equal.

    A half is the mean of "greater" and "not less", so four counts of rows are added.
    """
    order = np.argsort(x, kind="stable")
    _, codes = np.unique(y, return_inverse=True)
    # Where rows begin that are not less, or greater, in the order of x; and the least code likewise
    starts = [np.searchsorted(x[order], x, side) for side in ("left", "right")]
    counts = sum(
        _count(codes[order], start, least) for start in starts for least in (codes, codes + 1)
    )
    return np.asarray((counts - 1) / 4, np.float64)  # a row is not less than itself, once


def _count(values: Ints, starts: Ints, least: Ints) -> Ints:
    """[query], how many of `values[start:]` are at least so large.

    What begins at `start` is cut into blocks of a power of two, each of them sorted.
    """
    n_levels = len(values).bit_length()
    size = 1 << n_levels
    far = int(values.max()) + 2
    padded = np.full(size, -1)
    padded[1 : len(values) + 1] = values  # what begins at 0 would have no block
    found, begin = np.zeros_like(starts), starts + 1
    for level in range(n_levels):
        blocks = np.sort(padded.reshape(-1, 1 << level), axis=1)
        keys = (blocks + far * np.arange(len(blocks))[:, None]).ravel()
        now = (begin >> level) & 1 == 1
        block = begin[now] >> level
        first = np.searchsorted(keys, least[now] + far * block)
        found[now] += ((block + 1) << level) - first
        begin[now] += 1 << level
    return found
