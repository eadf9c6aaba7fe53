"""Primary contrasts in words: what a report says first."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from benchmarks.analysis.comparison import Comparison
from benchmarks.analysis.contrasts import Confirmed, primary_contrasts
from benchmarks.analysis.uncertainty import findable
from benchmarks.records.plain import told_budget

__all__ = ["contrast_lines", "points"]

NONE = (
    "No primary contrast was named before these records were made: all comparisons are exploratory."
)
OTHERS = "All other comparisons are exploratory."


def contrast_lines(
    comparisons: Iterable[Comparison], shown_keys: Collection[str] | None = None
) -> list[str]:
    """A sentence for each primary contrast, and one on what all other comparisons are.

    Args:
        comparisons: all of a folder.
        shown_keys: of the cells of whose comparisons the contrasts are told; None for all.
    """
    found = primary_contrasts(comparisons, shown_keys)
    if not found:
        return [NONE]
    return [*map(_told, found), OTHERS]


def points(detectable: float | None) -> str:
    """A detectable difference in points; "none" where no true one is found, a dash for None."""
    size = findable(detectable)
    if size is None:
        return "–"
    return "none" if math.isinf(size) else f"{100 * size:.1f}"


def _told(found: Confirmed) -> str:
    contrast = found.primary.contrast
    new, base = found.sides
    asked = (
        f"Primary contrast: {new} against {base} at "
        f"{told_budget(contrast.budget, found.primary.metric)}, {found.title}"
    )
    number = f"{found.gain.with_interval('+.1f', 100)} points" if found.gain else "no difference"
    if found.problem:
        return f"{asked}: {number}, not confirmatory ({found.problem})."
    verdict = "a clear difference" if found.is_clear else "no clear difference"
    return (
        f"{asked}, named before the run: {number}, {verdict} (p = {found.p_value:.2g}; "
        f"detectable: {points(found.detectable)})."
    )
