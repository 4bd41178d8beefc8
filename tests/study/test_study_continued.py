"""A finished study that goes on: what it has selected, and what it was begun with."""

import shutil

import pytest
from study_factory import tree

from autopeft.errors import ConfigError
from autopeft.space.shipped import load_space
from autopeft.study.events import Silent
from autopeft.study.folder import Study
from autopeft.study.search import run_search
from autopeft.study.write import spec_yaml


class Stop(Silent):
    """Presses Ctrl-C in the first training."""

    def stepped(self, trials, step, steps):
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def selecting(spec_of):
    """Studies of so many trials with a final selection."""
    return lambda trials: spec_of(trials=trials, selection={"seeds": 2, "share": 0.9})


@pytest.fixture(scope="module")
def selected(selecting, tmp_path_factory):
    """Such a study that is finished; to be read only."""
    return run_search(selecting(10), tmp_path_factory.mktemp("selected") / "study")


@pytest.fixture
def study(selected, tmp_path):
    return Study(shutil.copytree(selected.folder, tmp_path / "study"))


def test_selection_among_fewer_trials_is_gone_as_soon_as_a_study_goes_on(
    study, selected, selecting
):
    run_search(selecting(10), study.folder)
    assert study.selection_file.read_bytes() == selected.selection_file.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run_search(selecting(13), study.folder, watcher=Stop())
    assert study.records() == selected.records(), "nothing was measured yet"
    assert study.selection() is None
    found = run_search(selecting(13), study.folder).selection()
    assert found is not None
    assert found.lead.constant >= 0.5, "of two classes, what one answer scores"


def test_selection_that_is_only_repeated_stays_meanwhile(study, selected, selecting):
    last = max((study.folder / "records").glob("*-2.json"))
    last.unlink()
    with pytest.raises(KeyboardInterrupt):
        run_search(selecting(10), study.folder, watcher=Stop())
    assert study.selection() == selected.selection()


def test_selection_that_the_records_do_not_bear_out_is_removed(selected, done, spec_of, tmp_path):
    study = Study(shutil.copytree(done.folder, tmp_path / "study"))
    shutil.copy(selected.selection_file, study.selection_file)
    run_search(spec_of(), study.folder)
    assert study.selection() is None


def test_what_killed_writers_have_left_half_written_is_removed(done, spec_of, tmp_path):
    study = Study(shutil.copytree(done.folder, tmp_path / "study"))
    (study.folder / "paused").mkdir()
    before = set(tree(study.folder))
    for folder in ("", "jobs", "records", "weights", "paused"):
        (study.folder / folder / ".x.00ff.tmp").write_bytes(b"torn")
    run_search(spec_of(), study.folder)
    assert set(tree(study.folder)) == before


class Notes(Silent):
    """Keeps the notes of a plan."""

    def planned(self, plan):
        self.notes = plan.notes


def test_study_goes_on_in_the_shipped_space_as_it_was_when_it_began(spec_of, tmp_path):
    new = load_space("lora")
    old = new.model_copy(update={"slots": new.slots[:2]})
    file = tmp_path / "old.yaml"
    file.write_text(spec_yaml(old), encoding="utf-8")
    run_search(spec_of(trials=4, methods=["head"], space=str(file)), tmp_path / "study")
    notes = Notes()
    study = run_search(
        spec_of(trials=8, methods=["head"], space="lora"), tmp_path / "study", watcher=notes
    )
    records = study.records()
    assert len(records) == 8
    proposed = {op["write"] for record in records for op in record.genotype["ops"]}
    assert proposed == {"q", "k"}
    assert any("as it was when it began" in note for note in notes.notes)
    with pytest.raises(ConfigError, match="begun with another space; give another --out"):
        run_search(spec_of(trials=9), study.folder)
    run_search(spec_of(trials=3, space="lora"), tmp_path / "new", watcher=notes)
    assert not any("as it was when it began" in note for note in notes.notes)
