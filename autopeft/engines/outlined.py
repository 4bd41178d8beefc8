"""What a worker would say of model and data, said without weights."""

from dataclasses import dataclass
from pathlib import Path

from autopeft.engines.ground import WRITES
from autopeft.engines.work import Facts, Work
from autopeft.errors import ConfigError
from autopeft.model.backbone import DTYPES
from autopeft.model.checkpoint import commit_of
from autopeft.model.computing import Scheme
from autopeft.model.outline import Outline, kept_bytes, outline
from autopeft.model.quantized import quantizable
from autopeft.model.quantized_linear import BYTES
from autopeft.space.costs import CostModel, Linear
from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.tasks.data import Dataset, load, unseen
from autopeft.tasks.language import TARGET_KEY
from autopeft.tasks.spec import LANGUAGE
from autopeft.training.footprint import PASSING
from autopeft.training.memory import OVERHEAD
from autopeft.training.words import passing_bytes


@dataclass(frozen=True)
class Outlined:
    """What is known before anything large was loaded.

    Attributes:
        facts: as a worker tells them; `n_rows` has what is known without asking the Hub.
        kind: the family of the model.
        costs: guesses the memory of a training.
    """

    facts: Facts
    kind: str
    costs: CostModel


def outlined(work: Work) -> Outlined:
    """Read files of data, build the model on meta tensors, and look at one forward pass of it.

    Args:
        work: with absolute paths. A data set of the Hub is not asked for.

    Raises:
        ConfigError: rows are to be longer than the model reads.
        DataError: files cannot be used, or there is no configuration of a known kind.
    """
    dataset = None if work.data.hub else load(work.data, work.task, Path(), work.seed)
    labels = dataset.label_names if dataset else ()
    found = outline(work.model, max(1, len(labels)), WRITES.get(work.task))
    n_read, n_written = work.lengths
    for key, longest in (("max_length", n_read), (TARGET_KEY, n_written)):
        if longest > found.longest_row:
            raise ConfigError(
                f"{key}: rows of {longest} tokens are more than the model reads; at most "
                f"{found.longest_row}"
            )
    work.check_writing(found.longest_row)
    facts = Facts(
        model_shape=found.shape.to_dict(),
        model=work.model,
        revision=commit_of(work.model),
        model_hash="",
        data_hash=dataset.fingerprint if dataset else "",
        reading_hash="",
        n_rows=_n_rows(work, dataset),
        unseen=unseen(work.data, dataset),
        labels=labels,
        notes=(*(dataset.notes if dataset else ()), *found.notes),
        device="meta",
        n_devices=1,
        room=None if found.n_positions is None else work.room(found.n_positions),
        answered=work.task == "causal",
    )
    return Outlined(facts, found.kind, guess(found, work))


def guess(found: Outline, work: Work) -> CostModel:
    """The memory of trainings on full batches of the longest rows that the study allows.

    The weights; what a forward pass keeps of every layer; of each op for each token what it reads
    and twice its size; and parameters with all that belongs to them. Where layers are computed
    again, what they read, and all this of one of them. Of weights in few bits one matrix at a time
    is there as numbers. Where the precision is left to a probe, in fp32.

    Args:
        found: the model.
        work: how it is trained.
    """
    training = work.training.settings
    batch = training.part_size
    n_read, n_written = work.lengths
    precision = work.training.precision
    size = DTYPES["fp32" if precision == "auto" else precision].itemsize
    part = size / DTYPES["fp32"].itemsize
    n_tokens = batch * max(n_read, n_written)
    layer = part * kept_bytes(found.model, batch, n_read, n_written) / found.shape.n_layers
    again, ops = 0.0, float(n_tokens * size)
    if training.checkpointing:  # what a layer reads is kept, and all of one layer at a time
        again, layer = layer, float(n_tokens * found.shape.widths[Tap.BLOCK_OUT] * size)
        ops /= found.shape.n_layers
    passing = PASSING * n_tokens * max(found.shape.widths.values()) * size
    unpacked = size * max(_matrices(found)) if work.quantize else 0
    words = 0
    if work.task in LANGUAGE:
        words = passing_bytes(n_tokens, found.n_words)
    return CostModel(
        start_bytes=_weight_bytes(found, work.quantize, size),
        overhead=OVERHEAD["exact"],
        memory=Linear(passing + words + unpacked + again, layer, _of_ops(ops)),
    )


def _matrices(found: Outline) -> list[int]:
    """How many weights each matrix has that `quantize` keeps in few bits."""
    return [module.weight.numel() for _, module in quantizable(found.model)] or [0]


def _weight_bytes(found: Outline, scheme: Scheme | None, size: int) -> int:
    """Memory of all weights."""
    n_packed = sum(_matrices(found)) if scheme else 0
    packed = n_packed * BYTES[scheme] if scheme else 0.0
    return int((found.model.num_parameters() - n_packed) * size + packed)


def _of_ops(n_bytes: float) -> dict[Form, tuple[float, float]]:
    """What ops keep, in terms of `states`: half of the widths that they read and write."""
    return {form: (0.0 if form is Form.BIAS else 0.5 * n_bytes, 2 * n_bytes) for form in Form}


def _n_rows(work: Work, dataset: Dataset | None) -> dict[str, int]:
    if dataset is not None:
        return {split.name: len(split) for split in dataset.splits}
    return {} if work.data.train_rows is None else {"train": work.data.train_rows}
