"""What a search tells whoever watches it."""

from dataclasses import dataclass
from typing import Protocol

from autopeft.front import Front
from autopeft.records import Record


@dataclass(frozen=True)
class Plan:
    """What a search will cost, told before its first trial.

    Attributes:
        folder: where it is written.
        trials_done: of earlier runs on the folder.
        trials: in all.
        least_params: of the smallest op that the space can draw.
        max_params: the budget.
        fraction: the budget over the parameters of the backbone.
        trial_seconds: expected for one trial; with rungs, in the mean.
        time_seconds: the limit, or None.
        precision: of the products.
        kernel: of attention.
        cohort: trials trained together.
        rung_steps: optimizer steps to each rung.
        contenders: trials of the final selection at most; 0 if there is none.
        seeds: fresh ones for each contender.
        selection_seconds: expected for the final selection.
        space: name of the space.
        cardinality: sets of ops in it at most.
        notes: what else the user has to know.
        rung_metric: what rungs below the last are measured by, if it is not the metric.
        labels: the classes or tags, where there are any.
    """

    folder: str
    trials_done: int
    trials: int
    least_params: int
    max_params: int
    fraction: float
    trial_seconds: float
    time_seconds: float | None
    precision: str
    kernel: str
    cohort: int
    rung_steps: tuple[int, ...]
    contenders: int
    seeds: int
    selection_seconds: float
    space: str
    cardinality: int
    notes: tuple[str, ...]
    rung_metric: str | None = None
    labels: tuple[str, ...] = ()

    @property
    def seconds_left(self) -> float:
        """Expected for the trials to come and the final selection."""
        todo = max(0, self.trials - self.trials_done)
        return todo * self.trial_seconds + (self.selection_seconds if todo else 0.0)

    @property
    def selection_trials(self) -> float:
        """How many trials take as long as the final selection; 0 if trials take no time."""
        return self.selection_seconds / self.trial_seconds if self.trial_seconds else 0.0


class Watcher(Protocol):
    """Somebody who watches a search."""

    def planned(self, plan: Plan) -> None:
        """The search is about to start."""

    def noted(self, note: str) -> None:
        """Something happened that the user has to know."""

    def stepped(self, trials: tuple[int, ...], step: int, steps: int) -> None:
        """A cohort has done some of its steps."""

    def measured(self, record: Record, summary: str, front: Front) -> None:
        """A trial has ended; the front includes it."""


class Silent:
    """Watches without a word."""

    def planned(self, plan: Plan) -> None:
        """Say nothing."""

    def noted(self, note: str) -> None:
        """Say nothing."""

    def stepped(self, trials: tuple[int, ...], step: int, steps: int) -> None:
        """Say nothing."""

    def measured(self, record: Record, summary: str, front: Front) -> None:
        """Say nothing."""
