"""Which of a trial's trainings is handed over."""

from collections.abc import Sequence

from autopeft.errors import ConfigError
from autopeft.records import FOLD, SELECTION, Record


def shipped(records: Sequence[Record], trial: int, metric: str) -> Record:
    """The record of a trial whose weights are exported and tested.

    Those of the final selection come first: they are trained to the end, with seeds that nobody
    has chosen. Else it is the training at the highest rung. Of several replicates it is the one
    with the median score, of an even number the lower of the two in the middle: the best one would
    flatter. What was trained on a part of the rows is never handed over.

    Raises:
        ConfigError: the trial has no complete record with the metric.
    """
    complete = [r for r in records if metric in r.metrics and r.split != FOLD]
    own = [record for record in complete if record.trial == trial]
    if not own:
        known = ", ".join(map(str, sorted({r.trial for r in complete}))) or "none yet"
        raise ConfigError(f"trial {trial} has not been completed; completed: {known}")
    top = max((record.split == SELECTION, record.rung) for record in own)
    order = sorted(
        (record for record in own if (record.split == SELECTION, record.rung) == top),
        key=lambda record: (record.metrics[metric].value, record.replicate),
    )
    return order[(len(order) - 1) // 2]
