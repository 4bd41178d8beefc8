"""`--data` beside a study file: other rows, under what the file says of them."""

import pytest

from autopeft.cli.study_flags import merge
from autopeft.study.spec import load_study_spec


@pytest.fixture
def data_of(tmp_path, monkeypatch):
    """The data of a study file with this section, with `--data` on top."""
    monkeypatch.chdir(tmp_path)
    header = '{"text_a": "a", "text_b": "b", "label": 1}\n'
    for folder in ("old", "new", "chosen"):
        (tmp_path / folder).mkdir()
        for name in ("train", "validation", *(["selection"] if folder == "chosen" else [])):
            (tmp_path / folder / f"{name}.jsonl").write_text(header, encoding="utf-8")

    def read(section, data, flags=None, more=""):
        study = tmp_path / "study.yaml"
        study.write_text(f"model: m\n{more}data: {section}\n", encoding="utf-8")
        load_study_spec(study)
        return merge(study, flags or {}, data).data

    return read


OLD = "train: old/train.jsonl, validation: old/validation.jsonl, test: old/test.jsonl"


def test_columns_and_numbers_of_rows_stay_and_files_do_not(data_of, tmp_path):
    section = f"{{{OLD}, text: text_b, label: star, train_rows: 150, selection_rows: 9}}"
    found = data_of(section, "new")
    assert (found.train, found.test) == (tmp_path / "new" / "train.jsonl", None)
    assert (found.text, found.label) == (("text_b",), "star")
    assert (found.train_rows, found.selection_rows) == (150, 9)
    assert data_of(section, "new", {("data", "train_rows"): 7}).train_rows == 7
    hub = data_of(section, "glue/sst2")
    assert (hub.hub, hub.train, hub.train_rows) == ("glue/sst2", None, 150)


def test_what_the_columns_are_is_guessed_where_the_file_does_not_say(data_of):
    assert data_of("{hub: glue/sst2, train_rows: 9}", "new").text == ("text_a", "text_b")


def test_rows_of_a_selection_are_instead_of_their_number(data_of):
    found = data_of(f"{{{OLD}, selection_rows: 9}}", "chosen")
    assert (found.selection.name, found.selection_rows) == ("selection.jsonl", None)


def test_messages_have_no_columns_of_text(data_of):
    found = data_of(f"{{{OLD}, messages: talk}}", "new", more="task: causal\n")
    assert (found.messages, found.text) == ("talk", None)
