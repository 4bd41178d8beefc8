"""`transformers.Trainer` with `peft` for models that write: an answer, or what comes next."""

import argparse
from typing import Any

import torch
from common import Measured, read_rows
from hugging_face import EVALUATION_BATCH, Peer
from peft import LoraConfig, TaskType, get_peft_model
from peft_side import ALPHA, RANK
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    Trainer,
)

IGNORED = -100
SEPARATOR = "\n"

TARGETS = {"gpt2": ["c_attn"], "t5": ["q", "v"]}
"""GPT-2's query, key and value are one matrix, of as many parameters as two others in LoRA."""
DEFAULT_TARGETS = ["q_proj", "v_proj"]


class Writer(Peer):
    """Model and rows of one run; answers are learnt, what they answer is read."""

    def _load(self, **more: Any) -> Any:
        auto = AutoModelForSeq2SeqLM if self.args.task == "seq2seq" else AutoModelForCausalLM
        return auto.from_pretrained(self.args.model, **more)

    def _collator(self) -> Any:
        return DataCollatorForSeq2Seq(self.tokenizer, model=self.model, label_pad_token_id=IGNORED)

    def _length(self, row: dict[str, Any]) -> int:
        written = len(row["labels"]) if self.args.task == "seq2seq" else 0
        return len(row["input_ids"]) + written

    def _rows(self, split: str, n_rows: int | None) -> list[dict[str, Any]]:
        args, file = self.args, self.args.data / f"{split}.jsonl"
        texts, answers = read_rows(file, n_rows, args.seed, ("source", "target"))
        if args.task == "seq2seq":
            read = self.tokenizer(texts, truncation=True, max_length=args.max_length)
            longest = args.max_target_length
            written = self.tokenizer(text_target=answers, truncation=True, max_length=longest)
            return [
                {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
                for ids, labels in zip(read["input_ids"], written["input_ids"], strict=True)
            ]
        return [self._continued(*pair) for pair in zip(texts, answers, strict=True)]

    def _continued(self, text: str, answer: str) -> dict[str, Any]:
        """A text and, behind a separator, its answer, which alone is learnt."""
        args, eos = self.args, self.tokenizer.eos_token_id
        read, written = (
            self.tokenizer(words, add_special_tokens=False)["input_ids"]
            for words in (text + SEPARATOR, answer)
        )
        read = read[-args.max_length :]
        written = [*written, eos]
        if len(written) > args.max_target_length:
            written = [*written[: args.max_target_length - 1], eos]
        ids = [*read, *written]
        labels = [*[IGNORED] * len(read), *written]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}

    @torch.no_grad()
    def _score(self, trainer: Trainer) -> Measured:
        collate, total, n_tokens = self._collator(), 0.0, 0
        model = trainer.model.eval()
        for first in range(0, len(self.validation), EVALUATION_BATCH):
            batch = collate(self.validation[first : first + EVALUATION_BATCH]).to(model.device)
            labels = batch["labels"]
            logits = model(**batch).logits.float()
            if self.args.task == "causal":
                logits, labels = logits[:, :-1], labels[:, 1:]
            kept = labels != IGNORED
            total += float(cross_entropy(logits[kept], labels[kept], reduction="sum"))
            n_tokens += int(kept.sum())
        return {"losses": [total / n_tokens]}


def train(args: argparse.Namespace, *, expert: bool) -> Measured:
    """Train LoRA on query and value, and score it."""
    peer = Writer(args, expert=expert)
    if args.task == "causal":
        peer.tokenizer.padding_side = "right"
    kind = peer.model.config.model_type
    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM if args.task == "seq2seq" else TaskType.CAUSAL_LM,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_modules=TARGETS.get(kind, DEFAULT_TARGETS),
        fan_in_fan_out=kind == "gpt2",
    )
    return peer.measure(get_peft_model(peer.model, config), Trainer, "lora_")
