"""Which measurements a sampler learns from: one for each trial, all of one rung.

Scores at different rungs do not compare, so they are never mixed.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from autopeft.records import Record

ENOUGH = 12
"""Measurements below which a rung teaches nothing: a little more than TPE draws at random."""

Lessons = Callable[[Sequence[Record]], list[Record]]
"""From the records of the search, by trial and rung, to those that are learnt from."""


def lowest_rung(records: Sequence[Record]) -> list[Record]:
    """Those of the lowest rung, which has measured every trial."""
    return [record for record in records if record.rung == 0]


def highest_rung(enough: int = ENOUGH) -> Lessons:
    """Those of the highest rung that has enough: what BOHB does (Falkner et al., ICML 2018).

    With several workers the proposals then depend on which rungs were reached first.

    Args:
        enough: complete records that a rung above the lowest has to have.
    """
    return partial(_highest, enough=enough)


def _highest(records: Sequence[Record], *, enough: int) -> list[Record]:
    rungs: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        if record.state == "complete":
            rungs[record.rung].append(record)
    informative = (rung for rung, there in rungs.items() if rung and len(there) >= enough)
    highest = max(informative, default=0)
    return rungs[highest]
