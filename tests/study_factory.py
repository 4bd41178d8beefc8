"""A tiny checkpoint on disk, text that a keyword decides, and studies of both."""

import contextlib
import json
import os
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import torch
from optuna.storages import RDBStorage
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from autopeft.study.search import run_search
from autopeft.study.spec import StudySpec

GOOD, BAD = ("good", "great", "fine"), ("bad", "awful", "poor")
FILLER = ("film", "plot", "cast", "scene", "story", "music", "today", "again")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
N_LAYERS, D_MODEL = 2, 16
ROWS = {"train": 48, "validation": 24, "test": 20}


def save_tokenizer(folder: Path) -> int:
    """A tokenizer that knows nineteen words; how many that is."""
    words = (*SPECIAL, *GOOD, *BAD, *FILLER)
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{word[1:-1].lower()}_token": word for word in SPECIAL},
    ).save_pretrained(folder)
    return len(words)


def save_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """A BERT of two layers with its tokenizer; the classifier is not in the checkpoint."""
    config = BertConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=D_MODEL,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        intermediate_size=2 * D_MODEL,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(n_rows: int, seed: int) -> list[dict[str, str]]:
    """Rows of two to five words, one of which decides the label."""
    draw = random.Random(seed)
    rows = []
    for i in range(n_rows):
        label, keywords = (("good", GOOD), ("bad", BAD))[i % 2]
        words = [draw.choice(keywords), *draw.choices(FILLER, k=draw.randint(1, 4))]
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "label": label})
    return rows


def write_data(folder: Path, **n_rows: int) -> Path:
    """Train, validation and test files of these sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate((ROWS | n_rows).items()):
        write_jsonl(folder / f"{name}.jsonl", rows_of(count, seed))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """The folder of the tiny model."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> Path:
    """The folder of the tiny text."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def spec_of(checkpoint, data_folder):
    """Study specs of the tiny model and text; keywords replace values, one level deep."""

    def make(*, trials=5, max_params="30%", time=None, training=None, **more) -> StudySpec:
        values = {
            "model": str(checkpoint),
            "data": {name: str(data_folder / f"{name}.jsonl") for name in ROWS},
            "methods": ["head", "lora"],
            "engine": {"workers": 0},
            "selection": {"seeds": 0},
            "cache": False,
            "budget": {"max_params": max_params, "trials": trials, "time": time},
            "training": {
                "epochs": 1,
                "batch_size": 16,
                "max_length": 16,
                "precision": "fp32",
                "attention": "eager",
                "cohort": 4,
                **(training or {}),
            },
            **more,
        }
        return StudySpec.model_validate(values)

    return make


@pytest.fixture(scope="session")
def done(spec_of, tmp_path_factory):
    """A finished study of five trials; to be read only."""
    return run_search(spec_of(), tmp_path_factory.mktemp("done") / "study")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, every folder with None."""
    found = {}
    for parent, folders, files in os.walk(folder):
        base = Path(parent)
        found |= {str((base / name).relative_to(folder)): None for name in folders}
        found |= {str((base / n).relative_to(folder)): (base / n).read_bytes() for n in files}
    return found


BY_CHANCE = ("seconds", "started", "worker", "cohort", "cached")
"""Keys of a record that differ from run to run; the company of a trial depends on where it ran."""


def results(study) -> list[dict]:
    """What every trial came to: all of its record that does not depend on time or place."""
    plain = [record.to_dict() for record in study.records()]
    return [{k: v for k, v in record.items() if k not in BY_CHANCE} for record in plain]


def weights(study) -> dict[str, bytes]:
    """The bytes of every file of trained weights."""
    return {path.name: path.read_bytes() for path in (study.folder / "weights").iterdir()}


def record_files(study) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every record file."""
    files = sorted((study.folder / "records").iterdir())
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def ledger_states(study) -> list[str]:
    """The state of every trial in the database, by number."""
    with contextlib.closing(sqlite3.connect(study.database)) as connection:
        rows = connection.execute("SELECT state FROM trials ORDER BY number").fetchall()
    return [state for (state,) in rows]


@contextlib.contextmanager
def optuna_study(url: str, name: str | None = None) -> Iterator[optuna.Study]:
    """A study as Optuna reads it, which by itself would leave the database open."""
    storage = RDBStorage(url)
    try:
        yield optuna.load_study(study_name=name, storage=storage)  # noqa: TID251
    finally:
        storage.remove_session()
        storage.engine.dispose()
