"""Line styles of the budgets of a figure, the same in all of its panels, and their legend.

Reads records and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from matplotlib.lines import Line2D

from benchmarks.analysis.comparison import Row
from benchmarks.figures.style import ink
from benchmarks.records.plain import asked_budget, told_budget

__all__ = ["Dashes", "dashes_of", "legend_of"]

Dashes: TypeAlias = Mapping[tuple[str, float], str]
"""A line style by metric and budget."""

DASHES = ("-", "--", ":", "-.")
"""The largest budget's first."""


def dashes_of(rows: Iterable[Row]) -> Dashes:
    """A line style for each metric and budget that rows have, the largest budget first."""
    asked = sorted({row.asked for row in rows}, key=lambda each: (each[0], -each[1]))
    return {each: DASHES[place % len(DASHES)] for place, each in enumerate(asked)}


def legend_of(dashes: Dashes) -> list[Line2D]:
    """A line for each budget, with its metric where there are several."""
    has_metrics = len({metric for metric, _ in dashes}) > 1
    return [
        Line2D(
            [], [], color=ink(), ls=dash,
            label=f"budget {told_budget(budget, metric) if has_metrics else asked_budget(budget)}",
        )
        for (metric, budget), dash in dashes.items()
    ]  # fmt: skip
