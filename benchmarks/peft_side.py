"""`transformers.Trainer` with `peft`, as users have it."""

import argparse

from common import Measured
from hugging_face import Peer
from peft import LoraConfig, TaskType, get_peft_model
from transformers import Trainer

RANK = 8
ALPHA = 16
"""The factor alpha / r is 2, that of autopeft's method `lora`."""

TARGETS = {"distilbert": ["q_lin", "v_lin"]}
DEFAULT_TARGETS = ["query", "value"]


def train(args: argparse.Namespace, *, expert: bool) -> Measured:
    """Train LoRA on query and value, and score it."""
    peer = Peer(args, expert=expert)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,  # which makes the classifier trainable
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_modules=TARGETS.get(peer.model.config.model_type, DEFAULT_TARGETS),
    )
    return peer.measure(get_peft_model(peer.model, config), Trainer, "lora_")
