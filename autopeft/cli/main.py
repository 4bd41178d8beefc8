"""The commands. Each imports what it needs when it runs, so that help and `front` are instant."""

import json
import shlex
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Abort, TyperException

from autopeft import __version__
from autopeft.cli import console
from autopeft.cli.options import (
    DataOption,
    Format,
    FormatOption,
    LabelOption,
    MaxMemoryOption,
    MaxParamsOption,
    MaxTrainedOption,
    ModelOption,
    QuantizeOption,
    TaskOption,
    TextOption,
    TrainRowsOption,
)
from autopeft.cli.run import show_front
from autopeft.cli.searching import resume, search
from autopeft.engines.waiting import wait_briefly
from autopeft.errors import (
    AutopeftError,
    DataError,
    InterruptedSearchError,
    TooManyFailuresError,
)

app = typer.Typer(
    name="autopeft",
    help="Search for the best combination of parameter-efficient fine-tuning methods.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:  # noqa: FBT001
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command()(search)
app.command()(resume)


@app.command()
def front(
    folder: Annotated[Path, typer.Argument(help="Folder of a study.")],
    genotype: Annotated[
        int | None, typer.Option(help="Write this trial's genotype as YAML instead.")
    ] = None,
    output: FormatOption = Format.HUMAN,
) -> None:
    """Show the Pareto front of a study, the final selection and its verdict."""
    if genotype is None:
        show_front(folder, output)
        return
    from autopeft.cli.files import trial_genotype_yaml

    sys.stdout.write(trial_genotype_yaml(folder, genotype))


@app.command()
def train(
    genotype: Annotated[Path, typer.Argument(help="A genotype file.")],
    study: Annotated[Path | None, typer.Option(help="A study file to take the rest from.")] = None,
    model: ModelOption = None,
    quantize: QuantizeOption = None,
    data: DataOption = None,
    task: TaskOption = None,
    text: TextOption = None,
    label: LabelOption = None,
    train_rows: TrainRowsOption = None,
    max_params: MaxParamsOption = None,
    max_trained: MaxTrainedOption = None,
    max_memory: MaxMemoryOption = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the study of one trial.")] = Path("trained"),
    output: FormatOption = Format.HUMAN,
) -> None:
    """Train one genotype as a search would train it."""
    from autopeft.cli.study_flags import merge
    from autopeft.space.genotype_file import load_genotype
    from autopeft.study.single import train_one

    what = load_genotype(genotype)
    flags: dict[tuple[str, ...], Any] = {
        ("model",): model,
        ("quantize",): quantize,
        ("task",): task,
        ("seed",): seed,
        ("budget", "max_params"): max_params or (None if study else "100%"),
        ("budget", "max_trained"): max_trained,
        ("budget", "max_memory"): max_memory,
        ("training", "epochs"): epochs,
        ("data", "text"): text.split(",") if text else None,
        ("data", "label"): label,
        ("data", "train_rows"): train_rows,
    }
    spec = merge(study, flags, data)
    base = study.parent if study else Path.cwd()
    with console.steps() as progress:
        record = train_one(spec, what, out, base=base, progress=progress)
    if output is Format.JSON:
        typer.echo(record.to_json())
    else:
        console.show_record(record, out)
    if record.failure is not None:
        cause = f"({record.failure.kind}): {record.failure.message}"
        raise TooManyFailuresError(f"training failed {cause}")


@app.command()
def test(
    folder: Annotated[Path, typer.Argument(help="Folder of a study.")],
    output: FormatOption = Format.HUMAN,
) -> None:
    """Score the recommended point, the tuned LoRA and the head alone on the test split."""
    from dataclasses import asdict

    from autopeft.study.folder import Study
    from autopeft.study.unseen import open_test

    opening = open_test(Study(folder))
    if output is Format.JSON:
        typer.echo(json.dumps(asdict(opening), allow_nan=False))
    else:
        console.show_opening(opening)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder of a study.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the export, a new one.")],
    pick: Annotated[
        str,
        typer.Option(help='cheapest, best, knee, "params<0.3%", "quality>0.8", or a trial.'),
    ] = "cheapest",
    to: Annotated[str, typer.Option(help="native, peft, merged, adapters or yaml.")] = "native",
    as_lora: Annotated[
        int | None, typer.Option(help="With --to peft: approximate by LoRA of this rank.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(help="Upload it to this repository of the Hub: user/name.")
    ] = None,
    output: FormatOption = Format.HUMAN,
) -> None:
    """Export a trained trial, load it again in a fresh process and compare what it puts out."""
    from autopeft.export.run import export as run_export
    from autopeft.study.folder import Study

    command = shlex.join(["autopeft", *sys.argv[1:]])
    exported = run_export(
        Study(folder), how=pick, target=to, out=out, command=command, as_lora=as_lora
    )
    if output is Format.JSON:
        typer.echo(json.dumps(exported.to_dict(), allow_nan=False))
    else:
        console.show_exported(exported)
    if push is not None:
        from autopeft.export.push import push as upload

        typer.echo(f"pushed to {upload(out, push)}", err=True)


@app.command()
def load(
    folder: Annotated[Path, typer.Argument(help="Folder of a native export.")],
    backbone: Annotated[
        str | None, typer.Option(help="Take the pretrained weights from here.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Say what the model says of it; can be repeated.")
    ] = None,
    output: FormatOption = Format.HUMAN,
) -> None:
    """Load an export, check that it is whole and on the backbone it was trained on, and use it."""
    from autopeft.cli.loading import load_and_tell

    told = load_and_tell(folder, backbone, text or [])
    if output is Format.JSON:
        typer.echo(json.dumps(told, allow_nan=False))
    else:
        console.show_loaded(told)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the study.")] = Path("trials/demo"),
    trials: Annotated[int, typer.Option(help="Trials in all.")] = 12,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    output: FormatOption = Format.HUMAN,
) -> None:
    """Search with an embedded model on text made on the spot; a front in minutes."""
    from autopeft.cli.demo import run_demo
    from autopeft.cli.signals import interruptible

    with interruptible(out), console.watch() as watcher:
        study, opening = run_demo(out, trials=trials, seed=seed, watcher=watcher)
    show_front(study.folder, output)
    if output is Format.HUMAN:
        console.show_opening(opening)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of studies; the first is shown.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file.")] = Path("report.html"),
    csv: Annotated[
        bool, typer.Option("--csv", help="Write every record beside it as CSV.")
    ] = False,
) -> None:
    """Write studies as one HTML file that opens from disk, with no network."""
    from autopeft.cli.reports import write_report

    for path in write_report(folders, out, with_csv=csv):
        typer.echo(path)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="Folder of a study.")],
    host: Annotated[
        str, typer.Option(help="Another address than this needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes one that is free.", min=0, max=65535)] = 8321,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="AUTOPEFT_TOKEN",
            help="What a reader has to know; a command line can be seen by all users of a machine.",
        ),
    ] = None,
) -> None:
    """Show the same page live while the search runs."""
    from contextlib import suppress

    from autopeft.dashboard.serve import Server

    with Server(folder, host=host, port=port, token=token) as server, suppress(KeyboardInterrupt):
        typer.echo(server.url)
        console.stderr().print("Ctrl-C ends it; the search is not touched.")
        server.serve_forever()


@app.command()
def spaces(output: FormatOption = Format.HUMAN) -> None:
    """List the shipped search spaces."""
    from autopeft.cli.listings import space_rows

    rows = space_rows()
    if output is Format.JSON:
        typer.echo(json.dumps(rows))
    else:
        console.show_spaces(rows)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One of them, in full.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Count for this model instead of a BERT-base.")
    ] = None,
    output: FormatOption = Format.HUMAN,
) -> None:
    """List the named methods, or print one with its ops, formula, count and source."""
    from autopeft.cli.listings import method_rows

    rows = method_rows(name, model)
    if output is Format.JSON:
        typer.echo(json.dumps(rows if name is None else rows[0]))
    elif name is None:
        console.show_methods(rows)
    else:
        console.show_method(rows[0])


def main() -> None:
    """Run the command line and exit with its code."""
    wait_briefly()
    _write_anything()
    try:
        code = app(prog_name="autopeft", standalone_mode=False) or 0
    except AutopeftError as error:
        console.fail(str(error))
        sys.exit(error.exit_code)
    except TyperException as error:
        console.refuse(error.format_message(), is_help=not sys.argv[1:])
        code = error.exit_code
    except (KeyboardInterrupt, Abort):  # outside a command; inside, Typer returns the code
        code = InterruptedSearchError.exit_code
    except OSError as error:  # the disk is full, or a file was taken away meanwhile
        console.fail(str(error))
        code = DataError.exit_code
    if code == InterruptedSearchError.exit_code:
        console.fail("interrupted")
    sys.exit(code)


def _write_anything() -> None:
    """Spell out what the encoding of the output lacks, as `±` in ASCII, instead of giving up."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
