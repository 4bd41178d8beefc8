"""The peers' side that is the same for transformers 4 and 5: rows, arguments, one training run."""

import argparse
import inspect
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
from common import Measured, peak_mib, read_rows
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

EVALUATION_BATCH = 128


@dataclass
class Counting:
    """A collator that counts the tokens of its batches, padding included."""

    collator: Any
    tokens: int = 0

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        """A batch."""
        batch = self.collator(features)
        self.tokens += batch["input_ids"].numel()
        return batch


class Peer:
    """Model and rows of one run.

    Args:
        args: of the benchmark.
        expert: set what a careful user would set.
    """

    def __init__(self, args: argparse.Namespace, *, expert: bool) -> None:
        self.args, self.expert = args, expert
        self.seed = args.seed + args.repeat
        self.tokenizer = AutoTokenizer.from_pretrained(args.model)
        self.train = self._rows("train", args.rows)
        self.validation = self._rows("validation", None)
        set_seed(self.seed)  # of the classifier and of what is attached later
        more: dict[str, Any] = {"attn_implementation": args.expert_attention} if expert else {}
        self.model: PreTrainedModel = self._load(dtype=torch.float32, **more)
        if expert and args.expert_weights == "bf16":
            self.model.base_model.to(torch.bfloat16)

    def _load(self, **more: Any) -> Any:
        n_labels = max(row["labels"] for row in self.train) + 1
        load = AutoModelForSequenceClassification.from_pretrained
        return load(self.args.model, num_labels=n_labels, **more)

    def _collator(self) -> Any:
        return DataCollatorWithPadding(self.tokenizer)

    def _length(self, row: dict[str, Any]) -> int:
        return len(row["input_ids"])

    def _rows(self, split: str, n_rows: int | None) -> list[dict[str, Any]]:
        texts, labels = read_rows(self.args.data / f"{split}.jsonl", n_rows, self.args.seed)
        encoded = self.tokenizer(texts, truncation=True, max_length=self.args.max_length)
        return [
            {name: values[i] for name, values in encoded.items()} | {"labels": labels[i]}
            for i in range(len(texts))
        ]

    def arguments(self, folder: str) -> TrainingArguments:
        """One epoch, with the Trainer's defaults where nothing is said."""
        args = self.args
        more: dict[str, Any] = {}
        if self.expert:
            known = inspect.signature(TrainingArguments).parameters
            by_length = {"train_sampling_strategy": "group_by_length"}  # since transformers 5
            more = by_length if next(iter(by_length)) in known else {"group_by_length": True}
            more["bf16"] = args.precision == "bf16"  # where the machine gains by it
        steps = -(-len(self.train) // args.batch_size)
        return TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=EVALUATION_BATCH,
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            max_grad_norm=args.clip,
            lr_scheduler_type="linear",
            warmup_steps=max(1, round(args.warmup * steps)),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            seed=self.seed,
            **more,
        )

    def measure(self, model: nn.Module, trainer_class: type[Trainer], op_mark: str) -> Measured:
        """Train and score.

        Args:
            model: with everything attached.
            trainer_class: its trainer.
            op_mark: what is in the names of the parameters of ops.
        """
        if not self.args.dropout:
            without_dropout(model)
        collator = Counting(self._collator())
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_class(
                model=model,
                args=self.arguments(folder),
                train_dataset=self.train,
                data_collator=collator,
                processing_class=self.tokenizer,
            )
            start = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - start
            peak, tokens = peak_mib(), collator.tokens
            scores = self._score(trainer)
        return (
            scores
            | counted(model, op_mark)
            | {
                "seconds": seconds,
                "peak_mib": peak,
                "steps": trainer.state.global_step,
                "tokens": sum(map(self._length, self.train)),
                "tokens_padded": tokens,
            }
        )

    def _score(self, trainer: Trainer) -> Measured:
        # Not the rows' own labels: the Trainer groups evaluation rows by length too.
        found = trainer.predict(self.validation)
        logits = torch.tensor(found.predictions).float()
        labels = torch.tensor(found.label_ids)
        return {
            "losses": [cross_entropy(logits, labels).item()],
            "accuracies": [(logits.argmax(-1) == labels).float().mean().item()],
        }


def without_dropout(model: nn.Module) -> None:
    """Switch dropout off, as it is in autopeft; with p = 0 it also takes no time."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def counted(model: nn.Module, op_mark: str) -> Measured:
    """Trainable parameters of ops and head."""
    count = {"op_params": 0, "head_params": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            count["op_params" if op_mark in name else "head_params"] += parameter.numel()
    return count
