"""Which trial of a study to use, if any; console and page ask here."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from autopeft.constant import Constant
from autopeft.front import Front
from autopeft.records import Record
from autopeft.selection import Selection


@dataclass(frozen=True)
class Advice:
    """What to do with what was found.

    Attributes:
        trial: the one to use; None before any has a score, and where nothing has been learnt.
        nothing_learnt: says so, where no trial is better than one answer to every row.
    """

    trial: int | None
    nothing_learnt: str | None = None


def advice_of(
    front: Front | None,
    selection: Selection | None = None,
    constant: Constant | None = None,
    *,
    scored: int = 1,
) -> Advice:
    """The trial that is recommended; a final selection has the last word.

    Args:
        front: of the study; None before the first record.
        selection: the final selection, if there was one.
        constant: what one answer to every row scores, if known.
        scored: trials that have a score, which the best of the front is the best of.
    """
    if front is None or front.best is None:
        return Advice(None)
    best = front.best
    is_beaten = constant is None or (
        selection.beats(constant)
        if selection is not None
        else constant.is_beaten(best.quality, best.stderr, scored)
    )
    if constant is not None and not is_beaten:
        return Advice(None, constant.nothing_learnt(anew=selection is not None))
    return Advice(front.recommended if selection is None else selection.recommended)


def trained_in_part(
    records: Iterable[Record], trials: Collection[int], steps: int | None
) -> str | None:
    """Which of some trials wait at a lower rung, in words; None if none does.

    Args:
        records: of the study.
        trials: those that are asked for.
        steps: of a whole training; None where that is not known.
    """
    done: dict[int, int] = {}
    for record in records:
        if record.trial in trials and record.state == "complete":
            done[record.trial] = max(record.steps, done.get(record.trial, 0))
    short = {trial: count for trial, count in sorted(done.items()) if steps and count < steps}
    if not short:
        return None
    listed = ", ".join(map(str, short))
    counts = " or ".join(f"{count:,}" for count in sorted(set(short.values())))
    return (
        f"{f'trial {listed} was' if len(short) == 1 else f'trials {listed} were'} trained for "
        f"{counts} of {steps:,} steps; a final selection trains to the end"
    )
