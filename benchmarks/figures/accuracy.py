"""Accuracy against MACs, parameters, latency and training cost, with published points beside.

Reads records and published numbers and nothing else.
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from benchmarks.analysis.comparison import Comparison, Row, spent_macs
from benchmarks.analysis.published import published_for
from benchmarks.figures.style import legend_below, look, new_panels, set_title
from benchmarks.records.cell import PARENT, REFERENCE, Cell
from benchmarks.records.plain import figure_text
from benchmarks.records.record import TOTAL, Record
from benchmarks.records.runtime import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "accuracy_against_cost",
    "accuracy_against_latency",
    "accuracy_against_macs",
    "accuracy_against_params",
]

Number = Callable[[Record], float | None]

NOTE_WIDTH = 52
"""Characters in a line of a panel's note."""
LONGEST_NOTE = 400


@dataclass(frozen=True)
class Panel:
    """What one panel shows.

    Attributes:
        comparison: whose rows.
        cost: of a pruned network, the horizontal axis.
        parent_cost: of the parent.
        label: of the horizontal axis.
        published: cost of a published point on that axis; None if papers do not print it.
        is_from_zero: whether the axis starts at zero.
    """

    comparison: Comparison
    cost: Number
    parent_cost: Number
    label: str
    published: Literal["macs", "params"] | None = None
    is_from_zero: bool = True


def accuracy_against_macs(comparisons: Sequence[Comparison]) -> Figure:
    """Top-1 after fine-tuning against MACs, a panel for each comparison, a line for each method."""
    return _against_size(comparisons, "macs", "MACs, millions")


def accuracy_against_params(comparisons: Sequence[Comparison]) -> Figure:
    """The same against parameters."""
    return _against_size(comparisons, "params", "Parameters, millions")


def _against_size(
    comparisons: Sequence[Comparison], metric: Literal["macs", "params"], label: str
) -> Figure:
    def pruned(record: Record) -> float | None:
        value = getattr(record.size, metric, None)
        return value / 1e6 if value else None

    def parent(record: Record) -> float | None:
        return getattr(record.size, f"full_{metric}") / 1e6 if record.size else None

    return _figure([Panel(each, pruned, parent, label, metric) for each in comparisons])


def accuracy_against_cost(comparisons: Sequence[Comparison]) -> Figure:
    """The same against all MACs spent: training the parent, deciding and fine-tuning."""
    label = "Total training cost, MACs, trillions"
    return _figure(
        [Panel(each, _spent, _spent_on_parent, label, is_from_zero=False) for each in comparisons]
    )


def _spent(record: Record) -> float:
    return spent_macs(record, ["baseline", *TOTAL]) / 1e12  # not what its own finish cost


def _spent_on_parent(record: Record) -> float:
    return spent_macs(record, ["baseline"]) / 1e12


def accuracy_against_latency(comparisons: Sequence[Comparison]) -> Figure:
    """The same against latency, a panel for each comparison and batch.

    A machine drifts between cells, and parent and pruned network were timed in the same rounds; so
    the pruned network's time is its paired ratio times the parent's median over all records.
    """
    return _figure(
        [
            _latency_panel(comparison, batch)
            for comparison in comparisons
            for batch in sorted({*comparison.cell.latency.batches})
        ]
    )


def _latency_panel(comparison: Comparison, batch: int) -> Panel:
    def measured(record: Record) -> Measured | None:
        return next((found for found in record.latency if found.batch == batch), None)

    times = [found.parent_ms.median for record in comparison.ok if (found := measured(record))]
    typical = statistics.median(times) if times else None

    def pruned(record: Record) -> float | None:
        found = measured(record)
        return found.ratio.median * typical if found and typical else None

    def parent(record: Record) -> float | None:
        return typical if measured(record) else None

    return Panel(comparison, pruned, parent, f"Latency at batch {batch}, ms (paired with parent's)")


def _figure(panels: Sequence[Panel]) -> Figure:
    figure, axes = new_panels(len(panels))
    handles = [Line2D([], [], color="black", marker="*", markersize=10, ls=":", label="parent")]
    for axis, panel in zip(axes, panels, strict=True):
        lines: dict[str, list[Row]] = {}
        for row in panel.comparison.rows:
            lines.setdefault(panel.comparison.label(row), []).append(row)
        plain = _plain_lines(lines.values())
        for rows in lines.values():
            _draw_line(axis, rows, panel.cost, is_plain=rows is plain[rows[0].cell.method])
        _draw_parent(axis, panel)
        handles += _draw_published(axis, panel, known=[handle.get_label() for handle in handles])
        axis.set_xlabel(panel.label)
        axis.set_ylabel("Test top-1, %")
        title = figure_text(panel.comparison.title)
        notes = [title, _seeds(panel.comparison), _lost(panel.comparison)]
        set_title(axis, "\n".join(filter(None, notes)), fontsize=9)
        axis.grid(alpha=0.3)
        # A panel without a point has no limits.
        if panel.is_from_zero and math.isfinite(axis.dataLim.x1) and axis.dataLim.x1 > 0:
            axis.set_xlim(0, 1.06 * axis.dataLim.x1)
        axis.xaxis.set_major_locator(MaxNLocator(6))
    cells = [row.cell for panel in panels for row in panel.comparison.rows]
    handles += _controls(cells)
    legend_below(figure, {cell.method for cell in cells if cell.method != PARENT}, handles)
    return figure


def _controls(cells: Sequence[Cell]) -> list[Line2D]:
    """Legend entries of the controls that methods' names do not tell."""
    handles = []
    if any(cell.method == PARENT for cell in cells):
        colour, marker = look(PARENT)
        handles.append(Line2D([], [], color=colour, marker=marker, label="parent, fine-tuned"))
    if any(cell.longer for cell in cells):
        colour, marker = look(REFERENCE)
        label = f"{REFERENCE}, fine-tuned longer"
        handles.append(Line2D([], [], color=colour, marker=marker, ms=4, mfc="none", label=label))
    return handles


def _plain_lines(lines: Iterable[list[Row]]) -> dict[str, list[Row]]:
    """By method, the line of its plain variant: the one with the shortest name."""
    longest_first = sorted(lines, key=lambda rows: -len(rows[0].method))
    return {rows[0].cell.method: rows for rows in longest_first}


def _draw_line(axis: Axes, rows: Sequence[Row], cost: Number, *, is_plain: bool) -> None:
    """One method over its budgets; bars are bootstrap intervals where there are several seeds.

    Variants of a method have its look, but hollow and small, and no bars.
    """
    points = []
    for row in rows:
        x, y = row.mean(cost), row.mean(lambda record: record.top1.finetuned)
        if x and y:
            low, high = y.interval or (y.mean, y.mean)
            points.append((x.mean, 100 * y.mean, 100 * (y.mean - low), 100 * (high - y.mean)))
    if not points:
        return
    xs, ys, below, above = zip(*sorted(points), strict=True)
    colour, marker = look(rows[0].cell.method)
    if not is_plain:
        axis.plot(xs, ys, color=colour, marker=marker, ms=4, mfc="none", lw=0.5, alpha=0.7)
        return
    axis.errorbar(
        xs, ys, yerr=(below, above) if any((*below, *above)) else None,
        color=colour, marker=marker, ms=6, mec="white", mew=0.6, lw=1.1, capsize=3, alpha=0.9,
        zorder=3,
    )  # fmt: skip


def _draw_parent(axis: Axes, panel: Panel) -> None:
    everything = Row(panel.comparison.cell, tuple(panel.comparison.ok))  # lost none
    x = everything.mean(panel.parent_cost)
    y = everything.mean(lambda record: record.top1.parent)
    if x and y:
        axis.axhline(100 * y.mean, color="black", lw=0.8, ls=":")
        axis.plot([x.mean], [100 * y.mean], color="black", marker="*", ms=11, ls="none")


def _draw_published(axis: Axes, panel: Panel, known: Sequence[object]) -> list[Line2D]:
    """Hollow markers for published points of the same network and data; their legend entries."""
    handles: list[Line2D] = []
    for point in published_for(panel.comparison.cell):
        value = getattr(point, panel.published) if panel.published else None
        if not value:
            continue
        colour, marker = look(point.method)
        axis.plot(
            [value / 1e6],
            [100 * point.top1],
            color=colour,
            marker=marker,
            mfc="none",
            ms=8,
            ls="none",
        )
        label = f"{point.method}, published"
        if label not in (*known, *(handle.get_label() for handle in handles)):
            handles.append(
                Line2D([], [], color=colour, marker=marker, mfc="none", ls="none", label=label)
            )
    return handles


def _lost(comparison: Comparison) -> str:
    """Names the rows that have no point, since seeds of theirs failed; empty if there are none."""
    budgets: dict[str, list[str]] = {}
    for row in comparison.rows:
        if row.lost:
            budgets.setdefault(comparison.label(row), []).append(row.budget)
    told = "; ".join(f"{label} {', '.join(found)}" for label, found in sorted(budgets.items()))
    return textwrap.fill(figure_text(f"no mean: {told}", LONGEST_NOTE), NOTE_WIDTH) if told else ""


def _seeds(comparison: Comparison) -> str:
    """How many seeds stand behind a point, and what its bars are."""
    seeds = {len(row.ok) for row in comparison.rows if row.ok and not row.lost}
    if not seeds:
        return "no mean"
    low, high = min(seeds), max(seeds)
    if high == 1:
        return "one seed"
    count = f"{high}" if low == high else f"{low} to {high}"
    return f"mean and bootstrap 95 % interval, {count} seeds"
