"""The final selection as people see it."""

from typing import cast

from rich.markup import escape
from rich.table import Table

from autopeft.advice import Advice
from autopeft.cli.console import percent, stderr, stdout
from autopeft.objectives import COSTS, CostName, amount
from autopeft.records import Objective
from autopeft.selection import Selection


def show_selection(selection: Selection, advice: Advice) -> None:
    """The contenders with intervals and what the search thought of them; then the verdict.

    Args:
        selection: of a study.
        advice: what is recommended.
    """
    table = Table(box=None, pad_edge=False)
    for name in ("", "trial", "role", selection.metric, "95 % interval", "in the search"):
        table.add_column(escape(name), justify="right" if name in _NUMBERS else "left")
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
    out.print(f"[italic]Trained anew, on {selection.which_rows}[/]", soft_wrap=True)
    out.print(table)
    out.print(escape(selection.verdict))
    hints = stderr()
    for note in selection.notes:
        hints.print(f"[yellow]note:[/] {escape(note)}")
    what = "" if advice.trial is None else " is recommended"
    hints.print(
        f"* trial {selection.recommended}{what}: the cheapest within one standard error of the "
        f"best. Means of {_seeds(selection)} fresh seeds; intervals are over new seeds and new "
        "rows."
    )
    if selection.flattery:
        hints.print(escape(selection.flattery))


_NUMBERS = {"trial", "in the search"}


def _cost(objective: Objective | None) -> str:
    if objective is None:
        return "?"
    how = f" {objective.how}" if objective.how else ""
    return escape(f"{amount(objective.value, objective.unit)}{how}")


def _seeds(selection: Selection) -> str:
    numbers = sorted({item.seeds for item in selection.contenders})
    return " or ".join(map(str, numbers))
