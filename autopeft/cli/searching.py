"""The commands that train: `search` and `resume`. What they need they import when they run."""

from pathlib import Path
from typing import Annotated

import typer

from autopeft.cli.options import (
    AddressOption,
    CpusOption,
    DataOption,
    EngineOption,
    Format,
    FormatOption,
    GpusOption,
    LabelOption,
    MaxFailuresOption,
    MaxMemoryOption,
    MaxParamsOption,
    MaxTrainedOption,
    ModelOption,
    NoCacheOption,
    QuantizeOption,
    StorageOption,
    TaskOption,
    TextOption,
    TrainRowsOption,
    TrialTimeoutOption,
    WorkersOption,
)
from autopeft.cli.run import search_and_show, show_what_it_would_be
from autopeft.errors import ConfigError


def search(
    study: Annotated[Path | None, typer.Argument(help="A study file.")] = None,
    model: ModelOption = None,
    quantize: QuantizeOption = None,
    data: DataOption = None,
    task: TaskOption = None,
    text: TextOption = None,
    label: LabelOption = None,
    train_rows: TrainRowsOption = None,
    metric: Annotated[
        str | None, typer.Option(help="What to maximise; or a function of your own, my.py:fn.")
    ] = None,
    objectives: Annotated[
        str | None, typer.Option(help="Two to four: metric,trainable_params,latency_ms ...")
    ] = None,
    space: Annotated[str | None, typer.Option(help="A shipped space or a path.")] = None,
    max_params: MaxParamsOption = None,
    max_trained: MaxTrainedOption = None,
    max_memory: MaxMemoryOption = None,
    trials: Annotated[int | None, typer.Option(help="Trials in all.")] = None,
    time: Annotated[str | None, typer.Option(help="Training time in all, like 2h.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples in a batch.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Most tokens of an example.")] = None,
    accumulation: Annotated[
        int | None, typer.Option(help="Parts that a batch is worked through in, to save memory.")
    ] = None,
    checkpointing: Annotated[
        bool,
        typer.Option("--checkpointing", help="Compute layers again instead of keeping states."),
    ] = False,
    cohort: Annotated[
        str | None, typer.Option(help="Trials trained together, a number or auto.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    sampler: Annotated[str | None, typer.Option(help="tpe, nsga2, gp or random.")] = None,
    warm_start: Annotated[
        Path | None, typer.Option(help="Study folder or front.json whose points are tried first.")
    ] = None,
    rungs: Annotated[
        int | None, typer.Option(help="Levels of the training budget, from 30 trials on.")
    ] = None,
    rung_metric: Annotated[
        str | None,
        typer.Option(help="likelihood: rungs below the top are measured without writing answers."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Fresh seeds in the final selection; 0 for none.")
    ] = None,
    full_finetune: Annotated[
        bool,
        typer.Option("--full-finetune", help="Also train the whole backbone, as a baseline."),
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of everything.")] = None,
    engine: EngineOption = None,
    address: AddressOption = None,
    workers: WorkersOption = None,
    gpus_per_worker: GpusOption = None,
    cpus_per_worker: CpusOption = None,
    trial_timeout: TrialTimeoutOption = None,
    max_failures: MaxFailuresOption = None,
    storage: StorageOption = None,
    no_cache: NoCacheOption = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the study.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what it would be; nothing is trained or written."),
    ] = False,
    output: FormatOption = Format.HUMAN,
) -> None:
    """Search under a hard budget; on an existing folder, continue to the total."""
    from autopeft.cli.study_flags import merge, number, running

    spec = merge(
        study,
        {
            ("model",): model,
            ("quantize",): quantize,
            ("task",): task,
            ("metric",): metric,
            ("objectives",): objectives.split(",") if objectives else None,
            ("space",): space,
            ("sampler",): sampler,
            ("warm_start",): str(warm_start.absolute()) if warm_start else None,
            ("rungs",): rungs,
            ("rung_metric",): rung_metric,
            ("selection", "seeds"): seeds,
            ("full_finetune",): True if full_finetune else None,
            ("seed",): seed,
            ("budget", "max_params"): max_params,
            ("budget", "max_trained"): max_trained,
            ("budget", "max_memory"): max_memory,
            ("budget", "trials"): trials,
            ("budget", "time"): time,
            ("training", "epochs"): epochs,
            ("training", "batch_size"): batch_size,
            ("training", "max_length"): max_length,
            ("training", "accumulation"): accumulation,
            ("training", "checkpointing"): True if checkpointing else None,
            ("training", "cohort"): number(cohort),
            ("training", "precision"): precision,
            ("data", "text"): text.split(",") if text else None,
            ("data", "label"): label,
            ("data", "train_rows"): train_rows,
            **running(
                engine=engine,
                address=address,
                workers=workers,
                gpus_per_worker=gpus_per_worker,
                cpus_per_worker=cpus_per_worker,
                trial_timeout=trial_timeout,
                max_failures=max_failures,
                storage=storage,
                no_cache=no_cache,
            ),
        },
        data,
    )
    folder = out or Path("trials") / (study.stem if study else _name(spec.model, data))
    base = study.parent if study else Path.cwd()
    if dry_run:
        show_what_it_would_be(spec, folder, base, output)
    else:
        search_and_show(spec, folder, base, output)


def resume(
    folder: Annotated[Path, typer.Argument(help="Folder of a study.")],
    trials: Annotated[int | None, typer.Option(help="Trials in all.")] = None,
    time: Annotated[str | None, typer.Option(help="Training time in all, like 2h.")] = None,
    engine: EngineOption = None,
    address: AddressOption = None,
    workers: WorkersOption = None,
    gpus_per_worker: GpusOption = None,
    cpus_per_worker: CpusOption = None,
    trial_timeout: TrialTimeoutOption = None,
    max_failures: MaxFailuresOption = None,
    storage: StorageOption = None,
    no_cache: NoCacheOption = False,
    output: FormatOption = Format.HUMAN,
) -> None:
    """Continue a study where it was interrupted, or to a larger budget."""
    from autopeft.cli.study_flags import merge, running
    from autopeft.study.folder import Study

    study = Study(folder)
    study.check_resumable()
    flags = {
        ("budget", "trials"): trials,
        ("budget", "time"): time,
        **running(
            engine=engine,
            address=address,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            cpus_per_worker=cpus_per_worker,
            trial_timeout=trial_timeout,
            max_failures=max_failures,
            storage=storage,
            no_cache=no_cache,
        ),
    }
    search_and_show(merge(study.spec_file, flags, None), folder, folder, output)


def _name(model: str, data: str | None) -> str:
    if not data:
        raise ConfigError("give --out, or --data to name the study after")
    return f"{Path(data).stem or Path(data).name}-{Path(model).name}".replace("@", "-")
