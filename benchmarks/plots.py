"""Figures from records: accuracy against MACs and latency, training cost, kept widths.

A method has one colour and one marker, which depend on its name alone, so it looks the same in
every figure of every report. Reads records and nothing else.
"""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from benchmarks.record import PHASES, Measured, Phase, Record
from benchmarks.report import Comparison, Row, compare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "accuracy_against_latency",
    "accuracy_against_macs",
    "draw_figures",
    "kept_widths",
    "look",
    "training_cost",
]

# Okabe and Ito's palette without its yellow, then Paul Tol's muted one; markers differ as well, so
# a reader who cannot tell two colours apart still can tell two methods apart.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#444444", "#E69F00",
    "#56B4E9", "#882255", "#999933", "#332288", "#44AA99", "#AA4499",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h", "<", ">")

METHODS = (
    "knapsack", "bnp", "pse_net", "stagewise", "uniform", "random_search", "l1_norm",
    "bn_scale", "taylor", "fpgm", "autoslim", "bcnet",
)  # fmt: skip
"""Methods in the order in which looks are dealt out; new ones are appended, never inserted."""

PHASE_COLOURS: dict[Phase, str] = {
    "baseline": "#DDDDDD",
    "scoring": "#FDBE85",
    "supernet": "#BAE4B3",
    "search": "#9ECAE1",
    "finetune": "#BCBDDC",
}

PANEL = (4.4, 3.3)
"""Width and height of one panel, inches."""


@dataclass(frozen=True)
class Panel:
    """What one panel of an accuracy figure shows, and what its horizontal axis is."""

    comparison: Comparison
    cost: Callable[[Record], float | None]
    parent_cost: Callable[[Record], float | None]
    label: str


def look(method: str) -> tuple[str, str]:
    """Colour and marker of a method; one that is not listed gets its look from its name."""
    if method in METHODS:
        place = METHODS.index(method)
    else:
        place = len(METHODS) + zlib.crc32(method.encode()) % (len(COLOURS) * len(MARKERS))
    # The two lengths share no factor, so colour and marker repeat together only after all pairs.
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def draw_figures(records: Iterable[Record], folder: Path) -> list[Path]:
    """Draws every figure that the records have numbers for, as PNG and PDF; returns the paths."""
    comparisons = [c for c in compare(records) if any(row.ok for row in c.rows)]
    if not comparisons:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, Callable[[Sequence[Comparison]], Figure]] = {
        "accuracy_macs": accuracy_against_macs,
        "accuracy_latency": accuracy_against_latency,
        "training_cost": training_cost,
        "kept_widths": kept_widths,
    }
    paths = []
    for name, draw in drawings.items():
        figure = draw(comparisons)
        for suffix in ("png", "pdf"):
            path = folder / f"{name}.{suffix}"
            figure.savefig(path, dpi=160)
            paths.append(path)
        plt.close(figure)
    return paths


def accuracy_against_macs(comparisons: Sequence[Comparison]) -> Figure:
    """Top-1 after fine-tuning against MACs, a panel for each comparison, a line for each method."""

    def pruned(record: Record) -> float | None:
        size = record.size
        return size.macs / 1e6 if size and size.macs else None

    def parent(record: Record) -> float | None:
        return record.size.full_macs / 1e6 if record.size else None

    return _accuracy_figure([Panel(each, pruned, parent, "MACs, millions") for each in comparisons])


def accuracy_against_latency(comparisons: Sequence[Comparison]) -> Figure:
    """Top-1 after fine-tuning against latency, a panel for each comparison and batch.

    A machine drifts between cells, and parent and pruned network were timed in the same rounds; so
    the pruned network's time is its paired ratio times the parent's median over all records.
    """
    return _accuracy_figure(
        [
            _latency_panel(comparison, batch)
            for comparison in comparisons
            for batch in sorted({*comparison.cell.latency.batches})
        ]
    )


def _latency_panel(comparison: Comparison, batch: int) -> Panel:
    def measured(record: Record) -> Measured | None:
        return next((found for found in record.latency if found.batch == batch), None)

    times = [
        found.parent_ms.median
        for row in comparison.rows
        for record in row.ok
        if (found := measured(record))
    ]
    typical = statistics.median(times) if times else None

    def pruned(record: Record) -> float | None:
        found = measured(record)
        return found.ratio.median * typical if found and typical else None

    def parent(record: Record) -> float | None:
        return typical if measured(record) else None

    label = f"Latency at batch {batch}, ms (paired with the parent's)"
    return Panel(comparison, pruned, parent, label)


def training_cost(comparisons: Sequence[Comparison]) -> Figure:
    """MACs by phase, stacked, a bar for each method and budget."""
    bars = max(len(comparison.rows) for comparison in comparisons)
    figure, axes = _axes(len(comparisons), height=0.9 + 0.24 * bars)
    for axis, comparison in zip(axes, comparisons, strict=False):
        rows = _by_budget(comparison)
        left = [0.0] * len(rows)
        for phase in PHASES:
            widths = [_mean_tmacs(row, phase) for row in rows]
            axis.barh(
                range(len(rows)),
                widths,
                left=left,
                color=PHASE_COLOURS[phase],
                height=0.7,
                edgecolor="#666666",
                lw=0.4,
            )
            left = [start + width for start, width in zip(left, widths, strict=True)]
        _name_rows(axis, rows, [f"{comparison.label(row)}  {row.budget}" for row in rows])
        axis.set_xlabel("MACs spent, forward and backward, trillions")
        axis.set_title(comparison.title, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    used = [phase for phase in PHASES if any(_has_phase(c, phase) for c in comparisons)]
    names = {"finetune": "fine-tuning", "baseline": "parent training"}
    handles = [
        Patch(facecolor=PHASE_COLOURS[phase], edgecolor="#666666", label=names.get(phase, phase))
        for phase in used
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(used), frameon=False)
    return figure


def kept_widths(comparisons: Sequence[Comparison]) -> Figure:
    """Share of channels kept in each group, a row for each method and budget."""
    panels = [c for c in comparisons if any(row.ok for row in c.rows)]
    groups = max(len(_groups(comparison)) for comparison in panels)
    heights = [1.9 + 0.2 * len(comparison.rows) for comparison in panels]
    figure, grid = plt.subplots(
        len(panels), 1, squeeze=False, layout="constrained",
        figsize=(max(6.0, 2.6 + 0.2 * groups), sum(heights)), height_ratios=heights,
    )  # fmt: skip
    for axis, comparison in zip(grid[:, 0], panels, strict=True):
        rows = _by_budget(comparison)
        names = _groups(comparison)
        image = axis.imshow(
            [_kept_shares(row, names) for row in rows],
            vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest",
        )  # fmt: skip
        _name_rows(axis, rows, [f"{comparison.label(row)}  {row.budget}" for row in rows])
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axis.set_title(comparison.title, fontsize=10)
    figure.colorbar(image, ax=list(grid[:, 0]), label="Keep ratio", shrink=0.6)
    return figure


def _accuracy_figure(panels: Sequence[Panel]) -> Figure:
    figure, axes = _axes(len(panels), height=PANEL[1])
    methods: dict[str, str] = {}
    for axis, panel in zip(axes, panels, strict=False):
        lines: dict[str, list[Row]] = {}
        for row in panel.comparison.rows:
            lines.setdefault(panel.comparison.label(row), []).append(row)
        for method, rows in lines.items():
            methods[method] = rows[0].cell.method
            _draw_line(axis, rows, panel.cost)
        _draw_parent(axis, panel)
        axis.set_xlabel(panel.label)
        axis.set_ylabel("Test top-1, %")
        axis.set_title(f"{panel.comparison.title}\n{_seeds(panel.comparison)}", fontsize=10)
        axis.grid(alpha=0.3)
        axis.set_xlim(0, 1.06 * axis.dataLim.x1)
        axis.xaxis.set_major_locator(MaxNLocator(6))
    handles = [_handle(name, method) for name, method in sorted(methods.items())]
    parent = Line2D([], [], color="black", marker="*", markersize=10, ls=":", label="parent")
    figure.legend(
        handles=[parent, *handles], loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    return figure


def _draw_line(axis: Axes, rows: Sequence[Row], cost: Callable[[Record], float | None]) -> None:
    """One method over its budgets; bars are 95 % intervals where there are several seeds."""
    points = [
        (x.mean, 100 * y.mean, 100 * (y.half_width or 0.0))
        for row in rows
        if (x := row.mean(cost)) and (y := row.mean(lambda record: record.top1.finetuned))
    ]
    if not points:
        return
    xs, ys, bars = zip(*sorted(points), strict=True)
    colour, marker = look(rows[0].cell.method)
    yerr = bars if any(bars) else None
    axis.errorbar(
        xs,
        ys,
        yerr=yerr,
        color=colour,
        marker=marker,
        ms=7,
        mec="white",
        mew=0.6,
        lw=1.1,
        capsize=3,
        alpha=0.9,
    )


def _draw_parent(axis: Axes, panel: Panel) -> None:
    comparison, cost = panel.comparison, panel.parent_cost
    records = [record for row in comparison.rows for record in row.ok]
    everything = Row(comparison.cell, tuple(records), {})
    x, y = everything.mean(cost), everything.mean(lambda record: record.top1.parent)
    if x and y:
        axis.axhline(100 * y.mean, color="black", lw=0.8, ls=":")
        axis.plot([x.mean], [100 * y.mean], color="black", marker="*", ms=11, ls="none")


def _axes(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels in rows of at most two, with room for a legend below."""
    columns = min(count, 2)
    rows = -(-count // columns)
    figure, grid = plt.subplots(
        rows, columns, squeeze=False, layout="constrained",
        figsize=(PANEL[0] * columns + 0.6, height * rows + 0.9),
    )  # fmt: skip
    axes = list(grid.flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes


def _name_rows(axis: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Labels bars or rows from the top, each in the colour of its method."""
    axis.set_yticks(range(len(rows)), names, fontsize=7)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    for label, row in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_color(look(row.cell.method)[0])


def _by_budget(comparison: Comparison) -> list[Row]:
    """Rows that ran, in an order that does not depend on the results."""
    rows = [row for row in comparison.rows if row.ok]
    return sorted(rows, key=lambda row: (row.cell.metric, -row.cell.budget, row.method))


def _handle(label: str, method: str) -> Line2D:
    colour, marker = look(method)
    return Line2D([], [], color=colour, marker=marker, label=label)


def _seeds(comparison: Comparison) -> str:
    seeds = {len(row.ok) for row in comparison.rows if row.ok}
    if seeds == {1}:
        return "one seed"
    return f"mean and 95 % interval over {min(seeds)} to {max(seeds)} seeds"


def _mean_tmacs(row: Row, phase: Phase) -> float:
    spent = [record.spent[phase].macs for record in row.ok if phase in record.spent]
    return sum(spent) / len(row.ok) / 1e12


def _has_phase(comparison: Comparison, phase: Phase) -> bool:
    return any(_mean_tmacs(row, phase) > 0 for row in comparison.rows if row.ok)


def _groups(comparison: Comparison) -> list[str]:
    """Names of the channel groups, in the order of the network."""
    for row in comparison.rows:
        for record in row.ok:
            if record.groups:
                return [group.name for group in record.groups]
    return []


def _kept_shares(row: Row, names: Sequence[str]) -> list[float]:
    shares = [{group.name: group.kept / group.size for group in r.groups} for r in row.ok]
    return [sum(share[name] for share in shares) / len(shares) for name in names]
