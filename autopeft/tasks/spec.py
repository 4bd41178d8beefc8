"""Where the rows of a study come from, as a study file says it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Kind = Literal["classification", "regression"]

METRICS: dict[Kind, tuple[str, ...]] = {  # the default first
    "classification": ("accuracy", "f1", "mcc"),
    "regression": ("pearson", "spearman"),
}

_HUB = r"^[\w.-]+(/[\w.-]+){0,2}(@[\w./-]+)?$"


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class DataSpec(BaseModel):
    """The data of a study: files of one's own, or a data set of the Hugging Face Hub.

    Attributes:
        train: CSV, JSONL or Parquet file, by its suffix.
        validation: likewise; without it, a part of the training rows is set aside.
        selection: likewise; rows for the final selection alone. Without it, a part of the
            training rows is set aside, unless they are few.
        test: likewise; optional.
        hub: `owner/name`, `owner/name/configuration` or `glue/sst2`, each with an optional
            `@revision`; instead of files.
        text: the column of the text, or the two columns of a pair. Without it, `text`; for a
            GLUE task, its own columns.
        label: the column of the label.
        train_rows: use only so many training rows, drawn with the seed; the first n of a larger
            draw are the draw of n.
        selection_rows: set so many training rows aside for the final selection; 0 for none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Path | None = None
    validation: Path | None = None
    selection: Path | None = None
    test: Path | None = None
    hub: Annotated[str, Field(pattern=_HUB)] | None = None
    text: (
        Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1, max_length=2)]
        | None
    ) = None
    label: str = "label"
    train_rows: Annotated[int, Field(ge=2)] | None = None
    selection_rows: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "DataSpec":
        if (self.hub is None) == (self.train is None):
            raise ValueError("give either `train` (a file) or `hub` (a name), one of the two")
        if self.hub is not None and (self.validation or self.selection or self.test):
            raise ValueError(
                "`validation`, `selection` and `test` are files and go with `train`, not with `hub`"
            )
        if self.selection is not None and self.selection_rows is not None:
            raise ValueError("give either `selection` (a file) or `selection_rows` (a number)")
        return self

    @model_validator(mode="after")
    def _distinct_columns(self) -> "DataSpec":
        columns = [*(self.text or ()), self.label]
        if repeated := sorted({name for name in columns if columns.count(name) > 1}):
            raise ValueError(f"column `{repeated[0]}` is named twice by `text` and `label`")
        return self
