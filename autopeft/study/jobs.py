"""The jobs of a study: immutable files, written before a job is dispatched.

Jobs say what is to be measured, records what was. Everything else in the folder follows from them:
a job without all its records is repeated whole, whoever was killed when, and the ledger is brought
up to date.
"""

import json
from pathlib import Path

from autopeft.engines.job import Job
from autopeft.errors import ConfigError, DataError
from autopeft.files import read_json, write_new
from autopeft.study.folder import Study


def write_job(folder: Path, index: int, job: Job) -> None:
    """Write the job `index`, counted from 0.

    Raises:
        DataError: it cannot be written, or there is another job of this number.
    """
    path = folder / "jobs" / f"{index:06d}.json"
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot create {path.parent}: {error.strerror or error}") from error
    write_new(path, json.dumps(job.to_dict(), allow_nan=False) + "\n")


def read_jobs(folder: Path) -> list[Job]:
    """All jobs, in order.

    Raises:
        DataError: a file is not a job, is missing, or tells another story than those before.
    """
    jobs: list[Job] = []
    seen: dict[int, str] = {}
    paths = sorted((folder / "jobs").glob("[0-9]*.json"))
    for index, path in enumerate(paths):
        if path.name != f"{index:06d}.json":
            raise DataError(f"{path.parent}: job {index} is missing, {path.name} is there")
        try:
            job = Job.from_dict(read_json(path), str(path))
        except ConfigError as error:  # in a file that we wrote it is the data that is wrong
            raise DataError(str(error)) from error
        for trial in job.trials:
            if seen.setdefault(trial.number, trial.genotype.hash) != trial.genotype.hash:
                raise DataError(f"{path}: trial {trial.number} has another genotype than before")
        if set(seen) != set(range(len(seen))):
            raise DataError(f"{path}: trials are numbered {sorted(seen)}, not from 0 without gaps")
        jobs.append(job)
    return jobs


def check_whole(study: Study) -> None:
    """Refuse to continue a study whose jobs do not ask for its records, as one that is published.

    Raises:
        DataError: it lacks jobs, or the files of its records.
    """
    asked = {
        key: trial.genotype.hash
        for job in read_jobs(study.folder)
        for key, trial in zip(job.keys, job.trials, strict=True)
    }
    records = study.records()
    strange = next((record for record in records if asked.get(record.key) != record.hash), None)
    if strange is not None:
        lack = f"no job has asked for the record of trial {strange.trial}"
    elif records and not study.has_record_files:
        lack = "its records are in records.jsonl alone"
    else:
        return
    raise DataError(
        f"{study.folder} cannot be continued: {lack}, as in a study that is published; begin a new "
        f"one with what it found: --warm-start {study.folder} --out ANOTHER"
    )
