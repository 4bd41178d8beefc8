"""What `autopeft search --dry-run` shows."""

from rich.markup import escape
from rich.table import Table

from autopeft.cli.console import percent, short_count, stderr, stdout
from autopeft.cli.progress import told_labels
from autopeft.objectives import amount
from autopeft.study.dry_run import DryRun


def show_dry_run(found: DryRun) -> None:
    """The model, the budget, the space, the methods at their sizes, and what would be trained."""
    out = stdout()
    for name, text in _lines(found):
        out.print(f"{name:<11} {text}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("method")
    for column in ("parameters", "of backbone", "while training", "memory (a guess)"):
        table.add_column(column, justify="right")
    table.add_column("")
    for sized in found.shown():
        table.add_row(
            sized.name,
            f"{sized.params:,}",
            percent(sized.fraction),
            f"{sized.trained:,}",
            amount(sized.memory_bytes, "B"),
            "" if sized.fits else "over the budget",
        )
    for name, why in found.misfits.items():
        table.add_row(name, "-", "-", "-", "-", escape(why))
    out.print(table)
    hints = stderr()
    for note in found.notes:
        hints.print(escape(f"note: {note}"))
    hints.print(
        "Memory is that of training one trial on full batches of the longest rows: weights, what a "
        "forward pass on meta tensors keeps of every layer, and the ops. What the process takes "
        "beside is left out (on a CPU half a GiB or more, which counts in max_memory). Nothing was "
        "written."
    )


def _lines(found: DryRun) -> list[tuple[str, str]]:
    shape = found.shape
    encoder = shape["n_encoder_layers"]
    layers = f"{encoder} + {shape['n_layers'] - encoder}" if encoder else f"{shape['n_layers']}"
    widths = ", ".join(f"{tap} {width}" for tap, width in shape["widths"].items())
    limits = [f"{found.max_params:,} parameters"]
    limits += [f"{found.max_trained:,} while training"] if found.max_trained is not None else []
    limits += [f"{amount(found.max_memory, 'B')} of memory"] if found.max_memory else []
    rows = ", ".join(f"{n:,} {name}" for name, n in found.n_rows.items())
    steps = f"{found.steps:,} steps" if found.steps else "as many steps as rows give"
    rungs = ", ".join(f"{rung:.2g}" for rung in found.rungs)
    rungs += f", below 1 by {found.rung_metric}" if found.rung_metric else ""
    space = (
        f"{found.space}: {', '.join(found.slots)}; {found.dimensions} coordinates, "
        f"{short_count(found.cardinality)} sets of ops"
    )
    return [
        ("model", f"{found.model} ({found.kind}), {shape['backbone_params']:,} parameters"),
        ("layers", layers),
        ("widths", widths),
        ("budget", f"{', '.join(limits)} ({percent(found.max_params / shape['backbone_params'])})"),
        ("space", space),
        ("rows", rows or "of the Hub, not asked for"),
        *([("labels", told_labels(found.labels))] if found.labels else []),
        ("trials", f"{found.trials} of {steps}, rungs at {rungs}; {found.seeds} fresh seeds"),
    ]
