"""What one answer to every row would score."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.constant import Constant
from autopeft.row_scores import RowScores, pack
from autopeft.tasks.multi_label import MultiLabel
from autopeft.tasks.splits import Split
from autopeft.tasks.task import AnyTask, Classification, Regression
from autopeft.tasks.tokens import TokenClassification


def constant_of(task: AnyTask, split: Split, label_names: tuple[str, ...]) -> Constant | None:
    """The answer that scores best if it is given to every row.

    Args:
        task: its metric is scored.
        split: the rows.
        label_names: the classes by number, where there are any.

    Returns:
        None where answers are texts, and where the metric is a function of one's own: who wrote it
        need not have thought of such predictions.
    """
    if task.own is None and isinstance(task, Regression):
        return Constant("the mean", 0.0, 0.0)  # which no correlation is defined of
    if (best := _best(task, split)) is None:
        return None
    answer, predictions, truth = best
    found = task.metrics(predictions, truth)[task.metric]
    told = task.told(answer) if isinstance(task, MultiLabel) else f'"{label_names[answer]}"'
    return Constant(told, found.value, found.stderr)


def constant_rows(task: AnyTask, split: Split) -> RowScores | None:
    """What each row adds to the metric where all are given the answer that is best for them.

    Args:
        task: its metric is scored.
        split: the rows.

    Returns:
        None where `constant_of` is, and for numbers, where it is 0 whatever the rows are.
    """
    best = _best(task, split)
    return best and pack(task.row_scores(*best[1:]))


def _best(task: AnyTask, split: Split) -> tuple[Any, NDArray[Any], NDArray[Any]] | None:
    """The best answer, as a task numbers it, given to every row, and the truth."""
    if task.own is not None:
        return None
    if isinstance(task, MultiLabel):
        answer = task.constant(split)
        return answer, np.tile(answer, (len(split), 1)), task.sets(split)
    if isinstance(task, Classification):
        truth = np.asarray(split.labels)
        commonest = int(np.bincount(truth).argmax())
        # Of two classes, F1 counts the hits of one alone.
        classes = {commonest, task.positive} if task.n_labels == 2 else {commonest}  # noqa: PLR2004
        given = {one: np.full_like(truth, one) for one in sorted(classes)}
        best = max(given, key=lambda one: task.row_scores(given[one], truth).mean())
        return best, given[best], truth
    if isinstance(task, TokenClassification):
        rows = [np.asarray(tags) for tags in split.labels]
        commonest = int(np.bincount(np.concatenate(rows)).argmax())
        truth, same = np.empty(len(rows), object), np.empty(len(rows), object)
        truth[:] = rows
        same[:] = [np.full_like(row, commonest) for row in rows]
        return commonest, same, truth
    return None
