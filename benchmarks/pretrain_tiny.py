"""Pretrain a tiny language model from the text at hand: an encoder-decoder, or a decoder.

Both are transformers' own classes, trained by plain torch: the encoder-decoder to write texts that
it reads with holes (BART), the decoder to continue them (GPT-2). Everything that a step draws is a
function of the seed and its number, so a run that was killed goes on from its last checkpoint as if
it had not been. Weights go to `--out`; the recipe and the loss curve to `results/`.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from common import Measured, write_result
from tiny_text import HELD_OUT, documents, infilled, plan, rows_of, tokenizer_of
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

Kind = Literal["seq2seq", "causal"]

LONGEST = 256
IGNORED = -100


def options() -> argparse.ArgumentParser:
    """What can be told."""
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = out.add_argument
    add("--data", type=Path, required=True, help="folder of folders with train.jsonl")
    add("--sets", nargs="+", help="of these folders (default: of all)")
    add(
        "--out", type=Path, required=True, help="weights and checkpoints, in a folder for each task"
    )
    add("--task", choices=["seq2seq", "causal"], default="seq2seq", help="what is pretrained")
    add("--steps", type=int, default=2400, help="of the optimizer")
    add("--batch-size", type=int, default=32, help="documents of a step")
    add("--learning-rate", type=float, default=1e-3, help="peak")
    add("--warmup", type=float, default=0.15, help="part of the steps that warms up")
    add("--weight-decay", type=float, default=0.01, help="of matrices")
    add("--width", type=int, default=192, help="of the states; an FFN is four times as wide")
    add("--layers", type=int, default=3, help="of the encoder and of the decoder; twice for causal")
    add("--heads", type=int, default=3, help="of an attention")
    add("--words", type=int, default=6000, help="of the vocabulary")
    add("--max-length", type=int, default=96, help="tokens of a document at most")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="of the products")
    add("--checkpoint-every", type=int, default=100, help="steps")
    add("--seed", type=int, default=0, help="of everything that is drawn")
    add("--results", type=Path, default=Path(__file__).parent / "results" / "pretrain_tiny.json")
    return out


def model_of(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A random model; without dropout, since no text is seen often."""
    torch.manual_seed(args.seed)
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if args.task == "causal":
        return GPT2LMHeadModel(
            GPT2Config(
                n_embd=args.width,
                n_layer=2 * args.layers,
                n_head=args.heads,
                n_positions=LONGEST,
                resid_pdrop=0,
                embd_pdrop=0,
                attn_pdrop=0,
                **ids,
            )
        )
    return BartForConditionalGeneration(
        BartConfig(
            d_model=args.width,
            encoder_layers=args.layers,
            decoder_layers=args.layers,
            encoder_attention_heads=args.heads,
            decoder_attention_heads=args.heads,
            encoder_ffn_dim=4 * args.width,
            decoder_ffn_dim=4 * args.width,
            max_position_embeddings=LONGEST,
            decoder_start_token_id=tokenizer.bos_token_id,
            forced_eos_token_id=None,
            dropout=0,
            **ids,
        )
    )


class Text:
    """Documents as tokens, and batches of them.

    Args:
        texts: documents.
        tokenizer: of the model.
        task: what the model does with them.
        longest: tokens of a document at most.
    """

    def __init__(
        self, texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, task: Kind, longest: int
    ) -> None:
        self.ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=longest)[
            "input_ids"
        ]
        self.lengths = [len(ids) for ids in self.ids]
        self._task = task
        self._pad: int = tokenizer.pad_token_id
        self._mask: int = tokenizer.mask_token_id

    def batch(self, chosen: Sequence[int], draw: np.random.Generator) -> dict[str, Tensor]:
        """What the model reads, and `labels`, which transformers shifts as a model needs it."""
        wanted = [self.ids[i] for i in chosen]
        if self._task == "causal":
            read = wanted
        else:
            read = [infilled(ids, self._mask, draw) for ids in wanted]
        inputs = _padded(read, self._pad)
        return {
            "input_ids": inputs,
            "attention_mask": _padded([[1] * len(ids) for ids in read], 0),
            "labels": _padded(wanted, IGNORED),
        }


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def loss_of(model: PreTrainedModel, batch: dict[str, Tensor], precision: str) -> Tensor:
    """Mean cross-entropy of the tokens to write, in nats."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss: Tensor = model(**batch, use_cache=False).loss
    return loss


def rate(step: int, args: argparse.Namespace) -> float:
    """Learning rate of a step: up on a line, down on a cosine."""
    warmup = max(1, round(args.warmup * args.steps))
    if step < warmup:
        return float(args.learning_rate * (step + 1) / warmup)
    part = (step - warmup) / max(1, args.steps - warmup)
    return float(args.learning_rate * 0.5 * (1 + math.cos(math.pi * part)))


class Run:
    """A pretraining that can be continued.

    Args:
        args: as told.
        model: to be trained, in place.
        train: what it learns from.
        held_out: what it is judged by.
    """

    def __init__(
        self, args: argparse.Namespace, model: PreTrainedModel, train: Text, held_out: Text
    ) -> None:
        self.args, self.model, self.train, self.held_out = args, model, train, held_out
        named = list(model.named_parameters())
        groups = [
            {"params": [p for _, p in named if p.dim() > 1], "weight_decay": args.weight_decay},
            {"params": [p for _, p in named if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
        self.step = 0
        self.cpu_seconds = 0.0
        self.losses: list[float] = []
        self.curve: list[dict[str, float]] = []
        self._file = args.out / args.task / "checkpoint.pt"
        self._planned: tuple[int, list[list[int]]] | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        """What another run has to have in common with this one to be continued by it."""
        apart = {"data", "out", "results", "checkpoint_every"}
        return {name: value for name, value in sorted(vars(self.args).items()) if name not in apart}

    def restore(self) -> None:
        """Go on from the last checkpoint, if there is one.

        Raises:
            SystemExit: it is of another recipe.
        """
        if not self._file.is_file():
            return
        state = torch.load(self._file, weights_only=True)
        if state["recipe"] != self.recipe:
            raise SystemExit(f"{self._file} was written with other options: {state['recipe']}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.cpu_seconds = state["step"], state["cpu_seconds"]
        self.losses, self.curve = state["losses"], state["curve"]

    def checkpoint(self) -> None:
        """Write everything that the next step depends on."""
        state = {
            "recipe": self.recipe,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "cpu_seconds": self.cpu_seconds,
            "losses": self.losses,
            "curve": self.curve,
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self._file)

    def finish(self) -> None:
        """Take all steps that are left."""
        self.model.train()
        while self.step < self.args.steps:
            started = time.process_time()
            self.losses.append(self._take())
            self.step += 1
            self.cpu_seconds += time.process_time() - started
            if self.step % self.args.checkpoint_every == 0 or self.step == self.args.steps:
                self._look()
                self.checkpoint()

    def _take(self) -> float:
        args = self.args
        batch = self.train.batch(self._chosen(), np.random.default_rng([args.seed, 1, self.step]))
        loss = loss_of(self.model, batch, args.precision)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.step, args)
        self.optimizer.step()
        return float(loss.detach())

    def _chosen(self) -> list[int]:
        args = self.args
        per_epoch = len(self.train.ids) // args.batch_size
        epoch, place = divmod(self.step, per_epoch)
        if self._planned is None or self._planned[0] != epoch:
            self._planned = epoch, plan(self.train.lengths, args.batch_size, args.seed, epoch)
        return self._planned[1][place]

    def _look(self) -> None:
        recent = self.losses[-self.args.checkpoint_every :]
        held_out = self.held_out_loss()
        self.curve.append(
            {
                "step": self.step,
                "train_loss": round(sum(recent) / len(recent), 4),
                "held_out_loss": round(held_out, 4),
            }
        )
        print(json.dumps(self.curve[-1] | {"cpu_seconds": round(self.cpu_seconds)}), flush=True)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss of texts that were not learnt from, with the same holes every time."""
        size, sums, n_batches = self.args.batch_size, 0.0, 0
        order = sorted(range(len(self.held_out.ids)), key=lambda i: self.held_out.lengths[i])
        for first in range(0, len(order), size):
            draw = np.random.default_rng([self.args.seed, 2, first])
            batch = self.held_out.batch(order[first : first + size], draw)
            sums += float(loss_of(self.model, batch, self.args.precision))
            n_batches += 1
        return sums / n_batches


def prepared(args: argparse.Namespace) -> tuple[Run, PreTrainedTokenizerFast, Measured]:
    """A run from its start or its last checkpoint, its tokenizer, and what the text is."""
    rows = rows_of(args.data, args.sets)
    every = [texts for of_set in rows.values() for texts in of_set]
    kept = documents([row for i, row in enumerate(every) if i % HELD_OUT])
    seen = set(kept)
    held_out = [text for text in documents(every[::HELD_OUT]) if text not in seen]
    tokenizer = tokenizer_of(kept, args.words, LONGEST)
    train = Text(kept, tokenizer, args.task, args.max_length)
    run = Run(
        args,
        model_of(args, tokenizer),
        train,
        Text(held_out, tokenizer, args.task, args.max_length),
    )
    run.restore()
    told = {
        "sets": {name: len(of_set) for name, of_set in rows.items()},
        "documents": len(kept),
        "held_out_documents": len(held_out),
        "tokens": sum(train.lengths),
    }
    return run, tokenizer, told


def main(arguments: Sequence[str] | None = None) -> None:
    """Pretrain, save, and tell."""
    args = options().parse_args(arguments)
    run, tokenizer, told = prepared(args)
    run.finish()
    folder = args.out / args.task
    run.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    results: dict[str, Any] = {}
    if args.results.is_file():
        old = json.loads(args.results.read_text(encoding="utf-8"))
        results = {kind: old[kind] for kind in ("seq2seq", "causal") if kind in old}
    results[args.task] = {
        "recipe": run.recipe,
        "text": told,
        "parameters": run.model.num_parameters(),
        "epochs": round(args.steps * args.batch_size / told["documents"], 2),
        "cpu_seconds": round(run.cpu_seconds),
        "curve": run.curve,
    }
    write_result(args.results, results)


if __name__ == "__main__":
    main()
