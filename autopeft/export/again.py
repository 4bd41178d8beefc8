"""What is needed to train a genotype again: as a study, and in a script of one's own."""

from pathlib import Path

import yaml

from autopeft.export.winner import Winner
from autopeft.files import write_atomic

SCRIPT = '''\
"""Puts the ops into the model for training with transformers; see README.md."""

from pathlib import Path

import autopeft
import torch
from transformers import AutoTokenizer, {auto}

BACKBONE, REVISION, SEED = {backbone!r}, {revision!r}, {seed}
HERE = Path(__file__).parent

tokenizer = AutoTokenizer.from_pretrained(BACKBONE, revision=REVISION)
model = {auto}.from_pretrained(BACKBONE, revision=REVISION{arguments})
genotype = autopeft.load_genotype(HERE / "genotype.yaml")
autopeft.attach(model, genotype, seed=SEED)  # the backbone is frozen, ops and head are trainable

optimizer = torch.optim.AdamW(
    [parameter for parameter in model.parameters() if parameter.requires_grad],
    lr=genotype.learning_rate,
    weight_decay=genotype.weight_decay,
)
# transformers.Trainer(model=model, optimizers=(optimizer, None), ...), or a loop of your own
'''
"""A beginning of a training script."""


def write_again(winner: Winner, folder: Path) -> None:
    """Write `genotype.yaml`, `study.yaml` and `finetune.py`."""
    study = winner.study
    genotype = yaml.safe_dump(winner.record.genotype, sort_keys=False, default_flow_style=None)
    write_atomic(folder / "genotype.yaml", genotype)
    for path in filter(Path.is_file, (study.spec_file, study.space_file)):  # one trial has no space
        write_atomic(folder / path.name, path.read_text(encoding="utf-8"))
    script = SCRIPT.format(
        backbone=winner.description.backbone,
        revision=winner.description.revision or "main",
        seed=winner.record.seed,
        auto=winner.outputs.auto,
        arguments=winner.outputs.arguments,
    )
    write_atomic(folder / "finetune.py", script)
