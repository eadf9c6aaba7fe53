"""Messages and exit status of a run that was stopped, or whose cells failed."""

import signal

from rich.console import Console
from rich.markup import escape

from benchmarks.running.run_cells import Outcomes, Stopped

__all__ = ["tell_stop", "tell_unsettled"]

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


def tell_unsettled(outcomes: Outcomes, console: Console) -> int:
    """Name the cells that failed or were cancelled; return the exit status."""
    if not outcomes.unsettled:
        return 0
    counts = [f"{outcomes[each]} {each}" for each in ("failed", "cancelled") if outcomes[each]]
    cells = "cell" if len(outcomes.unsettled) == 1 else "cells"
    console.print(
        f"[red]{' and '.join(counts)} {cells}; their records say why, "
        "the next run tries them again:[/]"
    )
    for record in outcomes.unsettled[:MOST_NAMES]:
        console.print(f"  {escape(record.id)}", soft_wrap=True, highlight=False)
    if (left := len(outcomes.unsettled) - MOST_NAMES) > 0:
        console.print(f"  and {left} more")
    return 1
