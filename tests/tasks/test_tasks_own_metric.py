"""A function of one's own as a metric: what it is told, what it may return, how it varies."""

import marshal
import math
import re
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path

import numpy as np
import pytest

from autopeft.errors import ConfigError, MetricError
from autopeft.tasks.data import Dataset
from autopeft.tasks.language import Written
from autopeft.tasks.own_metric import MOST_PARTS, OwnMetric, load_own_metric
from autopeft.tasks.spec import absolute_metric, metric_name
from autopeft.tasks.splits import Split
from autopeft.tasks.task import make_task

SHARE = """
def share(predictions, references):
    return sum(map(equal, predictions, references)) / len(references)

def equal(prediction, reference):
    return prediction == reference

def both(predictions, references):
    return {"wrong": -1 + share(predictions, references), "n": len(references)}
"""


@pytest.fixture
def own(tmp_path):
    """Write a file, and load a function of it."""

    def make(code, name="fn"):
        (tmp_path / "my.py").write_text(code, encoding="utf-8")
        return load_own_metric(f"{tmp_path / 'my.py'}:{name}")

    return make


def counting(function):
    calls = []

    def counted(predictions, references):
        calls.append(len(predictions))
        return function(predictions, references)

    return counted, calls


def share(predictions, references):
    return float(np.mean(np.equal(predictions, references)))


@pytest.mark.parametrize("n_rows", [1, 7, MOST_PARTS, 2_003])
def test_rows_add_up_to_the_metric_and_vary_as_it_does(n_rows):
    labels = np.arange(n_rows) % 3
    predictions = np.where(np.random.default_rng(0).random(n_rows) < 0.3, 0, labels)
    function, calls = counting(share)
    metric = OwnMetric("my.py:share", function, "")
    measured = metric.measure(predictions.tolist(), labels.tolist())["my.py:share"]
    assert measured.value == pytest.approx(share(predictions, labels))
    assert len(calls) == 1 + (min(n_rows, MOST_PARTS) if n_rows > 1 else 0)
    rows = metric.row_scores(predictions.tolist(), labels.tolist())
    assert rows.shape == (n_rows,)
    assert rows.mean() == pytest.approx(measured.value)
    if n_rows > 1:
        expected = math.sqrt(measured.value * (1 - measured.value) / (n_rows - 1))
        close = 1e-6 if n_rows <= MOST_PARTS else 0.3  # of fifty parts 10 % is one error
        assert measured.stderr == pytest.approx(expected, rel=close)
        assert rows.std(ddof=1) / math.sqrt(n_rows) == pytest.approx(expected, rel=close)
    if 1 < n_rows <= MOST_PARTS:
        assert rows == pytest.approx((predictions == labels).astype(float))


def test_first_of_several_numbers_is_the_metric(own):
    metric = own(SHARE, "both")
    measured = metric.measure(["a", "b"], ["a", "c"])
    assert {name: one.value for name, one in measured.items()} == {
        "my.py:both": -0.5,
        "my.py:both.n": 2,
    }


def test_compiled_code_beside_the_file_is_not_run(own, tmp_path):
    other = compile("def fn(predictions, references): return 1.0", "my.py", "exec")
    pyc = Path(cache_from_source(str(tmp_path / "my.py")))
    pyc.parent.mkdir()
    # Of the kind that no source is compared with (PEP 552).
    pyc.write_bytes(MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(other))
    metric = own("def fn(predictions, references): return 0.25")
    assert metric.measure([1], [1])["my.py:fn"].value == 0.25
    assert list(pyc.parent.iterdir()) == [pyc]


TOLD = """
def fn(predictions, references):
    assert predictions == {predictions} and references == {references}, (predictions, references)
    return 0.25
"""


def task_of(kind, metric, labels, names=(), references=None):
    texts = tuple((f"t{i}",) for i in range(len(labels)))
    split = Split("validation", texts, labels, references)
    return make_task(kind, metric, Dataset(split, split, label_names=names))


@pytest.mark.parametrize(
    ("kind", "labels", "more", "ideal"),
    [
        ("classification", (1,), {"names": ("no", "yes")}, (["yes"], ["yes"])),
        ("regression", (2.5,), {}, ([2.5], [2.5])),
        ("causal", ("so",), {}, (["so"], [["so"]])),
        ("seq2seq", ("so",), {"references": (("x", "y"),)}, (["x"], [["x", "y"]])),
    ],
)
def test_it_is_told_what_a_user_sees(own, tmp_path, kind, labels, more, ideal):
    metric = f"{tmp_path / 'my.py'}:fn"
    own(TOLD.format(predictions=ideal[0], references=ideal[1]))
    task = task_of(kind, metric, labels, **more)  # tries it on what is right
    predictions = {
        "classification": np.array([1]),
        "regression": np.array([2.5]),
        "causal": np.array([Written(1.0, 2, "so")], dtype=object),
        "seq2seq": np.array([Written(1.0, 2, "x")], dtype=object),
    }[kind]
    truth = np.empty(1, dtype=object)
    truth[0] = (more.get("references") or (labels,))[0]
    truth = truth if kind in ("causal", "seq2seq") else np.array(labels)
    measured = task.metrics(predictions, truth)
    assert next(iter(measured)) == task.metric == "my.py:fn"
    assert measured["my.py:fn"].value == 0.25
    assert len(measured) > 1
    assert task.row_scores(predictions, truth).tolist() == [0.25]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return None", r"returned None; it has to be a finite number, or a dictionary of such"),
        ("return float('nan')", "returned nan; it has to be"),
        ("return True", "returned True; it has to be"),
        ("return 10**400", r"returned 1000+\.\.\.0+; it has to be"),
        ("return 10**5000", "returned a number of too many digits; it has to be"),
        ("return {}", r"returned \{\}; it has to be"),
        ("return {'a': 1.0, 'b': 'x'}", r"returned \{'a': 1.0, 'b': 'x'\}; it has to be"),
        ("return 1 / 0", r"fails on 1 rows: ZeroDivisionError: division by zero \(my\.py:1\)"),
        ("raise KeyError", r"fails on 1 rows: KeyError \(my\.py:1\)"),
    ],
)
def test_what_is_no_score_is_refused_before_anything_is_trained(own, tmp_path, body, told):
    own(f"def fn(predictions, references): {body}")
    source = f"{tmp_path / 'my.py'}:fn"
    with pytest.raises(MetricError, match=f"metric `{re.escape(source)}` {told}"):
        task_of("regression", source, (1.0,))


def test_other_keys_for_other_rows_are_refused(own):
    metric = own("def fn(p, r): return {str(len(r)): 1.0, f'of {len(r)}': 2.0}")
    with pytest.raises(MetricError, match="returns other keys for 2 rows than for 3"):
        metric.measure([1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize(
    ("code", "name", "told"),
    [
        ("", "fn", "has no function `fn`"),
        ("fn = 3", "fn", "has no function `fn`"),
        ("def fn(:", "fn", "cannot be run: SyntaxError"),
        ("import nowhere_to_be_found", "fn", "cannot be run: ModuleNotFoundError"),
    ],
)
def test_file_without_the_function_is_refused(own, code, name, told):
    with pytest.raises(ConfigError, match=f"my\\.py {told}"):
        own(code, name)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none\.py: No such file"):
        load_own_metric(f"{tmp_path}/none.py:fn")


def test_names_of_metrics(tmp_path):
    assert metric_name("a/b.py:fn") == "b.py:fn"
    assert metric_name("accuracy") == "accuracy"
    assert absolute_metric("b.py:fn", tmp_path) == f"{tmp_path}/b.py:fn"
    assert load_own_metric("accuracy") is None
