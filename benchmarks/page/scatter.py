"""Points of the page's scatter: a record each, with its accuracy, its costs and where it is told.

Reads records and nothing else.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.analysis.comparison import Comparison, Row
from benchmarks.figures.style import DARK, LIGHT, drawn_for, look
from benchmarks.records.cell import PARENT
from benchmarks.records.plain import visible
from benchmarks.records.record import TOTAL, Record, spent_macs
from benchmarks.records.runtime import Measured

__all__ = ["scatter"]


def scatter(
    comparisons: Sequence[Comparison], anchor: Callable[[Record], str]
) -> dict[str, Any]:  # Any: as JSON
    """What the script draws, as JSON.

    A row that lost a seed has no points, as in the figures.

    Args:
        comparisons: one is shown at a time.
        anchor: where the page tells a record.
    """
    methods = {row.cell.method for each in comparisons for row in each.rows}
    return {
        "looks": {visible(method): _look(method) for method in sorted(methods)},
        "panels": [panel for each in comparisons if (panel := _panel(each, anchor))["points"]],
    }


def _look(method: str) -> list[str]:
    """Colour on a light ground and on a dark one, and the marker."""
    colours = []
    for canvas in (LIGHT, DARK):
        with drawn_for(canvas):
            colours.append(look(method)[0])
    return [*colours, look(method)[1]]


def _panel(comparison: Comparison, anchor: Callable[[Record], str]) -> dict[str, Any]:
    batches = sorted({*comparison.cell.latency.batches})
    typical = {batch: _typical(comparison, batch) for batch in batches}
    timed = [batch for batch in batches if typical[batch]]
    axes = ["MACs, millions", *(f"Latency at batch {batch}, ms" for batch in timed),
            "Total cost of search and fine-tuning, TMACs"]  # fmt: skip
    points = [
        _point(comparison, row, record, [(batch, typical[batch]) for batch in timed], anchor)
        for row in comparison.rows
        if not row.lost
        for record in row.ok
        if record.top1.finetuned is not None
    ]
    parent = comparison.parent_top1
    return {
        # Where methods meet at budgets they are drawn a little apart, by 3 pixels at most.
        "dodged": [comparison.cell.metric == "macs", *(False for _ in axes[1:])],
        "title": visible(f"{comparison.heading}, {comparison.hardware}"),
        "axes": axes,
        "parent": 100 * parent.mean if parent else None,
        "points": points,
    }


def _point(
    comparison: Comparison,
    row: Row,
    record: Record,
    timed: Sequence[tuple[int, float]],
    anchor: Callable[[Record], str],
) -> dict[str, Any]:
    times = [(_measured(record, batch), parent_ms) for batch, parent_ms in timed]
    macs = record.size.macs if record.size else None
    return {
        "x": [
            macs / 1e6 if macs and row.cell.method != PARENT else None,  # that is the dotted line
            *(found.ratio.median * parent_ms if found else None for found, parent_ms in times),
            spent_macs(record, TOTAL) / 1e12,
        ],
        "noise": [False, *(bool(found and found.is_noise) for found, _ in times), False],
        "y": 100 * (record.top1.finetuned or 0.0),
        "method": visible(row.cell.method),
        "label": visible(
            f"{comparison.label(row)} {comparison.told_budget(row)}, seed {record.cell.seed}"
        ),
        "anchor": anchor(record),
    }


def _measured(record: Record, batch: int) -> Measured | None:
    return next((found for found in record.latency if found.batch == batch), None)


def _typical(comparison: Comparison, batch: int) -> float:
    """The parent's median time over all timings, which paired ratios are multiplied by; 0: none."""
    known = [found for record in comparison.timed if (found := _measured(record, batch))]
    return statistics.median(found.parent_ms.median for found in known) if known else 0.0
