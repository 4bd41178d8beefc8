"""autopeft's side. Everything that knows how autopeft is made inside is in this file."""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from common import Measured, peak_mib, read_rows
from torch.nn.functional import cross_entropy

from autopeft.model.backbone import Backbone, cast, load_backbone
from autopeft.space.genotype import Genotype
from autopeft.space.methods import method
from autopeft.tasks.encode import Encoded
from autopeft.tasks.language import Language
from autopeft.tasks.spec import GenerationSpec
from autopeft.tasks.splits import Split
from autopeft.tasks.task import AnyTask, Classification, encode_for
from autopeft.training.batches import batch_order, evaluation_order
from autopeft.training.cohort import Cohort
from autopeft.training.frozen import FrozenCache
from autopeft.training.memory import keep_primitives, use_heap
from autopeft.training.probe import probe
from autopeft.training.settings import TrainingSettings
from autopeft.training.trials import EVALUATION_FACTOR

COHORT = 4
SEEDS_APART = 1000
"""Between the trials of a cohort; the first one has the seed of the trial alone."""


@dataclass(frozen=True)
class Setup:
    """What is loaded before anything is timed."""

    backbone: Backbone
    task: AnyTask
    train: Encoded
    validation: Encoded
    genotype: Genotype
    settings: TrainingSettings
    seed: int

    def seeds(self, n_trials: int) -> list[int]:
        """One for each trial."""
        return [self.seed + SEEDS_APART * trial for trial in range(n_trials)]

    def order(self) -> list[list[int]]:
        """The rows of every batch, as `Cohort.train` takes them."""
        size, epochs = self.settings.batch_size, self.settings.epochs
        return batch_order(self.train.lengths, size, epochs, self.seed)


def load(args: argparse.Namespace, method_name: str) -> Setup:
    """Load model and rows; precision and attention are fp32 and eager where they are `auto`."""
    keep_primitives()  # as a study does
    use_heap("pooled")
    splits = {
        name: _split(args, name, n_rows)
        for name, n_rows in (("train", args.rows), ("validation", None))
    }
    writes, device = writing(args), "cuda" if torch.cuda.is_available() else "cpu"
    n_labels = 1 if writes else max(splits["train"].labels) + 1
    backbone = load_backbone(str(args.model), n_labels, device, writes)
    settings = TrainingSettings(
        epochs=1,
        batch_size=args.batch_size,
        warmup=args.warmup,
        clip=args.clip,
        precision="bf16" if args.precision == "bf16" else "fp32",
        kernel="sdpa" if args.attention == "sdpa" else "eager",
    )
    genotype = replace(
        method(method_name).genotype(backbone.shape),
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
    )
    task: AnyTask = Classification(n_labels)
    if writes:
        generation = GenerationSpec(max_target_length=args.max_target_length)
        task = Language(writes, "likelihood", generation)
    return Setup(
        backbone=cast(backbone, settings.precision),
        task=task,
        train=encode_for(task, splits["train"], backbone.tokenizer, args.max_length),
        validation=encode_for(task, splits["validation"], backbone.tokenizer, args.max_length),
        genotype=genotype,
        settings=settings,
        seed=args.seed + args.repeat,
    )


def writing(args: argparse.Namespace) -> Literal["seq2seq", "causal"] | None:
    """The task, if its answers are texts."""
    task = getattr(args, "task", None)
    return task if task in ("seq2seq", "causal") else None


def _split(args: argparse.Namespace, name: str, n_rows: int | None) -> Split:
    columns = ("source", "target") if writing(args) else ("text", "label")
    texts, labels = read_rows(args.data / f"{name}.jsonl", n_rows, args.seed, columns)
    return Split(name, tuple((text,) for text in texts), tuple(labels))


def cache_of(setup: Setup) -> FrozenCache:
    """Frozen states as a study keeps them."""
    rows = setup.settings.batch_size * EVALUATION_FACTOR
    return FrozenCache(setup.backbone, setup.settings.kernel, rows)


def decide(args: argparse.Namespace, method_name: str) -> Measured:
    """Precision and attention as autopeft's probe finds them with a cohort."""
    args = argparse.Namespace(**vars(args) | {"precision": "fp32"}, asked=args.precision)
    setup = load(args, method_name)
    probed = probe(
        setup.backbone,
        rows=setup.train,
        batch_size=args.batch_size,
        precision=args.asked,
        kernel=args.attention,
    )
    return {
        "precision": probed.precision,
        "attention": probed.kernel,
        "layer_seconds": probed.layer_seconds,
    }


def train(
    args: argparse.Namespace,
    method_name: str,
    n_trials: int,
    begin: Callable[[], None] | None = None,
) -> Measured:
    """Train one genotype with several seeds in one cohort, and score all trials.

    Args:
        args: of the benchmark.
        method_name: of the genotype.
        n_trials: seeds.
        begin: called when all is loaded.
    """
    setup = load(args, method_name)
    seeds = setup.seeds(n_trials)
    genotypes = [setup.genotype] * n_trials
    if begin is not None:
        begin()
    with Cohort(setup.backbone, genotypes, seeds, setup.task, setup.settings) as cohort:
        start = time.perf_counter()
        history = cohort.train(setup.train, order_seed=setup.seed)
        seconds = time.perf_counter() - start
        peak = peak_mib()
        scores = _score(cohort, setup)
        ops = cohort.injection.tensors(0).values()
        counts = {
            "op_params": sum(tensor.numel() for tensor in ops if tensor.is_floating_point()),
            "head_params": cohort.head.count(),
        }
    lengths = setup.train.lengths
    return (
        scores
        | counts
        | {
            "seconds": seconds / n_trials,
            "cohort_seconds": seconds,
            "peak_mib": peak,
            "steps": len(history),
            "tokens": sum(lengths),
            "tokens_padded": sum(len(b) * max(lengths[i] for i in b) for b in setup.order()),
        }
    )


@torch.no_grad()
def _score(cohort: Cohort, setup: Setup) -> Measured:
    """Mean cross-entropy and accuracy of every trial on the validation rows."""
    if isinstance(setup.task, Language):
        written, _ = cohort.predict(setup.validation)
        n_tokens = int(setup.validation.labels.sum())
        return {"losses": [sum(row.loss for row in trial) / n_tokens for trial in written]}
    labels = setup.validation.labels
    logits = torch.zeros(cohort.n_trials, len(labels), setup.task.n_outputs)
    for indices in evaluation_order(setup.validation.lengths, 4 * setup.settings.batch_size):
        logits[:, indices] = cohort.logits(setup.validation, indices).cpu()
    return {
        "losses": [cross_entropy(trial, labels).item() for trial in logits],
        "accuracies": [(t.argmax(-1) == labels).float().mean().item() for t in logits],
    }
