"""What is needed to train a genotype again: as a study, and in a script of one's own."""

from pathlib import Path

import yaml

from autopeft.export.loading import loading_code
from autopeft.export.winner import Winner
from autopeft.files import write_atomic
from autopeft.ops.build import loop_obstacle
from autopeft.space.genotype_file import genotype_from_dict

SCRIPT = '''\
"""Puts the ops into the model for training with transformers; see README.md."""

from pathlib import Path

import autopeft
import torch
from transformers import AutoTokenizer, {classes}

BACKBONE, REVISION, SEED = {backbone!r}, {revision!r}, {seed}
HERE = Path(__file__).parent

tokenizer = AutoTokenizer.from_pretrained(BACKBONE, revision=REVISION, padding_side={side!r})
{before}model = {auto}.from_pretrained(BACKBONE, revision=REVISION{arguments})
{padding}genotype = autopeft.load_genotype(HERE / "genotype.yaml")
# The backbone is frozen, ops and head are trainable.
ops = autopeft.attach(model, genotype, seed=SEED)

optimizer = torch.optim.AdamW(
    [parameter for parameter in model.parameters() if parameter.requires_grad],
    lr=genotype.learning_rate,
    weight_decay=genotype.weight_decay,
)
# transformers.Trainer(model=model, optimizers=(optimizer, None), ...), or a loop of your own, and
# ops.save("adapter", tokenizer)  # which `autopeft.load` reads
'''
"""A beginning of a training script."""
_PADS = "tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token\n"
_PADDING = """\
model.config.pad_token_id = tokenizer.pad_token_id  # by which its head finds the end of a row
"""


def write_again(winner: Winner, folder: Path) -> list[str]:
    """Write `genotype.yaml`, `study.yaml`, and `finetune.py` where a plain loop trains the same.

    Returns:
        What the user has to know.
    """
    study = winner.study
    genotype = yaml.safe_dump(winner.record.genotype, sort_keys=False, default_flow_style=None)
    write_atomic(folder / "genotype.yaml", genotype)
    for path in filter(Path.is_file, (study.spec_file, study.space_file)):  # one trial has no space
        write_atomic(folder / path.name, path.read_text(encoding="utf-8"))
    again = "to train it again: autopeft train genotype.yaml --study study.yaml --out trained"
    if reason := loop_obstacle(genotype_from_dict(winner.record.genotype)):
        return [f"no finetune.py: {reason}", again]
    tokenizer = winner.tokenizer
    pads = _PADS if tokenizer.pad_token == tokenizer.eos_token else ""
    script = SCRIPT.format(
        backbone=winner.description.backbone,
        revision=winner.description.revision or "main",
        seed=winner.record.seed,
        **loading_code(winner.outputs, winner.backbone.part, "BACKBONE", "REVISION"),
        side=tokenizer.padding_side,
        padding=pads + (_PADDING if winner.backbone.finds_padding else ""),
    )
    write_atomic(folder / "finetune.py", script)
    if winner.backbone.scheme is None:
        return [again]
    return ["finetune.py trains it on the model as it is published, not in few bits", again]
