"""The final selection as people see it."""

from typing import cast

from rich.markup import escape
from rich.table import Table

from autopeft.cli.console import percent, stderr, stdout
from autopeft.objectives import COSTS, CostName, amount
from autopeft.records import Objective
from autopeft.selection import Selection


def show_selection(selection: Selection) -> None:
    """The contenders with intervals and what the search thought of them; then the verdict."""
    table = Table(
        title=f"Trained anew, on {selection.rows:,} rows that the search has not seen",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name in ("", "trial", "role", selection.metric, "95 % interval", "in the search"):
        table.add_column(name, justify="right" if name in {"trial", "in the search"} else "left")
    table.add_column("parameters", justify="right")
    table.add_column("of backbone", justify="right")
    costs = list(dict.fromkeys(name for item in selection.contenders for name in item.costs))
    for name in costs:
        table.add_column(COSTS[cast("CostName", name)].label, justify="right")
    table.add_column("what it is")
    for item in selection.contenders:
        table.add_row(
            "*" if item.trial == selection.recommended else "",
            str(item.trial),
            item.role_in_words,
            f"{item.quality:.4f}",
            f"{item.low:.4f} to {item.high:.4f}",
            "-" if item.search_quality is None else f"{item.search_quality:.4f}",
            f"{item.trainable_params:,}",
            percent(item.fraction),
            *(_cost(item.costs.get(name)) for name in costs),
            escape(item.summary),
        )
    out = stdout()
    out.print(table)
    out.print(escape(selection.verdict))
    hints = stderr()
    for note in selection.notes:
        hints.print(f"[yellow]note:[/] {escape(note)}")
    hints.print(
        f"* trial {selection.recommended}: the cheapest within one standard error of the best. "
        f"Means of {_seeds(selection)} fresh seeds; intervals are over new seeds and new rows."
    )
    if selection.drop is not None:
        hints.print(
            f"From the search's rows to these the points of its front lost {selection.drop:.4f} "
            f"of {selection.metric} in the mean."
        )


def _cost(objective: Objective | None) -> str:
    if objective is None:
        return "?"
    how = f" {objective.how}" if objective.how else ""
    return f"{amount(objective.value, objective.unit)}{how}"


def _seeds(selection: Selection) -> str:
    numbers = sorted({item.seeds for item in selection.contenders})
    return " or ".join(map(str, numbers))
