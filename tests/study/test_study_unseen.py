"""The test split: opened on purpose, written down, refused where it would mean something else."""

import json
import shutil
from dataclasses import replace

import pytest
from study_factory import ROWS, rows_of, save_checkpoint, write_data, write_jsonl

from autopeft.errors import ConfigError, DataError
from autopeft.front_file import write_front
from autopeft.study.folder import Study
from autopeft.study.search import run_search
from autopeft.study.unseen import open_test


@pytest.fixture(scope="module")
def own(checkpoint, spec_of, tmp_path_factory):
    """A study of one trial whose model and text nobody else uses, and their folder."""
    base = tmp_path_factory.mktemp("own")
    shutil.copytree(checkpoint, base / "model")
    write_data(base / "data")
    files = {name: str(base / "data" / f"{name}.jsonl") for name in ROWS}
    spec = spec_of(model=str(base / "model"), data=files, trials=1)
    return run_search(spec, base / "study"), base


@pytest.fixture
def study(own):
    """That study, with model and text to be changed; they are as before for the next test."""
    study, base = own
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    yield study
    for path, content in before.items():
        path.write_bytes(content)


@pytest.fixture
def copy(done, tmp_path):
    """A copy of the finished study; it recommends its best point, whatever the draws came to."""
    study = Study(shutil.copytree(done.folder, tmp_path / "copy"))
    front = study.front()
    write_front(study.folder, replace(front, recommended=front.points[-1].trial))
    return study


def test_opening_scores_the_recommendation_and_the_head(copy):
    opening = open_test(copy)
    assert [tested.role for tested in opening.results] == ["recommended", "head only"]
    recommended, head = opening.results
    by_trial = {record.trial: record for record in copy.records()}
    assert recommended.trial == copy.front().recommended
    assert recommended.trainable_params == by_trial[recommended.trial].trainable_params
    assert (head.trial, head.trainable_params, head.summary) == (0, 0, "head only")
    assert (opening.nth, opening.rows, opening.metric) == (1, ROWS["test"], "accuracy")
    for tested in opening.results:
        assert set(tested.metrics) == {"accuracy", "f1", "mcc"}
        share = tested.metrics["accuracy"].value * ROWS["test"]
        assert share == pytest.approx(round(share)), "a share of the test rows"


def test_scores_are_those_of_the_trained_weights(spec_of, data_folder, tmp_path):
    """On the very rows of the search they are the very scores of the search."""
    files = {"train": "train", "validation": "validation", "test": "validation"}
    data = {name: str(data_folder / f"{file}.jsonl") for name, file in files.items()}
    study = run_search(spec_of(data=data), tmp_path / "study")
    by_trial = {record.trial: record for record in study.records()}
    opening = open_test(study)
    assert opening.seen == opening.rows == ROWS["validation"]
    for tested in opening.results:
        assert tested.metrics == by_trial[tested.trial].metrics


def test_rows_of_the_selection_that_the_search_has_seen_are_told(spec_of, data_folder, tmp_path):
    files = {"train": "train", "validation": "validation", "selection": "validation"}
    data = {name: str(data_folder / f"{file}.jsonl") for name, file in files.items()}
    methods, selection = ["head", "lora", "bitfit"], {"seeds": 2, "share": 0.9}
    spec = spec_of(trials=6, data=data, methods=methods, selection=selection)
    found = run_search(spec, tmp_path / "study").selection()
    assert found.seen == found.rows == ROWS["validation"]
    assert found.which_rows == "24 rows, 24 of them with a text that the search has seen"


def test_whoever_is_selected_with_folds_has_weights(spec_of, tmp_path):
    """What a fold has trained is not handed over, so what the search has is kept off the front."""
    methods, selection = ["head", "lora", "bitfit", "ia3"], {"seeds": 3, "share": 0.9}
    spec = spec_of(trials=10, methods=methods, selection=selection)
    study = run_search(spec, tmp_path / "study")
    contenders = {item.trial: item.role for item in study.selection().contenders}
    on_front = {point.trial for point in study.front().points}
    assert contenders.keys() - on_front, "or this tests nothing"
    names = {path.name for path in (study.folder / "weights").iterdir()}
    assert names >= {f"{trial:06d}-0-0.safetensors" for trial in contenders}
    assert len(names) < 10, "not everything is kept"
    assert "tuned LoRA" in {tested.role for tested in open_test(study).results}


def test_second_opening_is_labelled_and_the_first_one_kept(copy):
    first, second = open_test(copy), open_test(copy)
    assert (first.nth, second.nth) == (1, 2)
    assert first.results == second.results
    ledger = json.loads(copy.test_file.read_text(encoding="utf-8"))
    assert [entry["nth"] for entry in ledger["openings"]] == [1, 2]
    assert [entry["opened"] for entry in ledger["openings"]] == [first.opened, second.opened]
    assert ledger["openings"][0]["results"][0]["trial"] == first.results[0].trial


def test_ledger_that_is_none_is_refused_before_the_split_is_opened(copy):
    copy.test_file.write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.json: openings is missing"):
        open_test(copy)
    assert copy.test_file.read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_changed_data_are_refused(study, split):
    write_jsonl(study.folder.parent / "data" / f"{split}.jsonl", rows_of(ROWS[split], seed=9))
    with pytest.raises(ConfigError, match="the data have changed since the search"):
        open_test(study)
    assert not study.test_file.exists()


def test_changed_model_is_refused(study):
    save_checkpoint(study.folder.parent / "model", seed=1)
    with pytest.raises(ConfigError, match="the model has changed since the search"):
        open_test(study)
    assert not study.test_file.exists()


def test_changed_configuration_is_refused(study):
    config = study.folder.parent / "model" / "config.json"
    told = json.loads(config.read_text(encoding="utf-8")) | {"hidden_act": "relu"}
    config.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(ConfigError, match="configuration or tokenizer has changed since"):
        open_test(study)
    assert not study.test_file.exists()


def test_missing_weights_are_refused(copy):
    recommended = copy.front().recommended
    path = copy.folder / f"weights/{recommended:06d}-0-0.safetensors"
    path.unlink()
    with pytest.raises(DataError, match=f"the weights of trial {recommended} are missing"):
        open_test(copy)
    assert not copy.test_file.exists()


def test_weights_of_another_trial_are_refused(copy):
    recommended = copy.front().recommended
    assert recommended != 0
    folder = copy.folder / "weights"
    shutil.copy(folder / "000000-0-0.safetensors", folder / f"{recommended:06d}-0-0.safetensors")
    with pytest.raises(DataError, match="sha256 is"):
        open_test(copy)


def test_damaged_weights_are_refused(copy):
    recommended = copy.front().recommended
    (copy.folder / f"weights/{recommended:06d}-0-0.safetensors").write_bytes(b"\0" * 99)
    with pytest.raises(DataError, match=r"safetensors: sha256 is"):
        open_test(copy)


def test_head_only_without_weights_is_left_out(copy):
    (copy.folder / "weights/000000-0-0.safetensors").unlink()
    assert [tested.role for tested in open_test(copy).results] == ["recommended"]


def test_missing_record_is_refused(copy):
    recommended = copy.front().recommended
    (copy.folder / f"records/{recommended:06d}-0-0.json").unlink()
    with pytest.raises(DataError, match=f"trial {recommended} of the front has no record"):
        open_test(copy)


def test_study_without_a_test_split_is_refused(spec_of, data_folder, tmp_path):
    data = {name: str(data_folder / f"{name}.jsonl") for name in ("train", "validation")}
    study = run_search(spec_of(data=data, trials=1), tmp_path / "study")
    with pytest.raises(ConfigError, match="the study's data have no test split"):
        open_test(study)


def test_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no study: it has no manifest\.json"):
        open_test(Study(tmp_path))
