"""How well tagged words are recognised: F1 of the spans that IOB tags mark, and accuracy."""

import importlib.util
import math
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from autopeft.errors import ConfigError
from autopeft.records import Metric
from autopeft.tasks.jackknife import pseudo_values

SPAN_F1 = "span_f1"
OUTSIDE = "O"
_MARKS = re.compile(r"O|[BIES]-.+", re.DOTALL)

Tagged = Sequence[Sequence[str]]
"""The tags of the words of each row."""


def check_spans(label_names: Sequence[str]) -> None:
    """Refuse what spans cannot be read of.

    Raises:
        ConfigError: seqeval is not installed, or a tag marks no span.
    """
    if not has_seqeval():
        raise ConfigError(
            f"metric: '{SPAN_F1}' needs the package seqeval; pip install 'autopeft[tokens]', or "
            "take `metric: accuracy`"
        )
    if wrong := [name for name in label_names if not _MARKS.fullmatch(name)]:
        raise ConfigError(
            f"metric: '{SPAN_F1}' needs tags like O, B-PER and I-PER, and one is '{wrong[0]}'; "
            "take `metric: accuracy`"
        )


def marks_spans(label_names: Sequence[str]) -> bool:
    """Whether spans can be read of these tags here."""
    return has_seqeval() and all(map(_MARKS.fullmatch, label_names))


def has_seqeval() -> bool:
    """It is an extra."""
    return importlib.util.find_spec("seqeval") is not None


def span_rows(predictions: Tagged, truth: Tagged) -> Float[np.ndarray, " row"]:
    """What each row adds to the F1 of spans over all rows: the jackknife's pseudo-values.

    A span is found if its type, its first and its last word are right, as in CoNLL-2003 (Tjong Kim
    Sang and De Meulder 2003); spans are those of seqeval (Nakayama 2018), its default mode.

    Args:
        predictions: of one trial.
        truth: as long, row by row.
    """
    from seqeval.metrics.sequence_labeling import get_entities  # noqa: PLC0415  # an extra

    counts = np.zeros((len(truth), 2), np.int64)
    for row, (predicted, true) in enumerate(zip(predictions, truth, strict=True)):
        found, wanted = set(get_entities(list(predicted))), set(get_entities(list(true)))
        counts[row] = 2 * len(found & wanted), len(found) + len(wanted)
    return ratio_rows(counts)


def hit_rows(
    predictions: Sequence[NDArray[np.int64]], truth: Sequence[NDArray[np.int64]]
) -> Float[np.ndarray, " row"]:
    """What each row adds to the part of all words whose tag is right, likewise.

    Args:
        predictions: class numbers of the words of each row.
        truth: likewise.
    """
    pairs = zip(predictions, truth, strict=True)
    return ratio_rows(np.array([((one == other).sum(), len(other)) for one, other in pairs]))


def ratio_rows(counts: Int[np.ndarray, "row 2"]) -> Float[np.ndarray, " row"]:
    """What each row adds to the sum of the first numbers over that of the second; 0 / 0 is 0.

    Args:
        counts: of each row.
    """
    sums = counts.sum(0)
    whole = float(_ratio(sums))
    if len(counts) == 1:
        return np.array([whole])
    return pseudo_values(whole, _ratio(sums - counts))


def measured(rows: Float[np.ndarray, " row"]) -> Metric:
    """The metric that rows add up to, and its standard error over them."""
    n_rows = len(rows)
    stderr = float(rows.std(ddof=1) / math.sqrt(n_rows)) if n_rows > 1 else 0.0
    return Metric(float(rows.mean()), stderr)


def _ratio(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    above, below = counts[..., 0], counts[..., 1]
    return np.asarray(above / np.maximum(below, 1), np.float64)
