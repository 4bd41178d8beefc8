"""Records: strict values, immutable files, and a schema that agrees with the code."""

import copy
import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from record_factory import make_failure, make_record

from autopeft import files, record_files
from autopeft.errors import ConfigError, DataError
from autopeft.record_files import read_jsonl, read_records, write_jsonl, write_record
from autopeft.records import Cached, Failure, Metric, Objective, Record
from autopeft.row_scores import RowScores

SCHEMA = Path(__file__).parents[1] / "docs" / "schema" / "record.schema.json"

finite = st.floats(allow_nan=False, allow_infinity=False)
from_0 = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
counts = st.integers(min_value=0, max_value=2**64)
texts = st.text(min_size=1)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | finite | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
metrics = st.dictionaries(texts, st.builds(Metric, finite, from_0), min_size=1, max_size=3)
objectives = st.dictionaries(
    texts,
    st.builds(
        Objective,
        finite,
        texts,
        st.none() | from_0,
        st.sampled_from([None, "predicted", "measured"]),
    ),
    max_size=3,
)
common = {
    "trial": counts,
    "rung": counts,
    "replicate": counts,
    "genotype": st.dictionaries(st.text(), plain, max_size=3),
    "seed": counts,
    "objectives": objectives,
    "trainable_params": counts,
    "fraction": from_0,
    "seconds": from_0,
    "worker": texts,
    "cohort": st.lists(counts, min_size=1, max_size=4, unique=True).map(tuple),
}
row_scores = st.builds(
    RowScores, finite, finite, st.integers(1, 256), st.sampled_from(["eJw=", "eJxjYAAAAAIAAQ=="])
)
common["row_scores"] = st.none() | row_scores
common["cached"] = st.none() | st.builds(
    Cached, texts, counts, from_0, st.just("2026-01-31T12:00:00Z")
)
failures = st.builds(Failure, st.sampled_from(["nan", "diverged", "out_of_memory"]), texts)
records = st.builds(make_record, metrics=metrics, **common) | st.builds(
    make_failure, failure=failures, **common
)


def validator() -> Draft202012Validator:
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def changed(key, value):
    """A valid document with one dotted key replaced."""
    data = copy.deepcopy(make_record().to_dict())
    *parents, last = key.split(".")
    place = data
    for parent in parents:
        place = place[parent]
    place[last] = value
    return data


# key, value, and whether a JSON schema can say it too
MALFORMED = [
    ("version", 3, True),
    ("trained_params", 5, True),
    ("stored", {}, True),
    ("row_scores", None, True),
    ("cached", None, True),
    ("cached", True, True),
    ("cached", {"study": "", "trial": 0, "seconds": 1.0, "started": "2026-01-31T12:00:00Z"}, True),
    ("cached", {"study": "a", "trial": 0, "seconds": -1, "started": "2026-01-31T12:00:00Z"}, True),
    ("cached", {"study": "a", "trial": 0, "seconds": 1.0, "started": "yesterday"}, True),
    ("row_scores", {"low": 0.0, "high": 1.0, "levels": 2}, True),
    ("row_scores", {"low": 0.0, "high": 1.0, "levels": 257, "codes": "eJw="}, True),
    ("row_scores", {"low": 0.0, "high": 1.0, "levels": 0, "codes": "eJw="}, True),
    ("row_scores", {"low": 0.0, "high": 1.0, "levels": True, "codes": "eJw="}, True),
    ("row_scores", {"low": 0.0, "high": None, "levels": 2, "codes": "eJw="}, True),
    ("row_scores", {"low": 0.0, "high": 1.0, "levels": 2, "codes": "no base!"}, True),
    ("version", True, True),
    ("trial", -1, True),
    ("trial", "3", True),
    ("trial", True, True),
    ("rung", 1.5, True),
    ("replicate", None, True),
    ("state", "pruned", True),
    ("genotype", [], True),
    ("genotype", {"scale": float("nan")}, False),
    ("genotype", {1: 2}, False),
    ("genotype", {"a": {1, 2}}, False),
    ("hash", "0123", True),
    ("hash", "0123456789abcdef\n", False),
    ("seed", -1, True),
    ("metrics", [], True),
    ("metrics", {"": {"value": 1.0, "stderr": 0.0}}, True),
    ("metrics", {}, True),
    ("metrics.accuracy", 0.5, True),
    ("metrics.accuracy.value", float("nan"), False),
    ("metrics.accuracy.value", float("-inf"), False),
    ("metrics.accuracy.value", 10**400, False),
    ("metrics.accuracy.value", None, True),
    ("metrics.accuracy.stderr", -0.1, True),
    ("metrics.accuracy.extra", 1, True),
    ("objectives.latency_ms.unit", "", True),
    ("objectives.latency_ms.stderr", -1, True),
    ("objectives.latency_ms.stderr", "0", True),
    ("objectives.latency_ms.extra", 1, True),
    ("objectives.latency_ms.how", None, True),
    ("objectives.latency_ms.how", "guessed", True),
    ("trainable_params", 1.5, True),
    ("fraction", -0.1, True),
    ("fraction", True, True),
    ("head_params", None, True),
    ("steps", -1, True),
    ("seconds", float("inf"), False),
    ("started", "yesterday", True),
    ("started", "2026-01-31T12:00:00", True),
    ("started", "2026-01-31T12:00:00+02:00", True),
    ("started", "2026-02-30T12:00:00Z", False),
    ("worker", "", True),
    ("cohort", 3, True),
    ("cohort", [], True),
    ("cohort", [3, 3], True),
    ("cohort", [3, -1], True),
    ("precision", None, True),
    ("split", "", True),
    ("failure", "boom", True),
    ("failure", {"kind": "nan", "message": "loss is NaN"}, True),
    ("weights", "", True),
    ("weights", "/etc/passwd", True),
    ("weights", "../other/w", True),
    ("weights", "weights/../../w", True),
    ("weights", "./w", True),
    ("weights", "weights//w", True),
    ("weights", "weights/", True),
    ("weights", "..\\w", True),
    ("weights", "C:/w", True),
    ("weights", "w\n", False),
    ("extra", 1, True),
]


@given(records)
def test_record_survives_json(record):
    assert Record.from_dict(json.loads(record.to_json())) == record


@given(records)
def test_schema_accepts_what_is_written(record):
    validator().validate(json.loads(record.to_json()))


def test_json_has_the_fields_in_order_and_is_one_line():
    data = json.loads(make_record().to_json())
    assert list(data) == list(json.loads(SCHEMA.read_text())["required"])
    assert "\n" not in make_record(worker="a\nb\u2028c").to_json()


@pytest.mark.parametrize(("key", "value", "in_schema"), MALFORMED)
def test_malformed_is_refused_by_name(key, value, in_schema):
    data = changed(key, value)
    with pytest.raises(ConfigError, match=r"^here\.json: ") as caught:
        Record.from_dict(data, "here.json")
    assert key.removesuffix(".extra") in str(caught.value)
    if in_schema:
        assert not validator().is_valid(data)


@pytest.mark.parametrize("key", list(make_record().to_dict()))
def test_missing_key_is_refused_by_name(key):
    data = make_record().to_dict()
    del data[key]
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        Record.from_dict(data)
    assert not validator().is_valid(data)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("state", "pruned", "state is 'pruned', allowed: complete, failed"),
        ("colour", "red", "colour is unknown, allowed: version, trial, rung"),
        ("metrics.accuracy.value", None, "metrics.accuracy.value is None, allowed: a finite numb"),
        ("weights", "/w", "weights is '/w', allowed: a relative POSIX path .*, or null"),
        ("cohort", [0, "x"], r"cohort\[1\] is 'x', allowed: a whole number from 0"),
        ("failure", {"kind": "tired"}, "failure.message is missing; failure.kind is 'tired', all"),
    ],
)
def test_message_says_key_value_and_what_is_allowed(key, value, message):
    with pytest.raises(ConfigError, match=message):
        Record.from_dict(changed(key, value))


def test_all_problems_are_told_at_once_and_long_values_are_cut():
    data = changed("trial", -1) | {"rung": "x" * 10_000}
    with pytest.raises(ConfigError, match=r"trial is -1.*; rung is 'xxx") as caught:
        Record.from_dict(data)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("data", [None, [], "record", 1.5])
def test_not_an_object_is_refused(data):
    with pytest.raises(ConfigError, match=r"the document is .*, allowed: an object"):
        Record.from_dict(data)


MORE = {"version": 2, "trained_params": 9000, "stored": {"version": 1, "ops": []}}


def test_what_was_trained_and_what_is_stored_make_another_version():
    plain, more = make_record(), make_record(**MORE)
    assert set(more.to_dict()) - set(plain.to_dict()) == {"trained_params", "stored"}
    assert (plain.stored_genotype, more.stored_genotype) == (plain.genotype, MORE["stored"])
    failed = make_failure(**MORE | {"stored": None})
    for record in (more, failed):
        data = json.loads(record.to_json())
        validator().validate(data)
        assert Record.from_dict(data) == record
    assert failed.stored_genotype == failed.genotype


@pytest.mark.parametrize(
    ("key", "value"),
    [("trained_params", None), ("trained_params", -1), ("stored", []), ("version", 1)],
)
def test_a_record_of_that_version_that_is_malformed_is_refused(key, value):
    data = make_record(**MORE).to_dict() | {key: value}
    with pytest.raises(ConfigError, match="trained_params" if key == "version" else key):
        Record.from_dict(data)
    assert not validator().is_valid(data)


@pytest.mark.parametrize("key", ["trained_params", "stored"])
def test_a_record_of_that_version_has_both_keys(key):
    data = make_record(**MORE).to_dict()
    del data[key]
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        Record.from_dict(data)
    assert not validator().is_valid(data)


def test_failed_needs_a_failure():
    data = make_failure().to_dict() | {"failure": None}
    with pytest.raises(ConfigError, match="state is failed and failure is None"):
        Record.from_dict(data)
    assert not validator().is_valid(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_record_cannot_even_be_made_with_a_quality_that_is_not_finite(value):
    with pytest.raises(ConfigError, match=r"metrics\.accuracy\.value"):
        make_record(metrics={"accuracy": Metric(value, 0.0)})


def test_deep_genotype_is_refused():
    deep: dict = {}
    for _ in range(200):
        deep = {"deeper": deep}
    with pytest.raises(ConfigError, match="32 levels"):
        Record.from_dict(changed("genotype", deep))


def test_key_names_the_measurement():
    assert make_record(trial=7, rung=2, replicate=1).key == (7, 2, 1)


def test_files_are_named_sorted_and_read_back(tmp_path):
    written = [make_record(trial=t, replicate=r) for t in (10, 2) for r in (1, 0)]
    paths = [write_record(tmp_path, record) for record in written]
    assert paths[0] == tmp_path / "records" / "000010-1-1.json"
    assert read_records(tmp_path) == sorted(written, key=lambda record: record.key)
    assert names_in(tmp_path / "records") == sorted(path.name for path in paths)


def test_study_without_records_has_none(tmp_path):
    assert read_records(tmp_path) == []
    assert write_jsonl(tmp_path, {}).read_text() == ""
    assert read_jsonl(tmp_path / "records.jsonl") == []


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="gone"):
        read_records(tmp_path / "gone")
    with pytest.raises(DataError, match="gone"):
        write_record(tmp_path / "gone", make_record())
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("hard_links", [True, False])
def test_record_is_never_overwritten(tmp_path, monkeypatch, hard_links):
    if not hard_links:
        monkeypatch.setattr(Path, "hardlink_to", raising(OSError(errno.EPERM, "no links here")))
    path = write_record(tmp_path, make_record())
    before = path.read_bytes()
    assert write_record(tmp_path, make_record()) == path
    with pytest.raises(DataError, match=r"000003-1-0\.json exists with other content"):
        write_record(tmp_path, make_record(seconds=13.0))
    assert path.read_bytes() == before
    assert names_in(path.parent) == [path.name]


def test_of_many_writers_of_one_name_one_wins(tmp_path):
    def write(text):
        try:
            files.write_new(tmp_path / "file", text)
        except DataError:
            return None
        return text

    with ThreadPoolExecutor(8) as pool:
        winners = [text for text in pool.map(write, map(str, range(64))) if text is not None]
    assert winners == [(tmp_path / "file").read_text()]


@pytest.mark.parametrize("write", [files.write_atomic, files.write_new])
@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace+hardlink_to"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch, write, step, error):
    if step == "os.fsync":
        monkeypatch.setattr(os, "fsync", raising(error))
    else:
        monkeypatch.setattr(Path, "replace", raising(error))
        monkeypatch.setattr(Path, "hardlink_to", raising(error))
    expected = DataError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write(tmp_path / "file", "text")
    assert names_in(tmp_path) == []


def test_interrupted_replacement_keeps_the_old_file(tmp_path, monkeypatch):
    files.write_atomic(tmp_path / "file", "old")
    monkeypatch.setattr(os, "fsync", raising(OSError(errno.ENOSPC, "disk full")))
    with pytest.raises(DataError, match=r"cannot write .*file: disk full"):
        files.write_atomic(tmp_path / "file", "new")
    assert names_in(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_text_is_on_disk_before_it_has_a_name_and_the_name_afterwards(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def spy(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("the system has no /proc to look at")
    monkeypatch.setattr(os, "fsync", spy)
    write_record(tmp_path, make_record())
    file, folder = synced
    assert file.suffix == ".tmp"
    assert file.parent == folder == tmp_path / "records"


def test_leftover_temporary_file_is_ignored(tmp_path):
    path = write_record(tmp_path, make_record())
    (path.parent / f".{path.name}.0123456789abcdef.tmp").write_text('{"torn')
    assert read_records(tmp_path) == [make_record()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not strict JSON"),
        (make_record().to_json()[:-20], "not strict JSON"),
        ("{}", "version is missing; trial is missing"),
        (make_record(trial=4).to_json(), "belongs in 000004-1-0.json"),
        (make_record().to_json().replace('"seed": 0', '"seed": 0, "seed": 1'), "'seed' is given t"),
        (make_record().to_json().replace("0.875", "NaN"), "NaN is not a finite number"),
        (make_record().to_json().replace("0.875", "-Infinity"), "-Infinity is not a finite"),
        (make_record().to_json().replace("0.875", "1e999"), "1e999 is not a finite number"),
        (make_record().to_json().replace("0.875", "1" * 5000), "not strict JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_torn_or_foreign_file_is_refused_by_name(tmp_path, text, message):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "000003-1-0.json").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_records(tmp_path)
    assert str(tmp_path / "records" / "000003-1-0.json") in str(caught.value)


def test_file_that_is_not_utf8_missing_or_too_large_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    with pytest.raises(DataError, match=r"cannot read .*file\.json: No such file"):
        files.read_json(path)
    path.write_bytes(b'"\xff"')
    with pytest.raises(DataError, match=r"file\.json is not strict JSON: 'utf-8' codec"):
        files.read_json(path)
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 10)
    path.write_text('"12345678"')
    assert files.read_json(path) == "12345678"
    path.write_text('"123456789"')
    with pytest.raises(DataError, match=r"file\.json is larger than 10 bytes"):
        files.read_json(path)


@settings(max_examples=30)  # each writes and syncs several files
@given(st.lists(records, max_size=4, unique_by=lambda record: record.key))
def test_jsonl_holds_every_record_sorted(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("study")
    for record in written:
        write_record(folder, record)
    path = write_jsonl(folder, {record.key: record.to_json() for record in written})
    assert path == folder / "records.jsonl"
    assert read_jsonl(path) == read_records(folder) == sorted(written, key=lambda r: r.key)
    assert path.read_bytes().count(b"\n") == len(written)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"torn', "not strict JSON"),
        ("", "not strict JSON"),
        (make_failure(trial=5).to_json().replace("nan", "tired"), "failure.kind is 'tired'"),
        (make_record(seconds=1.0).to_json(), "has the trial, rung, replicate of line 1"),
    ],
)
def test_malformed_line_is_refused_by_number(tmp_path, second, message):
    path = tmp_path / "records.jsonl"
    path.write_text(f"{make_record().to_json()}\n{second}\n")
    with pytest.raises(DataError, match=rf"records\.jsonl, line 2.*{message}"):
        read_jsonl(path)


def test_a_line_without_end_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(record_files, "MAX_JSON_BYTES", 5000)
    path = tmp_path / "records.jsonl"
    path.write_text(f"{make_record().to_json()}\n{' ' * 5001}", encoding="utf-8")
    with pytest.raises(DataError, match=r"records\.jsonl, line 2 is longer than 5000 bytes"):
        read_jsonl(path)


def test_missing_jsonl_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*records\.jsonl"):
        read_jsonl(tmp_path / "records.jsonl")


@pytest.mark.parametrize("module", ["records", "front"])
def test_import_is_light(module):
    heavy = {"torch", "optuna", "transformers", "numpy", "moocore", "pydantic"}
    code = f"import sys, autopeft.{module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def raising(error):
    def call(*_args, **_kwargs):
        raise error

    return call
