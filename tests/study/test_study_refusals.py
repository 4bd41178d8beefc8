"""What a search refuses, with the reason, and without a trace in the folder."""

import json
import shutil
from dataclasses import replace

import pytest
from study_factory import ROWS, save_checkpoint, tree, write_data

from autopeft.engines import decide as decide_module
from autopeft.errors import ConfigError, DataError, NoFeasibleTrialError
from autopeft.study import search
from autopeft.study.events import Silent
from autopeft.study.folder import Study
from autopeft.study.lock import locked
from autopeft.study.manifest import check_same, read_manifest
from autopeft.study.search import run_search


@pytest.fixture
def study(done, tmp_path):
    """A copy of a finished study of five trials."""
    return Study(shutil.copytree(done.folder, tmp_path / "study"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"space": "lora"}, ["space `lora` differ"]),
        ({"metric": "mcc"}, ['metric: was "accuracy", is now "mcc"']),
        ({"seed": 1}, ["seed: was 0, is now 1"]),
        ({"max_params": "20%"}, ["max_params: was 1680, is now 1120"]),
        ({"metric": "f1", "positive": "bad"}, ["metric: was", 'positive: was null, is now "bad"']),
        ({"sampler": "random"}, ['sampler: was "tpe", is now "random"']),
        ({"methods": ["head"]}, ['methods: was ["head", "lora"], is now ["head"]']),
        ({"training": {"epochs": 2}}, ["training.epochs: was 1, is now 2"]),
        (
            {"training": {"cohort": "auto", "accumulation": 2}},
            [
                'training.cohort: was 4, is now "auto"',
                "training.accumulation: was null, is now 2",
            ],
        ),
        ({"selection": {"seeds": 3}}, ["selection.seeds above 0: was false, is now true"]),
        ({"seed": 1, "metric": "f1"}, ["seed: was 0, is now 1", "metric: was"]),
    ],
)
def test_other_study_is_refused_with_the_differences(study, spec_of, change, told):
    before = tree(study.folder)
    with pytest.raises(ConfigError) as refusal:
        run_search(spec_of(trials=9, **change), study.folder)
    message = str(refusal.value)
    assert all(text in message for text in told), message
    assert "give another --out" in message
    assert len(message.splitlines()) == (1 if "space" in change else 1 + len(told))
    assert tree(study.folder) == before


def test_long_values_are_told_where_they_differ(spec_of, tmp_path):
    methods = ["head", "lora", "ia3", "bitfit", "pfeiffer", "houlsby", "parallel", "prefix"]
    run_search(spec_of(trials=1, methods=methods), tmp_path / "study")
    told = r'methods: was \.\.\..*"prefix"\], is now \.\.\..*"ln_tuning"\]$'
    with pytest.raises(ConfigError, match=told):
        run_search(spec_of(trials=1, methods=[*methods[:-1], "ln_tuning"]), tmp_path / "study")


def test_other_model_or_data_are_refused(study, spec_of, tmp_path):
    before = tree(study.folder)
    model = save_checkpoint(tmp_path / "model", seed=1)
    with pytest.raises(ConfigError, match=r"(?m)differences:\n  model: was .*$\Z"):
        run_search(spec_of(model=str(model)), study.folder)
    data = write_data(tmp_path / "data", test=ROWS["test"] + 1)
    files = {name: str(data / f"{name}.jsonl") for name in ROWS}
    told = r"(?m)differences:\n  data: was .*\n  rows\.test: was 20, .*$\Z"
    with pytest.raises(ConfigError, match=told):
        run_search(spec_of(data=files), study.folder)
    assert tree(study.folder) == before


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_other_configuration_or_tokenizer_is_refused(study, spec_of, checkpoint, tmp_path, file):
    """The weights are the same; manifests of before that was compared are continued."""
    model = shutil.copytree(checkpoint, tmp_path / "model")
    changed = json.loads((model / file).read_text(encoding="utf-8"))
    if file == "config.json":
        changed["hidden_act"] = "relu"
    else:
        vocabulary = changed["model"]["vocab"]
        vocabulary["great"], vocabulary["bad"] = vocabulary["bad"], vocabulary["great"]
    (model / file).write_text(json.dumps(changed), encoding="utf-8")
    spec = spec_of(model=str(model))
    with pytest.raises(ConfigError, match=r"(?m)differences:\n  configuration_and_t.*: was .*$\Z"):
        run_search(spec, study.folder)
    manifest = json.loads(study.manifest_file.read_text(encoding="utf-8"))
    later = manifest | {"versions": manifest["versions"] | {"transformers": "1"}}
    study.manifest_file.write_text(json.dumps(later), encoding="utf-8")
    run_search(spec, study.folder)
    del manifest["fingerprint"]["configuration_and_tokens"]
    study.manifest_file.write_text(json.dumps(manifest), encoding="utf-8")
    run_search(spec, study.folder)


def test_commit_that_was_not_known_makes_no_other_study(done):
    manifest = read_manifest(done.manifest_file)
    known = manifest.fingerprint | {"revision": "a" * 40}
    check_same(done.manifest_file, manifest, known)
    other = replace(manifest, fingerprint=known | {"revision": "b" * 40})
    with pytest.raises(ConfigError, match='revision: was "b'):
        check_same(done.manifest_file, other, known)


def test_same_model_and_data_elsewhere_are_the_same_study(study, spec_of, checkpoint, tmp_path):
    model = shutil.copytree(checkpoint, tmp_path / "model")
    data = write_data(tmp_path / "data")
    files = {name: str(data / f"{name}.jsonl") for name in ROWS}
    run_search(spec_of(model=str(model), data=files, trials=6), study.folder)
    assert len(study.records()) == 6


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (("records", "jobs", "study.db", "weights"), "asked for the record of trial 0"),
        (("jobs",), "asked for the record of trial 0"),
        (("records",), "its records are in records.jsonl alone"),
    ],
)
def test_published_study_is_not_continued(study, spec_of, lost, told):
    """What was measured would not be among what is, and would be lost."""
    for name in lost:
        path = study.folder / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    before = tree(study.folder)
    told = rf"study cannot be continued: .*{told}, as in a .* --warm-start {study.folder} --out"
    with pytest.raises(DataError, match=told):
        run_search(spec_of(trials=9), study.folder)
    assert tree(study.folder) == before
    assert len(study.records()) == 5


def test_study_whose_job_asks_for_another_genotype_is_not_continued(study, spec_of):
    path, other = (study.folder / "jobs" / f"00000{n}.json" for n in (0, 1))
    job, last = (json.loads(file.read_text(encoding="utf-8")) for file in (path, other))
    job["trials"][2]["genotype"] = last["trials"][0]["genotype"]
    path.write_text(json.dumps(job), encoding="utf-8")
    before = tree(study.folder)
    with pytest.raises(DataError, match="no job has asked for the record of trial 2"):
        run_search(spec_of(trials=9), study.folder)
    assert tree(study.folder) == before


@pytest.mark.parametrize("content", ["notes.txt", "manifest/x", "front.json"])
def test_foreign_folder_is_refused(spec_of, tmp_path, content):
    file = tmp_path / "mine" / content
    file.parent.mkdir(parents=True)
    file.write_text("precious", encoding="utf-8")
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match="mine exists and is not an empty folder; give another"):
        run_search(spec_of(), tmp_path / "mine")
    assert tree(tmp_path) == before


def test_folder_that_cannot_be_made_is_refused_before_the_model_is_loaded(
    spec_of, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    monkeypatch.setattr(search, "make_engine", None)
    with pytest.raises(ConfigError, match="file exists and is not an empty folder"):
        run_search(spec_of(), tmp_path / "file")
    with pytest.raises(DataError, match=r"a/b cannot be made: .*file is not a folder that can"):
        run_search(spec_of(), tmp_path / "file" / "a" / "b")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(DataError, match="is not a folder that can be written"):
        run_search(spec_of(), tmp_path / "new")
    assert set(tree(tmp_path)) == {"file"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("n" * 300, "cannot be made: File name too long"),
        ("dangling", "cannot be written: File ex"),
    ],
)
def test_folder_that_the_system_refuses_is_reported(spec_of, tmp_path, name, told):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=told):
        run_search(spec_of(), tmp_path / name)


def test_what_a_crash_left_before_the_first_trial_does_not_count(spec_of, tmp_path):
    for name in (".lock", ".driver.json", ".manifest.json.0f.tmp"):
        (tmp_path / name).touch()
    assert len(run_search(spec_of(trials=1), tmp_path).records()) == 1


def test_second_driver_is_refused(study, spec_of):
    before = tree(study.folder)
    with (
        locked(study.folder),
        pytest.raises(DataError, match=f"another search is running on {study.folder}"),
    ):
        run_search(spec_of(trials=9), study.folder)
    assert tree(study.folder) == before
    run_search(spec_of(trials=6), study.folder)
    assert len(study.records()) == 6


def test_second_driver_is_refused_before_the_study_is_written(spec_of, tmp_path):
    with locked(tmp_path / "new"), pytest.raises(DataError, match="another search is running on"):
        run_search(spec_of(), tmp_path / "new")


def test_lock_that_came_as_a_link_empties_no_file(tmp_path):
    (tmp_path / "precious").write_text("mine", encoding="utf-8")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(DataError, match="cannot be written"), locked(tmp_path / "study"):
        pass
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "mine"


def test_folder_is_locked_while_a_search_runs(spec_of, tmp_path):
    refused = []

    class Second(Silent):
        def measured(self, record, summary, front):
            with pytest.raises(DataError, match="another search is running"):
                run_search(spec_of(trials=1), tmp_path / "study")
            refused.append(record.trial)

    run_search(spec_of(trials=1), tmp_path / "study", watcher=Second())
    assert refused == [0]


def test_budget_that_nothing_fits_is_refused(spec_of, tmp_path):
    with pytest.raises(NoFeasibleTrialError, match="nothing in space unified fits 1 parameters"):
        run_search(spec_of(max_params=1), tmp_path / "study")
    with pytest.raises(NoFeasibleTrialError, match="fits 0 parameters"):
        run_search(spec_of(max_params=0), tmp_path / "study")
    assert not list(tmp_path.iterdir())


def test_trial_that_does_not_fit_into_memory_alone_is_refused(spec_of, tmp_path, monkeypatch):
    asked = []

    def probe(backbone, genotypes, **_):
        asked.append(len(genotypes))
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(decide_module, "trial_seconds", probe)
    with pytest.raises(DataError, match="one trial alone is too large for the memory"):
        run_search(spec_of(), tmp_path / "study")
    assert asked == [4, 2, 1]
    assert not list(tmp_path.iterdir())
