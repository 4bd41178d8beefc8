"""A metric of one's own: a Python function of predictions and references, `my.py:fn`."""

import hashlib
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from reprlib import repr as shortened
from types import ModuleType
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from autopeft.errors import ConfigError, MetricError
from autopeft.records import Metric
from autopeft.tasks.jackknife import pseudo_values
from autopeft.tasks.spec import metric_name, own_metric_of

MOST_PARTS = 50
"""Parts of the rows that are left out in turn; so many calls of the function, and one more."""


@dataclass(frozen=True)
class OwnMetric:
    """A function that a study maximises.

    It is called with two lists, one item for each row: predictions and references, as class names,
    numbers or texts; where answers are texts, a reference is a list of them. It returns a finite
    number, better when higher, or a dictionary of such, the first of which is maximised.

    What rows add to it, and its standard error, are the jackknife's over `MOST_PARTS` parts of the
    rows at most, so that a slow function is called some hundred times for a trial, not thousands.

    Attributes:
        source: file and function, as the study says it.
        function: of the file.
        sha256: of the file's bytes.
    """

    source: str
    function: Callable[[list[Any], list[Any]], object]
    sha256: str

    @property
    def name(self) -> str:
        """What records call it: the file's name and the function."""
        return metric_name(self.source)

    def measure(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, Metric]:
        """All that it says of one trial's rows; other numbers than the first by `name.key`.

        Raises:
            MetricError: it fails, or what it returns is no number.
        """
        whole, parts = self._jackknife(predictions, references)
        return {
            key: Metric(value, _stderr(parts[key]) if len(references) > 1 else 0.0)
            for key, value in whole.items()
        }

    def row_scores(
        self, predictions: Sequence[Any], references: Sequence[Any]
    ) -> Float[np.ndarray, " row"]:
        """What each row adds; their mean is the metric, their standard error that of the metric.

        Rows that were left out together add the same.

        Raises:
            MetricError: it fails, or what it returns is no number.
        """
        whole, parts = self._jackknife(predictions, references)
        value, added = whole[self.name], parts[self.name]
        n_rows = len(references)
        # The mean of m rows varies less than each: what is said of rows has to vary as they do.
        spread = value + (added - value) * math.sqrt(n_rows / len(added))
        rows = spread[np.arange(n_rows) % len(added)]
        return np.asarray(rows + (value - rows.mean()), np.float64)

    def _jackknife(
        self, predictions: Sequence[Any], references: Sequence[Any]
    ) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
        """The metrics of all rows, and the pseudo-values of each part of them."""
        n_rows = len(references)
        n_parts = min(n_rows, MOST_PARTS)
        whole = self(predictions, references)
        if n_parts == 1:
            return whole, {key: np.array([value]) for key, value in whole.items()}
        without = []
        for part in range(n_parts):
            kept = [row for row in range(n_rows) if row % n_parts != part]
            found = self([predictions[row] for row in kept], [references[row] for row in kept])
            if found.keys() != whole.keys():
                raise self._refused(f"returns other keys for {len(kept)} rows than for {n_rows}")
            without.append(found)
        return whole, {
            key: pseudo_values(value, np.array([found[key] for found in without]))
            for key, value in whole.items()
        }

    def __call__(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """What the function says, by name, what is maximised first.

        Raises:
            MetricError: it fails, or what it returns is no number.
        """
        try:
            returned = self.function(list(predictions), list(references))
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            where = f"{Path(last.filename).name}:{last.lineno}"
            raise self._refused(f"fails on {len(references)} rows: {what} ({where})") from error
        given = returned if isinstance(returned, Mapping) else {"": returned}
        values = [float(value) for value in given.values() if _is_score(value)]
        if not given or len(values) < len(given):
            raise self._refused(
                f"returned {_shown(returned)}; it has to be a finite number, or a dictionary of "
                "such"
            )
        names = [self.name, *(f"{self.name}.{key}" for key in list(given)[1:])]
        return dict(zip(names, values, strict=True))

    def _refused(self, what: str) -> MetricError:
        return MetricError(f"metric `{self.source}` {what}")


def load_own_metric(metric: str) -> OwnMetric | None:
    """The function that a metric names; None if it names none.

    Args:
        metric: as a resolved study says it. The file is run.

    Raises:
        ConfigError: there is no such file, it cannot be run, or it has no such function.
    """
    if (own := own_metric_of(metric)) is None:
        return None
    path, name = own
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"metric: cannot read {path}: {error.strerror or error}") from error
    sha256 = hashlib.sha256(source).hexdigest()
    module = ModuleType(f"autopeft_metric_{sha256[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # its dataclasses look for it there
    try:
        # Import would run a `__pycache__` beside the file, which may be of other code.
        exec(compile(source, path, "exec"), vars(module))  # noqa: S102 - the user's own metric
    except Exception as error:
        raise ConfigError(
            f"metric: {path} cannot be run: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"metric: {path} has no function `{name}`")
    return OwnMetric(metric, function, sha256)


def _stderr(parts: NDArray[np.float64]) -> float:
    return float(parts.std(ddof=1) / math.sqrt(len(parts)))


def _is_score(value: Any) -> TypeGuard[Real]:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # of a whole number
        return False


def _shown(returned: object) -> str:
    try:
        return shortened(returned)
    except ValueError:  # Python writes no whole number of so many digits
        return "a number of too many digits"
