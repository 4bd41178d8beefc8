"""Strict YAML: numbers as in YAML 1.2, refusals with file and line, and nothing but ConfigError."""

import json
import re
import time

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings
from pydantic import BaseModel
from space_factory import refusal_of

from autopeft.errors import ConfigError
from autopeft.space import yaml


def value_of(scalar):
    return yaml.loads(f"key: {scalar}", "f.yaml").data["key"]


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("1e-4", 1e-4),
        ("1E-4", 1e-4),
        ("2e3", 2000.0),
        ("+1.5e+2", 150.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("+3", 3),
        ("017", 17),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
    ],
)
def test_plain_scalar_is_what_yaml_1_2_says(scalar, value):
    got = value_of(scalar)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    "scalar",
    [
        *("0o17", "0x1F", "0b11", "1_000", "1:30", "2026-01-31", "\u0661"),
        *("yes", "No", "on", "off", "y", "e5", ".e5", ".", "+", "1e", "1.2.3", "1%", "1e4f"),
    ],
)
def test_what_only_yaml_1_1_reads_as_something_stays_a_text(scalar):
    assert value_of(scalar) == scalar


@pytest.mark.parametrize("quoted", ["'1e-4'", '"true"', "'null'", "|-\n  5", ">-\n  .inf"])
def test_quoted_scalar_stays_a_text(quoted):
    assert isinstance(value_of(quoted), str)


def test_merge_key_is_a_key_like_any_other():
    assert yaml.loads("<<: {a: 1}", "f.yaml").data == {"<<": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: 2\na: 3", 3, "key `a` is given twice"),
        ('"x\\ny": 1\n"x\\ny": 3', 2, r"key `'x\ny'` is given twice"),
        ("a: 1\n'a': 3", 2, "key `a` is given twice"),
        ("x:\n  b: 1\n  b: 1", 3, "key `b` is given twice"),
        ("a: &x 1\nb: *x", 1, "aliases and anchors"),
        ("a: 1\nb: *x", 2, "aliases and anchors"),
        ("a: 1\nb: !!python/name:os.system x", 2, "tags"),
        ("a: 1\nb: !mine x", 2, "tags"),
        ("a: 1\nb: .nan", 2, "only finite numbers"),
        ("a: 1\nb: -.INF", 2, "only finite numbers"),
        ("a: 1\nb: 1e999", 2, "only finite numbers"),
        ("a: 1\nb: " + "9" * 350, 2, "only finite numbers"),
        ("a: 1\nb: " + "1" * 5000, 2, "more than 400 digits"),
        ("a: 1\nb: " + "0" * 5000, 2, "more than 400 digits"),
        ("a: 1\n---\nb: 1", 2, "expected a single document"),
        ("a: 1\nb: [1,\n", 3, "not YAML"),
        ("a: 1\n\tb: 1", 2, "not YAML"),
        ("a: 1\nb: c: d", 2, "not YAML"),
        ("%YAML 3.0\n---\na: 1", 1, "not YAML"),
        ("a: 1\nb: \x00", 2, "character U+0000"),
        ('a: 1\nb: "\\ud800"', 2, "surrogate"),
        ("a: 1\n? [b]\n: 1", 2, "a key has to be a word"),
        ("", 1, "is empty"),
        ("# nothing\n\n", 1, "is empty"),
        ("a:\n- " + "[" * 20 + "]" * 20, 2, "nested deeper than 20"),
    ],
)
def test_refused_with_file_and_line(text, line, what):
    with pytest.raises(ConfigError) as caught:
        yaml.loads(text, "f.yaml")
    assert str(caught.value).startswith(f"f.yaml:{line}: ")
    assert what in str(caught.value)


def test_long_values_are_cut_in_messages():
    with pytest.raises(ConfigError) as caught:
        yaml.loads("a: " + "1" * 5000, "f.yaml")
    assert len(str(caught.value)) < 200


def test_twenty_levels_are_allowed():
    assert str(yaml.loads("[" * 20 + "]" * 20, "f.yaml").data) == "[" * 20 + "]" * 20


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "{a: " * 50_000, "- " * 100_000])
def test_depth_that_would_exhaust_the_parser_is_refused_at_once(text):
    start = time.process_time()
    with pytest.raises(ConfigError, match=r"^f\.yaml:1: nested deeper than 20 levels"):
        yaml.loads(text, "f.yaml")
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("data", "where", "what"),
    [
        (b"a: 1\nb: \xff\n", ":2: ", "not UTF-8 (byte 0xff)"),
        (b"\xef\xbb\xbfa: 1\n\xff\n", ":2: ", "not UTF-8 (byte 0xff)"),
        (b"#" * 101, ": ", "larger than the 100 bytes allowed"),
        (b"", ":1: ", "is empty"),
    ],
)
def test_bad_file_is_refused(tmp_path, monkeypatch, data, where, what):
    monkeypatch.setattr(yaml, "MAX_BYTES", 100)
    path = tmp_path / "f.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        yaml.load(path)
    assert str(caught.value) == f"{path}{where}{what}"


def test_file_with_a_byte_order_mark_or_of_the_largest_size_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(yaml, "MAX_BYTES", 100)
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert yaml.load(path).data == {"a": 1}
    path.write_bytes(b"a: 1\n".ljust(100, b"#"))
    assert yaml.load(path).data == {"a": 1}


def test_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read: No such file"):
        yaml.load(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        yaml.load(tmp_path)


yaml_like = st.text(alphabet="[]{}:,-#&*!|>'\"%@?~\\ \n\t_.+aeno019", max_size=60)


@settings(deadline=None, max_examples=400)
@given(st.text(max_size=60) | yaml_like)
@example("e5")
@example("- \u2028 b: &")
@example('"\\udfff": 1')
def test_any_text_is_read_or_refused_by_name(text):
    told = refusal_of(yaml.loads, text, "f.yaml")
    if told is None:
        data = yaml.loads(text, "f.yaml").data
        json.dumps(data, ensure_ascii=False).encode()  # fails on half of a surrogate pair
    else:
        assert re.match(r"f\.yaml:[1-9]", told)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


class Inner(BaseModel, extra="forbid"):
    low: float
    high: float = 1.0


class Outer(BaseModel, extra="forbid"):
    number: int
    inner: list[Inner] = []
    choice: float | Inner = 0.0


@settings(deadline=None)
@given(plain | st.fixed_dictionaries({}, optional={"number": plain, "inner": plain, "x": plain}))
def test_any_value_is_valid_or_refused_by_name(data):
    told = refusal_of(yaml.validate, Outer, yaml.Document("f.yaml", data, {}))
    assert told is None or all(line.startswith("f.yaml: ") for line in told.split("\n"))


def test_every_problem_is_told_with_its_line_and_key():
    text = "number: x\ninner:\n  - low: 1\n    hi: 2\n  - high: y\nchoice: {low: z}\nextra: 1"
    with pytest.raises(ConfigError) as caught:
        yaml.validate(Outer, yaml.loads(text, "f.yaml"))
    told = str(caught.value).split("\n")
    assert [line.split(": ")[:2] for line in told] == [
        ["f.yaml:1", "number"],
        ["f.yaml:4", "inner.0.hi"],
        ["f.yaml:5", "inner.1.low"],
        ["f.yaml:5", "inner.1.high"],
        ["f.yaml:6", "choice.low"],
        ["f.yaml:7", "extra"],
    ]
    assert told[1].endswith("unknown key; allowed: high, low")
    assert told[2].endswith("is missing")
    assert told[3].endswith("'y': has to be a valid number, unable to parse string as a number")


def test_alternatives_at_one_place_are_one_line():
    with pytest.raises(ConfigError) as caught:
        yaml.validate(Outer, yaml.loads("number: 1\nchoice: [1]", "f.yaml"))
    assert str(caught.value) == "f.yaml:2: choice: has to be a number or has to be a mapping"


def test_values_without_lines_are_refused_by_key():
    document = yaml.Document("records", {"number": 1, "inner": [{"low": 1}, {"lo": 2}]}, {})
    with pytest.raises(ConfigError) as caught:
        yaml.validate(Outer, document)
    assert "records: inner.1.lo: unknown key" in str(caught.value)
