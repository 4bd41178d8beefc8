"""Exports of the part for texts of a model that reads images, too."""

from pathlib import Path

import pytest
import torch
from tiny import genotype, lora
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer
from winners import LORA, make_winner

import autopeft
from autopeft.export import reload
from autopeft.export.card import model_card
from autopeft.export.proof import question_of
from autopeft.export.run import TARGETS
from autopeft.space.taps import Tap


@pytest.fixture
def winner(tmp_path):
    return make_winner(tmp_path, "mistral3", *LORA, task="three")


# peft asks a model for a property that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@torch.no_grad()
def test_code_of_the_card_loads_the_part(winner, tmp_path):
    (tmp_path / "out").mkdir()
    TARGETS["peft"](winner, tmp_path / "out")
    loaded, _ = reload.answer(question_of("peft", tmp_path / "out", winner))
    torch.testing.assert_close(loaded, winner.logits, rtol=1e-5, atol=1e-4)
    card = model_card(winner, "peft", str(tmp_path / "out"), "autopeft export", None, [])
    found = {}
    exec(card.split("```python\n")[1].split("```")[0], found)
    assert found["model"].config.model_type == "mistral"
    texts = [row[0] for row in winner.ground.dataset.validation.texts]
    logits = found["model"](**found["tokenizer"](texts, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(logits, winner.logits, rtol=1e-5, atol=1e-4)


def test_ops_of_a_part_are_saved_and_loaded(winner, tmp_path):
    """On what the code of docs/adding-a-family.md loads."""
    guide = Path(__file__).parents[2] / "docs" / "adding-a-family.md"
    code = guide.read_text(encoding="utf-8").partition("## A part of a model")[2].split("```")[1]
    source, loaded = str(tmp_path / "mistral3"), {}
    exec(code.removeprefix("python\n").replace("google/gemma-3-4b-it", source), loaded)
    model = loaded["model"]
    ops = autopeft.attach(model, genotype(lora(Tap.Q, 2)), seed=0)
    tokenizer = AutoTokenizer.from_pretrained(source)
    batch = tokenizer(["a great film"], return_tensors="pt")
    before = model.eval()(**batch).logits
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        cross_entropy(model(**batch).logits, torch.tensor([1])).backward()
        optimizer.step()
    trained = model(**batch).logits
    assert (trained - before).abs().max() > 0.1
    ops.save(tmp_path / "adapter", tokenizer)
    again, _ = autopeft.load(tmp_path / "adapter")
    torch.testing.assert_close(again(**batch).logits, trained)
