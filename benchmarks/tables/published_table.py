"""Published points as a table, for a docs page and beside the records of the same network and data.

Reads records and published numbers and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.analysis.comparison import Comparison
from benchmarks.analysis.published import Point, published_for
from benchmarks.records.plain import in_markdown
from benchmarks.tables.markdown import markdown_table

__all__ = ["points_table", "published_table"]

HEADINGS = ("Method", "MMACs", "Top-1 %", "Unpruned, %", "Parameters, M", "Source", "Note")

CAVEAT = (
    "Printed by others, each with its own parent, recipe and counter of MACs; nothing here was run "
    "by this project. (c): MACs computed from a share that the source prints."
)


def published_table(comparisons: Sequence[Comparison]) -> str:
    """Markdown: what others print for the networks and data of some records; empty if nothing."""
    found: dict[str, tuple[Point, ...]] = {}
    for comparison in comparisons:
        title = f"{comparison.cell.model.title} on {comparison.cell.data.title}"
        if points := published_for(comparison.cell):
            found[title] = tuple(dict.fromkeys((*found.get(title, ()), *points)))
    parts = [f"### {in_markdown(title)}\n\n{points_table(each)}" for title, each in found.items()]
    return "\n".join([f"{CAVEAT}\n", *parts]) if parts else ""


def points_table(points: Iterable[Point]) -> str:
    """Markdown: one row for each point, the costliest first and the best first among equals."""
    ordered = sorted(points, key=lambda point: (-point.macs, -point.top1, point.method))
    return markdown_table(HEADINGS, "lrrrrll", map(_cells, ordered))


def _cells(point: Point) -> list[str]:
    computed = " (c)" if point.macs_from == "computed" else ""
    size = f"images of {point.image_size} pixels" if point.image_size else ""
    return [
        point.method,
        f"{point.macs / 1e6:,.1f}{computed}",
        f"{100 * point.top1:.2f}",
        f"{100 * point.parent_top1:.2f}" if point.parent_top1 is not None else "–",
        f"{point.params / 1e6:.2f}" if point.params is not None else "–",
        point.source,
        "; ".join(filter(None, (size, point.note))),
    ]
