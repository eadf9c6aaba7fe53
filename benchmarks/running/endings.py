"""Messages and exit status of a run that was stopped, or whose cells failed."""

import signal
from collections.abc import Sequence

from rich.console import Console

from benchmarks.records.plain import counted, in_markup
from benchmarks.running.run_cells import Outcomes, Stopped
from benchmarks.running.run_suite import SuiteRun

__all__ = ["tell_left", "tell_stop", "tell_unsettled"]

BY_SIGNAL = 128
"""Added to its number, as shells do: 130 after Ctrl-C, 143 after SIGTERM."""

MOST_NAMES = 20
"""Cells that are named; the others are counted."""


def tell_stop(stop: KeyboardInterrupt, console: Console) -> int:
    """Say what a stopped run leaves; return the exit status."""
    number = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
    by = "" if number == signal.SIGINT else f" by {number.name}"
    console.print(f"[yellow]stopped{by}; what was finished is recorded, run again to resume[/]")
    return BY_SIGNAL + number


def tell_left(run: SuiteRun, console: Console) -> None:
    """Say what was not begun, or could not be timed."""
    if run.is_over and (run.left or run.waiting or run.untimed):
        parts = [f"{counted(run.left, 'cell')} left"] * bool(run.left)
        if run.waiting:
            parts.append(f"{counted(run.waiting, 'longer control')} when the cost is known")
        if run.untimed:
            parts.append(f"{counted(run.untimed, 'network')} not timed")
        console.print(f"time is up: {', '.join(parts)}; run again")
    elif run.untimed:
        console.print(f"not timed: {counted(run.untimed, 'network')}; zoo time tries again")


def tell_unsettled(outcomes: Outcomes, console: Console) -> int:
    """Name what was tried again, and what failed or was cancelled; return the exit status.

    It is 1 if a cell failed or was cancelled, by its last try.
    """
    if outcomes.deaths:
        console.print("[yellow]tried once more alone, since its process died:[/]")
        _name(outcomes.deaths, console)
    if not outcomes.unsettled:
        return 0
    counts = [f"{outcomes[each]} {each}" for each in ("failed", "cancelled") if outcomes[each]]
    total = len(outcomes.unsettled)
    cells = "cell; its record says" if total == 1 else "cells; their records say"
    console.print(f"[red]{' and '.join(counts)} {cells} why, the next run tries again:[/]")
    _name([record.id for record in outcomes.unsettled], console)
    return 1


def _name(lines: Sequence[str], console: Console) -> None:
    """Prints the first of many lines, which a cell's settings are part of."""
    for line in lines[:MOST_NAMES]:
        console.print(f"  {in_markup(line, 500)}", soft_wrap=True, highlight=False)
    if (left := len(lines) - MOST_NAMES) > 0:
        console.print(f"  and {left} more")
