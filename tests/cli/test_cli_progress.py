"""What is said of the time that is left."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from autopeft.cli import progress
from autopeft.cli.progress import LiveWatcher, PlainWatcher
from autopeft.records import Cached
from autopeft.study.events import Plan

PLAN = Plan(
    folder="here",
    trials_done=2,
    trials=6,
    least_params=1,
    max_params=9,
    fraction=0.1,
    trial_seconds=10.0,
    time_seconds=None,
    precision="fp32",
    kernel="eager",
    cohort=4,
    rung_steps=(100,),
    contenders=2,
    seeds=3,
    selection_seconds=60.0,
    space="unified",
    cardinality=99,
    notes=(),
)
TRIALS = [(0, 5.0)] * 4
SELECTION = [(1, 5.0)] * 6


def lefts(plan, done, measured):
    """What is said to be left after each record of (replicate, seconds)."""
    screen = StringIO()
    watcher = PlainWatcher(Console(file=screen, width=200))
    watcher.planned(plan)
    screen.seek(screen.truncate(0))
    first, *_ = done.records()
    for replicate, seconds in measured:
        record = replace(first, replicate=replicate, seconds=seconds)
        watcher.measured(record, "LoRA", done.front())
    return [line.split(", ")[1].split(" left")[0] for line in screen.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (PLAN, ["45 s", "40 s", "35 s", "30 s", *("25 s", "20 s", "15 s", "10 s", "5 s", "0 s")]),
        (replace(PLAN, contenders=0, selection_seconds=0.0), ["15 s", "10 s", "5 s", *["0 s"] * 7]),
        (replace(PLAN, trial_seconds=0.0), ["15 s", "10 s", "5 s", *["0 s"] * 7]),
        (
            replace(PLAN, rung_steps=(10, 100)),
            ["2 min", "2 min", "85 s", "80 s", *("75 s", "70 s", "65 s", "60 s", "55 s", "50 s")],
        ),
    ],
    ids=["search and selection", "search alone", "trials take no time", "rungs"],
)
def test_time_left_is_at_the_pace_of_what_was_measured(done, plan, expected):
    """Trials take half of what was planned, and so will the selection."""
    assert lefts(plan, done, [*TRIALS, *SELECTION]) == expected


@pytest.mark.parametrize("watcher_of", [PlainWatcher, LiveWatcher])
def test_measurement_of_another_study_is_told_by_its_folder(done, tmp_path, watcher_of):
    for name, told in [("broken", "{"), ("list", "[]"), ("other", '{"study": "autopeft-7"}')]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(told)
    screen = StringIO()
    watcher = watcher_of(Console(file=screen, width=300))
    watcher.planned(replace(PLAN, folder=str(tmp_path / "mine")))
    for study in ("autopeft-7", "autopeft-8"):
        cached = Cached(study, 4, 1.0, "2026-01-31T12:00:00+00:00")
        watcher.measured(replace(done.records()[1], cached=cached), "LoRA", done.front())
    told = screen.getvalue()
    assert f"trial 1 (as measured by trial 4 of {tmp_path / 'other'}): " in told
    assert "trial 1 (as measured by trial 4 of autopeft-8): " in told


def test_time_left_on_a_terminal_counts_the_final_selection(done, monkeypatch):
    """Four trials and six trainings of the selection, of 5 s each, in cohorts of two."""
    now, first, *_ = 0.0, *done.records()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    watcher = LiveWatcher(Console(file=StringIO(), force_terminal=True, width=200))
    watcher.planned(replace(PLAN, trial_seconds=10.0, selection_seconds=60.0))
    lefts = []
    for replicate in (0, 0, 1, 2, 3):
        for step in (1, 2):
            now += 5.0
            watcher.stepped((0, 1), step, 2)
            lefts.append(watcher._progress.tasks[0].fields["note"].split(" left")[0])
        for _ in range(2):
            record = replace(first, replicate=replicate, seconds=5.0)
            watcher.measured(record, "LoRA", done.front())
    assert lefts == [f"{seconds} s" for seconds in range(45, -5, -5)]
