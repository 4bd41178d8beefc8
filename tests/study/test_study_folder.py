"""What a study leaves in its folder."""

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import jsonschema
import psutil
import pytest
from optuna.trial import TrialState
from study_factory import ROWS, ledger_states, results, tree

from autopeft import __version__
from autopeft.engines.job import JobTrial
from autopeft.errors import DataError
from autopeft.front import front_of
from autopeft.front_file import front_to_dict
from autopeft.record_files import read_jsonl
from autopeft.space.bind import bind
from autopeft.space.encode import encode
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.methods import method
from autopeft.space.shape import BERT_BASE
from autopeft.space.shipped import load_space
from autopeft.space.words import describe
from autopeft.study.folder import Study
from autopeft.study.ledger import Ledger
from autopeft.study.manifest import read_manifest
from autopeft.study.prepare import prepare
from autopeft.study.search import run_search
from autopeft.study.spec import load_study_spec

GATELESS = replace(BERT_BASE, n_encoder_layers=6)
SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"
SPACE = """
name: mine
description: One slot.
slots:
  - {name: q, form: lowrank, read: weight, write: q, size: [1, 2, 4], layout: free}
training: {learning_rate: {low: 1e-3, high: 1e-2}}
"""


def checked_by(schema: str):
    text = (SCHEMAS / f"{schema}.schema.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text)).validate


def test_only_the_announced_files_are_there(done):
    top = {name for name in tree(done.folder) if "/" not in name}
    assert top == {
        *("study.yaml", "space.yaml", "manifest.json", "study.db", ".lock"),
        *("jobs", "records", "records.jsonl", "front.json", "weights"),
    }


def test_front_follows_from_the_records(done):
    found = front_of(
        done.records(), "accuracy", "maximize", 1680, lambda g: describe(genotype_from_dict(g))
    )
    written = json.loads((done.folder / "front.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(front_to_dict(found)))
    assert done.front() == found
    checked_by("front")(written)
    assert len(found.points) > 1
    assert len(found.points) < len(done.records()), "or no weights were deleted below"


def test_compiled_records_are_the_record_files(done):
    assert read_jsonl(done.folder / "records.jsonl") == done.records()
    lines = (done.folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    files = sorted((done.folder / "records").glob("*.json"))
    assert [f"{line}\n" for line in lines] == [file.read_text(encoding="utf-8") for file in files]
    for line in lines:
        checked_by("record")(json.loads(line))


def test_record_tells_what_was_trained(done, spec_of):
    shape = prepare(spec_of(), done.folder).backbone.shape
    for record in done.records():
        genotype = genotype_from_dict(record.genotype)
        assert record.hash == genotype.hash
        assert record.fraction == record.trainable_params / shape.backbone_params
        assert record.head_params == 2 * (16 + 1)
        assert record.steps == 3
        assert record.seconds > 0
        assert (record.rung, record.replicate, record.precision) == (0, 0, "fp32")
        assert record.objectives["trainable_params"].value == record.trainable_params
        quality = record.objectives["accuracy"]
        assert asdict(record.metrics["accuracy"]).items() <= asdict(quality).items()
        assert record.cohort == ((0, 1, 2, 3) if record.trial < 4 else (4,))


def test_weights_of_the_front_alone_are_kept(done):
    on_front = {f"{point.trial:06d}-0-0.safetensors" for point in done.front().points}
    assert {path.name for path in (done.folder / "weights").iterdir()} == on_front
    named = {record.weights for record in done.records()}
    assert named == {f"weights/{i:06d}-0-0.safetensors" for i in range(5)}


def test_ledger_knows_every_trial(done):
    assert ledger_states(done) == ["COMPLETE"] * 5
    with closing(Ledger(done.database)) as ledger:
        stored = ledger._study.get_trials()
    records = done.records()
    told = {key: [trial.user_attrs[key] for trial in stored] for key in stored[0].user_attrs}
    assert told.pop("genotype") == [record.genotype for record in records]
    assert told == {
        "hash": [record.hash for record in records],
        "seed": [record.seed for record in records],
        "origin": ["method head", "method lora", "tpe", "tpe", "method lora"],
    }
    qualities = [record.metrics["accuracy"].value for record in records]
    assert [trial.values[0] for trial in stored] == qualities
    assert stored[0].values[1] == 0
    assert not stored[0].params, "the head alone has no coordinates in the space"
    assert all(trial.params for trial in stored[1:])


def test_database_survives_a_crash(done):
    with closing(sqlite3.connect(done.database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    ledger = Ledger(done.database)
    try:
        with ledger._storage.engine.connect() as connection:
            full = connection.exec_driver_sql("PRAGMA synchronous").scalar()
    finally:
        ledger.close()
    assert full == 2
    assert not list(done.folder.glob("study.db-*")), "nothing is left open"


@pytest.mark.parametrize("name", ["what?x=1", "50% of %20 it", "run%41", "a#b"])
def test_database_lies_in_the_folder_whatever_that_is_called(tmp_path, name):
    """Some names would mean something in a URL."""
    (tmp_path / name).mkdir()
    Ledger(tmp_path / name / "study.db").close()
    assert set(tree(tmp_path)) == {name, f"{name}/study.db"}


@pytest.mark.parametrize("table", [None, "alembic_version", "studies"])
def test_other_database_is_refused_and_closed(tmp_path, table):
    path = tmp_path / "study.db"
    if table is None:
        path.write_bytes(b"this is no database" * 100)
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"CREATE TABLE {table} (other)")
    with pytest.raises(DataError, match=r"study\.db: not a study database") as refused:
        Ledger(path)
    made_again = "file is not a database; move the file away, and it is made again from jobs and"
    assert (made_again in str(refused.value)) == (table is None)
    assert refused.value.__cause__, "which keeps alive what was opened"
    assert str(path) not in {file.path for file in psutil.Process().open_files()}


def test_manifest_tells_what_it_was_made_with(done, spec_of):
    manifest = read_manifest(done.manifest_file)
    ground = prepare(spec_of(), done.folder)
    assert manifest.versions["autopeft"] == __version__
    assert {"python", "torch", "transformers", "optuna"} <= set(manifest.versions)
    assert manifest.model == {
        "name": ground.backbone.name,
        "revision": None,
        "sha256": ground.backbone.fingerprint,
        **ground.facts.shape.to_dict(),
    }
    assert ground.facts.shape.room == 32 - 16
    assert manifest.model["backbone_params"] == 5600
    assert done.shape() == ground.facts.shape
    assert manifest.data["sha256"] == ground.dataset.fingerprint
    assert manifest.data["rows"] == ROWS
    assert manifest.data["labels"] == ["bad", "good"]
    assert manifest.max_params == 1680
    assert manifest.settings.precision == "fp32"
    assert manifest.trial_seconds > 0
    assert manifest.command
    assert manifest.study.startswith("autopeft-")
    assert manifest.fingerprint["seed"] == 0
    assert manifest.fingerprint["metric"] == "accuracy"


def test_study_file_resolves_to_itself(done, spec_of):
    assert load_study_spec(done.spec_file) == spec_of().resolved(Path("elsewhere"))
    assert load_space(str(done.space_file)) == load_space("unified")


def test_study_file_continues_its_study(spec_of, tmp_path, monkeypatch):
    """Also where model, data and space were named by relative paths."""
    spec = spec_of(trials=2)
    (tmp_path / "model").symlink_to(spec.model)
    (tmp_path / "mine.yaml").write_text(SPACE, encoding="utf-8")
    spec = spec.model_copy(update={"model": "model", "space": "mine.yaml"})
    study = run_search(spec, tmp_path / "study", base=tmp_path)
    monkeypatch.chdir("/")
    again = load_study_spec(study.spec_file)
    assert Path(again.model).is_absolute()
    more = again.model_copy(update={"budget": again.budget.model_copy(update={"trials": 3})})
    continued = run_search(more, study.folder, base=study.folder)
    assert len(results(continued)) == 3
    assert load_space(str(study.space_file)).name == "mine"


def test_file_lost_between_the_first_writes_is_written_again(spec_of, tmp_path):
    study = run_search(spec_of(trials=2), tmp_path / "study")
    files = tree(study.folder)
    study.space_file.unlink()
    study.spec_file.unlink()
    run_search(spec_of(trials=2), study.folder)
    assert tree(study.folder) == files


def test_folder_without_a_study_has_no_front(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        Study(tmp_path).front()


def test_database_that_knows_other_choices_is_refused_with_what_to_do(tmp_path):
    """As that of a study whose space had gates where there can be none by now."""
    spec = load_space("hybrid")
    before, now = (bind(spec, shape, 10**6) for shape in (BERT_BASE, GATELESS))
    path, lora = tmp_path / "study.db", method("lora").genotype(BERT_BASE)
    with closing(Ledger(path)) as ledger:
        ledger.enter(JobTrial(0, lora, 0, "random"), encode(before, lora), before)
    with (
        closing(Ledger(path)) as ledger,
        pytest.raises(DataError, match=r"study\.db: .* other choices in this space; move the file"),
    ):
        ledger.enter(JobTrial(1, lora, 0, "random"), encode(now, lora), now)


@pytest.mark.parametrize("as_before", [False, True])
def test_what_rungs_measure_is_by_step_in_a_trial_that_goes_on_too(tmp_path, as_before):
    """Also where the database has been begun by a driver that wrote no such values."""
    space, path = bind(load_space("hybrid"), BERT_BASE, 10**6), tmp_path / "study.db"
    lora = method("lora").genotype(BERT_BASE)
    with closing(Ledger(path)) as ledger:
        for number in range(2):
            ledger.enter(JobTrial(number, lora, 0, "random"), encode(space, lora), space)
        if not as_before:
            ledger.measure(0, 2, 0.25)
        ledger.prune(0)
    with closing(Ledger(path)) as ledger:
        for step, quality in ((2, 0.25), (4, 0.5), (8, 0.75)):
            ledger.measure(0, step, quality)
            ledger.measure(1, step, quality)
        ledger.complete(0, [0.75, 3.0])
        pruned, other, gone_on = ledger._study.get_trials()
    assert pruned.intermediate_values == ({} if as_before else {2: 0.25})
    assert pruned.values is None
    assert other.intermediate_values == {2: 0.25, 4: 0.5, 8: 0.75}
    assert other.state == TrialState.RUNNING
    assert gone_on.intermediate_values == other.intermediate_values
    assert gone_on.values == [0.75, 3.0]
