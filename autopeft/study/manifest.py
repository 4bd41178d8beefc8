"""The manifest: versions, seeds, hashes and settings of a study, and what may not change."""

import contextlib
import importlib.metadata
import json
import platform
import secrets
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autopeft.checks import first_problem
from autopeft.engines.work import Decided, Facts
from autopeft.errors import ConfigError, DataError
from autopeft.files import read_json, write_atomic
from autopeft.space.costs import CostModel
from autopeft.training.settings import TrainingSettings

MANIFEST_VERSION = 3
_PACKAGES = ("autopeft", "torch", "transformers", "optuna", "datasets", "numpy", "scikit-learn")
_IF_THERE = ("bitsandbytes",)
"""Packages of extras that results depend on."""
_MEASURING = ("torch", "transformers", "scikit-learn")
"""Those that measurements depend on most."""
READING = "configuration_and_tokens"
"""Of a fingerprint: how the model reads its rows. Older ones lack it, and another version of
transformers may tell more of the same configuration."""

CHANGED_HEAD = "head_is_changed"
"""Of a fingerprint: the head of the checkpoint does not begin as it lies there."""
_NAMES = {"tunes_lora": "selection.seeds above 0"}
"""What users know keys of a fingerprint by, where that is another name."""
_MOST_TOLD = 60
"""Characters of a value in a refusal."""


@dataclass(frozen=True)
class Manifest:
    """What a study was made with.

    Attributes:
        version: of this format.
        study: a name that no other study has, for a shared database.
        created: when, ISO 8601 in UTC.
        command: the command line.
        versions: of Python and the libraries.
        machine: processor architecture, and the device that trains.
        fingerprint: what a continued study must share with this one, by name.
        model: name, revision, hash and shape of the backbone.
        data: hash, rows, notes and what a constant answer scores.
        settings: of training, as decided by the probe.
        cohort: trials trained together.
        max_params: the budget in parameters.
        trial_seconds: expected for one trial.
        trial_bytes: memory that each trial of a cohort is expected to take.
        rung_steps: optimizer steps from the start of a trial to each rung.
        costs: predicts what trials cost; None where nobody has to know, and in old manifests.
    """

    version: int
    study: str
    created: str
    command: list[str]
    versions: dict[str, str]
    machine: dict[str, str]
    fingerprint: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    settings: TrainingSettings
    cohort: int
    max_params: int
    trial_seconds: float
    trial_bytes: int
    rung_steps: tuple[int, ...]
    costs: CostModel | None = None

    @property
    def decided(self) -> Decided:
        """How the study is computed."""
        return Decided(
            settings=self.settings,
            cohort=self.cohort,
            trial_seconds=self.trial_seconds,
            trial_bytes=self.trial_bytes,
            costs=self.costs,
        )


def new_manifest(
    fingerprint: dict[str, Any],
    facts: Facts,
    decided: Decided,
    *,
    max_params: int,
    rung_steps: tuple[int, ...],
) -> Manifest:
    """A manifest of this moment and machine."""
    return Manifest(
        version=MANIFEST_VERSION,
        study=f"autopeft-{secrets.token_hex(8)}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        versions={"python": platform.python_version()} | _versions(),
        machine=_machine(facts),
        fingerprint=fingerprint,
        model={
            "name": facts.model,
            "revision": facts.revision,
            "sha256": facts.model_hash,
            **facts.shape.to_dict(),
        },
        data={
            "sha256": facts.data_hash,
            "rows": facts.n_rows,
            "labels": list(facts.labels),
            "notes": list(facts.notes),
            "constant": asdict(facts.constant) if facts.constant else None,
        },
        settings=decided.settings,
        cohort=decided.cohort,
        max_params=max_params,
        trial_seconds=decided.trial_seconds,
        trial_bytes=decided.trial_bytes,
        rung_steps=rung_steps,
        costs=decided.costs,
    )


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write it as a whole or not at all."""
    write_atomic(path, json.dumps(asdict(manifest), indent=2, allow_nan=False) + "\n")


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        DataError: it is not one.
    """
    data = read_json(path)
    names = set(Manifest.__dataclass_fields__)
    version = data.get("version", MANIFEST_VERSION) if isinstance(data, dict) else None
    if version not in (None, MANIFEST_VERSION):
        raise DataError(f"{path}: version {version!r}, this autopeft reads {MANIFEST_VERSION}")
    if version is None or set(data) | {"costs"} != names:
        raise DataError(f"{path}: not a manifest (expected the keys {', '.join(sorted(names))})")
    try:
        return _MANIFEST.validate_python(data)
    except ValidationError as error:
        where, problem = first_problem(error)
        raise DataError(f"{path}: {where} is not valid: {problem}") from None


_MANIFEST = TypeAdapter(Manifest)


def check_same(path: Path, old: Manifest, fingerprint: dict[str, Any]) -> None:
    """Refuse to continue a study as another one.

    Raises:
        ConfigError: with every difference.
    """
    compared = {*old.fingerprint, *fingerprint}
    if not _tells_reading(old):
        compared.discard(READING)
    # Without it, a head that begins as it lies in the checkpoint has always begun like that.
    compared.discard(CHANGED_HEAD)
    if "head" not in old.fingerprint and CHANGED_HEAD not in fingerprint:
        compared.discard("head")
    if old.fingerprint.get("revision") is None:  # it was not known, or a folder has none
        compared.discard("revision")
    differences: list[str] = []
    for key in sorted(compared):
        was, now = old.fingerprint.get(key), fingerprint.get(key)
        if key == "objectives":  # which a study file says as a list
            was, now = (list(some) if isinstance(some, dict) else some for some in (was, now))
        differences += _differences(_NAMES.get(key, key), was, now)
    if differences:
        raise ConfigError(
            f"{path.parent} holds another study; give another --out. The differences:\n"
            + "\n".join(differences)
        )


def reads_otherwise(manifest: Manifest, reading_hash: str) -> bool:
    """Whether a model reads its rows in another way than when the study was begun.

    Args:
        manifest: of the study.
        reading_hash: of now; see `READING`.
    """
    return _tells_reading(manifest) and manifest.fingerprint[READING] != reading_hash


def _tells_reading(manifest: Manifest) -> bool:
    """It says how the model reads its rows, and this transformers says the same of the same."""
    is_later = manifest.versions.get("transformers") != _versions()["transformers"]
    return READING in manifest.fingerprint and not is_later


def measuring(facts: Facts) -> dict[str, dict[str, str]]:
    """What measures a trial now: versions of libraries, and the machine."""
    versions = _versions()
    return {
        "libraries": {name: versions[name] for name in _MEASURING},
        "machine": _machine(facts),
    }


def note_on_change(manifest: Manifest, facts: Facts) -> str | None:
    """What the user has to know where a study goes on with other libraries, or elsewhere."""
    now = measuring(facts)
    was = {"libraries": manifest.versions, "machine": manifest.machine}
    changes = [
        f"{name} was {was[kind].get(name, 'unknown')} and is {value}"
        for kind, found in now.items()
        for name, value in found.items()
        if was[kind].get(name) != value
    ]
    if not changes:
        return None
    return (
        f"since the study was begun, {', '.join(changes)}: the same trial may come to something "
        "else than it would have then"
    )


def _machine(facts: Facts) -> dict[str, str]:
    return {"processor": platform.machine(), "device": facts.device}


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    for name in _IF_THERE:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _differences(name: str, was: Any, now: Any) -> Iterator[str]:
    """What differs, a line each, key by key where both are keys and values."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted({*was, *now}):
            yield from _differences(f"{name}.{key}", was.get(key), now.get(key))
    elif was != now:
        texts = [json.dumps(value, sort_keys=True, default=str) for value in (was, now)]
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
        told_was, told_now = (_short(text, same) for text in texts)
        yield f"  {name}: was {told_was}, is now {told_now}"


def _short(text: str, same: int) -> str:
    """A text; of a long one what is around the place where it begins to differ."""
    if len(text) <= _MOST_TOLD:
        return text
    begin = max(0, same - _MOST_TOLD // 2)
    end = begin + _MOST_TOLD
    return f"{'...' if begin else ''}{text[begin:end]}{'...' if end < len(text) else ''}"
