"""A time budget pays for what was lost too: once, and not for ever."""

import pytest
from study_factory import ledger_states

from autopeft.errors import DataError
from autopeft.study import driver
from autopeft.study.events import Silent
from autopeft.study.folder import Study
from autopeft.study.lost_time import LostTime
from autopeft.study.search import run_search


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_time_that_a_record_tells_of_is_not_lost(tmp_path, clock):
    lost = LostTime(tmp_path / "lost.json", clock)
    lost.begins(0)
    clock.now += 10
    lost.brings(0, 4)
    lost.brings(0, 4)
    lost.write()
    assert LostTime(tmp_path / "lost.json", clock).seconds == 2, "if it were killed now"
    assert lost.seconds == 0, "what runs is paid for as expected"
    lost.ends(0)
    assert lost.seconds == 2
    lost.begins(1)
    clock.now += 3
    lost.brings(1, 5)
    lost.ends(1)
    lost.brings(1, 5)
    assert lost.seconds == 2, "a record that tells of more gives nothing back"


def test_killed_jobs_add_up_over_drivers(tmp_path, clock):
    for n_kills in range(3):
        lost = LostTime(tmp_path / "lost.json", clock)
        assert lost.seconds == 7 * n_kills
        lost.begins(5)
        clock.now += 7
        lost.write()


def test_time_is_written_every_ten_seconds(tmp_path, clock):
    path = tmp_path / "lost.json"
    lost = LostTime(path, clock)
    lost.begins(0)
    clock.now += 9
    lost.note()
    assert not path.exists()
    clock.now += 1
    lost.note()
    clock.now += 9
    lost.note()
    assert LostTime(path, clock).seconds == 10


@pytest.mark.parametrize("content", ["[]", '{"version": 1}', '{"version": 1, "seconds": -1}'])
def test_file_of_a_stranger_is_refused(tmp_path, content):
    path = tmp_path / "lost.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"lost\.json: "):
        LostTime(path)


class Killed(Silent):
    """Stops in its first job, which has taken ten seconds by then."""

    def __init__(self, clock):
        self._clock = clock

    def stepped(self, trials, step, steps):
        self._clock.now += 10
        raise KeyboardInterrupt


@pytest.fixture
def clocked(metered, monkeypatch, clock):
    """What a study loses is read from the clock."""
    monkeypatch.setattr(driver, "LostTime", lambda path: LostTime(path, clock))


@pytest.mark.usefixtures("clocked")
@pytest.mark.parametrize(("n_kills", "n_trials"), [(0, 8), (2, 6), (3, 4)])
def test_kills_are_paid_for_by_the_time_budget(spec_of, tmp_path, clock, n_kills, n_trials):
    spec, study = spec_of(trials=8, time=26.5), Study(tmp_path / "study")
    for _ in range(n_kills):
        with pytest.raises(KeyboardInterrupt):
            run_search(spec, study.folder, watcher=Killed(clock))
    run_search(spec, study.folder)
    assert len(study.records()) == n_trials
    assert ledger_states(study) == ["COMPLETE"] * n_trials


def test_study_without_a_time_budget_keeps_no_account(done):
    assert not done.lost_time_file.exists()
