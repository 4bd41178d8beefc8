"""A study from a file, from flags, or from a file with flags on top."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autopeft.errors import ConfigError
from autopeft.space import yaml
from autopeft.space.shipped import shipped_spaces
from autopeft.study.spec import OF_A_CLUSTER, StudySpec
from autopeft.tasks.guess import data_section
from autopeft.tasks.spec import absolute_metric

_FILES = ("train", "validation", "selection", "test")
_DECIMAL = re.compile(r"\d*\.\d+|\d+\.")

Flags = Mapping[tuple[str, ...], Any]
"""Values by key in the study file; None is a flag that was not given."""


def merge(study: Path | None, flags: Flags, data: str | None) -> StudySpec:
    """Read a study file and put the flags that were given on top.

    Paths in flags are relative to the working folder, those in the file to the file.

    Raises:
        ConfigError: file or flags are not valid; neither says what is needed.
        DataError: `--data` names a folder without a training file.
    """
    document = yaml.load(study) if study else yaml.Document("options", {}, {})
    values = dict(document.data) if isinstance(document.data, dict) else document.data
    if not isinstance(values, dict):
        raise ConfigError(f"{study}: has to be keys and values")
    if data is not None:
        values["data"] = _instead(values.get("data"), _absolute(data_section(data)))
    if flags.get(("engine", "kind")) == "local":
        _leave_cluster(values)
    for key, value in flags.items():
        if value is not None:
            _put(values, key, value)
    if metric := flags.get(("metric",)):
        values["metric"] = absolute_metric(metric, Path.cwd())
    model, space = flags.get(("model",)), flags.get(("space",))
    if model and Path(model).is_dir():
        values["model"] = str(Path(model).resolve())
    if space and space not in shipped_spaces() and Path(space).is_file():
        values["space"] = str(Path(space).resolve())
    if missing := [f"--{key}" for key in ("model", "data") if not values.get(key)]:
        where = f"{study} or the options" if study else "without a study file, the options"
        raise ConfigError(f"{where} have to say {' and '.join(missing)}")
    return yaml.validate(StudySpec, yaml.Document(document.source, values, document.lines))


def running(
    *,
    engine: str | None,
    address: str | None,
    workers: str | None,
    gpus_per_worker: str | None,
    cpus_per_worker: int | None,
    trial_timeout: str | None,
    max_failures: int | None,
    storage: str | None,
    no_cache: bool,
) -> dict[tuple[str, ...], Any]:
    """The flags that say where trials run and where they are kept, of every run on a study."""
    return {
        ("engine", "kind"): engine,
        ("engine", "address"): address,
        ("engine", "workers"): number(workers),
        ("engine", "gpus_per_worker"): number(gpus_per_worker),
        ("engine", "cpus_per_worker"): cpus_per_worker,
        ("engine", "trial_timeout"): trial_timeout,
        ("engine", "max_failures"): max_failures,
        ("storage",): storage,
        ("cache",): False if no_cache else None,
    }


def number(given: str | None) -> float | str | None:
    """A flag that takes a number or a word."""
    if given and given.isdigit():
        return int(given)
    return float(given) if given and _DECIMAL.fullmatch(given) else given


def _put(values: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    *parents, last = key
    for parent in parents:
        inner = values.get(parent)
        values[parent] = dict(inner) if isinstance(inner, dict) else {}
        values = values[parent]
    values[last] = value


def _leave_cluster(values: dict[str, Any]) -> None:
    """Leave out what a file says of a cluster that is not to be used."""
    engine = values.get("engine")
    if isinstance(engine, dict):
        values["engine"] = {k: v for k, v in engine.items() if k not in OF_A_CLUSTER}


def _instead(old: object, section: dict[str, Any]) -> dict[str, Any]:
    """Other rows under what the file says of them: columns, and how many are used."""
    if not isinstance(old, dict):
        return section
    kept = {key: value for key, value in old.items() if key not in ("hub", *_FILES)}
    if "selection" in section:
        kept.pop("selection_rows", None)
    if "messages" in kept:
        section = {key: value for key, value in section.items() if key != "text"}
    return section | kept


def _absolute(section: dict[str, Any]) -> dict[str, Any]:
    return {k: str(Path(v).resolve()) if k in _FILES else v for k, v in section.items()}
