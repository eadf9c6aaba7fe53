"""Which variant of a method is drawn as the method itself, and what a legend calls the others.

Reads records and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.lines import Line2D

from benchmarks.analysis.comparison import Comparison, Row
from benchmarks.figures.style import legend_text, look
from benchmarks.records.cell import PARENT, REFERENCE

__all__ = ["entries_of", "is_plain"]


def is_plain(comparison: Comparison, row: Row) -> bool:
    """Whether a row is of its method's plain variant: of all shortest names the first by letter."""
    beside = {each.method for each in comparison.all_rows if each.cell.method == row.cell.method}
    return row.method == min(beside, key=lambda name: (len(name), name))


def entries_of(comparisons: Sequence[Comparison]) -> tuple[set[str], list[Line2D]]:
    """What a legend of rows names: methods whose plain variant is shown, and further entries.

    These are of the controls, which no method's name tells, and of variants without their plain
    one beside them, so that none takes its name.
    """
    rows = [(comparison, row) for comparison in comparisons for row in comparison.rows]
    methods = {row.cell.method for comparison, row in rows if is_plain(comparison, row)}
    methods.discard(PARENT)
    further = []
    if any(row.cell.method == PARENT for _, row in rows):
        colour, marker = look(PARENT)
        further.append(Line2D([], [], color=colour, marker=marker, ls=(0, (5, 2, 1, 2)),
                              label="parent, fine-tuned"))  # fmt: skip
    if any(row.cell.longer for _, row in rows):
        further.append(_hollow(REFERENCE, f"{REFERENCE}, fine-tuned longer"))
    alone = {
        comparison.label(row): row.cell.method
        for comparison, row in rows
        if row.cell.method not in {*methods, PARENT} and not row.cell.longer
    }
    return methods, [*further, *(_hollow(alone[label], label) for label in sorted(alone))]


def _hollow(method: str, label: str) -> Line2D:
    """A variant's entry, which has its method's look."""
    colour, marker = look(method)
    label = legend_text(label)
    return Line2D([], [], color=colour, marker=marker, ms=4, mfc="none", label=label)
