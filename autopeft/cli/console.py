"""What people see: tables on stdout, progress and hints on stderr."""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from autopeft.advice import Advice
from autopeft.cli.progress import LiveWatcher, PlainWatcher, tell_note, tell_step
from autopeft.front import Front
from autopeft.objectives import COSTS, PARAMS, amount, cost_of
from autopeft.selection import which_rows

if TYPE_CHECKING:
    from autopeft.export.run import Exported
    from autopeft.records import Record
    from autopeft.study.events import Watcher
    from autopeft.study.unseen import Opening

_PLAIN_WIDTH = 10_000
"""Columns where stdout is no terminal, so that a pipe gets whole lines."""


_SPELLED = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}
"""Characters that a terminal obeys, spelled out."""


class _SpellingConsole(Console):
    """One that spells control characters out, which names in anybody's files may have."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(text.translate(_SPELLED), **options)


def stdout() -> Console:
    """The console for results."""
    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return _SpellingConsole(width=width, highlight=False, emoji=False)


def stderr() -> Console:
    """The console for everything else. Line 100 of a file, `file:100:`, is no emoji."""
    return _SpellingConsole(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def fail(message: str) -> None:
    """Say what went wrong."""
    stderr().print(f"[bold red]error:[/] {escape(message)}")


def refuse(message: str, *, is_help: bool) -> None:
    """Say what is wrong with the options; without any, the message is the help."""
    if is_help:
        stderr().print(message, markup=False)
    else:
        fail(message)


@contextmanager
def watch() -> Iterator["Watcher"]:
    """Somebody who shows a search as it runs: one display, or plain lines without a terminal."""
    console = stderr()
    if not console.is_terminal:
        yield PlainWatcher(console)
        return
    with LiveWatcher(console) as watcher:
        yield watcher


@contextmanager
def steps() -> Iterator[Callable[[int, int], None]]:
    """A progress bar for a single training, or plain lines without a terminal."""
    console = stderr()
    if not console.is_terminal:
        yield partial(tell_step, console)
        return
    with LiveWatcher(console) as watcher:
        yield lambda step, total: watcher.stepped((), step, total)


def _front_table(front: Front, in_the_way: Mapping[int, Sequence[str]] | None) -> Table:
    """A line for each point."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("trial", justify="right")
    table.add_column(escape(front.metric), justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("of backbone", justify="right")
    others = [name for name in front.worst if name != PARAMS]
    for name in others:
        table.add_column(COSTS[name].label, justify="right")
    table.add_column("merges")
    table.add_column("what it is")
    for point in front.points:
        marks = ("*" if point.trial == front.recommended else "") + (
            "k" if point.trial == front.knee else ""
        )
        table.add_row(
            marks,
            str(point.trial),
            f"{point.quality:.4f} ± {point.stderr:.4f}",
            f"{point.trainable_params:,}",
            percent(point.fraction),
            *(amount(cost_of(point, name), COSTS[name].unit) for name in others),
            "?" if in_the_way is None else ("no" if in_the_way[point.trial] else "yes"),
            escape(point.summary),
        )
    return table


def show_front(
    front: Front,
    folder: Path,
    in_the_way: Mapping[int, Sequence[str]] | None,
    advice: Advice,
    short: str | None,
    *,
    is_last: bool,
) -> None:
    """The front as a table, and what the search would use of it.

    Args:
        front: of a study.
        folder: of the study.
        in_the_way: for each trial what keeps it from becoming part of the weights, if known.
        advice: what is recommended.
        short: which of them were trained in part, if any.
        is_last: no final selection says more.
    """
    out = stdout()
    # Not as the table's title, which would be folded to the table's width.
    out.print(f"[italic]Pareto front of {escape(str(folder))}[/]", soft_wrap=True)
    out.print(_front_table(front, in_the_way))
    hints = stderr()
    if front.recommended is None:
        hints.print("no trial has been completed yet")
        return
    if advice.nothing_learnt is not None:
        tell_note(hints, advice.nothing_learnt)
    if short is not None:
        tell_note(hints, short)
    what = " is recommended" if is_last else " is the search's choice"
    hints.print(
        f"* trial {front.recommended}{'' if advice.trial is None else what}: the cheapest "
        f"within one standard error of the best{front.judged}.  k: the knee.  hypervolume "
        f"{front.hypervolume:.4f}"
    )
    hints.print(
        "Scores are on the rows that the search selected on, so they flatter the winner; heads "
        "are not counted."
    )


def show_next(folder: Path, advice: Advice) -> None:
    """What to do with the trial that is recommended, if there is one."""
    if advice.trial is not None:
        quoted = shlex.quote(str(folder))
        stderr().print(
            f"Next: autopeft test {quoted}   or: autopeft front {quoted} "
            f"--genotype {advice.trial} > genotype.yaml",
            markup=False,
        )


def show_record(record: "Record", folder: Path) -> None:
    """One trained genotype."""
    from autopeft.space.genotype_file import genotype_from_dict
    from autopeft.space.words import FROZEN, HEAD, describe

    out = stdout()
    nothing = HEAD if record.head_params else FROZEN
    out.print(escape(describe(genotype_from_dict(record.genotype), nothing)))
    out.print(f"parameters  {record.trainable_params:,} ({percent(record.fraction)})")
    out.print(f"head        {record.head_params:,}")
    for name, metric in record.metrics.items():
        out.print(f"{escape(f'{name:<11}')} {metric.value:.4f} ± {metric.stderr:.4f}")
    stderr().print(f"{record.steps} steps in {record.seconds:.1f} s; written to {folder}")


def show_opening(opening: "Opening") -> None:
    """What the test split said."""
    out = stdout()
    title = f"On {which_rows(opening.rows, 'test rows', opening.seen)}"
    out.print(f"[italic]{title}[/]", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("trial", justify="right")
    table.add_column(escape(opening.metric), justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("what it is")
    for tested in opening.results:
        metric = tested.metrics[opening.metric]
        table.add_row(
            tested.role,
            str(tested.trial),
            f"{metric.value:.4f} ± {metric.stderr:.4f}",
            f"{tested.trainable_params:,}",
            escape(tested.summary),
        )
    out.print(table)
    for note in opening.notes:
        tell_note(stderr(), note)
    if opening.nth > 1:
        stderr().print(f"This was look {opening.nth} at the test split; it is no longer unseen.")


def show_exported(exported: "Exported") -> None:
    """What was exported, why, and that it is equal."""
    out, hints = stdout(), stderr()
    out.print(
        f"trial {exported.choice.trial} -> {exported.folder} ({exported.target})", markup=False
    )
    hints.print(f"chosen: {exported.choice.reason}", markup=False)
    for note in exported.notes:
        hints.print(f"note: {note}", markup=False)
    proof = exported.proof
    if proof is not None:
        hints.print(f"loaded again in a fresh process: {proof.told}", markup=False)


def show_loaded(told: Mapping[str, Any]) -> None:
    """A loaded adapter, and what it says of texts."""
    out = stdout()
    for key in ("folder", "backbone", "summary", "parameters", "outputs"):
        value = f"{told[key]:,}" if key == "parameters" else told[key]
        out.print(f"{key:<11} {value}", markup=False)
    for row in told["texts"]:
        lines = (
            (row["text"], f"  {row['says']}")
            if told["writes"]
            else (f"{row['says']:<20} {row['text']}",)
        )
        for line in lines:
            out.print(line, markup=False)


def show_spaces(rows: Sequence[Mapping[str, Any]]) -> None:
    """The shipped spaces."""
    table = Table(box=None, pad_edge=False)
    for name in ("space", "draw", "slots", "coordinates", "sets of ops", "description"):
        table.add_column(name, justify="right" if name in _NUMBERS else "left")
    for row in rows:
        table.add_row(
            row["name"],
            row["draw"],
            str(row["slots"]),
            str(row["dimensions"]),
            short_count(row["cardinality"]),
            escape(row["description"]),
        )
    stdout().print(table)
    stderr().print("Counted on a BERT-base. Use one by its name, or your own by its path.")


_NUMBERS = {"slots", "coordinates", "sets of ops"}


def show_methods(rows: Sequence[Mapping[str, Any]]) -> None:
    """The named methods."""
    table = Table(box=None, pad_edge=False)
    table.add_column("method")
    table.add_column("parameters", justify="right")
    table.add_column("%", justify="right")
    table.add_column("what it is")
    table.add_column("source")
    for row in rows:
        table.add_row(
            row["name"],
            "-" if row["misfit"] else f"{row['params']:,}",
            "-" if row["misfit"] else percent(row["fraction"]),
            escape(row["summary"] or row["misfit"]),
            escape(row["source"].split(",")[0]),
        )
    stdout().print(table)
    stderr().print(f"Counted on {rows[0]['model']}, heads left aside.")


def show_method(row: Mapping[str, Any]) -> None:
    """One method in full."""
    out = stdout()
    out.print(f"{row['name']}: {escape(row['title'])}")
    out.print(f"source      {escape(row['source'])}")
    out.print(f"formula     {escape(row['formula'])}")
    trained = f", {row['trained']:,} while training" if row["trained"] != row["params"] else ""
    share = f"{percent(row['fraction'])} of {row['model']}"
    out.print(f"parameters  {row['params']:,} ({share}){trained}")
    for op in row["genotype"]["ops"]:
        more = " ".join(f"{k}={op[k]}" for k in ("activation", "scale") if k in op)
        sizes = op["sizes"]
        size = str(sizes[0]) if len(set(sizes)) == 1 else str(sizes)
        out.print(f"op          {op['form']} {op['read']} -> {op['write']} size={size} {more}")


def percent(fraction: float) -> str:
    """A fraction of the backbone, readable down to a few parameters."""
    return f"{100 * fraction:.3g} %" if fraction else "0 %"


def short_count(number: int) -> str:
    """A large count in powers of ten."""
    return f"{number:,}" if number < 10**9 else f"10^{len(str(number)) - 1}"
