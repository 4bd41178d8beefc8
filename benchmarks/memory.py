"""Peak memory of a cohort against its prediction, on encoders with random weights."""

import argparse
import gc
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import Measured, emit, fresh, print_table, write_result
from transformers import BertConfig, BertForSequenceClassification

from autopeft.model.anatomy import Anatomy
from autopeft.model.backbone import Backbone, cast
from autopeft.model.computing import Precision
from autopeft.space.methods import method
from autopeft.tasks.encode import Encoded
from autopeft.tasks.task import Classification
from autopeft.training.cohort import Cohort
from autopeft.training.footprint import trial_bytes
from autopeft.training.memory import (
    OVERHEAD,
    Heap,
    keep_primitives,
    primitives_bytes,
    release_memory,
    resident_bytes,
    use_heap,
)
from autopeft.training.settings import TrainingSettings

SHAPES = {
    "5M": {"hidden_size": 192, "num_hidden_layers": 2, "intermediate_size": 768},
    "22M": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    "110M": {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072},
}
MIXES = {
    "mixed": ("lora", "pfeiffer", "mam", "ia3"),
    "lora": ("lora",) * 4,
    "fish": ("fish",) * 4,
    "lt_sft": ("lt_sft",),
    "diff_pruning": ("diff_pruning",),
}
HOWS: dict[str, dict[str, Any]] = {
    "whole": {},
    "parts": {"accumulation": 4},
    "again": {"checkpointing": True},
    "both": {"accumulation": 4, "checkpointing": True},
}
CASES = (
    *(("22M", "pooled", "mixed"), ("22M", "exact", "mixed")),
    *(("22M", "exact", "fish"), ("22M", "exact", "lt_sft"), ("22M", "exact", "diff_pruning")),
    *(("5M", "exact", "lt_sft"), ("5M", "exact", "diff_pruning")),
    *(("110M", "pooled", "lora"), ("110M", "exact", "lora"), ("110M", "exact", "mixed")),
    *(("110M", "exact", "mixed", how) for how in ("parts", "again", "both")),
)
BATCH, TOKENS, WARM = 32, 128, 0.25
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""On a GPU it is the device's memory that is measured, and heaps do not matter."""


class Padding:
    """The part of a tokenizer that batches need."""

    pad_token_id = 0


def backbone_of(size: str, precision: Precision) -> Backbone:
    """An encoder that was never trained; memory does not care."""
    model = BertForSequenceClassification(BertConfig(num_labels=2, **SHAPES[size]))
    model.eval().requires_grad_(requires_grad=False).to(DEVICE)
    fresh_head = ("classifier.bias", "classifier.weight")
    found = Backbone(
        model, Padding(), Anatomy(model, fresh_head).shape(), fresh_head, size, None, ""
    )
    return cast(found, precision)


def rows_of(batches: int) -> Encoded:
    """Rows from a quarter of the length up to it, a batch of the longest among them."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(int(WARM * TOKENS), TOKENS + 1, (BATCH * batches,), generator=generator)
    lengths[:BATCH] = TOKENS
    ids = [torch.randint(5, 30_000, (n,), generator=generator).tolist() for n in lengths.tolist()]
    return Encoded(ids, None, torch.arange(len(ids)) % 2, 0.0)


def held() -> int:
    """Bytes that are in use before training, on the device or in the process."""
    return torch.cuda.memory_allocated() if DEVICE.type == "cuda" else resident_bytes()


def measure(args: argparse.Namespace) -> Measured:
    """Train one cohort in this process."""
    size, heap, mix, *how = args.case.split("-")
    chosen: Heap = "pooled" if heap == "pooled" else "exact"
    keep_primitives()
    use_heap(chosen)
    backbone, rows, task = backbone_of(size, "bf16"), rows_of(args.batches), Classification(2)
    settings = TrainingSettings(
        epochs=1, batch_size=BATCH, precision="bf16", **HOWS[how[0] if how else "whole"]
    )
    width = SHAPES[size]["hidden_size"]
    use_heap(chosen, settings.part_size * TOKENS * width * torch.bfloat16.itemsize)
    found = [method(name).largest(backbone.shape, 2_000_000) for name in MIXES[mix]]
    genotypes = [genotype for genotype in found if genotype is not None]
    seeds = range(len(genotypes))
    each = trial_bytes(backbone, genotypes, task=task, settings=settings, rows=rows)
    gc.collect()
    release_memory()
    before = held()
    start = time.perf_counter()
    with Cohort(backbone, genotypes, seeds, task, settings) as cohort:
        cohort.train(rows, order_seed=0, trial_bytes=each)
    seconds = time.perf_counter() - start
    if DEVICE.type == "cuda":
        peak, overhead = torch.cuda.max_memory_allocated(), 1.0
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
        overhead = OVERHEAD[chosen]
        n_lengths = min(args.batches * settings.accumulation, len(set(rows.lengths)))
        before += primitives_bytes(n_lengths)
    predicted = before + overhead * each * len(seeds)
    return {
        "before_gib": before / 2**30,
        "trial_gib": each / 2**30,
        "predicted_gib": predicted / 2**30,
        "peak_gib": peak / 2**30,
        "peak_over_predicted": peak / predicted,
        "seconds": seconds,
    }


def main() -> None:
    """Measure one case, or all of them in turn."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--batches", type=int, default=10, help="steps of the cohort")
    out = Path(__file__).parent / "results" / "memory.json"
    options.add_argument("--out", type=Path, default=out)
    every = ["-".join(case) for case in CASES]
    options.add_argument("--cases", nargs="+", choices=every, default=every, metavar="CASE")
    options.add_argument("--case", help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.case is not None:
        emit(lambda: measure(args))
        return
    command = [sys.executable, Path(__file__).resolve(), "--batches", str(args.batches), "--case"]
    found = {case: fresh([*command, case]) for case in args.cases}
    settings = {"batch_size": BATCH, "tokens": TOKENS, "batches": args.batches}
    write_result(args.out, {"benchmark": "memory", "settings": settings, "measurements": found})
    header = ["case", "predicted GiB", "peak GiB", "peak/predicted", "seconds"]
    keys = ("predicted_gib", "peak_gib", "peak_over_predicted", "seconds")
    print_table(header, [[case, *(f"{one[k]:.2f}" for k in keys)] for case, one in found.items()])


if __name__ == "__main__":
    main()
