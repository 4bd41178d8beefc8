"""Data sets of the Hub: `datasets.load_dataset` is replaced, so nothing is downloaded."""

import datasets
import pytest
from huggingface_hub.errors import HTTPError

from autopeft.errors import DataError
from autopeft.tasks.data import load
from autopeft.tasks.hub import HubName
from autopeft.tasks.spec import DataSpec


def split(texts, labels, names=None, columns=("sentence",)):
    features = {column: datasets.Value("string") for column in columns}
    kind = "float32" if isinstance(labels[0], float) else "int64"
    features["label"] = datasets.ClassLabel(names=names) if names else datasets.Value(kind)
    values = {column: list(texts) for column in columns} | {"label": list(labels)}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def texts(prefix, n_rows):
    return [f"{prefix} {i}" for i in range(n_rows)]


@pytest.fixture
def hub(monkeypatch):
    """Makes `load_dataset` answer with given splits, and returns what it was asked."""
    asked = []

    def serve(answer):
        def load_dataset(name, config=None, *, revision=None):
            asked.append((name, config, revision))
            if isinstance(answer, Exception):
                raise answer
            return datasets.DatasetDict(answer)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return serve


def load_hub(spec, tmp_path, kind="classification"):
    return load(spec, kind, tmp_path, seed=0)


@pytest.mark.parametrize(
    ("hub", "parsed"),
    [
        ("glue/sst2", HubName("glue", "sst2", None)),
        ("glue/sst2@abc", HubName("glue", "sst2", "abc")),
        ("super_glue/boolq", HubName("super_glue", "boolq", None)),
        ("user/name", HubName("user/name", None, None)),
        ("user/name@refs/convert/parquet", HubName("user/name", None, "refs/convert/parquet")),
        ("user/name/config@v1", HubName("user/name", "config", "v1")),
        ("imdb", HubName("imdb", None, None)),
    ],
)
def test_names(hub, parsed):
    assert HubName.parse(hub) == parsed


def test_glue_with_its_secret_test_labels(hub, tmp_path):
    names = ["negative", "positive"]
    asked = hub(
        {
            "train": split(texts("train", 100), [i % 2 for i in range(100)], names),
            "validation": split(texts("val", 4), [0, 1, 1, 1], names),
            "test": split(texts("secret", 10), [-1] * 10, names),
        }
    )
    data = load_hub(DataSpec(hub="glue/sst2@v1"), tmp_path)
    assert asked == [("glue", "sst2", "v1")]
    assert data.label_names == ("negative", "positive")
    assert data.validation.labels == (0, 1, 1, 1)
    assert data.notes == (
        "test: its own split has no labels, so 20 of 100 training rows were set aside",
    )
    assert data.test is not None
    assert len(data.train) == 80
    assert sorted(data.train.texts + data.test.texts) == sorted(
        (text,) for text in texts("train", 100)
    )


def test_declared_classes_keep_their_numbers(hub, tmp_path):
    names = ["z", "never seen", "a"]
    rows = split(texts("t", 6), [0, 2, 0, 2, 0, 2], names, ("text",))
    hub({"train": rows, "validation": split(["v"], [1], names, ("text",))})
    data = load_hub(DataSpec(hub="user/name"), tmp_path)
    assert data.label_names == ("z", "never seen", "a")
    assert data.train.labels == (0, 2, 0, 2, 0, 2)
    assert data.validation.labels == (1,)


def test_regression_with_a_pair_and_a_carved_test(hub, tmp_path):
    columns = ("sentence1", "sentence2")
    train = split(texts("t", 50), [i / 10 for i in range(50)], columns=columns)
    hub(
        {
            "train": train,
            "validation": split(["v"], [2.5], columns=columns),
            "test": split(["s"] * 2, [-1.0] * 2, columns=columns),
        }
    )
    data = load_hub(DataSpec(hub="glue/stsb"), tmp_path, "regression")
    assert data.validation.texts == (("v", "v"),)
    assert data.test is not None
    assert (len(data.train), len(data.test)) == (40, 10)


def test_mnli_is_validated_on_the_matched_split(hub, tmp_path):
    columns = ("premise", "hypothesis")
    train = split(texts("t", 9), [0, 1, 2] * 3, columns=columns)
    hub({"train": train, "validation_matched": split(["v"], [1], columns=columns)})
    data = load_hub(DataSpec(hub="glue/mnli"), tmp_path)
    assert data.validation.texts == (("v", "v"),)
    assert data.test is None


def test_columns_can_be_named(hub, tmp_path):
    rows = split(texts("t", 20), [0, 1] * 10, columns=("body",)).rename_column("label", "stars")
    hub({"train": rows.with_format("numpy")})
    data = load_hub(DataSpec(hub="user/name", text="body", label="stars"), tmp_path)
    assert data.notes == ("validation: none was given, so 4 of 20 training rows were set aside",)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"train": split(["a", "b"], [0, 1])}, "no column 'text'; it has: 'sentence', 'label'"),
        ({"dev": split(["a", "b"], [0, 1])}, "no split 'train'; it has: dev"),
        (
            {"train": split(["a", " "], [0, 1], columns=("text",))},
            "user/name, split train, row 2: column 'text' is empty",
        ),
        (
            {"train": split(["a", "b"], [0, -1], ["x", "y"], ("text",))},
            "user/name, split train, row 2: label -1 is none of the 2 declared classes",
        ),
        (
            {
                "train": split(["a", "b"], [0, 1], columns=("text",)),
                "test": split(["a", "b"], [0, 1], columns=("text",)).select([]),
            },
            "user/name, split test: has no rows",
        ),
    ],
)
def test_bad_data(hub, tmp_path, answer, says):
    hub(answer)
    with pytest.raises(DataError) as caught:
        load_hub(DataSpec(hub="user/name"), tmp_path)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'user/name'\non the Hub"),
        datasets.exceptions.DatasetNotFoundError("Couldn't reach 'user/name' on the Hub"),
        datasets.exceptions.DatasetGenerationError("Couldn't reach 'user/name' on the Hub"),
        ValueError("Couldn't reach 'user/name' on the Hub"),
        RuntimeError("Couldn't reach 'user/name' on the Hub"),
        HTTPError("Couldn't reach 'user/name' on the Hub"),
    ],
)
def test_no_network_is_one_line(hub, tmp_path, error):
    hub(error)
    with pytest.raises(DataError) as caught:
        load_hub(DataSpec(hub="user/name"), tmp_path)
    assert str(caught.value) == (
        "user/name: cannot be loaded from the Hub: Couldn't reach 'user/name' on the Hub"
    )


def test_a_mistake_of_ours_is_not_taken_for_the_network(hub, tmp_path):
    hub(TypeError("not the Hub's fault"))
    with pytest.raises(TypeError):
        load_hub(DataSpec(hub="user/name"), tmp_path)


def test_columns_within_a_column_are_read_by_both_names(hub, tmp_path):
    pairs = [{"en": f"text {i}", "ro": f"textul {i}"} for i in range(40)]
    rows = datasets.Dataset.from_dict({"translation": pairs})
    hub({"train": rows, "validation": rows.select(range(8))})
    spec = DataSpec(hub="wmt/wmt16/ro-en", text="translation.en", label="translation.ro")
    data = load_hub(spec, tmp_path, "seq2seq")
    assert data.validation.texts[3] == ("text 3",)
    assert data.validation.labels[3] == "textul 3"


def test_the_real_library_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(DataError, match=r"^glue/sst2: cannot be loaded from the Hub: [^\n]+$"):
        load_hub(DataSpec(hub="glue/sst2"), tmp_path)


def test_declared_tags_of_words_keep_their_numbers(hub, tmp_path):
    names = ["O", "B-PER", "B-LOC"]
    features = {
        "tokens": datasets.List(datasets.Value("string")),
        "ner_tags": datasets.List(datasets.ClassLabel(names=names)),
    }
    values = {"tokens": [["Ada", "left"], ["Rome"]], "ner_tags": [[1, 0], [2]]}
    rows = datasets.Dataset.from_dict(values, features=datasets.Features(features))
    hub({"train": rows, "validation": rows})
    spec = DataSpec(hub="user/name", label="ner_tags")
    dataset = load_hub(spec, tmp_path, "token_classification")
    assert dataset.label_names == tuple(names)
    assert dataset.train.texts == (("Ada", "left"), ("Rome",))
    assert dataset.train.labels == ((1, 0), (2,))


def test_messages_are_read(hub, tmp_path):
    said = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": f"not {text}"}]
        for text in ("a", "b")
    ]
    rows = datasets.Dataset.from_dict({"messages": said})
    hub({"train": rows, "validation": rows})
    dataset = load_hub(DataSpec(hub="user/name", messages="messages"), tmp_path, "causal")
    assert dataset.train.texts[0] == ('[{"role": "user", "content": "a"}]',)
    assert dataset.train.labels == ("not a", "not b")
