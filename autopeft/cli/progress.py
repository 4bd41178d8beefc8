"""Showing a search while it runs: one live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from autopeft.objectives import duration

if TYPE_CHECKING:
    from autopeft.front import Front
    from autopeft.records import Cached, Record
    from autopeft.study.events import Plan


def tell_note(console: Console, note: str) -> None:
    """Something that the user has to know."""
    console.print(f"[yellow]note:[/] {escape(note)}")


def tell_plan(console: Console, plan: "Plan") -> None:
    """What the search will cost, before its first trial."""
    for note in plan.notes:
        tell_note(console, note)
    todo = max(0, plan.trials - plan.trials_done)
    limit = f", at most {duration(plan.time_seconds)} of training" if plan.time_seconds else ""
    if plan.trials_done:
        console.print(f"continuing {escape(plan.folder)}: {plan.trials_done} trials are there")
    if plan.labels:
        console.print(escape(told_labels(plan.labels)))
    console.print(
        f"space {escape(plan.space)}, {plan.least_params:,} to {plan.max_params:,} parameters "
        f"(budget {100 * plan.fraction:.3g} % of the backbone)"
    )
    console.print(
        f"{todo} trials, about {plan.trial_seconds:.1f} s each in cohorts of {plan.cohort} "
        f"({plan.precision}, {plan.kernel} attention): about {duration(plan.seconds_left)}{limit}"
    )
    if len(plan.rung_steps) > 1:
        steps = ", ".join(map(str, plan.rung_steps))
        by = f" by {plan.rung_metric}" if plan.rung_metric else ""
        console.print(f"rungs at {steps} steps: the better ones of each size{by} go on")
    if plan.contenders:
        console.print(
            f"then the final selection: at most {plan.contenders} trials, {plan.seeds} fresh seeds "
            f"each, about {duration(plan.selection_seconds)} of this"
        )


def told_labels(labels: Sequence[str]) -> str:
    """How many classes or tags there are, and which."""
    from autopeft.tasks.labels import listed

    return f"{len(labels):,} classes: {listed(labels)}"


def tell_record(record: "Record", summary: str, front: "Front", folder: str | None = None) -> str:
    """One line for a finished trial of the study in a folder."""
    if record.failure is not None:
        what = f"failed ({record.failure.kind}): {record.failure.message}"
    else:
        name = front.metric if front.metric in record.metrics else next(iter(record.metrics))
        metric = record.metrics[name]
        star = " *" if any(p.trial == record.trial for p in front.points) else ""
        what = f"{name} {metric.value:.4f} ± {metric.stderr:.4f}{star}"
    where = f" at rung {record.rung}" if record.rung else ""
    if record.replicate:
        where = f" with fresh seed {record.replicate} on unseen rows"
    if record.cached:
        where += f" (as measured by {_origin(record.cached, folder)})"
    return f"trial {record.trial}{where}: {what}, {record.trainable_params:,} parameters, {summary}"


def _origin(cached: "Cached", folder: str | None) -> str:
    """Which trial of which study: its folder, if that lies beside this one's as it did."""
    from autopeft.study.folder import study_named

    found = study_named(cached.study, Path(folder)) if folder else None
    return f"trial {cached.trial} of {found.folder if found else cached.study}"


def tell_step(console: Console, step: int, steps: int) -> None:
    """Ten lines for a whole training."""
    if step * 10 // steps > (step - 1) * 10 // steps:
        console.print(f"step {step} of {steps}")


def best_of(front: "Front") -> str:
    """The best point so far."""
    if (best := front.best) is None:
        return "nothing on the front yet"
    return f"best {front.metric} {best.quality:.4f} with {best.trainable_params:,} parameters"


class PlainWatcher:
    """Writes a line for each trial."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._plan: Plan | None = None
        self._done = 0
        self._searched = 0.0
        self._selected = 0.0

    def planned(self, plan: "Plan") -> None:
        """Say what is to come."""
        self._plan, self._done = plan, plan.trials_done
        tell_plan(self._console, plan)

    def noted(self, note: str) -> None:
        """Say it."""
        tell_note(self._console, note)

    def stepped(self, trials: tuple[int, ...], step: int, steps: int) -> None:
        """Say nothing: a log is not a progress bar."""

    def measured(self, record: "Record", summary: str, front: "Front") -> None:
        """Say what a trial came to, how many are done, and the time left."""
        self._done += record.is_first
        if record.replicate:
            self._selected += record.seconds
        else:
            self._searched += record.seconds
        folder = self._plan.folder if self._plan else None
        line = tell_record(record, summary, front, folder)
        if self._plan is not None:
            left = duration(self._seconds_left(self._plan))
            line = f"[{self._done}/{self._plan.trials}, {left} left] {line}"
        self._console.print(line, markup=False)

    def _seconds_left(self, plan: "Plan") -> float:
        """At the pace of the trials so far; where there are rungs, what is planned and not spent.

        What trials take in the mean cannot be told from those at the first rung.
        """
        made = self._done - plan.trials_done
        if made <= 0 or len(plan.rung_steps) > 1:
            return max(0.0, plan.seconds_left - self._searched - self._selected)
        pace = self._searched / made
        selection = max(0.0, plan.selection_trials * pace - self._selected)
        return max(0, plan.trials - self._done) * pace + selection


class LiveWatcher:
    """One line that is rewritten: trials done, time left, best so far, and steps of the cohort."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._trials = self._progress.add_task("trials", total=None, note="", visible=False)
        self._steps = self._progress.add_task("steps", total=None, note="")
        self._plan: Plan | None = None
        self._done = 0
        self._anew = 0
        self._began = time.monotonic()
        self._best = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def planned(self, plan: "Plan") -> None:
        """Say what is to come."""
        self._plan, self._done, self._began = plan, plan.trials_done, time.monotonic()
        tell_plan(self._console, plan)
        self._progress.update(
            self._trials, total=plan.trials, completed=plan.trials_done, visible=True
        )

    def noted(self, note: str) -> None:
        """Say it above the bars."""
        tell_note(self._console, note)

    def stepped(self, trials: tuple[int, ...], step: int, steps: int) -> None:
        """Move the bar of the cohort."""
        note = f"cohort {trials[0]}-{trials[-1]}" if trials else ""
        self._progress.update(self._steps, completed=step, total=steps, note=note)
        if self._plan is None or not steps:
            return
        left = duration(self._seconds_left(self._plan, len(trials) * step / steps))
        self._progress.update(self._trials, note=escape(f"{left} left  {self._best}"))

    def _seconds_left(self, plan: "Plan", under_way: float) -> float:
        """At the pace so far, by the clock.

        Args:
            plan: of the search.
            under_way: trainings that a cohort has done a part of.
        """
        todo = plan.trials - plan.trials_done
        anew = plan.contenders * plan.seeds
        worth = plan.selection_trials / anew if anew else 0.0  # of one training, in trials
        trials = self._done - plan.trials_done
        part = trials + self._anew * worth + under_way * (worth if trials >= todo else 1.0)
        spent = time.monotonic() - self._began
        return max(0.0, spent / part * (todo + plan.selection_trials) - spent) if part else 0.0

    def measured(self, record: "Record", summary: str, front: "Front") -> None:
        """Move the bar of the study; leave a line above it."""
        self._done += record.is_first
        self._anew += record.replicate > 0
        self._best = best_of(front)
        folder = self._plan.folder if self._plan else None
        self._console.print(tell_record(record, summary, front, folder), markup=False)
        self._progress.update(self._trials, completed=self._done)
