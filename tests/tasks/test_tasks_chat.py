"""Messages: what is read of them, and what a template makes of them."""

import json

import pytest
from tiny_language import EOS, tokenizer

from autopeft.errors import ConfigError, DataError
from autopeft.tasks.data import load
from autopeft.tasks.encode import IGNORED
from autopeft.tasks.language import Language
from autopeft.tasks.spec import DataSpec, GenerationSpec
from autopeft.tasks.task import make_task

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ {'system': 'w50', 'user': 'w51', 'assistant': 'w52'}[m.role] }} {{ m.content }} "
    "{% endfor %}{% if add_generation_prompt %}w52{% endif %}"
)


def said(*texts, roles=("user", "assistant")):
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


ROWS = [
    {"messages": said("w3 w4", "w5")},
    {"messages": [{"role": "system", "content": "w9"}, *said("w3", "w4", "w6", "w7 w8")]},
]


@pytest.fixture
def read(tmp_path):
    def read(rows, **more):
        path = tmp_path / "train.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        spec = DataSpec(train=path, validation=path, messages="messages", **more)
        return load(spec, "causal", tmp_path, seed=0)

    return read


def test_template_writes_what_precedes_the_last_answer(read):
    dataset = read(ROWS)
    assert dataset.train.labels == ("w5", "w7 w8")
    task = make_task("causal", None, dataset, GenerationSpec(max_target_length=8), chat=True)
    chatty = tokenizer()
    chatty.chat_template = TEMPLATE
    rows = task.encode(dataset.train, chatty, 16)
    asked = [[51, 3, 4, 52], [50, 9, 51, 3, 52, 4, 51, 6, 52]]
    written = [[5, EOS], [7, 8, EOS]]
    assert rows.input_ids == [one + other for one, other in zip(asked, written, strict=True)]
    assert rows.answers.targets == [
        [IGNORED] * len(one) + other for one, other in zip(asked, written, strict=True)
    ]
    assert rows.answers.references == (("w5",), ("w7 w8",))


def test_references_stand_beside_messages(read):
    rows = [{**row, "also": ["w1", "w2"]} for row in ROWS]
    assert read(rows, references="also").validation.answers == (("w1", "w2"),) * 2


def test_tokenizer_without_a_template_is_refused(read):
    task = Language("causal", "likelihood", GenerationSpec(max_target_length=8), chat=True)
    with pytest.raises(ConfigError, match="tokenizer has no chat template"):
        task.encode(read(ROWS).train, tokenizer(), 16)


def test_what_the_template_refuses_is_refused(read):
    rows = [*ROWS, {"messages": [{"role": "tool", "content": "w3"}, *ROWS[0]["messages"]]}]
    task = Language("causal", "likelihood", GenerationSpec(max_target_length=8), chat=True)
    chatty = tokenizer()
    chatty.chat_template = TEMPLATE
    with pytest.raises(DataError, match="train: the model's chat template refuses row 3: no tools"):
        task.encode(read(rows).train, chatty, 16)


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ("w3", "is 'w3', not a list of two messages or more"),
        (said("w3"), "not a list of two messages or more"),
        (
            said("w3", "w4", "w5"),
            "ends with a message of 'user'; the answer is that of 'a",
        ),
        ([*said("w3"), "w4"], "has message 2 that is 'w4', not an object"),
        (said("w3", " "), "has message 2 whose content is ' ', not a text"),
        (said("w3", "w4", roles=(None, "assistant")), "has message 1 whose role is None, not a t"),
        ([{**said("w3")[0], "tools": [1]}, *said("w3", "w4")], "message 1 with 'tools', which is "),
        (said("w3", "\ud800"), "half of a surrogate pair"),
    ],
)
def test_bad_messages_are_refused(read, messages, told):
    with pytest.raises(DataError) as caught:
        read([*ROWS, {"messages": messages}])
    assert "train.jsonl:3: column 'messages' " in str(caught.value)
    assert told in str(caught.value)


def test_messages_and_texts_are_not_both_given():
    with pytest.raises(ValueError, match="give either `messages` or `text` and `label`"):
        DataSpec(train="train.jsonl", messages="messages", text="text")


def test_csv_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("messages\nw3\n", encoding="utf-8")
    with pytest.raises(DataError, match="CSV has no lists of messages"):
        load(DataSpec(train="train.csv", messages="messages"), "causal", tmp_path, seed=0)
