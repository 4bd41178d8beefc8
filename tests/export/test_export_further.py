"""A model that was loaded, trained further by `transformers.Trainer`, and loaded again."""

import pytest
import torch
from tiny import PFEIFFER, lora
from transformers import Trainer, TrainingArguments
from winners import make_winner, write

import autopeft
from autopeft.errors import DataError
from autopeft.model.head import OPS_ATTRIBUTE
from autopeft.space.taps import Tap


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that Trainer has trained, its tokenizer, what it was before, and Trainer's folder."""
    home = tmp_path_factory.mktemp("further")
    winner = make_winner(home, "bert", lora(Tap.Q, 3), *PFEIFFER.ops)
    model, tokenizer = autopeft.load(write(home / "adapter", winner))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    words = ("good film", "bad plot", "a great story", "poor cast")
    settings = TrainingArguments(
        output_dir=str(home / "trainer"),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        save_strategy="epoch",
        learning_rate=1e-2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=[{**tokenizer(text), "labels": i % 2} for i, text in enumerate(words)],
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    return model.eval(), tokenizer, before, home / "trainer"


def test_ops_and_head_are_trained_and_nothing_else(trained):
    model, _, before, _ = trained
    moved = {name for name, now in model.state_dict().items() if not torch.equal(now, before[name])}
    head = {"classifier.weight", "classifier.bias"}
    ops = {name for name, _ in model.named_parameters() if name.startswith(OPS_ATTRIBUTE)}
    assert moved == head | ops
    assert ops


@torch.no_grad()
def test_what_trainer_saves_is_loaded_again(trained):
    model, tokenizer, before, folder = trained
    batch = tokenizer(["good film", "bad plot today"], return_tensors="pt", padding=True)
    expected = model(**batch).logits
    assert {p.name for p in folder.rglob("*.p*t*")} >= {"optimizer.pt", "rng_state.pth"}
    for place in (folder, folder / "checkpoint-2"):
        again, _ = autopeft.load(place)
        torch.testing.assert_close(again(**batch).logits, expected, rtol=0, atol=0)
    half, _ = autopeft.load(folder / "checkpoint-1")
    assert not torch.equal(half(**batch).logits, expected)
    assert not torch.equal(half.classifier.weight, before["classifier.weight"])


@pytest.mark.parametrize("name", ["optimizer.py", "pytorch_model.bin", "adapter_model.bin", "x.pt"])
def test_what_is_not_trainers_is_refused_beside_it(trained, name):
    *_, folder = trained
    beside = folder / "checkpoint-1" / name
    beside.write_bytes(b"")
    try:
        with pytest.raises(DataError, match=f"{name} can hold code"):
            autopeft.load(folder)
    finally:
        beside.unlink()
