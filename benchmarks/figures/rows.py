"""Figures with a row for each method and budget: cost by phase, and kept widths.

Reads records and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.analysis.comparison import Comparison, Row
from benchmarks.figures.style import LABEL, name_rows, new_panels, set_title
from benchmarks.records.plain import figure_text
from benchmarks.records.record import Group, Phase, spent_macs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["kept_widths", "training_cost"]

# Of the common finish: what a method's own costs is no cost of its decision.
PHASE_COLOURS: dict[Phase, str] = {
    "baseline": "#DDDDDD",
    "scoring": "#FDBE85",
    "supernet": "#BAE4B3",
    "search": "#9ECAE1",
    "finetune": "#BCBDDC",
}
PHASE_NAMES: dict[Phase, str] = {"finetune": "fine-tuning", "baseline": "parent training"}


def training_cost(comparisons: Sequence[Comparison]) -> Figure:
    """MACs by phase, stacked, a bar for each method and budget; none for one that lost seeds."""
    bars = max(len(comparison.rows) for comparison in comparisons)
    figure, axes = new_panels(len(comparisons), height=0.9 + 0.2 * bars)
    for axis, comparison in zip(axes, comparisons, strict=True):
        rows = _by_budget(comparison)
        left = [0.0] * len(rows)
        for phase in PHASE_COLOURS:
            widths = [_mean_tmacs(row, phase) for row in rows]
            axis.barh(
                range(len(rows)), widths, left=left, color=PHASE_COLOURS[phase],
                height=0.7, edgecolor="#666666", lw=0.4,
            )  # fmt: skip
            left = [start + width for start, width in zip(left, widths, strict=True)]
        _name(axis, comparison, rows)
        axis.set_xlabel("TMACs, forward and backward", fontsize=9)
        set_title(axis, figure_text(comparison.title), fontsize=10, loc="right")
        axis.grid(axis="x", alpha=0.3)
    used = [phase for phase in PHASE_COLOURS if any(_has_phase(c, phase) for c in comparisons)]
    handles = [
        Patch(
            facecolor=PHASE_COLOURS[phase], edgecolor="#666666",
            label=PHASE_NAMES.get(phase, phase),
        )
        for phase in used
    ]  # fmt: skip
    columns = len(used) if len(axes) > 1 else 3
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def kept_widths(comparisons: Sequence[Comparison]) -> Figure:
    """Share of channels kept in each group, stages apart, a row for each method and budget.

    The row of a method that lost seeds is blank.
    """
    groups = max(len(_groups(comparison)) for comparison in comparisons)
    heights = [2.1 + 0.17 * len(comparison.rows) for comparison in comparisons]
    figure = Figure((max(6.0, 2.6 + 0.2 * groups), sum(heights)), layout="constrained")
    axes = list(figure.subplots(len(comparisons), squeeze=False, height_ratios=heights).flat)
    for axis, comparison in zip(axes, comparisons, strict=True):
        rows, found = _by_budget(comparison), _groups(comparison)
        image = axis.imshow(
            [_kept_shares(row, [group.name for group in found]) for row in rows],
            vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest",
        )  # fmt: skip
        _name(axis, comparison, rows)
        names = [figure_text(group.name, LABEL) for group in found]
        axis.set_xticks(range(len(found)), names, rotation=90, fontsize=6)
        _mark_stages(axis, found)
        axis.set_title(figure_text(comparison.title), fontsize=10)
    figure.colorbar(image, ax=axes, label="Keep ratio", shrink=0.6)
    return figure


def _mark_stages(axis: Axes, groups: Sequence[Group]) -> None:
    """White lines between stages, and their numbers above."""
    starts = [
        index
        for index, group in enumerate(groups)
        if index == 0 or group.stage != groups[index - 1].stage
    ]
    for start in starts[1:]:
        axis.axvline(start - 0.5, color="white", lw=1.6)
    ends = [*starts[1:], len(groups)]
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    names = ["–" if groups[s].stage is None else str(groups[s].stage) for s in starts]
    above = axis.secondary_xaxis("top")
    above.set_xticks(middles, names, fontsize=7)
    above.tick_params(length=0, pad=1)
    above.set_xlabel("Stage", fontsize=7)


def _name(axis: Axes, comparison: Comparison, rows: Sequence[Row]) -> None:
    names = [f"{comparison.noted(row)}  {row.budget}" for row in rows]
    name_rows(axis, names, [row.cell.method for row in rows])


def _by_budget(comparison: Comparison) -> list[Row]:
    """Its rows in an order that does not depend on the results."""
    return sorted(comparison.rows, key=lambda row: (row.cell.metric, -row.cell.budget, row.method))


def _mean_tmacs(row: Row, phase: Phase) -> float:
    spent = row.mean(lambda record: spent_macs(record, [phase]))
    return spent.mean / 1e12 if spent else 0.0


def _has_phase(comparison: Comparison, phase: Phase) -> bool:
    return any(_mean_tmacs(row, phase) > 0 for row in comparison.rows if row.ok)


def _groups(comparison: Comparison) -> Sequence[Group]:
    """The channel groups, in the order of the network."""
    return next((record.groups for record in comparison.ok if record.groups), ())


def _kept_shares(row: Row, names: Sequence[str]) -> list[float]:
    """Averages over the seeds that have a group; NaN, which is drawn as a blank, if none has."""
    records = () if row.lost else row.ok
    shares = [{group.name: group.kept / group.size for group in r.groups} for r in records]
    known = [[share[name] for share in shares if name in share] for name in names]
    return [sum(found) / len(found) if found else math.nan for found in known]
