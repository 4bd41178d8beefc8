"""A study up to its first trial: what is searched and how it is computed, and both written down."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from autopeft.checks import first_problem
from autopeft.engines.engine import Engine
from autopeft.engines.work import CohortSize, Facts
from autopeft.errors import DataError
from autopeft.files import read_json, remove_temporaries, write_atomic
from autopeft.objectives import value_names
from autopeft.space.genotype import Genotype
from autopeft.space.shipped import shipped_spaces
from autopeft.study.driver import check_time
from autopeft.study.folder import Study
from autopeft.study.jobs import check_whole
from autopeft.study.ledger import Ledger
from autopeft.study.manifest import (
    Manifest,
    check_same,
    new_manifest,
    note_on_change,
    read_manifest,
    write_manifest,
)
from autopeft.study.propose import propose
from autopeft.study.rungs import Rungs, rungs_of
from autopeft.study.setup import Setup, read_space, set_up
from autopeft.study.spec import load_study_spec
from autopeft.study.warm_start import read_warm_start, write_copy
from autopeft.study.write import spec_yaml

DRAWS = 16
"""Proposals among which one is looked for that can share a cohort."""

FACTS = "facts.json"
"""What is known of model and data, for whoever does not load them."""


@dataclass(frozen=True)
class Prepared:
    """A study up to its first trial.

    Attributes:
        study: where it is written.
        setup: what is searched.
        manifest: how it is computed.
    """

    study: Study
    setup: Setup
    manifest: Manifest

    @property
    def rungs(self) -> Rungs:
        """Its levels of the training budget."""
        return Rungs(self.manifest.rung_steps, self.setup.spec.reduction)

    def noting(self, note: str) -> "Prepared":
        """The same with something else that the user has to be told."""
        return replace(self, setup=replace(self.setup, notes=(*self.setup.notes, note)))

    def ledger(self) -> Ledger:
        """Open its database, or make it.

        Raises:
            DataError: it is not a study, cannot be reached, or another driver has it.
        """
        spec = self.setup.spec
        values = value_names(spec.chosen_metric, spec.costs)
        if spec.storage is None:
            return Ledger(self.study.database, values=values)
        return Ledger(spec.storage, self.manifest.study, values)

    def write_facts(self) -> None:
        """Write what `read_prepared` needs beside study file, space and manifest.

        Raises:
            DataError: it cannot be written.
        """
        text = self.setup.facts.model_dump_json(indent=1)
        write_atomic(self.study.folder / FACTS, text + "\n")


def prepared(study: Study, setup: Setup, engine: Engine, cohort: CohortSize) -> Prepared:
    """Decide how a study is computed, or read it, and write study file, space and manifest.

    Args:
        study: its folder; locked.
        setup: what is searched.
        engine: loaded.
        cohort: trials to train together, for a new study.
    """
    manifest = _manifest(study, setup, engine, cohort)
    setup = setup.knowing(manifest.costs)
    _write_specs(study, setup)
    ready, note = Prepared(study, setup, manifest), note_on_change(manifest, setup.facts)
    return ready if note is None else ready.noting(note)


def read_prepared(folder: Path) -> Prepared:
    """A study that `prepare` has made. Neither model nor data are loaded.

    Raises:
        DataError: there is none, or a file of it is damaged.
        ConfigError: its files are of different studies.
    """
    study = Study(folder)
    study.check_resumable()
    if not (folder / FACTS).is_file():
        raise DataError(f"{folder} was not made by `autopeft.tune.prepare`: it has no {FACTS}")
    try:
        facts = Facts.model_validate_json(json.dumps(read_json(folder / FACTS)))
    except ValidationError as error:
        where, problem = first_problem(error)
        raise DataError(f"{folder / FACTS}: {where} is not valid: {problem}") from None
    spec = load_study_spec(study.spec_file).resolved(folder)
    manifest = read_manifest(study.manifest_file)
    front = read_warm_start(spec.warm_start, folder)
    setup = set_up(spec, read_space(spec, folder, folder), facts, front, manifest.costs)
    check_same(study.manifest_file, manifest, setup.fingerprint)
    return Prepared(study, setup, manifest)


def remove_leftovers(study: Study) -> None:
    """Remove what a driver that was killed has left half-written; the folder is to be locked."""
    for name in (".", "jobs", "records", "weights", "paused"):
        remove_temporaries(study.folder / name)


def _manifest(study: Study, setup: Setup, engine: Engine, cohort: CohortSize) -> Manifest:
    """That of the folder if it is the same study, otherwise a new one."""
    if study.manifest_file.exists():
        manifest = read_manifest(study.manifest_file)
        check_same(study.manifest_file, manifest, setup.fingerprint)
        check_whole(study)
        remove_leftovers(study)
        return manifest
    decided = engine.decide(_typical(setup), cohort)
    check_time(setup.spec, decided.trial_seconds)
    spec = setup.spec
    if spec.predicts:
        costs = engine.calibrate(decided.settings, setup.probes)
        decided = decided.model_copy(update={"costs": costs})
        setup.knowing(costs)  # or refuse the study before it has begun
    rungs = rungs_of(setup.steps, spec.budget.trials, spec.rungs, spec.reduction)
    manifest = new_manifest(
        setup.fingerprint,
        setup.facts,
        decided,
        max_params=setup.space.max_params,
        rung_steps=rungs.steps,
    )
    write_manifest(study.manifest_file, manifest)
    return manifest


def _typical(setup: Setup) -> list[Genotype]:
    """Genotypes that say how large cohorts can be; what has no company only if all are so."""
    with_ops = [start.genotype for start in setup.starts.first if start.genotype.ops]
    if together := [genotype for genotype in with_ops if not genotype.alone]:
        return together
    seed = setup.spec.seed
    drawn = [
        propose(setup.space, "random", seed=seed, slot=slot, history=[], taken=()).genotype
        for slot in range(DRAWS)
    ]
    together = [genotype for genotype in drawn if not genotype.alone]
    return together[:1] or with_ops or drawn[:1]


def _write_specs(study: Study, setup: Setup) -> None:
    """Write study and space file; they follow from what was given, so a lost one comes back."""
    spec = setup.spec
    if spec.space not in shipped_spaces():  # the folder is to be whole without the file it names
        spec = spec.model_copy(update={"space": "space.yaml"})
    if setup.warm_start is not None:
        spec = spec.model_copy(update={"warm_start": write_copy(study.folder, setup.warm_start)})
    write_atomic(study.space_file, spec_yaml(setup.space.spec))
    write_atomic(study.spec_file, spec_yaml(spec))
