"""The table of results for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from benchmarks.records.plain import in_cell

if TYPE_CHECKING:
    from benchmarks.analysis.comparison import Comparison


__all__ = ["terminal_table"]


def terminal_table(comparison: Comparison) -> Table:
    """The columns that fit a narrow terminal; the written tables have them all."""
    from benchmarks.analysis.comparison import NOISE, is_noisy_speed, share, speedup
    from benchmarks.analysis.uncertainty import shown

    title = in_cell(comparison.timed_heading)
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    table.add_column("budget", justify="right")
    table.add_column("method", overflow="fold")
    for heading in ("MACs", "top-1", "Δ unif.", "speed"):
        table.add_column(heading, justify="right")
    for row in comparison.rows:
        named = comparison.told_budget(row), in_cell(comparison.label(row))
        if row.lost:
            table.add_row(*named, f"[red]{row.seeds}[/]")
            continue
        top1 = row.mean(lambda record: record.top1.finetuned)
        macs = row.mean(lambda record: share(record, "macs"))
        speed = row.mean_of_times(lambda record: speedup(record, smallest=False))
        told = speed.shown(".2f") + "x" if speed else ""
        is_noise = is_noisy_speed(row, smallest=False)
        cells = (
            macs.shown(".0f", 100) + " %" if macs else "",
            top1.shown(".1f", 100) if top1 else "",
            row.gain.shown("+.1f", 100) if row.gain else "",
            f"[dim]{told} {NOISE}[/]" if told and is_noise else told,
        )
        table.add_row(*named, *cells)
    if control := comparison.control(smallest=False):
        parent = shown(comparison.parent_top1, ".1f", 100)
        table.add_row("", "A/A", "100 %", parent, "", control.shown(".2f") + "x")
    return table
