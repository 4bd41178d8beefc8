"""Writes golden/export and golden/backbone: a native export of the first version of its format.

They are committed and not made again; a test says that every later version still loads them.

    PYTHONPATH=tests python tests/golden/make_export.py
"""

import json
from pathlib import Path

import torch
from study_factory import save_tokenizer
from tiny import lora, op, same
from transformers import BertConfig, BertModel

from autopeft.export import reload
from autopeft.export.adapter import Description, Outputs, mount
from autopeft.export.native import write_native
from autopeft.model.backbone import load_backbone
from autopeft.space.forms import Activation, Form
from autopeft.space.genotype import Genotype
from autopeft.space.taps import Tap

HERE = Path(__file__).parent
TEXTS = [["a great film"], ["an awful plot again"], ["poor music"]]
OPS = (
    lora(Tap.Q, (2, 0, 1), scale=2.0),
    op(Form.LOWRANK_FA, Tap.ATTN_IN, Tap.V, 2),
    op(Form.VERA, Tap.FFN_IN, Tap.FFN_UP, 3),
    op(Form.DORA, Tap.PRE_O, Tap.ATTN_OUT, 1, scale="learned"),
    op(Form.BOTTLENECK, Tap.FFN_NORM, Tap.FFN_OUT, 2, activation=Activation.GELU),
    op(Form.SPARSE, Tap.ATTN_IN, Tap.K, 5),
    same(Form.PREFIX, Tap.HEAD, 2),
    same(Form.SCALE, Tap.FFN_MID),
    same(Form.BIAS, Tap.FFN_OUT),
)


def main() -> None:
    """Make a backbone, an adapter for it, and what it says."""
    torch.manual_seed(0)
    backbone, export = HERE / "backbone", HERE / "export"
    config = BertConfig(
        vocab_size=save_tokenizer(backbone),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(backbone)
    base = load_backbone(str(backbone), 2)
    description = Description(
        backbone="golden",
        revision=None,
        backbone_sha256=base.fingerprint,
        genotype=Genotype(3, OPS, learning_rate=1e-3),
        seed=7,
        outputs=Outputs("classification", ("bad", "good")),
        max_length=16,
    )
    _, own = mount(base.model, base.fresh, description)
    with torch.no_grad():
        for tensor in own.values():
            if tensor.is_floating_point():
                tensor.add_(0.2 * torch.randn(tensor.shape))
    export.mkdir(exist_ok=True)
    write_native(export, description, own)
    base.tokenizer.save_pretrained(export)
    question = {"texts": TEXTS, "max_length": 16, "batch_size": 8}
    logits = reload.outputs(base.model, base.tokenizer, question)
    (export / "expected.json").write_text(
        json.dumps({"texts": TEXTS, "logits": logits.tolist()}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
