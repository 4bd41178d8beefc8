"""RowScores: what every row of a split adds to a metric, in a few hundred bytes.

Two records that were scored on the same rows are compared row by row, which takes away how hard
the rows are. For the accuracy a score is 1 where the prediction is right; for other metrics it is
what the row adds (`tasks/metrics.py`). Their mean is the metric.
"""

import base64
import binascii
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopeft.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVELS = 256
"""Values that a score is rounded to, from the least to the largest of a record."""
MOST_ROWS = 2**24
"""Of a split that is read; a few kilobytes of zlib could become any number."""


@dataclass(frozen=True)
class RowScores:
    """A number for each row of a split, rounded to levels of equal distance.

    Attributes:
        low: value of code 0.
        high: value of the largest code.
        levels: number of codes, 1 to `LEVELS`.
        codes: one byte for each row, compressed by zlib, in base 64.
    """

    low: float
    high: float
    levels: int
    codes: str

    def values(self) -> "NDArray[np.float64]":
        """The score of each row, [row].

        Raises:
            DataError: the codes are damaged.
        """
        import numpy as np  # noqa: PLC0415  # reading records need not wait for it

        try:
            unpacking = zlib.decompressobj()
            data = unpacking.decompress(base64.b64decode(self.codes, validate=True), MOST_ROWS)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise DataError(f"row scores cannot be read: {error}") from error
        if not unpacking.eof:
            raise DataError(f"row scores are cut off, or of more than {MOST_ROWS:,} rows")
        codes = np.frombuffer(data, np.uint8)
        if len(codes) and int(codes.max()) >= self.levels:
            raise DataError(f"row scores have code {codes.max()}, allowed: below {self.levels}")
        return np.linspace(self.low, self.high, self.levels)[codes]


def pack(scores: "NDArray[np.float64]") -> RowScores:
    """Round and compress scores; their mean stays what it was.

    Args:
        scores: [row], finite; at least one.
    """
    import numpy as np  # noqa: PLC0415

    low, high = float(scores.min()), float(scores.max())
    distinct = len(np.unique(scores))
    levels = distinct if distinct <= 2 else LEVELS  # noqa: PLR2004
    step = (high - low) / (levels - 1) if levels > 1 else 1.0
    codes = np.rint((scores - low) / step).astype(np.uint8)
    moved = float(scores.mean() - np.linspace(low, high, levels)[codes].mean())
    if levels < LEVELS:  # nothing was rounded
        moved = 0.0
    packed = base64.b64encode(zlib.compress(codes.tobytes(), 9)).decode()
    return RowScores(low + moved, high + moved, levels, packed)
