"""Measurements shared by the studies beside each other: what was trained once is not trained again.

An entry is a record with all that decides it (`conditions_of`, the genotype, its seed, the order of
batches, the steps) and lies under the hash of that. Weights and states to go on from lie beside it
under their own hash. Every file is written as a whole or not at all, and read only if its content
is that of its name: several studies may read and write at once, and what is damaged is not used.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autopeft.engines.job import Job, JobTrial, paused_file, weights_name
from autopeft.errors import AutopeftError, DataError
from autopeft.files import read_json, write_atomic, write_bytes
from autopeft.objectives import COSTS
from autopeft.records import FOLD, Cached, Record
from autopeft.study.manifest import Manifest, measuring
from autopeft.study.setup import Setup
from autopeft.study.spec import StudySpec
from autopeft.training.settings import TRAINING_VERSION

FOLDER = ".autopeft-cache"
CACHE_VERSION = 1
_FOLDS_VERSION = 2
"""To be raised when the same rows are parted otherwise for the final selection."""
MOST_BYTES = 4 * 2**30
"""Of weights and states; beyond it, those that were used least recently are deleted."""

STALE_SECONDS = 24 * 3600
"""A file that nobody has finished for so long was left by a writer that was killed."""


def conditions_of(setup: Setup, manifest: Manifest) -> dict[str, Any]:
    """All of a study that its measurements depend on, trials aside, as plain JSON values.

    Company is not among them: a trial does not depend on those that it is trained with. Libraries
    and machine are those of now, whatever the study was begun with.
    """
    spec, facts = setup.spec, setup.facts
    predicts = any(COSTS[name].predicted for name in spec.costs)
    return {
        "version": [CACHE_VERSION, TRAINING_VERSION],
        **measuring(facts),
        "model": [
            *(facts.model_hash, facts.reading_hash, facts.model_shape),
            *([spec.quantize] if spec.quantize else []),
        ],
        **({"head": facts.head_hash} if facts.head_hash else {}),
        "data": [facts.data_hash, facts.n_rows, facts.unseen, list(facts.labels)],
        "task": [
            *(spec.task, spec.chosen_metric, *_generation(spec)),
            *([facts.metric_hash] if facts.metric_hash else []),
            *([{"positive": spec.positive}] if spec.positive else []),
        ],
        **({"rung_metric": spec.rung_metric} if spec.rung_metric else {}),
        **({"folds": _FOLDS_VERSION} if facts.unseen == FOLD else {}),
        "settings": _settings(manifest),
        "costs": list(spec.costs),
        "cost_model": manifest.study if predicts else None,  # each study has its own
        "seed": spec.seed,
    }


def _settings(manifest: Manifest) -> dict[str, Any]:
    """Of training, as far as they change results: layers that are computed again do not."""
    told = asdict(manifest.settings)
    del told["checkpointing"]
    if told["accumulation"] == 1:  # as entries of before tell it
        del told["accumulation"]
    return told


def _generation(spec: StudySpec) -> list[Any]:
    return [spec.generation.model_dump(mode="json")] if spec.generation else []


class RecordCache:
    """The shared measurements, as one study sees them.

    Args:
        folder: of the cache; made when there is something to keep.
        study: the folder of the study.
        name: of the study.
        conditions: `conditions_of` it.
        note: is told what cannot be used, and why.
    """

    def __init__(
        self,
        folder: Path,
        study: Path,
        *,
        name: str,
        conditions: dict[str, Any],
        note: Callable[[str], None],
    ) -> None:
        self._folder, self._study, self._name = folder, study, name
        self._conditions, self._note = conditions, note
        self._is_readable = self._is_writable = True

    def take(self, job: Job, trial: JobTrial) -> Record | None:
        """The record of a trial, as if it had been measured here, its files in place.

        None if nobody has measured it, or if weights or a state to go on from are missing.

        Raises:
            DataError: the files cannot be written.
        """
        key = self._key(job, trial)
        path = self._entry(key)
        try:
            if not self._is_readable or not path.is_file():
                return None
        except OSError as error:  # it is somebody else's
            self._is_readable = self._is_writable = False
            self._note(f"the record cache {self._folder} is left alone: {error.strerror or error}")
            return None
        try:
            found, paused = self._read(path, key)
        except AutopeftError as error:
            self._note(f"a measurement in the record cache is not used: {error}")
            return None
        needs = [found.weights_sha256, *([] if job.until is None else [paused])]
        has_files = found.state == "complete" and not found.is_full
        contents = [self._content(sha) for sha in needs if has_files]
        if None in contents:
            return None
        weights = weights_name(trial.number, job.rung, job.replicate)
        places = [self._study / weights, paused_file(self._study, trial.number, job.rung)]
        for place, content in zip(places, contents, strict=False):
            place.parent.mkdir(exist_ok=True)
            write_bytes(place, content or b"")
        return replace(
            found,
            trial=trial.number,
            rung=job.rung,
            replicate=job.replicate,
            seconds=0.0,
            started=datetime.now(UTC).isoformat(),
            cohort=(trial.number,),
            weights=weights if found.weights else None,
            cached=found.cached,
        )

    def keep(self, job: Job, trial: JobTrial, record: Record) -> None:
        """Share a record that was measured here. What cannot be kept is told, and harms nothing."""
        failure = record.failure
        if record.cached or not self._is_writable:
            return
        if failure is not None and failure.is_accident:  # which need not happen again
            return
        try:
            self._write(job, trial, record)
        except (OSError, DataError) as error:
            self._is_writable = False
            self._note(f"nothing more is kept in the record cache {self._folder}: {error}")

    def _key(self, job: Job, trial: JobTrial) -> dict[str, Any]:
        own = {
            "genotype": trial.genotype.to_dict(),
            "trial_seed": trial.seed,
            "order_seed": job.order_seed,
            "until": job.until,
            "replicate": job.replicate,
        }
        key = {**self._conditions, **own}
        if not job.replicate:
            key.pop("folds", None)
        if job.until is None:  # what has come to its end is measured by the metric in any study
            key.pop("rung_metric", None)
        return key

    def _entry(self, key: dict[str, Any]) -> Path:
        text = json.dumps(key, sort_keys=True, allow_nan=False)
        return self._folder / "records" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"

    def _read(self, path: Path, key: dict[str, Any]) -> tuple[Record, str | None]:
        """A record, with the study that made it, and the hash of its state.

        Raises:
            DataError: it is damaged or of another key.
            ConfigError: its record is not one.
        """
        data = read_json(path)
        if not isinstance(data, dict) or set(data) != {"key", "study", "paused", "record"}:
            raise DataError(f"{path} is no entry of a record cache")
        if data["key"] != json.loads(json.dumps(key)):
            raise DataError(f"{path} is not of the key that it is named by")
        record = Record.from_dict(data["record"], str(path))
        if (record.genotype, record.seed) != (key["genotype"], key["trial_seed"]):
            raise DataError(f"{path} holds the record of another trial")
        origin = Cached(str(data["study"]), record.trial, record.seconds, record.started)
        return replace(record, cached=origin), data["paused"]

    def _write(self, job: Job, trial: JobTrial, record: Record) -> None:
        paused = None
        if record.weights is not None:
            self._put((self._study / record.weights).read_bytes())
            if job.until is not None:
                state = paused_file(self._study, trial.number, job.rung)
                paused = self._put(state.read_bytes())
        key = self._key(job, trial)
        entry = {"key": key, "study": self._name, "paused": paused, "record": record.to_dict()}
        path = self._entry(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(entry, allow_nan=False) + "\n")
        self._make_room()

    def _put(self, content: bytes) -> str:
        """Keep a file under the hash of its content."""
        sha = hashlib.sha256(content).hexdigest()
        path = self._file(sha)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            write_bytes(path, content)
        return sha

    def _content(self, sha: object) -> bytes | None:
        """A file, if it is there and whole."""
        path = self._file(str(sha))
        try:
            content = path.read_bytes()
            with contextlib.suppress(PermissionError):  # its owner alone says when it was used
                os.utime(path)
        except OSError:  # not there, or another study has just made room
            return None
        if hashlib.sha256(content).hexdigest() != sha:
            self._note(f"a file in the record cache is not used: {path} is damaged")
            return None
        return content

    def _file(self, sha: str) -> Path:
        return self._folder / "files" / f"{Path(sha).name}.safetensors"

    def _make_room(self) -> None:
        """Delete what was used least recently, if there is too much."""
        files = []
        for path in (self._folder / "files").glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # another study makes room as well
                stat = path.stat()
                files.append((stat.st_mtime_ns, stat.st_size, path))
        total = self._unfinished_bytes() + sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= MOST_BYTES:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _unfinished_bytes(self) -> int:
        """Of files that are being written; what writers have left that were killed is removed."""
        total = 0
        for path in self._folder.glob("*/.*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # it has just been finished
                stat = path.stat()
                if time.time() - stat.st_mtime > STALE_SECONDS:
                    path.unlink()
                else:
                    total += stat.st_size
        return total
