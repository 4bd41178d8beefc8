"""Exporting: choose, write beside, prove, and only then give the folder its name."""

import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from transformers import GenerationConfig

from autopeft.advice import trained_in_part
from autopeft.errors import ConfigError, DataError
from autopeft.export.adapter import keeps_keys
from autopeft.export.again import write_again
from autopeft.export.card import model_card
from autopeft.export.merged import merge
from autopeft.export.native import write_native
from autopeft.export.pick import Choice
from autopeft.export.proof import TOLERANCE, Proof, prove, question_of
from autopeft.export.refusal import refuse, refuse_scheme
from autopeft.export.reload import outputs
from autopeft.export.to_adapters import VERSION, write_adapters
from autopeft.export.to_peft import write_peft
from autopeft.export.winner import Winner, winner_of
from autopeft.files import write_atomic
from autopeft.model.checkpoint import quiet
from autopeft.study.folder import Study, check_new

Notes = list[str]


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        folder: where it lies.
        target: its format.
        choice: which trial, and why.
        proof: that it is equal; None for formats that are not weights.
        notes: what else the user has to know.
    """

    folder: Path
    target: str
    choice: Choice
    proof: Proof | None
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "folder": str(self.folder), "notes": list(self.notes)}


def export(
    study: Study, *, how: str, target: str, out: Path, command: str, as_lora: int | None = None
) -> Exported:
    """Export a trial of a study. A folder that could not be proven equal does not stay.

    Args:
        study: on disk.
        how: which trial, see `pick`.
        target: one of `TARGETS`.
        out: folder of the export; must be new or empty.
        command: for the model card.
        as_lora: approximate every change of a weight by this rank; of `peft` alone.

    Raises:
        ConfigError: nothing is like `how`, or the target cannot hold what was found.
        DataError: something cannot be read or written, or the export is not what was trained.
    """
    if target not in TARGETS:
        raise ConfigError(f"--to {target}: allowed: {', '.join(TARGETS)}")
    if as_lora is not None and (target != "peft" or as_lora < 1):
        raise ConfigError(f"--as-lora {as_lora}: a rank from 1, with --to peft")
    place = Path(os.path.realpath(out))
    check_new(place)
    proven = target in TOLERANCE
    winner = winner_of(study, how, trained=proven)
    if target == "peft":
        refuse_scheme(winner.backbone.scheme)
    if as_lora is None:
        refuse(target, winner.genotype, winner.backbone.shape)
    beside = f".{place.name}.{secrets.token_hex(4)}.tmp"
    # A folder that is there may be one that has no other beside it, as where something is mounted.
    temporary = place / beside if place.exists() else place.with_name(beside)
    try:
        temporary.mkdir(parents=True)
        if as_lora is None:
            notes, expected = TARGETS[target](winner, temporary), None
        else:
            notes, expected = _as_lora(winner, temporary, as_lora)
        notes = [*notes, *_in_part(winner)] if proven else notes
        proof = prove(target, temporary, winner, expected) if proven else None
        text = model_card(winner, target, place.name, command, proof, notes)
        write_atomic(temporary / "README.md", text)
        _publish(temporary, place)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{out} cannot be written: {reason}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(out, target, winner.choice, proof, notes)


def _in_part(winner: Winner) -> Notes:
    """What there is to say of weights that a search has left between rungs."""
    record = winner.record
    told = trained_in_part([record], {record.trial}, winner.manifest.rung_steps[-1])
    return [told] if told else []


def _publish(temporary: Path, place: Path) -> None:
    """Give what was proven its name, or put it into the folder that has it."""
    check_new(place)
    if temporary.parent != place:
        temporary.rename(place)
        return
    for path in list(temporary.iterdir()):
        path.rename(place / path.name)


def _write_tokenizer(winner: Winner, folder: Path) -> None:
    tokenizer = winner.tokenizer
    if (fast := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        # Its own writer tells of a full disk by a bare Exception; where this has room, that has.
        write_atomic(folder / "tokenizer.json", fast.to_str(pretty=True))
    tokenizer.save_pretrained(folder)


def _native(winner: Winner, folder: Path) -> Notes:
    write_native(folder, winner.description, winner.tensors)
    _write_tokenizer(winner, folder)
    return []


def _merged(winner: Winner, folder: Path) -> Notes:
    model = winner.model_with_head()
    plain = merge(model, winner.genotype, winner.record.seed, winner.ops)
    plain.config.use_cache = keeps_keys(winner.backbone, winner.genotype)
    if (writes := winner.writes) is not None:
        plain.generation_config = GenerationConfig(**writes)
    with quiet():
        plain.save_pretrained(folder)
    _write_tokenizer(winner, folder)
    if (scheme := winner.backbone.scheme) is None:
        return []
    return [f"the weights are in fp32: the numbers that those in {scheme} stand for, and the ops"]


def _peft(winner: Winner, folder: Path) -> Notes:
    write_peft(winner, folder)
    _write_tokenizer(winner, folder)
    return []


def _as_lora(winner: Winner, folder: Path, rank: int) -> tuple[Notes, Tensor]:
    """An approximation, what it puts out, and what it costs."""
    model = write_peft(winner, folder, as_lora=rank)
    _write_tokenizer(winner, folder)
    found = outputs(model, winner.tokenizer, question_of("peft", folder, winner))
    before, after = winner.score(winner.logits), winner.score(found)
    metric, rows = winner.compared, len(winner.ground.validation)
    told = (
        f"approximated by LoRA of rank {rank}: {metric} {before:.4f} became {after:.4f} "
        f"({after - before:+.4f}) on the {rows:,} validation rows"
    )
    return [told], found


def _adapters(winner: Winner, folder: Path) -> Notes:
    write_adapters(folder, winner.genotype, winner.backbone.shape)
    told = f"a configuration to train with, for adapters {VERSION}; trained weights are not in it"
    return [told]


TARGETS: Mapping[str, Callable[[Winner, Path], Notes]] = {
    "native": _native,
    "peft": _peft,
    "merged": _merged,
    "adapters": _adapters,
    "yaml": write_again,
}
"""By name: writes an export into a folder and says what the user has to know of it."""
