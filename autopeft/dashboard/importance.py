"""Which properties of a genotype go with its quality and its costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopeft.dashboard.trials import TrialInfo
from autopeft.objectives import PARAMS

LEAST = 20
"""Trials without which nothing is estimated."""
MOST = 600
"""Trials that are looked at; of more, evenly spaced ones."""
COMMON = 0.05
"""Share of the trials that has to have an op for it to be a property."""

_TREES = 60
_SHUFFLES = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """What goes with one objective.

    Attributes:
        objective: `quality`, or the name of a cost.
        explained: part of the variance that a random forest predicts out of bag; if it is not
            positive, the importances say nothing.
        features: properties, the most important first.
        drops: for each, by how much R squared falls when it is shuffled (Breiman 2001).
        trials: that were looked at.
    """

    objective: str
    explained: float
    features: tuple[str, ...]
    drops: tuple[float, ...]
    trials: int


def importances(trials: Sequence[TrialInfo]) -> tuple[Importance, ...]:
    """Importances for the quality and every cost but parameters, which follow from the genotype.

    Nothing for an objective that fewer than `LEAST` trials have or that is the same in all.
    """
    scored = [trial for trial in trials if trial.quality is not None]
    chosen = [scored[i] for i in _spaced(len(scored), MOST)]
    costs = [name for name in (chosen[0].costs if chosen else ()) if name != PARAMS]
    found = [_importance("quality", chosen, [trial.quality or 0.0 for trial in chosen])]
    for name in costs:
        having = [trial for trial in chosen if name in trial.costs]
        found.append(_importance(name, having, [trial.costs[name] for trial in having]))
    return tuple(item for item in found if item is not None)


def _importance(
    objective: str, trials: Sequence[TrialInfo], values: Sequence[float]
) -> Importance | None:
    if len(trials) < LEAST or len(set(values)) == 1:
        return None
    from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415 - a second to import

    names, x = _features(trials)
    y = np.asarray(values)
    forest = RandomForestRegressor(_TREES, min_samples_leaf=3, oob_score=True, random_state=0)
    forest.fit(x, y)
    drops = _drops(forest.predict, x, y)
    order = np.argsort(-drops, kind="stable")
    return Importance(
        objective=objective,
        explained=float(forest.oob_score_),
        features=tuple(names[i] for i in order),
        drops=tuple(max(0.0, float(drops[i])) for i in order),
        trials=len(trials),
    )


def _drops(predict: Callable[[Floats], Floats], x: Floats, y: Floats) -> Floats:
    """By how much R squared falls when each column is shuffled, one prediction for all columns."""
    rows, columns = x.shape
    rng = np.random.default_rng(0)
    lost = np.zeros(columns)
    for _ in range(_SHUFFLES):
        shuffled = np.repeat(x[None], columns, axis=0)
        order = rng.permutation(rows)
        for column in range(columns):
            shuffled[column, :, column] = x[order, column]
        predicted = predict(shuffled.reshape(columns * rows, columns)).reshape(columns, rows)
        lost += ((y - predicted) ** 2).mean(axis=1) - ((y - predict(x)) ** 2).mean()
    found: Floats = lost / _SHUFFLES / y.var()
    return found


def _features(trials: Sequence[TrialInfo]) -> tuple[list[str], Floats]:
    columns: dict[str, list[float]] = {
        "learning rate": [float(np.log10(trial.learning_rate)) for trial in trials],
        "weight decay": [trial.weight_decay for trial in trials],
        "parameters": [float(np.log1p(trial.params)) for trial in trials],
        "share in attention": [trial.attention_share or 0.0 for trial in trials],
        "mean depth": [0.5 if trial.mean_depth is None else trial.mean_depth for trial in trials],
        "number of ops": [float(len(trial.ops)) for trial in trials],
    }
    sizes = [_size_by_op(trial) for trial in trials]
    for name in sorted({name for item in sizes for name in item}):
        values = [item.get(name, 0.0) for item in sizes]
        if sum(value > 0 for value in values) >= COMMON * len(trials):
            columns[f"size of {name}"] = values
    varying = {name: values for name, values in columns.items() if len(set(values)) > 1}
    return list(varying), np.asarray(list(varying.values())).T.reshape(len(trials), len(varying))


def _size_by_op(trial: TrialInfo) -> dict[str, float]:
    sizes: dict[str, float] = {}
    for op in trial.ops:
        sizes[op.name] = sizes.get(op.name, 0.0) + sum(op.sizes)
    return sizes


def _spaced(count: int, most: int) -> list[int]:
    """At most so many indices, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
