"""Scoring what was found on the test split, which the search has not seen; with a ledger."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from autopeft.engines.ground import Ground
from autopeft.errors import ConfigError, DataError
from autopeft.files import write_atomic
from autopeft.front import Front
from autopeft.records import Metric, Record
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.words import FROZEN, HEAD, describe
from autopeft.study.folder import Study
from autopeft.study.manifest import read_manifest
from autopeft.study.prepare import check_unchanged, prepare
from autopeft.study.shipped import shipped
from autopeft.study.spec import load_study_spec
from autopeft.study.told import openings_in
from autopeft.tasks.encode import Encoded
from autopeft.training.cohort import Cohort
from autopeft.training.settings import TrainingSettings
from autopeft.training.tensors import read_kinds, tensors_of


@dataclass(frozen=True)
class Tested:
    """A trial on the test split.

    Attributes:
        trial: its number.
        role: "recommended", "tuned LoRA", "head only", or "frozen backbone" without a head.
        trainable_params: of its ops.
        summary: it in words.
        metrics: on the test split.
    """

    trial: int
    role: str
    trainable_params: int
    summary: str
    metrics: dict[str, Metric]


@dataclass(frozen=True)
class Opening:
    """One look at the test split.

    Attributes:
        opened: when, ISO 8601 in UTC.
        nth: 1 for the first look; a later one is no longer unseen.
        rows: of the split.
        metric: the study's.
        results: of the trials that were looked at.
        notes: what the user has to be told of the rows.
        seen: rows with a text that is in another split, too.
    """

    opened: str
    nth: int
    rows: int
    metric: str
    results: tuple[Tested, ...]
    notes: tuple[str, ...] = ()
    seen: int = 0


def open_test(study: Study) -> Opening:
    """Score the recommended point and its baselines on the test split.

    The trained weights are used as they are; nothing is trained. The opening is written down in
    `test.json` before it is returned.

    Raises:
        ConfigError: there is no test split, or data, model or metric have changed since.
        DataError: nothing was recommended yet, or weights are missing.
    """
    study.check_begun()
    front = study.front()
    if front.recommended is None:
        raise DataError(f"{study.folder}: the front has no point yet")
    spec = load_study_spec(study.spec_file)
    chosen = _chosen(study, front, front.recommended, spec.without_ops)
    manifest = read_manifest(study.manifest_file)
    settings = manifest.settings
    ground = prepare(spec, study.folder)
    check_unchanged(ground, manifest, study.folder)
    ground = ground.computing_in(settings.precision)
    if ground.dataset.test is None:
        raise ConfigError(f"{study.folder}: the study's data have no test split")
    earlier = openings_in(study.test_file)
    rows = ground.encode(ground.dataset.test)
    results = tuple(_score(study, ground, rows, role, r, settings) for role, r in chosen.items())
    opening = Opening(
        opened=datetime.now(UTC).isoformat(timespec="seconds"),
        nth=len(earlier) + 1,
        rows=len(rows),
        metric=ground.task.metric,
        results=results,
        notes=tuple(filter(None, [ground.cut_note("test", rows)])),
        seen=ground.dataset.count_seen(ground.dataset.test),
    )
    ledger = {"version": 1, "openings": [*earlier, asdict(opening)]}
    write_atomic(study.test_file, json.dumps(ledger, indent=2, allow_nan=False) + "\n")
    return opening


def _chosen(study: Study, front: Front, recommended: int, without_ops: str) -> dict[str, Record]:
    """Whom to look at: what is recommended, and the baselines whose weights are there."""
    records, selection = study.records(), study.selection()
    if selection is not None:
        recommended = selection.recommended
    if recommended not in {record.trial for record in records}:
        raise DataError(f"{study.folder}: trial {recommended} of the front has no record")
    chosen = {"recommended": shipped(records, recommended, front.metric)}
    loras = [c.trial for c in selection.contenders if c.role == "lora"] if selection else []
    without = (r for r in records if not r.genotype["ops"] and not r.is_full)
    heads = [record.trial for record in without if front.metric in record.metrics]
    for role, trials in (("tuned LoRA", loras), (without_ops, heads)):
        for trial in trials[:1]:
            baseline = shipped(records, trial, front.metric)
            if baseline.weights and (study.folder / baseline.weights).is_file():
                chosen[role] = baseline
    return chosen


def _score(
    study: Study,
    ground: Ground,
    rows: Encoded,
    role: str,
    record: Record,
    settings: TrainingSettings,
) -> Tested:
    if record.weights is None:
        raise DataError(f"trial {record.trial} has no weights to test")
    path: Path = study.folder / record.weights
    if not path.is_file():
        raise DataError(f"{path}: the weights of trial {record.trial} are missing")
    genotype = genotype_from_dict(record.stored_genotype)
    with Cohort(ground.backbone, [genotype], [record.seed], ground.task, settings) as cohort:
        data, kinds = read_kinds(path, record.weights_sha256)
        cohort.load(0, tensors_of(data, kinds, cohort.tensors(0), path))
        predictions, _ = cohort.predict(rows)
    metrics = ground.task.metrics(predictions[0], rows.truth)
    summary = describe(genotype, HEAD if record.head_params else FROZEN)
    return Tested(record.trial, role, record.trainable_params, summary, metrics)
