"""Tiny models that tag words, and rows whose words' tags are what they are."""

from dataclasses import replace

import torch
from tiny import tiny_backbone
from tiny_language import tokenizer
from transformers import AutoModelForTokenClassification

from autopeft.model.anatomy import Anatomy
from autopeft.tasks.splits import Split
from autopeft.tasks.tokens import TokenClassification

TAGS = ("B-X", "I-X", "O")
TASK = TokenClassification(TAGS, "span_f1")


def tagging_backbone(family, seed=0):
    """A frozen model with a fresh head that reads every token."""
    config = tiny_backbone(family).model.config
    config = type(config)(**{**config.to_dict(), "num_labels": len(TAGS)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForTokenClassification.from_config(config, attn_implementation="eager")
        for parameter in model.parameters():
            parameter.data += 0.15 * torch.randn_like(parameter)
    model.eval().requires_grad_(requires_grad=False)
    base = f"{model.base_model_prefix}."
    fresh = tuple(name for name, _ in model.named_parameters() if not name.startswith(base))
    return replace(
        tiny_backbone(family),
        model=model,
        tokenizer=tokenizer(),
        shape=Anatomy(model, fresh).shape(),
        fresh=fresh,
    )


def tagged(n_rows, seed=0, name="train"):
    """Rows of two to eight words, whose numbers say which begin a span and which go on with it."""
    generator = torch.Generator().manual_seed(seed)
    words, tags = [], []
    for _ in range(n_rows):
        n = int(torch.randint(2, 9, (1,), generator=generator))
        row = torch.randint(3, 60, (n,), generator=generator).tolist()
        words.append(tuple(f"w{i}" for i in row))
        tags.append(tuple(0 if i % 4 == 0 else 1 if i % 4 == 1 else 2 for i in row))
    return Split(name, tuple(words), tuple(tags))
