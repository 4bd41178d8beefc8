"""What one answer to every row would score."""

import numpy as np

from autopeft.constant import Constant
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
    if task.own is not None:
        return None
    if isinstance(task, Regression):
        return Constant("the mean", 0.0, 0.0)  # which no correlation is defined of
    if isinstance(task, Classification):
        truth = np.asarray(split.labels)
        commonest = int(np.bincount(truth).argmax())
        # Of two classes, F1 counts the hits of one alone.
        classes = {commonest, task.positive} if task.n_labels == 2 else {commonest}  # noqa: PLR2004
        scored = {one: task.metrics(np.full_like(truth, one), truth) for one in sorted(classes)}
    elif isinstance(task, MultiLabel):
        answer = np.tile(task.constant(split), (len(split), 1))
        found = task.metrics(answer, task.sets(split))[task.metric]
        return Constant(task.told(answer[0]), found.value, found.stderr)
    elif isinstance(task, TokenClassification):
        rows = [np.asarray(tags) for tags in split.labels]
        commonest = int(np.bincount(np.concatenate(rows)).argmax())
        truth = np.empty(len(rows), object)
        truth[:] = rows
        same = np.empty(len(rows), object)
        same[:] = [np.full_like(row, commonest) for row in rows]
        scored = {commonest: task.metrics(same, truth)}
    else:
        return None
    best = max(scored, key=lambda one: scored[one][task.metric].value)
    found = scored[best][task.metric]
    return Constant(f'"{label_names[best]}"', found.value, found.stderr)
