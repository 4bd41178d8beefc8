"""What a study was made with, in words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autopeft.dashboard.trials import TrialInfo
from autopeft.objectives import amount, duration
from autopeft.study.spec import StudySpec


def rows_of(manifest: Mapping[str, Any]) -> dict[str, int]:
    """How many rows each split has, as far as the manifest says."""
    return dict(manifest.get("data", {}).get("rows", {}))


def scored_on(manifest: Mapping[str, Any], spec: StudySpec | None) -> tuple[str, ...]:
    """Where the rows that scores are on come from, how many they are, and their classes.

    The hash of all rows would not do: repetitions with other seeds draw other rows to train on.
    """
    labels = manifest.get("data", {}).get("labels", ())
    return (_source(spec), str(rows_of(manifest).get("validation")), *map(str, labels))


def facts_of(
    manifest: Mapping[str, Any],
    spec: StudySpec | None,
    trials: Sequence[TrialInfo],
    max_params: int | None,
) -> dict[str, str]:
    """Model, data, budget, cost and versions by title, as far as they are known.

    Args:
        manifest: of the study, or nothing.
        spec: its study file, if there is one.
        trials: of the study.
        max_params: its budget; None if nothing says it.
    """
    model = manifest.get("model", {})
    facts = {}
    if name := model.get("name") or (spec.model if spec else None):
        size = model.get("backbone_params")
        facts["Model"] = _last(str(name)) + (f", {size:,} parameters" if size else "")
    if text := _data(manifest, spec):
        facts["Data"] = text
    if notes := manifest.get("data", {}).get("notes"):
        facts["About the data"] = "; ".join(map(str, notes))
    if max_params is not None:
        share = (
            f" ({100 * max_params / size:.3g} %)" if (size := model.get("backbone_params")) else ""
        )
        memory = spec.budget.max_memory if spec else None
        limit = f", {amount(memory, 'B')} of memory" if memory else ""
        facts["Budget"] = f"{max_params:,} trainable parameters{share}{limit}"
    failed = sum(trial.state == "failed" for trial in trials)
    most = spec.budget.trials if spec else 0
    count = _counted(max(most, len(trials)), "trial")
    begun = f"{len(trials):,} of at most " if len(trials) < most else ""
    facts["Trials"] = begun + count + (f", {failed:,} failed" if failed else "")
    facts["Training time"] = duration(sum(trial.seconds for trial in trials))
    if spec is not None:
        facts["Search"] = f"{spec.sampler} in space {_last(spec.space)}, seed {spec.seed}"
    settings, machine = manifest.get("settings", {}), manifest.get("machine", {})
    if settings:
        place = machine.get("device", "")
        facts["Training"] = ", ".join(
            str(part)
            for part in (
                _counted(settings.get("epochs"), "epoch"),
                settings.get("precision"),
                f"cohorts of {manifest.get('cohort')}",
                place,
            )
            if part
        )
    if created := manifest.get("created"):
        facts["Started"] = str(created).replace("T", " ").replace("+00:00", " UTC")
    versions = manifest.get("versions", {})
    if versions:
        facts["Versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return facts


def _counted(number: Any, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}" if isinstance(number, int) else ""


def _data(manifest: Mapping[str, Any], spec: StudySpec | None) -> str:
    rows = ", ".join(f"{count:,} {name}" for name, count in rows_of(manifest).items())
    if spec is None:
        return rows and f"{rows} rows"
    source = _source(spec)
    return f"{source}: {rows} rows" if rows else source


def _source(spec: StudySpec | None) -> str:
    """The data set of the Hub, or the folder of the files; empty where nothing says it."""
    if spec is None:
        return ""
    return spec.data.hub or (spec.data.train.parent.name if spec.data.train else "")


def _last(name: str) -> str:
    """The end of a path; what is no path, such as a Hub name, as it is."""
    return Path(name).name if name.startswith(("/", ".", "~")) or "\\" in name else name
