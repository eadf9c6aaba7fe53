"""What `zoo compare` reads from the command line and prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.analysis.losses import CHECKS, Check
from benchmarks.analysis.regression import TOLERANCES, Verdict, require_limits
from benchmarks.records.plain import counted, in_cell, in_markup, visible
from benchmarks.records.strict import suggest

__all__ = ["read_checks", "read_tolerances", "show_verdict"]

MOST = 20
"""Things that could not be judged that are named; the others are counted."""


def read_checks(asked: Sequence[str]) -> list[Check]:
    """The checks asked for, all but the configuration if none is.

    Raises:
        ValueError: if a check is unknown.
    """
    for name in asked:
        if name not in CHECKS:
            shown = visible(name, 60)
            raise ValueError(f"unknown check {shown!r}; {suggest(shown, CHECKS)}")
    return [name for name in CHECKS if name in (asked or {*CHECKS} - {"config"})]


def read_tolerances(asked: Sequence[str]) -> dict[Check, float]:
    """The tolerances, some of them given as `CHECK=SIZE`.

    Raises:
        ValueError: naming one that cannot be read.
    """
    tolerances = dict(TOLERANCES)
    for text in asked:
        name, _, size = text.partition("=")
        (check,) = read_checks([name])
        try:
            tolerances[check] = float(size)
        except ValueError:
            raise ValueError(f"tolerance {text!r} is not CHECK=SIZE, e.g. accuracy=0.02") from None
    require_limits(tolerances)
    return tolerances


def show_verdict(verdict: Verdict, console: Console) -> None:
    """Print what changed, what was left out, and one line that says whether it got worse."""
    console.print(_changes(verdict))
    for note in verdict.notes:
        console.print(f"[dim]{in_markup(note)}[/]")
    for cell in verdict.broken:
        console.print(f"[red]no result any more:[/] {in_markup(cell, 500)}", soft_wrap=True)
    for what in verdict.unjudged[:MOST]:
        console.print(f"[red]cannot be judged:[/] {in_markup(what, 500)}", soft_wrap=True)
    if len(verdict.unjudged) > MOST:
        console.print(f"[red]cannot be judged:[/] {len(verdict.unjudged) - MOST} more")
    if verdict.is_worse:
        console.print("[red]worse by more than noise[/]")
    elif verdict.unjudged:
        console.print(
            f"[red]not judged whole[/]: {counted(len(verdict.unjudged), 'obstacle')}, see above"
        )
    else:
        console.print("[green]nothing got worse by more than noise[/]")


def _changes(verdict: Verdict) -> Table:
    """What changed: all cells always, others only where they stand out."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check")
    table.add_column("cells", overflow="fold")
    for heading in ("pairs", "change", "noise ±"):
        table.add_column(heading, justify="right")
    table.add_column("")
    colours = {"worse": "red", "better": "green", "same": "dim"}
    for found in verdict.findings:
        if found.verdict == "same" and found.group != "all cells":
            continue
        # A loss of accuracy is a fall; a loss of the others is a growth.
        sign = -1 if found.check in ("accuracy", "recalibrated") else 1
        change = f"{100 * sign * found.loss + 0:+.1f} %"
        table.add_row(
            found.check,
            in_cell(f"{found.group}, on {found.device}" if found.device else found.group),
            str(found.pairs),
            change,
            f"{100 * found.noise:.1f} %",
            f"[{colours[found.verdict]}]{found.verdict}[/]",
        )
    return table
