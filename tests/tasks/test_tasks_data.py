"""Files in, a checked and split data set out."""

import csv
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.errors import DataError
from autopeft.tasks.data import load, unseen
from autopeft.tasks.spec import DataSpec
from autopeft.tasks.splits import N_FOLDS, Split, carve, count_shared, draw, fold, shuffled

TOO_DEEP = "Stack overflow" if sys.version_info >= (3, 14) else "maximum recursion"
ROWS = [{"text": f"text {i}", "label": i % 2} for i in range(20)]


def write_jsonl(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


WRITERS = {".jsonl": write_jsonl, ".csv": write_csv, ".parquet": write_parquet}


@pytest.fixture
def refusal(tmp_path):
    """The message about a train file of this content."""

    def refuse(content, name="train.jsonl", kind="classification", **fields):
        path = tmp_path / name
        if isinstance(content, list):
            WRITERS[path.suffix.lower()](path, content)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(DataError) as caught:
            load(DataSpec(train=name, **fields), kind, tmp_path, seed=0)
        return str(caught.value).replace(str(tmp_path) + os.sep, "")

    return refuse


def train_labels(tmp_path, labels, suffix=".jsonl", kind="classification"):
    """Classes and training labels of a file with these labels; validation is a copy of it."""
    rows = [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]
    path = WRITERS[suffix](tmp_path / f"labels{suffix}", rows)
    data = load(DataSpec(train=path, validation=path), kind, tmp_path, seed=0)
    return data.label_names, data.train.labels


# What is read


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_reads_the_same_rows(tmp_path, suffix):
    rows = [
        {"text": 'a "quoted", text\nof two lines', "label": 1},
        {"text": "Grüße \u2028 😀", "label": 0},
        {"text": " spaces stay ", "label": 1},
    ]
    path = WRITERS[suffix](tmp_path / f"train{suffix}", rows)
    data = load(DataSpec(train=path, validation=path, test=path), "classification", tmp_path, 0)
    assert data.train.texts == tuple((row["text"],) for row in rows)
    assert data.train.labels == (1, 0, 1)
    assert data.label_names == ("0", "1")
    assert [split.name for split in data.splits] == ["train", "validation", "test"]


def test_formats_can_be_mixed_and_paths_are_relative_to_the_base(tmp_path):
    (tmp_path / "folder").mkdir()
    write_csv(tmp_path / "folder" / "train.CSV", ROWS)
    write_jsonl(tmp_path / "folder" / "val.jsonl", ROWS[:4])
    write_parquet(tmp_path / "folder" / "test.parquet", ROWS[4:9])
    spec = DataSpec(train="train.CSV", validation="val.jsonl", test="test.parquet")
    data = load(spec, "classification", tmp_path / "folder", seed=0)
    assert data.validation.labels == (0, 1, 0, 1)
    assert data.test is not None
    assert data.test.labels == (0, 1, 0, 1, 0)


def test_pairs_keep_the_order_of_the_columns(tmp_path):
    path = write_jsonl(
        tmp_path / "t.jsonl", [{"b": f"b{i}", "a": f"a{i}", "y": i % 2} for i in range(4)]
    )
    spec = DataSpec(train=path, validation=path, text=["a", "b"], label="y")
    data = load(spec, "classification", tmp_path, 0)
    assert data.train.texts[:2] == (("a0", "b0"), ("a1", "b1"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_byte_order_mark_is_not_text(tmp_path, suffix):
    path = WRITERS[suffix](tmp_path / f"train{suffix}", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    data = load(DataSpec(train=path, validation=path), "classification", tmp_path, 0)
    assert len(data.train) == len(ROWS)


def test_a_csv_field_may_be_long_and_the_global_limit_stays(tmp_path):
    limit = 131_072
    csv.field_size_limit(limit)
    path = write_csv(tmp_path / "t.csv", [{"text": "x" * 200_000, "label": 0}, *ROWS])
    data = load(DataSpec(train=path, validation=path), "classification", tmp_path, 0)
    assert len(data.train.texts[0][0]) == 200_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "text,label\n\na,0\n\nb,1\n\n"),
        ("t.csv", "text,label,\n,,\na,0,\n , \nb,1,\n,,\n,,,,\n"),
        ("t.jsonl", '{"text": "a", "label": 0}\n \n{"text": "b", "label": 1}\n\n'),
    ],
)
def test_blank_lines_are_skipped(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    data = load(DataSpec(train=name, validation=name), "classification", tmp_path, 0)
    assert data.train.texts == (("a",), ("b",))


# Labels


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        ([1, 0, 1], ("0", "1"), (1, 0, 1)),
        ([10, 2, -1], ("-1", "2", "10"), (2, 1, 0)),
        (["neg", "pos", "Neg"], ("Neg", "neg", "pos"), (1, 2, 0)),
        (["10", "9", "9"], ("9", "10"), (1, 0, 0)),
        (["10", "9", "x"], ("10", "9", "x"), (0, 1, 2)),
        ([True, False], ("false", "true"), (1, 0)),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_classes(tmp_path, labels, names, numbers, suffix):
    assert train_labels(tmp_path, labels, suffix) == (names, numbers)


def test_csv_classes_sort_as_integers(tmp_path):
    assert train_labels(tmp_path, [10, 9, 9], ".csv") == (("9", "10"), (1, 0, 0))


@pytest.mark.parametrize("suffix", WRITERS)
def test_numbers(tmp_path, suffix):
    _, labels = train_labels(tmp_path, [0.5, -3.0, 1e3], suffix, "regression")
    assert labels == (0.5, -3.0, 1000.0)
    assert all(isinstance(label, float) for label in labels)


# What is refused, and how


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": "a"', "broken JSON: Expecting"),
        ("[" * 100_000, f"broken JSON: {TOO_DEEP}"),
        ('{"text": "a", "label": ' + "9" * 5000 + "}", "broken JSON: Exceeds"),
        ("[1]", "not a JSON object"),
        ('{"text": "a"}', "no column 'label'; it has: 'text'"),
        ('{"text": "", "label": 1}', "column 'text' is empty"),
        ('{"text": " \\n", "label": 1}', "column 'text' is empty"),
        ('{"text": null, "label": 1}', "column 'text' is null"),
        ('{"text": 7, "label": 1}', "column 'text' is of type int, not a string"),
        ('{"text": "\\ud800", "label": 1}', "surrogate"),
        ('{"text": "a", "label": null}', "column 'label' is null"),
        ('{"text": "a", "label": ""}', "column 'label' is empty"),
        ('{"text": "a", "label": 1.5}', "label 1.5 is of type float; a class is an integer"),
        ('{"text": "a", "label": [1]}', "label [1] is of type list"),
        ('{"text": "a", "label": "1"}', "label '1' is of type str, that of the first row of"),
        ('{"text": "a", "label": true}', "label True is of type bool"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(refusal, line, says):
    good = "".join(json.dumps(row) + "\n" for row in ROWS[:2])
    message = refusal(good + line + "\n" + good)
    assert message.startswith("train.jsonl:3: ")
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("label", "says"),
    [("NaN", "nan"), ("Infinity", "inf"), ("1e999", "inf"), ('"2.5"', "'2.5'"), ("true", "True")],
)
def test_a_bad_number_is_refused_with_its_place(refusal, label, says):
    line = '{"text": "a", "label": ' + label + "}\n"
    message = refusal('{"text": "b", "label": 1.5}\n' + line, kind="regression")
    assert message == f"train.jsonl:2: label {says} is not a finite number"


@pytest.mark.parametrize("label", ["1e39", "-3.5e38"])
def test_a_number_beyond_fp32_is_refused_with_its_place(refusal, label):
    message = refusal(f"text,label\na,1.5\nb,{label}\nc,3.4e38\n", "train.csv", kind="regression")
    told = f"label '{label}' is beyond 3.4e+38, the largest number of fp32"
    assert message == f"train.csv:3: {told}"


def test_classes_of_thousands_of_digits_are_in_the_order_of_texts(tmp_path):
    long = "1" * 5_000
    rows = [{"text": f"t{i}", "label": label} for i, label in enumerate([long, "2", "10"] * 9)]
    write_csv(tmp_path / "t.csv", rows)
    found = load(DataSpec(train=tmp_path / "t.csv"), "classification", tmp_path, 0)
    assert found.label_names == ("10", long, "2")


@pytest.mark.parametrize("label", ["nan", "-inf", "many", "1,5"])
def test_a_bad_number_in_csv(refusal, label):
    content = f'text,label\n"two\nlines",1.5\nb,"{label}"\n'
    message = refusal(content, "train.csv", kind="regression")
    assert message == f"train.csv:4: label '{label}' is not a finite number"


def test_an_integer_beyond_floats_is_refused(refusal):
    huge = [{"text": "a", "label": 10**400}, {"text": "b", "label": 1}]
    assert "train.jsonl:1: label 1000" in refusal(huge, kind="regression")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text,label\na,0\nb\n", "train.csv:3: 1 fields, the header has 2"),
        ("text,label\na,0\nb,1,2\n", "train.csv:3: 3 fields, the header has 2"),
        ('text,label\na,0\n"b,1\n', "train.csv:3: broken CSV: unexpected end of data"),
        ('text,label\n"a" b,0\n', "train.csv:2: broken CSV: ',' expected after '\"'"),
        ("text,text,label\na,b,0\n", "train.csv:1: column 'text' is there more than once"),
        ("sentence;label\na;0\n", "no column 'text', 'label'; it has: 'sentence;label'"),
        (b"text,label\na,0\n\xff,1\n", "train.csv:3: is not UTF-8: byte 0xff"),
        ("text,label\na,0\n ,1\n", "train.csv:3: column 'text' is empty"),
        ("", "train.csv:1: is empty"),
        ("text,label\n", "train.csv: has no rows"),
    ],
)
def test_bad_csv(refusal, content, says):
    assert says in refusal(content, "train.csv")


def test_bad_parquet(refusal):
    for name in ("train.parquet", "TRAIN.PARQUET"):
        message = refusal([ROWS[0], {"text": "", "label": 1}], name)
        assert message == f"{name}, row 2: column 'text' is empty"
    assert "no column 'y'; it has: 'text', 'label'" in refusal(ROWS, "train.parquet", label="y")
    assert "broken Parquet" in refusal(b"not parquet at all", "train.parquet")


def test_parquet_that_is_not_utf8(tmp_path, refusal):
    texts = pa.array([b"good", b"\xff\xfe", None]).view(pa.string())
    pq.write_table(pa.table({"text": texts, "label": [0, 1, 1]}), tmp_path / "raw.parquet")
    message = refusal((tmp_path / "raw.parquet").read_bytes(), "train.parquet")
    assert "row 2: column 'text' holds bytes that are not UTF-8" in message
    assert "row 3: column 'text' is null" in message


def test_bad_files(tmp_path, refusal):
    assert refusal(b'{"text": "\xe9", "label": 1}\n').startswith("train.jsonl:1: is not UTF-8")
    assert refusal("") == "train.jsonl: has no rows"
    assert "suffix '.txt' is not known; allowed: .csv, .jsonl, .parquet" in refusal("a", "t.txt")
    (tmp_path / "folder.jsonl").mkdir()
    for name, says in [("absent.jsonl", "does not exist"), ("folder.jsonl", "cannot be read")]:
        with pytest.raises(DataError, match=f"{name}: {says}"):
            load(DataSpec(train=name), "classification", tmp_path, seed=0)


def test_too_little_to_learn_from(refusal):
    assert "1 row(s); at least 2" in refusal(ROWS[:1])
    assert "all rows have the same label" in refusal([{"text": "a", "label": 1}] * 3)
    assert "all rows have the same label" in refusal(
        [{"text": "a", "label": 0.5}] * 3, kind="regression"
    )
    assert "too few rows to set some aside" in refusal(ROWS[:2])
    assert "what is left to train on: 1 row(s)" in refusal(
        [{"text": "a", "label": 0.5}, {"text": "b", "label": 1.5}], kind="regression"
    )


def test_an_unseen_label_is_refused(tmp_path):
    write_csv(tmp_path / "train.csv", ROWS)
    write_jsonl(tmp_path / "test.jsonl", [*ROWS[:2], {"text": "c", "label": 2}])
    spec = DataSpec(train="train.csv", test="test.jsonl")
    with pytest.raises(DataError, match=r"test\.jsonl:3: label 2 is not one of train: '0', '1'$"):
        load(spec, "classification", tmp_path, seed=0)


def test_all_files_are_told_of_at_once_and_the_rest_is_counted(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"text": "", "label": 0}] * 4)
    write_jsonl(tmp_path / "test.jsonl", [{"text": "", "label": 0}] * 1000)
    spec = DataSpec(train="train.jsonl", validation="no.jsonl", test="test.jsonl")
    with pytest.raises(DataError) as caught:
        load(spec, "classification", tmp_path, seed=0)
    lines = str(caught.value).splitlines()
    assert lines[0] == "1,005 problems in the data:"
    assert "train.jsonl:1" in lines[1]
    assert "no.jsonl: does not exist" in lines[5]
    assert lines[6] == "  and 1,000 more"
    assert len(lines) == 7


# Splits


def test_a_missing_validation_split_is_carved_and_told(tmp_path):
    rows = [{"text": f"t{i}", "label": "rare" if i < 2 else "often"} for i in range(100)]
    spec = DataSpec(train=write_jsonl(tmp_path / "t.jsonl", rows))
    data = load(spec, "classification", tmp_path, seed=0)
    assert data.notes == ("validation: none was given, so 20 of 100 training rows were set aside",)
    assert data.test is None
    assert data.validation.labels.count(data.label_names.index("rare")) == 1
    assert data.train.labels.count(data.label_names.index("rare")) == 1
    assert not count_shared(data.validation, data.train)
    assert load(spec, "classification", tmp_path, seed=0) == data
    assert load(spec, "classification", tmp_path, seed=1).validation != data.validation


def many_rows(tmp_path, n_rows=1000, name="t.jsonl"):
    return write_jsonl(tmp_path / name, [{"text": f"t{i}", "label": i % 2} for i in range(n_rows)])


def test_rows_for_the_selection_are_set_aside_before_training_rows_are_limited(tmp_path):
    train = many_rows(tmp_path, 1010)
    validation = write_jsonl(tmp_path / "v.jsonl", ROWS)
    spec = DataSpec(train=train, validation=validation, train_rows=700)
    data = load(spec, "classification", tmp_path, seed=0)
    assert [len(split) for split in data.splits] == [700, len(ROWS), 202]
    assert data.selection.name == "selection"
    assert not count_shared(data.selection, data.train)
    assert data.notes[0] == (
        "selection: 202 of 1,010 training rows were set aside to compare the winners on"
    )
    other = load(spec.model_copy(update={"selection_rows": 10}), "classification", tmp_path, seed=0)
    assert len(other.selection) == 10
    assert other.fingerprint != data.fingerprint
    without = load(spec.model_copy(update={"selection_rows": 0}), "classification", tmp_path, 0)
    assert without.selection is None
    assert len(without.train) == 700


def test_all_four_splits_are_disjoint_whichever_are_given(tmp_path):
    data = load(DataSpec(train=many_rows(tmp_path, 1500)), "classification", tmp_path, seed=0)
    assert [(split.name, len(split)) for split in data.splits] == [
        ("train", 960),
        ("validation", 300),
        ("selection", 240),
    ]
    texts = [text for split in data.splits for text in split.texts]
    assert len(set(texts)) == len(texts) == 1500


def test_few_training_rows_are_kept_for_training(tmp_path):
    data = load(DataSpec(train=many_rows(tmp_path, 999)), "classification", tmp_path, seed=0)
    assert data.selection is None
    assert len(data.train) + len(data.validation) == 999


def test_rows_for_the_selection_may_be_a_file(tmp_path):
    train, mine = many_rows(tmp_path, 1200), write_jsonl(tmp_path / "s.jsonl", ROWS)
    spec = DataSpec(train=train, validation=mine, selection=mine)
    data = load(spec, "classification", tmp_path, seed=0)
    assert data.selection.texts == data.validation.texts
    assert len(data.train) == 1200
    with pytest.raises(ValueError, match="either `selection` "):
        DataSpec(train=train, selection=mine, selection_rows=5)
    with pytest.raises(ValueError, match="not with `hub`"):
        DataSpec(hub="owner/name", selection=mine)


def test_selection_of_one_row_is_refused(tmp_path):
    train, one = many_rows(tmp_path, 100), write_jsonl(tmp_path / "s.jsonl", ROWS[:1])
    spec = DataSpec(train=train, selection=one)
    with pytest.raises(DataError, match=r"^selection: 1 row\(s\); at least 2 are needed$"):
        load(spec, "classification", tmp_path, seed=0)


@pytest.mark.parametrize(
    ("n_rows", "wanted", "found"),
    [
        (1200, None, "selection"),
        (1200, 0, None),
        (100, 20, "selection"),
        (100, 0, None),
        (100, None, "fold"),
        (10, None, "fold"),
        (9, None, None),
    ],
)
def test_what_the_final_selection_scores_on(tmp_path, n_rows, wanted, found):
    validation = write_jsonl(tmp_path / "v.jsonl", ROWS)
    spec = DataSpec(train=many_rows(tmp_path, n_rows), validation=validation, selection_rows=wanted)
    assert unseen(spec, load(spec, "classification", tmp_path, seed=0)) == found
    unread = "fold" if wanted is None else ("selection" if wanted else None)
    assert unseen(spec, None) == unread


def test_rows_of_another_split_in_train_are_told(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    other = [{"text": "new", "label": 1}, {"text": "newer", "label": 0}]
    write_jsonl(tmp_path / "validation.jsonl", [*ROWS[:3], *other])
    write_jsonl(tmp_path / "test.jsonl", other)
    spec = DataSpec(train="train.jsonl", validation="validation.jsonl", test="test.jsonl")
    assert load(spec, "classification", tmp_path, seed=0).notes == (
        "validation: 3 of 5 rows have a text that is also in train",
        "test: 2 of 2 rows have a text that is also in validation",
    )


def test_rows_that_the_search_has_seen_are_counted(tmp_path):
    for name, some in {"train": ROWS[:8], "validation": ROWS[6:], "selection": ROWS[8:]}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", some)
    write_jsonl(tmp_path / "test.jsonl", [*ROWS[-2:], {"text": "new", "label": 1}])
    names = ("train", "validation", "selection", "test")
    found = load(
        DataSpec(**{name: f"{name}.jsonl" for name in names}), "classification", tmp_path, 0
    )
    assert found.notes[-4:] == (
        "validation: 2 of 14 rows have a text that is also in train",
        "selection: 12 of 12 rows have a text that is also in validation",
        "test: 2 of 3 rows have a text that is also in validation",
        "test: 2 of 3 rows have a text that is also in selection",
    )
    assert [found.count_seen(split) for split in found.splits] == [0, 2, 12, 2]


@pytest.mark.parametrize("n_same", [2, 3, 8])
def test_folds_train_on_no_text_that_they_score(tmp_path, n_same):
    rows = [{"text": f"t{i // n_same}", "label": i % 2} for i in range(160)]
    rows[-1] = {"text": "once", "label": 0}
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    other = write_jsonl(tmp_path / "other.jsonl", ROWS)
    data = load(DataSpec(train=path, validation=other), "classification", tmp_path, seed=0)
    parts = [fold(data.train, number, 0) for number in range(N_FOLDS)]
    assert [len(part) for _, part in parts] == [32] * N_FOLDS
    scored = [count_shared(part, rest) for rest, part in parts]
    does = "trains on none that has the text of a row it scores"
    if n_same == 8:  # a part has nearly all texts
        does = "scores rows whose text it has trained on, as else there were too few"
    assert any(scored) == (n_same == 8)
    n_repeated = 160 - (2 if n_same == 2 else 1)
    told = f"train: {n_repeated} of 160 rows have the text of another one; a final selection by "
    assert data.notes[-1] == f"{told}folds {does}"


def test_rows_that_are_there_twice_are_not_told_where_nothing_is_parted(tmp_path):
    rows = [{"text": f"t{i // 2}", "label": i % 2} for i in range(160)]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    other = write_jsonl(tmp_path / "other.jsonl", ROWS)
    none = DataSpec(train=path, validation=other, selection_rows=0)
    assert load(none, "classification", tmp_path, seed=0).notes == ()


def test_train_rows(tmp_path):
    rows = [{"text": f"t{i}", "label": i % 10} for i in range(200)]
    path = write_jsonl(tmp_path / "t.jsonl", rows)

    def limited(n_rows):
        return load(DataSpec(train=path, train_rows=n_rows), "classification", tmp_path, seed=3)

    full, many, few = limited(None), limited(50), limited(5)
    assert (len(many.train), len(few.train)) == (50, 5)
    assert set(few.train.texts) < set(many.train.texts) < set(full.train.texts)
    assert many.validation == few.validation == full.validation
    assert "train: 50 of 160 rows are used (train_rows)" in many.notes
    assert any(note.startswith("train: train_rows leaves no row of '") for note in few.notes)
    assert limited(1000).train == full.train
    assert "there are only 160" in limited(1000).notes[-1]


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=80),
    stratified=st.booleans(),
    seed=st.integers(0, 5),
)
def test_carving_partitions_the_rows(labels, stratified, seed):
    split = Split("train", tuple((str(i),) for i in range(len(labels))), tuple(labels))
    left, carved = carve(split, "validation", seed, stratified=stratified)
    rows = [*zip(left.texts, left.labels, strict=True)]
    rows += zip(carved.texts, carved.labels, strict=True)
    assert sorted(rows) == sorted(zip(split.texts, split.labels, strict=True))
    assert (left.name, carved.name) == ("train", "validation")
    if stratified:
        assert set(left.labels) == set(labels)
        assert set(carved.labels) == {label for label in labels if labels.count(label) > 1}
    assert len(carved) <= max(len(labels) // 5, 5)


def test_carving_is_capped():
    split = Split("train", tuple((str(i),) for i in range(20_000)), tuple([0, 1] * 10_000))
    assert len(carve(split, "validation", 0, stratified=True)[1]) == 2_000


@given(n_rows=st.integers(5, 60), seed=st.integers(0, 5))
def test_folds_leave_every_row_out_at_most_once(n_rows, seed):
    split = Split("train", tuple((str(i),) for i in range(n_rows)), tuple(range(n_rows)))
    parts = [fold(split, number, seed) for number in range(N_FOLDS)]
    for left, out in parts:
        assert sorted([*left.labels, *out.labels]) == [*range(n_rows)]
        assert list(left.labels) == sorted(left.labels)
        assert (left.name, out.name, len(out)) == ("train", "fold", n_rows // N_FOLDS)
    left_out = [row for _, out in parts for row in out.labels]
    assert len(set(left_out)) == len(left_out) == n_rows // N_FOLDS * N_FOLDS
    assert fold(split, N_FOLDS, seed) == parts[0], "it begins anew"


def test_folds_are_drawn():
    split = Split("train", tuple((str(i),) for i in range(50)), tuple(range(50)))
    assert fold(split, 0, 0)[1] != fold(split, 0, 1)[1]
    assert fold(split, 0, 0)[1].labels != tuple(range(10))


def test_shuffling_never_changes():
    assert shuffled(8, "draw 0") == shuffled(8, "draw 0")
    assert shuffled(8, "draw 0") != shuffled(8, "draw 1")
    assert shuffled(8, "carve validation 0") == [6, 5, 3, 7, 1, 2, 0, 4]


def test_a_draw_keeps_the_order():
    split = Split("train", tuple((str(i),) for i in range(50)), tuple(range(50)))
    drawn = draw(split, 20, seed=0).labels
    assert list(drawn) == sorted(drawn)
    assert drawn != draw(split, 20, seed=1).labels


def test_the_fingerprint_sees_every_row(tmp_path):
    def fingerprint(rows, test):
        path = write_jsonl(tmp_path / "t.jsonl", rows)
        other = write_jsonl(tmp_path / "o.jsonl", test)
        spec = DataSpec(train=path, validation=path, test=other)
        return load(spec, "classification", tmp_path, 0).fingerprint

    names = [{**row, "label": f"class {row['label']}"} for row in ROWS]
    prints = {
        fingerprint(ROWS, ROWS),
        fingerprint(ROWS, ROWS[:-1]),
        fingerprint([*ROWS[1:], ROWS[0]], ROWS),
        fingerprint([{"text": "other", "label": 0}, *ROWS[1:]], ROWS),
        fingerprint([{"text": "text 0", "label": 1}, *ROWS[1:]], ROWS),
        fingerprint(names, names),
    }
    assert len(prints) == 6
    assert fingerprint(ROWS, ROWS) in prints
    assert all(len(value) == 64 for value in prints)


def test_a_split_needs_a_label_for_each_text():
    with pytest.raises(ValueError, match="2 texts and 1 labels"):
        Split("train", (("a",), ("b",)), (0,))
