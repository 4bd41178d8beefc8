"""Curves of quality against cost: where searches end, and who is there at what part of the cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import print_table
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 2000
Draw = NDArray[np.int64]
"""Positions of studies."""


@dataclass(frozen=True)
class Step:
    """A study after one of its jobs.

    Attributes:
        trainings: cost so far, in whole trainings.
        seconds: cost so far, of trainings as measured and of the sampler, in processor time.
        test: hypervolume of its front on the test rows.
        search: the same on the search rows.
    """

    trainings: float
    seconds: float
    test: float
    search: float


def compare(curves: Mapping[str, Sequence[Sequence[Step]]]) -> dict[str, Any]:
    """Where each strategy ends, and at what part of plain TPE's cost it is as far as that ends.

    The cost ratio is that of the mean curves; its interval is a bootstrap over studies.
    """
    result: dict[str, Any] = {}
    rng = np.random.default_rng(0)
    plain = curves["tpe"]
    for name, studies in curves.items():
        ends = np.array([study[-1].test for study in studies])
        result[name] = {
            "hypervolume": float(ends.mean()),
            "stderr": float(stats.sem(ends)) if len(ends) > 1 else None,
            "trainings": float(np.mean([study[-1].trainings for study in studies])),
            "seconds": float(np.mean([study[-1].seconds for study in studies])),
            "curves": [[[round(s.trainings, 3), round(s.test, 5)] for s in one] for one in studies],
        }
        for unit in ("trainings", "seconds"):
            ratio_of = _ratio_of(studies, plain, unit)
            drawn = (
                (
                    rng.integers(len(studies), size=len(studies)),
                    rng.integers(len(plain), size=len(plain)),
                )
                for _ in range(RESAMPLES)
            )
            ratios = [ratio_of(*pair) for pair in drawn]
            result[name][f"cost_of_tpe_{unit}"] = {
                "ratio": ratio_of(np.arange(len(studies)), np.arange(len(plain))),
                "low": _quantile(ratios, 0.025),
                "high": _quantile(ratios, 0.975),
            }
    return {"strategies": result}


def _ratio_of(
    studies: Sequence[Sequence[Step]], plain: Sequence[Sequence[Step]], unit: str
) -> Callable[[Draw, Draw], float | None]:
    """Of some of both: the cost at which the mean curve is where plain TPE ends, in parts of that.

    None if it never is at that cost.
    """
    goals = np.array([study[-1].test for study in plain])
    costs = np.array([getattr(study[-1], unit) for study in plain])
    grid = np.linspace(0, costs.max(), 1001)[1:]
    values = np.array([_curve(study, unit, grid) for study in studies])

    def ratio(some: Draw, others: Draw) -> float | None:
        whole = costs[others].mean()
        there = (values[some].mean(axis=0) >= goals[others].mean() - 1e-12) & (grid <= whole + 1e-9)
        reached = np.flatnonzero(there)
        return float(grid[reached[0]] / whole) if len(reached) else None

    return ratio


def _curve(study: Sequence[Step], unit: str, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    costs = np.array([getattr(step, unit) for step in study])
    values = np.array([0.0, *(step.test for step in study)])
    return values[np.searchsorted(costs, grid + 1e-9, side="right")]


def _quantile(ratios: Sequence[float | None], level: float) -> float | None:
    """Of ratios; one that was not reached is larger than all others."""
    values = [np.inf if ratio is None else ratio for ratio in ratios]
    found = float(np.quantile(values, level, method="nearest"))
    return found if np.isfinite(found) else None


def show(result: Mapping[str, Any]) -> None:
    """Print a line for each strategy."""
    lines = []
    for name, one in result["strategies"].items():
        ratio = one["cost_of_tpe_trainings"]
        cells = [ratio[key] for key in ("ratio", "low", "high")]
        lines.append(
            [
                name,
                f"{one['hypervolume']:.4f}",
                f"{one['stderr'] or 0:.4f}",
                f"{one['trainings']:.1f}",
                f"{one['seconds']:.0f}",
                *("never" if cell is None else f"{cell:.2f}" for cell in cells),
            ]
        )
    header = ["strategy", "hypervolume", "stderr", "trainings", "s", "of TPE's cost", "low", "high"]
    print_table(header, lines)
