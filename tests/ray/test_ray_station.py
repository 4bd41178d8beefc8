"""What stands on a node, without Ray: files that travel there and back, jobs, and refusals."""

import json
import tempfile
from dataclasses import asdict

import pytest
from study_factory import results, weights

from autopeft.engines.job import Job
from autopeft.engines.protocol import Done, Loaded, Measured, Refused
from autopeft.engines.ray import station as stations
from autopeft.engines.ray.files import pieces, roots_of, states_for, write_files
from autopeft.engines.ray.letters import Letter, Stepped, latest
from autopeft.engines.ray.station import Station
from autopeft.errors import DataError
from autopeft.records import Record
from autopeft.study.jobs import read_jobs
from autopeft.study.manifest import read_manifest


@pytest.fixture
def station(tmp_path, monkeypatch):
    """A station whose files lie below the test's folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = Station(1, 60)
    yield made
    made._engine.close()
    made.close()
    assert not list(tmp_path.glob("*autopeft*"))


def heard(station, wires):
    """All news of a job."""
    while True:
        news = [Letter.from_wire(wire) for wire in wires]
        yield from news
        if any(isinstance(letter.message, Done | Refused) for letter in news):
            return
        wires = station.hear()


def test_node_without_the_files_measures_the_same(station, done, spec_of, tmp_path, monkeypatch):
    work = spec_of().work
    roots = roots_of(work)
    assert len(roots) == 4
    for root in roots:
        monkeypatch.setattr("autopeft.engines.ray.files.PIECE_BYTES", 1000)
        for piece in pieces(root):
            station.receive(piece.root, piece.name, piece.data)
    moved = {str(path) for path in station._places.values()}
    assert all(path.startswith(str(tmp_path)) for path in moved)
    loaded = Letter.from_wire(station.load(work.model_dump_json())).message
    assert isinstance(loaded, Loaded)
    assert loaded.facts.model == work.model, "the study knows it by its own name"
    decided = read_manifest(done.manifest_file).decided
    some = json.dumps([t.genotype.to_dict() for job in read_jobs(done.folder) for t in job.trials])
    calibrated = station.calibrate(json.dumps(asdict(decided.settings)), some)
    assert Letter.from_wire(calibrated).message.costs.memory.base > 0
    station.begin(decided.model_dump_json())
    (tmp_path / "study").mkdir()
    study = type(done)(tmp_path / "study")
    found = []
    for job in read_jobs(done.folder):
        news = list(heard(station, station.run(json.dumps(job.to_dict()), job.numbers, {})))
        assert isinstance(news[-1].message, Done)
        for letter in news:
            if isinstance(letter.message, Measured):
                record = Record.from_dict(letter.message.record, "station")
                write_files(record, letter.files, study.folder)
                found.append(record)
    assert [r.to_dict()["metrics"] for r in found] == [r["metrics"] for r in results(done)]
    assert {r.weights_sha256 for r in found} == {r.weights_sha256 for r in done.records()}
    sent = weights(study)
    assert {name: sent[name] for name in weights(done)} == weights(done)
    assert not list((station._folder / "weights").iterdir()), "the node keeps nothing"
    assert not list(study.folder.glob("paused/*"))


def test_station_says_what_it_refuses(station, spec_of, tmp_path):
    work = spec_of(model=str(tmp_path / "nowhere")).work
    answer = Letter.from_wire(station.load(work.model_dump_json())).message
    assert isinstance(answer, Refused)
    assert answer.error == "DataError"
    assert "cannot be loaded" in answer.message
    name, versions, lacking = station.greet([work.model, str(tmp_path)])
    assert lacking == [work.model]
    assert name
    assert versions == stations.versions()


def test_lock_that_somebody_made_a_link_empties_no_file(tmp_path, monkeypatch):
    """With filelock before 3.20.1 it did, where the system follows links in /tmp."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "precious").write_text("mine", encoding="utf-8")
    (tmp_path / "autopeft-station-x").mkdir()
    (tmp_path / ".autopeft-station-x.lock").symlink_to(tmp_path / "precious")
    Station(1, 60).close()
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "mine"


def test_states_go_along_if_all_of_them_are_there(done, tmp_path):
    job = Job(read_jobs(done.folder)[0].trials[:2], 1, 0, 0)
    assert states_for(job, tmp_path) == {}
    (tmp_path / "paused").mkdir()
    for number in job.numbers:
        assert states_for(job, tmp_path) == {}
        (tmp_path / f"paused/{number:06d}-0.safetensors").write_bytes(b"%d" % number)
    states = states_for(job, tmp_path)
    assert states == {f"paused/{number:06d}-0.safetensors": b"%d" % number for number in (0, 1)}
    assert states_for(Job(job.trials, 1, 1, 0), tmp_path) == {}, "a repetition starts anew"


@pytest.mark.parametrize("name", ["../study.yaml", "study.db", "weights/000001-0-0.safetensors"])
def test_files_that_do_not_belong_to_a_record_are_refused(done, tmp_path, name):
    with pytest.raises(DataError, match="sent the file"):
        write_files(done.records()[0], {name: b""}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_signs_of_life_that_a_later_one_follows_are_left_out():
    steps = [Letter(Stepped(trials=(0,), step=step, steps=9)) for step in range(4)]
    done = Letter(Done())
    assert latest([*steps[:3], done, steps[3]]) == [steps[2], done, steps[3]]
