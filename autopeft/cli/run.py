"""Searching, and showing the front of what was found."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autopeft.cli import console
from autopeft.cli.options import Format

if TYPE_CHECKING:
    from autopeft.study.spec import StudySpec


def search_and_show(spec: "StudySpec", folder: Path, base: Path, output: Format) -> None:
    """Run a search that can be interrupted, then show what it found."""
    from autopeft.cli.signals import interruptible
    from autopeft.study.search import run_search

    with interruptible(folder), console.watch() as watcher:
        found = run_search(spec, folder, base=base, watcher=watcher)
    show_front(found.folder, output)


def show_what_it_would_be(spec: "StudySpec", folder: Path, base: Path, output: Format) -> None:
    """A study that is only checked and counted, on stdout."""
    from autopeft.study.dry_run import dry_run

    found = dry_run(spec, folder, base)
    if output is Format.JSON:
        typer.echo(json.dumps(found.to_dict(), allow_nan=False))
        return
    from autopeft.cli.planned import show_dry_run

    show_dry_run(found)


def show_front(folder: Path, output: Format) -> None:
    """The Pareto front of a study on stdout."""
    from autopeft.advice import advice_of, trained_in_part
    from autopeft.cli.listings import merging
    from autopeft.front_file import front_to_dict
    from autopeft.selection_file import selection_to_dict
    from autopeft.study.folder import Study

    study = Study(folder)
    found = study.front()
    in_the_way = merging(found, study.shape())
    selection = study.selection()
    if output is Format.JSON:
        more: dict[str, Any] = {"selection": selection_to_dict(selection)} if selection else {}
        more["not_mergeable"] = in_the_way
        typer.echo(json.dumps({**front_to_dict(found), **more}, allow_nan=False))
        return
    records = study.records()
    scored = {record.trial for record in records if found.metric in record.metrics}
    advice = advice_of(found, selection, study.constant(), scored=len(scored))
    short = trained_in_part(records, {point.trial for point in found.points}, study.whole_steps())
    console.show_front(found, folder, in_the_way, advice, short, is_last=selection is None)
    if selection is not None:
        from autopeft.cli.selected import show_selection

        show_selection(selection, advice)
    console.show_next(folder, advice)
