"""Data sets of the Hugging Face Hub, read into the same tables as files."""

from dataclasses import dataclass
from typing import Any

import datasets

# Of httpx, httpx2 or requests: each version of the client has another library underneath.
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

from autopeft.errors import DataError
from autopeft.tasks.rows import Problems, Table, checked_row, missing_columns, one_line, place
from autopeft.tasks.spec import Columns, DataSpec, Kind, columns_of

_LEGACY = ("glue", "super_glue")  # their names have no owner, so `glue/sst2` is a configuration
_GLUE_TEXT = {
    "cola": ("sentence",),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence",),
    "stsb": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}
_UNLABELLED = (-1, None)  # what GLUE has, and others have, in a test split whose labels are secret


@dataclass(frozen=True)
class HubName:
    """The name of a data set, taken apart.

    Attributes:
        name: as `datasets.load_dataset` takes it.
        config: one of several variants under that name.
        revision: a commit, tag or branch.
    """

    name: str
    config: str | None
    revision: str | None

    @classmethod
    def parse(cls, hub: str) -> "HubName":
        """Take `owner/name/config@revision`, or `glue/sst2`, apart."""
        address, _, revision = hub.partition("@")
        parts = address.split("/")
        n_name = 1 if parts[0] in _LEGACY else 2
        return cls("/".join(parts[:n_name]), "/".join(parts[n_name:]) or None, revision or None)

    @property
    def text(self) -> tuple[str, ...] | None:
        """The text columns where they are known without being told."""
        return _GLUE_TEXT.get(self.config or "") if self.name == "glue" else None

    @property
    def splits(self) -> dict[str, str]:
        """What train, validation and test are called there."""
        suffix = "_matched" if (self.name, self.config) == ("glue", "mnli") else ""
        return {"train": "train", "validation": "validation" + suffix, "test": "test" + suffix}


def read_hub(
    spec: DataSpec, kind: Kind, problems: Problems
) -> tuple[dict[str, Table], tuple[str, ...]]:
    """Download a data set, or take it from the cache, and read its splits.

    Args:
        spec: with `hub` set.
        kind: of the task.
        problems: receives faulty rows, with split and row.

    Returns:
        The labelled splits, by purpose, and the purposes whose split has no labels.

    Raises:
        DataError: it cannot be had, or has no training split.
    """
    hub = spec.hub or ""
    name = HubName.parse(hub)
    splits = _download(hub, name)
    if name.splits["train"] not in splits:
        raise DataError(f"{hub}: no split 'train'; it has: {', '.join(splits)}")
    wanted = spec.columns(kind, name.text)
    tables = {}
    unlabelled = []
    for purpose, split in name.splits.items():
        if split not in splits:
            continue
        source = f"{hub}, split {split}"
        columns = columns_of(purpose, wanted)
        if fault := missing_columns(columns.names, splits[split].column_names):
            problems.add(source, fault)
            continue
        values = splits[split].with_format(None).select_columns(list(columns.names))[:]
        labels = [label for column in columns.told for label in values[column]]
        if purpose != "train" and labels and all(label in _UNLABELLED for label in labels):
            unlabelled.append(purpose)
            continue
        names = None if columns.flags else _declared(splits[split].features[columns.label])
        tables[purpose] = _table(source, columns, values, names, problems)
    return tables, tuple(unlabelled)


def _declared(feature: Any) -> list[str] | None:
    """The classes of a column, or of the lists in it, if it declares them."""
    feature = getattr(feature, "feature", feature)  # of a list
    return feature.names if isinstance(feature, datasets.ClassLabel) else None


def _download(hub: str, name: HubName) -> Any:
    try:
        found = datasets.load_dataset(name.name, name.config, revision=name.revision)
        return found.flatten()  # a pair of languages is one column: `translation.en`
    except (
        OSError,  # no network, no such data set, no space left
        HTTPError,
        ValueError,  # no such configuration
        RuntimeError,  # a data set that is a script
        datasets.exceptions.DatasetsError,
    ) as error:
        raise DataError(f"{hub}: cannot be loaded from the Hub: {one_line(error)}") from error


def _table(
    source: str,
    columns: Columns,
    values: dict[str, list[Any]],
    names: list[str] | None,
    problems: Problems,
) -> Table:
    """Rows of one split; declared classes (`names`) replace their numbers."""
    rows = []
    records = zip(*(values[column] for column in columns.names), strict=True)
    place_of_label = columns.names.index(columns.told[0])
    for line, record in enumerate(map(list, records), start=1):
        where = place(source, line, by_line=False)
        label = record[place_of_label]
        if names and label is not None:
            each = label if isinstance(label, list) else [label]
            if wrong := [one for one in each if not 0 <= one < len(names)]:
                told = f"label {wrong[0]} is none of the {len(names)} declared classes"
                problems.add(where, told)
                continue
            named = [names[one] for one in each]
            record[place_of_label] = named if isinstance(label, list) else named[0]
        if row := checked_row(line, record, columns, where, problems):
            rows.append(row)
    if not values[columns.told[0]]:
        problems.add(source, "has no rows")
    return Table(source, tuple(rows), label_names=tuple(names or columns.flags) or None)
