"""What the page says in words of a trial and of its study."""

from dataclasses import replace

import pytest
from synthetic_study import MINILM

from autopeft.dashboard.facts import facts_of
from autopeft.dashboard.ops import unlike
from autopeft.space.methods import method

LORA = method("lora").genotype(MINILM)


@pytest.mark.parametrize(
    ("genotype", "told"),
    [
        (LORA, ("as published",)),
        (replace(LORA, learning_rate=2 * LORA.learning_rate),
         ("2 times the learning rate (0.004 against 0.002)",)),
        (method("lora").genotype(MINILM, 3),
         ("LoRA q r1 x2 instead of LoRA q r8 x2", "LoRA v r1 x2 instead of LoRA v r8 x2",
          "0.125 times the parameters (9,216 against 73,728)")),
    ],
)  # fmt: skip
def test_what_is_as_published_is_not_told(genotype, told):
    assert unlike(genotype, LORA, MINILM) == told


def test_facts_tell_what_was_done_to_the_data():
    notes = ["train: 300 of 5,534 rows are used (train_rows)", "selection: 1.0 answers a row"]
    facts = facts_of({"data": {"rows": {"train": 300}, "notes": notes}}, None, (), None)
    assert facts["About the data"] == "; ".join(notes)
    assert "About the data" not in facts_of({"data": {"notes": []}}, None, (), None)
