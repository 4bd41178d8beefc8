"""What the model card says beside what `test_export_study.py` looks for."""

from dataclasses import replace

import pytest
from record_factory import make_failure
from tiny import lora, op
from winners import make_winner

from autopeft.export.card import model_card
from autopeft.export.proof import Proof
from autopeft.records import SELECTION, Metric
from autopeft.selection import Contender, Selection
from autopeft.selection_file import write_selection
from autopeft.space.forms import Form
from autopeft.space.taps import Tap

CONTENDER = Contender(0, "recommended", 160, 0.01, "LoRA q r2", 0.75, 0.71, 0.02, 0.66, 0.76, 3)


@pytest.fixture
def winner(tmp_path):
    return make_winner(tmp_path, "bert", lora(Tap.Q, 2))


def card_of(winner, target="native"):
    return model_card(
        winner, target, "out", "autopeft export it", Proof(24, 1e-7, 1e-5, 0), ["mind"]
    )


def test_it_says_where_everything_comes_from(winner):
    card = card_of(winner)
    for told in (
        "| accuracy | 0.7500 | 0.7304 to 0.7696 |",
        "on which the search selected, so they flatter it",
        "| 0 (this) | 0.7500 ± 0.0100 |",
        f"weights sha256 {winner.backbone.fingerprint}",
        "study 0, training 5, the one with the median score of 1",
        "1 trials, 12 s of training",
        "| trained for | 3 of 3 optimizer steps |",
        f"48 train + 24 validation + 20 test rows, sha256 {'0' * 64}",
        "| exported by | `autopeft export it` |",
        "| searched with | python 3.11.7 |",
        "transformers ",
        "in the ops (",
        "What is longer than 16 tokens was cut there, in training and scoring.",
        "Note: mind",
        "by 1.0e-07 at most",
    ):
        assert told in card
    assert "final selection" not in card


def test_an_interval_ends_where_the_metric_does(winner):
    scores = {"accuracy": 0.999, "f1": 0.001, "mcc": -0.999, "my.py:fn": 0.999}
    metrics = {name: Metric(value, 0.01) for name, value in scores.items()}
    card = card_of(replace(winner, record=replace(winner.record, metrics=metrics)))
    for row in (
        "| accuracy | 0.9990 | 0.9794 to 1.0000 |",
        "| f1 | 0.0010 | 0.0000 to 0.0206 |",
        "| mcc | -0.9990 | -1.0000 to -0.9794 |",
        "| my.py:fn | 0.9990 | 0.9794 to 1.0186 |",
    ):
        assert row in card


def test_what_was_selected_on_unseen_rows_is_not_said_to_be_flattered(winner):
    selected = replace(winner.record, split=SELECTION, replicate=2)
    data = {**winner.manifest.data, "rows": {**winner.manifest.data["rows"], SELECTION: 30}}
    manifest = replace(winner.manifest, data=data)
    others = [replace(selected, replicate=i) for i in (1, 3)]
    failed = make_failure("crash", trial=0, rung=0, replicate=4, split=SELECTION)
    records = [winner.record, selected, *others, failed]
    again = replace(winner, record=selected, manifest=manifest, records=records)
    write_selection(winner.study.selection_file, Selection("accuracy", 30, (CONTENDER,), (), 0, ()))
    card = card_of(again)
    assert "On 30 rows of `selection` that the search has not seen." in card
    assert "flatter" not in card
    assert "the one with the median score of 3" in card
    assert (
        "accuracy 0.7100 in the mean of 3 fresh seeds, 95 % interval 0.6600 to 0.7600 over new "
        "seeds and new rows. There is no tuned LoRA to compare with."
    ) in card


@pytest.mark.parametrize("target", ["native", "peft", "merged", "adapters", "yaml"])
def test_its_code_is_python(winner, target):
    _, *code = card_of(winner, target).split("```python\n")
    assert bool(code) == (target in ("native", "peft", "merged"))
    for block in code:
        compile(block.split("```")[0], "card", "exec")


@pytest.mark.parametrize(
    ("form", "target", "told"),
    [(Form.VERA, "peft", True), (Form.VERA, "native", False), (Form.LOWRANK, "peft", False)],
)
def test_it_says_which_peft_reads_vera(tmp_path, form, target, told):
    card = card_of(make_winner(tmp_path, "bert", op(form, Tap.ATTN_IN, Tap.Q, 2)), target)
    assert ("needs peft 0.21 or newer" in card) == told
