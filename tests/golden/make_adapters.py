"""Writes adapters.safetensors: what the library `adapters` computes on a tiny BERT.

It needs an older transformers than autopeft, so it runs in an environment of its own:

    python3 -m venv golden && golden/bin/pip install torch adapters==1.3.0
    golden/bin/python tests/golden/make_adapters.py

The file has the model (`base.*`), a batch, and for each method (`NAME.*`) its trained tensors under
the library's own names, and the logits.
"""

from pathlib import Path

import adapters
import torch
import transformers
from adapters import (
    CompacterConfig,
    CompacterPlusPlusConfig,
    DoubleSeqBnConfig,
    MAMConfig,
    ParBnConfig,
    PrefixTuningConfig,
    SeqBnConfig,
    UniPELTConfig,
)
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification

D_MODEL, RANK, LENGTH, N_ROWS, N_TOKENS, N_WORDS = 16, 4, 3, 3, 7, 40
BOTTLENECK_SIZE = 512
"""Of the prefix's MLP; the library's default, and ours."""
FACTOR = D_MODEL / (RANK + 0.5)
"""The library rounds d / factor down."""

BOTTLENECK = {"reduction_factor": FACTOR}
PREFIX = PrefixTuningConfig(flat=True, prefix_length=LENGTH)
METHODS = {
    "seq_bn": SeqBnConfig(**BOTTLENECK),
    "double_seq_bn": DoubleSeqBnConfig(**BOTTLENECK),
    "par_bn": ParBnConfig(**BOTTLENECK),
    "prefix": PREFIX,
    "prefix_mlp": PrefixTuningConfig(prefix_length=LENGTH, bottleneck_size=BOTTLENECK_SIZE),
    "mam": MAMConfig(PREFIX, ParBnConfig(**BOTTLENECK)),
    "compacter": CompacterConfig(**BOTTLENECK, phm_dim=4, phm_rank=1),
    "compacter_plus_plus": CompacterPlusPlusConfig(**BOTTLENECK, phm_dim=4, phm_rank=1),
    "unipelt": UniPELTConfig(PrefixTuningConfig(prefix_length=LENGTH, flat=True, use_gating=True)),
}


def tiny_bert() -> BertForSequenceClassification:
    """With no parameter as it would be initialised."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=N_WORDS,
        hidden_size=D_MODEL,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        num_labels=3,
    )
    model = BertForSequenceClassification(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def main() -> None:
    """Run every method on a model of its own."""
    torch.manual_seed(1)
    ids = torch.randint(5, N_WORDS, (N_ROWS, N_TOKENS))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    out = {f"base.{name}": tensor for name, tensor in tiny_bert().state_dict().items()}
    out |= batch
    for name, config in METHODS.items():
        model = tiny_bert()
        before = {name for name, _ in model.named_parameters()}
        adapters.init(model)
        model.add_adapter("x", config=config)
        model.set_active_adapters("x")
        own = {
            key: parameter
            for key, parameter in model.named_parameters()
            if key not in before and key.replace(".base_layer", "") not in before
        }
        for i, key in enumerate(sorted(own)):
            generator = torch.Generator().manual_seed(i)
            own[key].copy_(0.3 * torch.randn(own[key].shape, generator=generator))
        out |= {f"{name}.{key}": parameter for key, parameter in own.items()}
        out[f"{name}.logits"] = model(**batch).logits
        # Its gates average over padding as well.
        out[f"{name}.logits_without_padding"] = model(**whole).logits
    path = Path(__file__).with_name("adapters.safetensors")
    made_by = {"adapters": adapters.__version__, "transformers": transformers.__version__}
    save_file({key: t.detach().contiguous() for key, t in out.items()}, path, made_by)
    print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
