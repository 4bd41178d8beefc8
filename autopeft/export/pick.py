"""Which trial of a study leaves the house, and why. Needs records and front alone."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autopeft.errors import ConfigError, DataError
from autopeft.front import Front, Point
from autopeft.records import Record
from autopeft.study.shipped import shipped

WAYS = ("cheapest", "best", "knee")
_ALLOWED = (
    f"{', '.join(WAYS)}, the number of a trial, or a condition like params<0.3%, params<=20000 or "
    "quality>0.8, several joined by `and`"
)
_CONDITION = re.compile(
    r"([\w.:-]+)\s*(<=|>=|<|>)\s*([+-]?\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*(%?)"
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Choice:
    """A trial that was chosen.

    Attributes:
        trial: its number.
        reason: why this one, in words.
    """

    trial: int
    reason: str


def pick(front: Front, records: Sequence[Record], how: str) -> Choice:
    """Choose a trial.

    Args:
        front: of the study.
        records: of the study; a trial that is given by its number need not be on the front.
        how: `cheapest` (of those within one standard error of the best), `best`, `knee`, a number,
            or conditions on `params` (a number, or a share of the backbone like `0.3%`) and on
            `quality` or the metric's name, of which the best point that meets them all is taken.

    Raises:
        ConfigError: it is none of these, or nothing is like that.
        DataError: the front has no point.
    """
    how = how.strip()
    if how.isdecimal():
        return _by_number(front, records, int(how))
    if (best := front.best) is None:
        raise DataError("the front has no point yet")
    if how == "best":
        return Choice(best.trial, f"the best {front.metric} of the front{front.judged}")
    if how == "knee" and front.knee is not None:
        return Choice(front.knee, "the knee: farthest above the line from the first to the last")
    if how == "cheapest" and front.recommended is not None:
        reason = (
            f"the cheapest within one standard error ({best.stderr:.4f}) of the best "
            f"{front.metric}, the {best.quality:.4f} of trial {best.trial}{front.judged}"
        )
        return Choice(front.recommended, reason)
    return _by_conditions(front, how)


def _by_number(front: Front, records: Sequence[Record], trial: int) -> Choice:
    shipped(records, trial, front.metric)
    on = any(point.trial == trial for point in front.points)
    return Choice(trial, f"asked for by its number; it is {'on' if on else 'not on'} the front")


def _by_conditions(front: Front, how: str) -> Choice:
    conditions = re.split(r"\s+and\s+|,|&+", how)
    tests = [_condition(front, text.strip(), how) for text in conditions]
    meeting = [point for point in front.points if all(test(point) for test in tests)]
    if not meeting:
        known = "; ".join(
            f"{p.trainable_params:,} ({100 * p.fraction:.3g}%) with {p.quality:.4f}"
            for p in front.points
        )
        raise ConfigError(f"--pick {how}: no point of the front is like that; it has: {known}")
    best = max(meeting, key=lambda point: point.pooled)
    return Choice(best.trial, f"the best {front.metric} of the front with {how}{front.judged}")


def _condition(front: Front, text: str, how: str) -> Callable[[Point], bool]:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ConfigError(f"--pick {how}: allowed: {_ALLOWED}")
    name, sign, number, percent = match.groups()
    compare, limit = _COMPARE[sign], float(number)
    if name == "params":
        if percent:
            return lambda point: compare(100 * point.fraction, limit)
        return lambda point: compare(point.trainable_params, limit)
    if name not in ("quality", front.metric):
        raise ConfigError(f"--pick {how}: no `{name}`; allowed: params, quality, {front.metric}")
    limit = limit / 100 if percent else limit
    return lambda point: compare(point.quality, limit)
