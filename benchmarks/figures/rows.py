"""Training cost by phase, a bar for each method and budget; kept widths, a panel for each method.

Reads records and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Patch

from benchmarks.analysis.apart import taught
from benchmarks.analysis.comparison import Comparison, Row
from benchmarks.figures.accuracy import parent_training
from benchmarks.figures.budgets import dashes_of, legend_of
from benchmarks.figures.style import (
    LABEL_SIZE,
    ink,
    legend_below,
    look,
    name_rows,
    new_panels,
    set_title,
)
from benchmarks.records.cell import PARENT
from benchmarks.records.plain import figure_text
from benchmarks.records.record import Group, Phase, spent_macs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["kept_widths", "training_cost"]

# Of the common finish: what a method's own costs is no cost of its decision.
PHASE_COLOURS: dict[Phase, str] = {
    "scoring": "#FDBE85",
    "supernet": "#BAE4B3",
    "search": "#9ECAE1",
    "finetune": "#BCBDDC",
}
COLUMNS = 4
"""Panels of widths in a row."""
SHORT_LABEL = 24
"""Characters of a name above a small panel."""
STAGE_LABEL = 0.1
"""Of a small panel's width, for the number of a stage."""
PHASE_NAMES: dict[Phase, str] = {"finetune": "fine-tuning"}


def training_cost(comparisons: Sequence[Comparison]) -> Figure:
    """MACs by phase, stacked, a bar for each method and budget; none for one that lost seeds.

    The parent's training, which all share, is told in words.
    """
    bars = max(len(comparison.rows) for comparison in comparisons)
    figure, axes = new_panels(len(comparisons), height=0.9 + 0.17 * bars)
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
        axis.set_xlabel("TMACs spent", fontsize=8)
        title = "\n".join(filter(None, [comparison.heading, parent_training(comparison)]))
        set_title(axis, "\n".join(map(figure_text, title.split("\n"))), fontsize=9, loc="right")
        axis.grid(axis="x", alpha=0.3)
    used = [phase for phase in PHASE_COLOURS if any(_has_phase(c, phase) for c in comparisons)]
    handles = [
        Patch(
            facecolor=PHASE_COLOURS[phase], edgecolor="#666666",
            label=PHASE_NAMES.get(phase, phase),
        )
        for phase in used
    ]  # fmt: skip
    legend_below(figure, (), handles)
    return figure


def kept_widths(comparisons: Sequence[Comparison]) -> Figure:
    """Share of channels kept in each group in the network's order, a panel for each method.

    A line for each budget is the mean over seeds, the shade around it their range. A method that
    lost seeds at a budget has no line for it.
    """
    panels = [
        (comparison, label, rows)
        for comparison in comparisons
        for label, rows in _by_label(comparison).items()
    ]
    figure, axes = new_panels(len(panels), 1.45, width=1.62, columns=COLUMNS)
    networks = {comparison.model_title for comparison in comparisons}
    dashes = dashes_of(row for _, _, rows in panels for row in rows)
    for axis, (comparison, label, rows) in zip(axes, panels, strict=True):
        groups = _groups(comparison)
        for row in rows:
            if not row.lost:
                _draw_widths(axis, row, groups, dashes[row.asked])
        _mark_stages(axis, groups)
        axis.set_ylim(0, 1.05)
        place = axis.get_subplotspec()
        is_first = place is None or place.is_first_col()
        axis.set_yticks([0, 0.5, 1], ["0", "½", "1"] if is_first else [])
        axis.tick_params(labelsize=LABEL_SIZE, length=2, pad=1.5)
        shown = [figure_text(label, SHORT_LABEL)]
        if len(comparisons) > 1:
            is_told = len(networks) == len({each.title for each in comparisons})
            titles = [comparison.model_title] if is_told else _short_lines(comparison)
            trained = [comparison.trained_on] if comparison.has_other_trainer else []
            shown = [figure_text(text, SHORT_LABEL) for text in (*titles, *trained)] + shown
        shown += [f"no mean at {comparison.told_budget(row)}" for row in rows if row.lost]
        set_title(axis, "\n".join(shown), fontsize=LABEL_SIZE, color=look(rows[0].cell.method)[0])
    figure.suptitle("Keep ratio of channel groups in the network's order, by stage",
                    fontsize=LABEL_SIZE)  # fmt: skip
    legend_below(figure, (), legend_of(dashes))
    return figure


def _short_lines(comparison: Comparison) -> list[str]:
    """The title, what tells it from others of the same names in lines of their own."""
    words, cell = comparison.words, comparison.cell
    own = [words.model, words.data, *words.recipe.split(", ")]
    return [f"{cell.model.title} on {cell.data.title}{taught(cell)}", *filter(None, own)]


def _by_label(comparison: Comparison) -> dict[str, list[Row]]:
    """Rows of each method's variants, largest budget first.

    Left out are whole networks, and uniform width fine-tuned longer, whose widths stand already.
    """
    found: dict[str, list[Row]] = {}
    for row in _by_budget(comparison):
        if row.cell.method != PARENT and row.cell.longer is None:
            found.setdefault(comparison.label(row), []).append(row)
    return found or {comparison.label(row): [row] for row in comparison.rows}


def _draw_widths(axis: Axes, row: Row, groups: Sequence[Group], dash: str) -> None:
    """Steps, one for each group; NaN, which is drawn as a gap, where no seed has the group."""
    colour = look(row.cell.method)[0]
    names = [group.name for group in groups]
    shares = [{group.name: group.kept / group.size for group in r.groups} for r in row.ok]
    known = [[share[name] for share in shares if name in share] or [math.nan] for name in names]
    # Each group is a step from half before its place to half behind it.
    edges = np.repeat(np.arange(len(names) + 1) - 0.5, 2)[1:-1]
    low, mean, high = (np.repeat([each(k) for k in known], 2) for each in (min, np.mean, max))
    axis.fill_between(edges, low, high, color=colour, alpha=0.18, lw=0)
    axis.plot(edges, mean, dash, color=colour, lw=1.2)


def _mark_stages(axis: Axes, groups: Sequence[Group]) -> None:
    """Lines between stages, and their numbers below."""
    starts = [
        index
        for index, group in enumerate(groups)
        if index == 0 or group.stage != groups[index - 1].stage
    ]
    for start in starts[1:]:
        axis.axvline(start - 0.5, color=ink(), lw=0.5, alpha=0.35)
    ends = [*starts[1:], len(groups)]
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    names = ["–" if groups[s].stage is None else str(groups[s].stage) for s in starts]
    axis.set_xlim(-0.5, max(len(groups), 1) - 0.5)
    shown = [0] if middles else []
    for place, middle in enumerate(middles):  # a number that would run into the last is left out
        if middle - middles[shown[-1]] >= STAGE_LABEL * len(groups):
            shown.append(place)
    axis.set_xticks([middles[i] for i in shown], [names[i] for i in shown])


def _name(axis: Axes, comparison: Comparison, rows: Sequence[Row]) -> None:
    names = [f"{comparison.noted(row)}  {comparison.told_budget(row)}" for row in rows]
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
