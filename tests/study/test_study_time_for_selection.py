"""A time budget that runs short: the final selection is smaller, or none, and never half of one."""

from collections import Counter
from itertools import count, product

import pytest

from autopeft.engines import workbench
from autopeft.study.contenders import trained_anew
from autopeft.study.events import Silent
from autopeft.study.jobs import read_jobs
from autopeft.study.rungs import next_replicate
from autopeft.study.search import run_search
from autopeft.training.train import train_cohort


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def noted(self, note):
        self.notes.append(note)


@pytest.mark.parametrize(
    ("asked", "payable", "expected"),
    [
        (set(), 12, ([7, 3, 5, 1], 3)),
        (set(), 11, ([7, 3, 5, 1], 2)),
        (set(), 7, ([7, 3, 5], 2)),
        (set(), 4, ([7, 3], 2)),
        (set(), 3, ([], 0)),
        ({(7, 1), (3, 1), (5, 1)}, 3, ([7, 3, 5], 2)),
        ({(7, 1), (3, 1), (5, 1)}, 0, ([7, 3, 5], 2)),
        ({(7, 1)}, 0, ([7, 3], 2)),
        ({(5, 1)}, 4, ([5, 7], 2)),
        ({(5, 1), (5, 2)}, 0, ([], 0)),
        ({(9, 1)}, 3, ([], 0)),
    ],
)
def test_what_is_begun_is_finished_and_nothing_else_that_is_not_payable(asked, payable, expected):
    assert trained_anew([7, 3, 5, 1], 12, 3, asked, payable) == expected


def test_one_contender_is_not_trained_anew():
    assert trained_anew([7], 12, 3, set(), 99) == ([], 0)


@pytest.mark.parametrize("cost", [0.3, 0.8, 1.0, 1.3, 3.0])
def test_no_time_is_spent_on_half_a_selection(cost):
    """However much dearer trainings are than expected, and whatever the cohort."""
    for time, size, n_contenders in product(range(14), range(1, 5), range(2, 7)):
        asked, left = set(), float(time)
        while True:
            pairs = {(trial, seed) for trial, _, seed in asked}
            chosen = trained_anew(range(n_contenders), 12, 3, pairs, max(0, int(left)))
            found = next_replicate(*chosen, 0, size, asked)
            if found is None:
                break
            seed, trials = found
            asked |= {(trial, 0, seed) for trial in trials}
            left -= cost * len(trials)
        seeds = Counter(trial for trial, _, _ in asked)
        assert bool(seeds) == (time >= 4)
        if seeds:
            assert max(seeds.values()) - min(seeds.values()) <= 1
            assert len(seeds) >= 2
            assert min(seeds.values()) >= 2
        if cost <= 1:
            assert left >= 0


@pytest.fixture
def taking(metered, monkeypatch):
    """Lets a trial of each cohort take so many seconds."""

    def take(*seconds):
        calls = count()

        def train(backbone, genotypes, *args, **more):
            trained, _ = train_cohort(backbone, genotypes, *args, **more)
            return trained, len(genotypes) * seconds[min(next(calls), len(seconds) - 1)]

        monkeypatch.setattr(workbench, "train_cohort", train)

    return take


@pytest.mark.parametrize(
    ("last", "fresh", "expected"), [(1.5, 1.2, {2: 2}), (2.2, 1.2, {})], ids=["smaller", "none"]
)
def test_search_that_took_longer(spec_of, tmp_path, taking, last, fresh, expected):
    """It may take 12 s of 20 s; its last four trials take longer than they were expected to.

    Three contenders with two seeds are planned, and five trainings or two are payable.
    """
    taking(1, 1, last, fresh)
    notes = Notes()
    more = {"selection": {"seeds": 2, "share": 0.4}, "methods": ["head", "lora", "bitfit", "ia3"]}
    spec = spec_of(trials=16, time=20, rungs=1, **more)
    study = run_search(spec, tmp_path / "study", watcher=notes)
    seeds = Counter(
        trial.number for job in read_jobs(study.folder) if job.replicate for trial in job.trials
    )
    assert Counter(seeds.values()) == expected
    assert (study.selection() is not None) == bool(expected)
    told = [
        note for note in notes.notes if note.startswith("there is no final selection: 2 trials")
    ]
    if expected:
        assert told == []
    else:
        (note,) = told
        assert "take about 5.6 s, and the time budget has 3.2 s for them" in note


def test_share_of_the_time_that_pays_for_no_selection_is_told(spec_of, tmp_path, taking):
    taking(1)
    notes = Notes()
    spec = spec_of(trials=10, time=9.5, selection={"seeds": 2, "share": 0.4}, rungs=1)
    run_search(spec, tmp_path / "study", watcher=notes)
    assert any("take about 4.0 s, and the time budget has 0.5 s" in note for note in notes.notes)
