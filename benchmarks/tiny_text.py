"""The training sides of text sets as documents, a tokenizer of their own, and texts with holes."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
HELD_OUT = 100
"""One row of so many is kept for the curve."""


def rows_of(data: Path, names: Sequence[str] | None = None) -> dict[str, list[tuple[str, ...]]]:
    """The texts of every training file, by the name of its set.

    Args:
        data: with folders, each with `train.jsonl`; no other file is opened.
        names: of folders; all if None.

    Raises:
        SystemExit: there is none, or not this one.
    """
    files = sorted(data.glob("*/train.jsonl"))
    if names is not None:
        files = [data / name / "train.jsonl" for name in sorted(names)]
    absent = [str(file) for file in files if not file.is_file()]
    if absent or not files:
        raise SystemExit(f"not there: {', '.join(absent) or data / '*' / 'train.jsonl'}")
    return {file.parent.name: list(_texts(file)) for file in files}


def _texts(file: Path) -> Iterator[tuple[str, ...]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield tuple(value for value in json.loads(line).values() if isinstance(value, str))


def documents(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Each text once, and each pair as one text of two lines."""
    alone = [text for texts in rows for text in texts]
    return list(dict.fromkeys([*alone, *("\n".join(texts) for texts in rows)]))


def tokenizer_of(texts: Sequence[str], n_words: int, longest: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the special tokens of BART at its places; `</s>` ends every text."""
    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_words,
        special_tokens=[BOS, PAD, EOS, UNK, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}",
        pair=f"$A {EOS} $B {EOS}",
        special_tokens=[(EOS, inner.token_to_id(EOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=BOS,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        mask_token=MASK,
        model_max_length=longest,
    )


def infilled(
    ids: Sequence[int], mask: int, draw: np.random.Generator, share: float = 0.3, mean: float = 3.0
) -> list[int]:
    """Text with holes: spans of Poisson lengths, one mask for each (Lewis et al. 2020, BART).

    Args:
        ids: of a text with its end, which stays.
        mask: token that stands for a span.
        draw: of the spans.
        share: of the tokens that are taken out.
        mean: length of a span.
    """
    n_tokens = len(ids) - 1
    gone = np.zeros(n_tokens + 1, bool)
    while gone.sum() < round(share * n_tokens):
        start, length = draw.integers(n_tokens), max(1, draw.poisson(mean))
        gone[start : min(start + length, n_tokens)] = True
    begins = gone & ~np.roll(gone, 1)  # the end is there, so the first token may begin a span
    return [
        mask if new else i
        for i, away, new in zip(ids, gone, begins, strict=True)
        if new or not away
    ]


def plan(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of an epoch: documents of like length together, in a random order.

    Args:
        lengths: of the documents, in tokens.
        size: documents of a batch; what is left over comes in another epoch.
        seed: of the study.
        epoch: from 0.
    """
    draw = np.random.default_rng([seed, epoch])
    order = draw.permutation(len(lengths))
    pool = 64 * size
    like = [
        sorted(order[first : first + pool].tolist(), key=lambda i: lengths[i])
        for first in range(0, len(order), pool)
    ]
    flat = [i for part in like for i in part]
    batches = [flat[first : first + size] for first in range(0, len(flat) - size + 1, size)]
    return [batches[i] for i in draw.permutation(len(batches))]
