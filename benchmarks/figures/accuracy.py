"""Accuracy against MACs, parameters, latency and training cost, with published points beside.

Axes end where the data do: a parent that lies far outside is a dotted line and a word. Speeds that
are noise are grey and no part of a line. Reads records and published numbers and nothing else.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from benchmarks.analysis.comparison import Comparison, Row, is_noise, spent_macs
from benchmarks.analysis.published import published_for
from benchmarks.analysis.uncertainty import Estimate
from benchmarks.figures.style import FAINT, ink, legend_below, look, new_panels, set_title
from benchmarks.figures.variants import entries_of, is_plain
from benchmarks.records.cell import PARENT
from benchmarks.records.plain import figure_text
from benchmarks.records.record import TOTAL, Record
from benchmarks.records.runtime import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

__all__ = [
    "accuracy_against_cost",
    "accuracy_against_latency",
    "accuracy_against_macs",
    "accuracy_against_params",
]

Number = Callable[[Record], float | None]

LONGEST_NOTE = 400
"""Characters of a panel's note."""

SHARED_TIMES = "times: of networks that differ; of one, its rounds"
"""A panel's note where seeds gave one network, whose times they share."""

APART = 3.0
"""Points that a method at a budget which others meet is moved at most: about half a marker, so
that what is read off the axis is true. Whiskers that others hide show through."""
SHOWN_THROUGH = 0.6
"""Opacity of whiskers."""
WIDENED = 1.5
"""How much longer than the data an axis may be to hold the parent."""
DOTTED = "\N{MIDDLE DOT}" * 3
"""Says of the word on the parent which line it is about."""
HEADROOM = 0.12
"""Of an axis up to its highest whisker, what is added where a word on the parent stands above."""


@dataclass(frozen=True)
class Panel:
    """What one panel shows.

    Attributes:
        comparison: whose rows.
        cost: of a pruned network, the horizontal axis.
        parent_cost: of the parent.
        label: of the horizontal axis.
        published: cost of a published point on that axis; None if papers do not print it.
        measurement: of a record, where the cost is measured, at the panel's batch.
        floor: ends of the parent's own times, measured twice; what differs by that is noise.
        note: what else a reader needs to know.
    """

    comparison: Comparison
    cost: Number
    parent_cost: Number
    label: str
    published: Literal["macs", "params"] | None = None
    measurement: Callable[[Record], Measured | None] | None = None
    floor: tuple[float, float] | None = None
    note: str = ""

    @property
    def has_parent_cost(self) -> bool:
        """Whether the parent has a place on this axis."""
        return any(self.parent_cost(record) is not None for record in self.comparison.ok)

    def is_noise(self, row: Row) -> bool:
        """Whether a row's place on the horizontal axis is noise."""
        return self.measurement is not None and is_noise(row, self.measurement)

    @property
    def is_dodged(self) -> bool:
        """Whether methods meet at budgets on this axis, so that they stand side by side."""
        return self.published is not None and self.comparison.cell.metric == self.published


@dataclass(frozen=True)
class Spot:
    """A point with its whiskers, in the panel's units."""

    x: Estimate
    y: Estimate
    across: tuple[float, float]

    @property
    def whiskers(self) -> tuple[float, float, float, float]:
        """Lengths to the left, right, below and above."""
        low, high = self.y.interval or (self.y.mean, self.y.mean)
        left, right = self.across
        return (
            max(self.x.mean - left, 0.0),
            max(right - self.x.mean, 0.0),
            100 * (self.y.mean - low),
            100 * (high - self.y.mean),
        )


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
    """The same against the total cost: MACs spent on deciding and on the common fine-tuning."""
    label = "Total cost of search and fine-tuning, MACs, trillions"
    return _figure(
        [
            Panel(each, _total, lambda record: None, label, note=parent_training(each))
            for each in comparisons
        ]
    )


def parent_training(comparison: Comparison) -> str:
    """In words what training the parent cost, which all rows share; empty if it is not known."""
    costs = [spent_macs(record, ["baseline"]) / 1e12 for record in comparison.ok]
    if not any(costs):
        return ""
    low, high = f"{min(costs):.2f}", f"{max(costs):.2f}"
    return f"training the parent: {low if low == high else f'{low} to {high}'} T more, for all"


def _total(record: Record) -> float:
    return spent_macs(record, TOTAL) / 1e12  # not what its own finish cost


def accuracy_against_latency(comparisons: Sequence[Comparison]) -> Figure:
    """The same against latency, a panel for each comparison and batch.

    A machine drifts between cells, and parent and pruned network were timed in the same rounds; so
    the pruned network's time is its paired ratio times the parent's median over all timings.
    """
    has_several = len({comparison.hardware for comparison in comparisons}) > 1
    return _figure(
        [
            _latency_panel(comparison, batch, comparison.hardware if has_several else "")
            for comparison in comparisons
            for batch in sorted({*comparison.cell.latency.batches})
        ]
    )


def _latency_panel(comparison: Comparison, batch: int, note: str = "") -> Panel:
    def measured(record: Record) -> Measured | None:
        return next((found for found in record.latency if found.batch == batch), None)

    known = [found for record in comparison.timed if (found := measured(record))]
    typical = statistics.median(found.parent_ms.median for found in known) if known else None
    controls = [found.control.median for found in known if not found.is_noise]

    def pruned(record: Record) -> float | None:
        found = measured(record)
        return found.ratio.median * typical if found and typical else None

    def parent(record: Record) -> float | None:
        return typical if measured(record) else None

    is_shared = any(len(row.timed) < len(row.ok) for row in comparison.rows)
    return Panel(
        comparison,
        pruned,
        parent,
        f"Latency at batch {batch}, ms (paired with parent's)",
        measurement=measured,
        floor=(min(controls) * typical, max(controls) * typical) if controls and typical else None,
        note=". ".join(filter(None, (figure_text(note), SHARED_TIMES if is_shared else ""))),
    )


def _figure(panels: Sequence[Panel]) -> Figure:
    figure, axes = new_panels(len(panels))
    handles = [Line2D([], [], color=ink(), marker="*", markersize=10, ls=":", label="parent")]
    for axis, panel in zip(axes, panels, strict=True):
        lines = _lines(panel.comparison)
        _limit(axis, panel)
        _draw_floor(axis, panel)
        moves = _moves(axis, panel, lines)
        for label, rows in lines.items():
            _draw_line(axis, panel, rows, moves[label])
        handles += _draw_published(axis, panel, known=[handle.get_label() for handle in handles])
        _draw_parent(axis, panel)
        axis.set_xlabel(panel.label)
        axis.set_ylabel("Test top-1, %")
        set_title(axis, _heading(panel), fontsize=9)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(6))
    plain, further = entries_of([panel.comparison for panel in panels])
    handles += further
    if any(panel.floor for panel in panels):
        handles.append(Patch(color=FAINT, alpha=0.25, lw=0, label="parent twice (A/A)"))  # type: ignore[arg-type]
    legend_below(figure, plain, handles)
    return figure


def _heading(panel: Panel) -> str:
    """Title of a panel and, below it, what stands behind its points and what has none."""
    title = figure_text(panel.comparison.heading)
    notes = (title, _seeds(panel), panel.note, _lost(panel.comparison), _noise(panel))
    return "\n".join(filter(None, notes))


def _lines(comparison: Comparison) -> dict[str, list[Row]]:
    """Rows of each method's variants by their names."""
    lines: dict[str, list[Row]] = {}
    for row in comparison.rows:
        lines.setdefault(comparison.label(row), []).append(row)
    return lines


def _moves(axis: Axes, panel: Panel, lines: dict[str, list[Row]]) -> dict[str, Transform]:
    """Where each line is drawn: a little apart on paper where methods meet; see `APART`."""
    if not panel.is_dodged:
        return dict.fromkeys(lines, axis.transData)
    figure = axis.get_figure(root=True)
    assert figure is not None
    middle = (len(lines) - 1) / 2
    step = APART / max(middle, 1) / 72
    return {
        label: axis.transData
        + ScaledTranslation(step * (place - middle), 0, figure.dpi_scale_trans)
        for place, label in enumerate(sorted(lines))
    }


def _spot(panel: Panel, row: Row) -> Spot | None:
    """Where a row stands, and how far it may be off: over seeds, times over timed networks.

    Of one timed network the rounds tell how far its time may be off.
    """
    x = (row.mean_of_times if panel.measurement else row.mean)(panel.cost)
    y = row.mean(lambda record: record.top1.finetuned)
    if not x or not y:
        return None
    across = (x.mean, x.mean)
    if panel.measurement and len(x.values) > 1:
        across = x.interval or across
    elif panel.measurement:
        found = next(filter(None, map(panel.measurement, row.timed)), None)
        if found and found.ratio_interval:
            scale = x.mean / found.ratio.median
            across = (scale * found.ratio_interval.low, scale * found.ratio_interval.high)
    return Spot(x, y, across)


def _draw_line(axis: Axes, panel: Panel, rows: Sequence[Row], transform: Transform) -> None:
    """One method over its budgets; bars are bootstrap intervals where there are several seeds.

    Variants of a method have its look, but hollow and small, and no bars. What is noise is grey.
    """
    colour, marker = look(rows[0].cell.method)
    noise = [spot for row in rows if panel.is_noise(row) and (spot := _spot(panel, row))]
    for spot in noise:
        axis.plot(
            [spot.x.mean], [100 * spot.y.mean], color=FAINT, marker=marker, ms=5, mfc="none",
            ls="none", transform=transform,
        )  # fmt: skip
    spots = [spot for row in rows if not panel.is_noise(row) and (spot := _spot(panel, row))]
    if not spots:
        return
    spots.sort(key=lambda spot: (spot.x.mean, spot.y.mean))
    xs, ys = [spot.x.mean for spot in spots], [100 * spot.y.mean for spot in spots]
    if rows[0].cell.method == PARENT and not all(_is_inside(axis, x) for x in xs):
        for y in ys:  # as wide as the parent, so off the axis like it
            axis.axhline(y, color=colour, lw=0.8, ls=(0, (5, 2, 1, 2)))
        return
    if not is_plain(panel.comparison, rows[0]):
        axis.plot(xs, ys, color=colour, marker=marker, ms=4, mfc="none", lw=0.5, alpha=0.7,
                  transform=transform)  # fmt: skip
        return
    left, right, below, above = zip(*(spot.whiskers for spot in spots), strict=True)
    drawn = axis.errorbar(
        xs, ys, yerr=(below, above) if any((*below, *above)) else None,
        xerr=(left, right) if any((*left, *right)) else None,
        color=colour, marker=marker, ms=5, mec="white", mew=0.5, lw=0.9, elinewidth=0.9,
        capsize=2, alpha=0.9, zorder=3, transform=transform,
    )  # fmt: skip
    for bars in drawn[2]:
        bars.set_alpha(SHOWN_THROUGH)


def _draw_floor(axis: Axes, panel: Panel) -> None:
    """A band between the parent's own times."""
    if panel.floor:
        axis.axvspan(*panel.floor, color=FAINT, alpha=0.25, lw=0, zorder=0)


def _limit(axis: Axes, panel: Panel) -> None:
    """End the axes where the pruned networks do; the parent's cost only if it is near."""
    rows = panel.comparison.rows
    pruned = [row for row in rows if panel.has_parent_cost and row.cell.method != PARENT] or rows
    xs = [
        end
        for row in pruned
        if (spot := _spot(panel, row))
        for end in (spot.x.mean, *(() if panel.is_noise(row) else spot.across))
    ]
    if panel.published:  # papers' points stand there too
        points = published_for(panel.comparison.cell)
        xs += [value / 1e6 for point in points if (value := getattr(point, panel.published))]
    if not xs:
        return
    low, high = min(xs), max(xs)
    parent = _parent_place(panel)
    near = parent[0] if parent and parent[0] is not None else low
    if max(high, near) - min(low, near) <= WIDENED * (high - low):
        low, high = min(low, near), max(high, near)
    room = max(0.08 * (high - low), 0.02 * abs(high))
    room = room or 1.0  # nothing was spent anywhere
    axis.set_xlim(low - room, high + room)
    _limit_accuracy(axis, panel)


def _limit_accuracy(axis: Axes, panel: Panel) -> None:
    """From the lowest whisker to the highest, parent and published points included."""
    ys = [point.top1 for point in published_for(panel.comparison.cell) if panel.published]
    for row in panel.comparison.rows:
        if spot := _spot(panel, row):
            ys += [spot.y.mean, *(spot.y.interval or ())]
    if parent := _parent_place(panel):
        ys.append(parent[1] / 100)
    low, high = 100 * min(ys), 100 * max(ys)
    room = max(0.06 * (high - low), 0.2)
    low, high = low - room, high + room
    axis.set_ylim(low, high + HEADROOM * (high - low) * _has_word(axis, panel))


def _has_word(axis: Axes, panel: Panel) -> bool:
    """Whether the parent has a line and no place on the horizontal axis, so a word says where."""
    parent = _parent_place(panel)
    return parent is not None and (parent[0] is None or not _is_inside(axis, parent[0]))


def _is_inside(axis: Axes, x: float) -> bool:
    low, high = axis.get_xlim()
    return low <= x <= high


def _parent_place(panel: Panel) -> tuple[float | None, float] | None:
    """Mean cost, and top-1 in per cent over the seeds; None if no parent has an accuracy."""
    top1 = panel.comparison.parent_top1
    if top1 is None:
        return None
    everything = Row(panel.comparison.cell, tuple(panel.comparison.ok))  # lost none
    x = everything.mean(panel.parent_cost)
    return x.mean if x else None, 100 * top1.mean


def _draw_parent(axis: Axes, panel: Panel) -> None:
    """A line at its accuracy; a star at its cost, or a word at the panel's top on where that is."""
    parent = _parent_place(panel)
    if parent is None:
        return
    x, y = parent
    axis.axhline(y, color=ink(), lw=0.8, ls=":")
    if x is not None and _is_inside(axis, x):
        axis.plot([x], [y], color=ink(), marker="*", ms=11, ls="none")
        return
    where = "" if x is None else f" at {x:.3g}"
    is_right = x is None or x > axis.get_xlim()[1]
    axis.annotate(
        f"{DOTTED} parent{where} \N{RIGHTWARDS ARROW}" if where and is_right
        else f"\N{LEFTWARDS ARROW} {DOTTED} parent{where}" if where else f"{DOTTED} parent",
        (1.0 if is_right else 0.0, 1.0), xycoords="axes fraction",
        xytext=(-3 if is_right else 3, -3), textcoords="offset points",
        ha="right" if is_right else "left", va="top", fontsize=7, color=ink(),
    )  # fmt: skip


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
            budgets.setdefault(comparison.label(row), []).append(comparison.told_budget(row))
    told = "; ".join(f"{label} {', '.join(found)}" for label, found in sorted(budgets.items()))
    return figure_text(f"no mean: {told}", LONGEST_NOTE) if told else ""


def _noise(panel: Panel) -> str:
    """Names the rows whose speeds are noise; empty if there are none."""
    comparison = panel.comparison
    rows = [row for row in comparison.rows if panel.is_noise(row) and _spot(panel, row)]
    if not rows:
        return ""
    told = "; ".join(f"{comparison.label(row)} {comparison.told_budget(row)}" for row in rows)
    text = f"grey, no result: parent against itself off by more than 10 % ({told})"
    return figure_text(text, LONGEST_NOTE)


def _seeds(panel: Panel) -> str:
    """How many seeds stand behind a point, and what its bars are."""
    seeds = {len(row.ok) for row in panel.comparison.rows if row.ok and not row.lost}
    if not seeds:
        return "no mean"
    low, high = min(seeds), max(seeds)
    if high == 1:
        return "one seed"
    count = f"{high}" if low == high else f"{low} to {high}"
    return f"mean and bootstrap 95 % interval, {count} seeds"
