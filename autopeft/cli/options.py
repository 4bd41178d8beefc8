"""Options that several commands have."""

from enum import StrEnum
from typing import Annotated

import typer


class Format(StrEnum):
    """How results are written to stdout."""

    HUMAN = "human"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="How to write the result.")]
ModelOption = Annotated[str | None, typer.Option(help="Hub name or folder.")]
QuantizeOption = Annotated[
    str | None, typer.Option(help="Keep the backbone's weights in few bits: nf4 or int8.")
]
DataOption = Annotated[
    str | None, typer.Option(help="Folder with train/validation/test files, a file, or a Hub name.")
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        help="classification, multi_label_classification, regression, token_classification, "
        "seq2seq or causal."
    ),
]
LabelOption = Annotated[str | None, typer.Option(help="Label column.")]
TrainRowsOption = Annotated[int | None, typer.Option(help="Use so many training rows.")]
TextOption = Annotated[str | None, typer.Option(help="Text column, or two: text_a,text_b.")]
WorkersOption = Annotated[
    str | None, typer.Option(help="Worker processes: a number or auto; 0 for none.")
]
EngineOption = Annotated[
    str | None, typer.Option("--engine", help="Where trials run: local, or ray for a cluster.")
]
AddressOption = Annotated[
    str | None, typer.Option(help="Of the Ray cluster: auto, local, host:port, ray://host:port.")
]
GpusOption = Annotated[
    str | None, typer.Option("--gpus-per-worker", help="On a cluster: like 0.5, or auto.")
]
CpusOption = Annotated[int | None, typer.Option("--cpus-per-worker", help="On a cluster.")]
TrialTimeoutOption = Annotated[
    str | None, typer.Option(help="Give a trial up after no progress for so long, like 10m.")
]
StorageOption = Annotated[
    str | None,
    typer.Option(help="postgresql://user@host/database instead of a file; PGPASSWORD apart."),
]
MaxFailuresOption = Annotated[
    int | None, typer.Option(help="Stop when so many trials in a row have failed.")
]
MaxParamsOption = Annotated[
    str | None, typer.Option(help="Most parameters of the ops: a number or like 1%.")
]

MaxMemoryOption = Annotated[
    str | None, typer.Option(help="Most memory of training a trial alone, like 6GiB.")
]
MaxTrainedOption = Annotated[
    str | None, typer.Option(help="Most parameters that are trained, where more are than stored.")
]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Train what other studies have measured already, too.")
]
