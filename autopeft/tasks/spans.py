"""How well tagged words are recognised: F1 of the spans that IOB tags mark, and accuracy."""

import importlib.util
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from autopeft.errors import ConfigError
from autopeft.tasks.jackknife import ratio_rows

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
