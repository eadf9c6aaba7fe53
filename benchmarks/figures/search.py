"""Searches seen from inside: scores against accuracies, traces, and average ranks.

Reads records and nothing else.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pydantic import JsonValue

from benchmarks.analysis.comparison import Comparison, Row
from benchmarks.analysis.ranking import Ranking, Scorer
from benchmarks.analysis.standing import Standing
from benchmarks.figures.budgets import Dashes, dashes_of, legend_of
from benchmarks.figures.style import ink, legend_below, look, new_panels, set_title
from benchmarks.figures.variants import is_plain
from benchmarks.records.bounds import numbers
from benchmarks.records.cell import PARENT
from benchmarks.records.plain import figure_text
from benchmarks.records.record import Record
from benchmarks.tables.standing_table import tests_of_ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["critical_difference", "proxy_against_accuracy", "search_traces", "traced"]

LABEL_WIDTH = 36
"""Characters of a method's name, settings and all, in a line."""


def proxy_against_accuracy(rankings: Sequence[Ranking]) -> Figure:
    """A method's scores against training each configuration alone, a panel for each method."""
    pairs = [(ranking, scorer) for ranking in rankings for scorer in _best_first(ranking)]
    columns = 3 if len(pairs) <= 9 else 5
    figure, axes = new_panels(len(pairs), 2.5, width=3.3, columns=columns)
    named = _names(rankings)
    for place, (axis, (ranking, scorer)) in enumerate(zip(axes, pairs, strict=True)):
        _draw_scatter(axis, ranking, scorer)
        if place % columns == 0:
            axis.set_ylabel("Top-1 alone, %", fontsize=8)
        if place + columns >= len(pairs):
            axis.set_xlabel("Score, mean over seeds", fontsize=8)
        if len(rankings) > 1:
            title = figure_text(named[ranking])
            set_title(axis, f"{title}\n{axis.get_title()}", fontsize=8)
    titles = [rankings[0].title] if len(rankings) == 1 else []
    titles += [
        f"no tau: {scorer.name} on {named[ranking]}, {scorer.seeds}"
        for ranking in rankings
        for scorer in ranking.lost
    ]
    if titles:
        figure.suptitle("\n".join(map(figure_text, titles)), fontsize=9)
    return figure


def _names(rankings: Sequence[Ranking]) -> dict[Ranking, str]:
    """Titles, without the band where they are told apart without it."""
    short = [ranking.short_title for ranking in rankings]
    is_apart = len({*short}) == len(short)
    names = short if is_apart else [ranking.title for ranking in rankings]
    return dict(zip(rankings, names, strict=True))


def search_traces(comparisons: Sequence[Comparison]) -> Figure:
    """Best accuracy found so far over a search's evaluations, and losses of supernet training.

    Lines are medians over the seeds, bands their range. Of the variants of a method the plain one
    is shown; a row that lost a seed is left out.
    """
    kinds = ((_draw_best, _evaluations), (_draw_losses, _losses))
    panels = [
        (comparison, draw)
        for comparison in comparisons
        for draw, numbers in kinds
        if any(numbers(record) for row in _plain(comparison) for record in row.ok)
    ]
    figure, axes = new_panels(len(panels))
    dashes = dashes_of(row for c in comparisons for row in _plain(c) if _is_searched(row))
    methods: set[str] = set()
    for axis, (comparison, draw) in zip(axes, panels, strict=True):
        methods.update(draw(axis, comparison, dashes))
        set_title(axis, f"{figure_text(comparison.heading)}\n{_seeds_told(comparison)}", fontsize=9)
        axis.grid(alpha=0.3)
    legend_below(figure, methods, legend_of(dashes))
    return figure


def traced(comparisons: Sequence[Comparison]) -> Iterator[Comparison]:
    """The comparisons in which a search left a trace to draw."""
    for comparison in comparisons:
        records = [record for row in _plain(comparison) for record in row.ok]
        if any(_evaluations(record) or _losses(record) for record in records):
            yield comparison


def _is_searched(row: Row) -> bool:
    return any(map(_evaluations, row.ok))


def _draw_best(axis: Axes, comparison: Comparison, dashes: Dashes) -> list[str]:
    """A line for each method and budget; the methods that have one."""
    drawn = []
    for row in _plain(comparison):
        seeds = [found for record in row.ok if (found := _evaluations(record))]
        if not seeds:
            continue
        # The best so far stays when a search has ended, so shorter ones go on level.
        length = max(map(len, seeds))
        best = [[*accumulate(found, max)] for found in seeds]
        filled = np.array([[*found, *[found[-1]] * (length - len(found))] for found in best])
        xs = np.arange(1, length + 1)
        _draw_band(axis, xs, 100 * filled, row.cell.method, dashes[row.asked])
        drawn.append(row.cell.method)
    axis.set(xlabel="Evaluations", ylabel="Best top-1 on search images so far, %")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawn


def _draw_losses(axis: Axes, comparison: Comparison, _: Dashes) -> list[str]:
    """A line for each supernet, which serves every budget; the methods that have one."""
    supernets: dict[str, dict[int, list[float]]] = {}
    for row in _plain(comparison):
        for record in row.ok:
            if losses := _losses(record):
                supernets.setdefault(row.cell.method, {}).setdefault(record.cell.seed, losses)
    for method, seeds in supernets.items():
        length = min(map(len, seeds.values()))
        smooth = [_smooth(losses[:length]) for losses in seeds.values()]
        _draw_band(axis, smooth[0][0], np.array([means for _, means in smooth]), method, "-")
    axis.set(xlabel="Share of the supernet's training, %", ylabel="Loss, running mean")
    return list(supernets)


def _draw_band(axis: Axes, xs: np.ndarray, values: np.ndarray, method: str, dash: str) -> None:
    """The median over the seeds and their range, values of shape (seeds, len(xs))."""
    colour, marker = look(method)
    if len(values) > 1:
        axis.fill_between(xs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15,
                          lw=0)  # fmt: skip
    axis.plot(
        xs, np.median(values, axis=0), dash, color=colour, marker=marker, ms=4, lw=1.1,
        markevery=max(1, len(xs) // 10),
    )  # fmt: skip


def _seeds_told(comparison: Comparison) -> str:
    counts = {len(row.ok) for row in _plain(comparison)}
    if max(counts) == 1:
        return "one seed"
    low, high = min(counts), max(counts)
    return f"median and range over {high if low == high else f'{low} to {high}'} seeds"


def _plain(comparison: Comparison) -> list[Row]:
    """The rows of each method's plain variant that ran whole."""
    rows = [row for row in comparison.rows if row.cell.method != PARENT and not row.lost]
    return [row for row in rows if is_plain(comparison, row)]


def critical_difference(standing: Standing) -> Figure:
    """Average ranks on a line; a bar joins methods that do not differ significantly.

    Only for a standing that is testable.
    """
    count, average = len(standing.methods), standing.average
    labels = [textwrap.fill(figure_text(method), LABEL_WIDTH) for method in standing.methods]
    step = 0.4 * max(1.0, 0.65 * max(1 + label.count("\n") for label in labels))
    half = -(-count // 2)
    cliques = standing.cliques
    size = (8.4, 1.5 + 0.6 * step * half + 0.13 * len(cliques))
    figure = Figure(size, layout="constrained")
    axis = figure.subplots()
    first = 0.35 + 0.22 * len(cliques)
    axis.set(xlim=(1 - 0.36 * count, count * 1.36), ylim=(first + 1.05 * step * half, -1.5))
    axis.axis("off")
    axis.plot([1, count], [0, 0], color=ink(), lw=1)
    for rank in range(1, count + 1):
        axis.plot([rank, rank], [-0.12, 0], color=ink(), lw=1)
        axis.text(rank, -0.2, str(rank), ha="center", va="bottom", fontsize=8)
    for place, (start, end) in enumerate(cliques):
        height = 0.22 * (place + 1)
        axis.plot([average[start] - 0.05, average[end] + 0.05], [height] * 2, color=ink(), lw=3)
    for place, label in enumerate(labels):
        is_left = place < half
        height = first + step * (place if is_left else count - 1 - place)
        _draw_rank(axis, standing, place, label, height, is_left=is_left)
    _draw_scale(axis, standing)
    return figure


def _draw_rank(
    axis: Axes, standing: Standing, place: int, label: str, height: float, *, is_left: bool
) -> None:
    """A line from an average rank to its method's name: the better half left, the rest right."""
    rank, count = standing.average[place], len(standing.methods)
    end = 1 - 0.04 * count if is_left else count * 1.04
    colour, marker = look(standing.names[place])
    axis.plot([rank, rank, end], [0, height, height], color=colour, lw=1)
    axis.plot([rank], [0], color=colour, marker=marker, ms=6, ls="none", clip_on=False)
    axis.text(
        end + (-0.1 if is_left else 0.1), height, f"{label}  {rank:.2f}",
        ha="right" if is_left else "left", va="center", fontsize=8, color=colour,
    )  # fmt: skip


def _draw_scale(axis: Axes, standing: Standing) -> None:
    shown = min(standing.critical_difference, len(standing.methods) * 1.3)
    axis.plot([1, 1 + shown], [-1.0, -1.0], color=ink(), lw=2, marker="|", ms=7)
    axis.text(1, -1.15, tests_of_ranks(standing), fontsize=8, va="bottom")


def _best_first(ranking: Ranking) -> list[Scorer]:
    taus = {name: np.nan_to_num(found.tau, nan=-2) for name, found in ranking.agreements.items()}
    return sorted(ranking.scorers, key=lambda scorer: (-taus[scorer.name], scorer.name))


def _draw_scatter(axis: Axes, ranking: Ranking, scorer: Scorer) -> None:
    """Means over seeds; bars are one standard deviation of the accuracies."""
    found = ranking.agreements[scorer.name]
    truth = np.array(list(ranking.truth.values()))
    scores = np.mean(list(scorer.scores.values()), axis=0)
    spread = 100 * truth.std(axis=0, ddof=1) if len(truth) > 1 else None
    colour, marker = look(scorer.records[0].cell.method)
    axis.errorbar(
        scores, 100 * ranking.mean_truth, yerr=spread, color=colour, marker=marker,
        ms=5, mec="white", mew=0.5, ls="none", elinewidth=0.6,
    )  # fmt: skip
    seeds = "one seed" if len(scorer.records) == 1 else f"{len(scorer.records)} seeds"
    axis.set_title(
        f"{textwrap.fill(figure_text(scorer.name), LABEL_WIDTH)}\n"
        f"tau {found.tau:.2f} [{found.low:.2f}, {found.high:.2f}], {seeds}",
        fontsize=8,
    )
    axis.xaxis.get_offset_text().set_fontsize(7)
    axis.tick_params(labelsize=7)
    axis.locator_params(axis="x", nbins=4)
    axis.grid(alpha=0.3)


def _evaluations(record: Record) -> list[float]:
    """Accuracies on the search images in the order in which a search saw them."""
    found: list[JsonValue] = []
    for row in record.trace:
        for name in ("scores", "accuracies"):
            values = row.get(name)
            found += values if isinstance(values, list) else []
        if row.get("step") == "sample":
            found.append(row.get("top1"))
    return numbers(found)


def _losses(record: Record) -> list[float]:
    """Losses of a supernet's training steps, in order; none if it was trained in another cell."""
    for row in record.trace:
        losses = row.get("losses")
        if str(row.get("step")).startswith("train") and isinstance(losses, list):
            return numbers(losses)
    return []


def _smooth(losses: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Progress in per cent, and the running mean over a tenth of the training."""
    window = max(1, len(losses) // 10)
    means = np.convolve(losses, np.ones(window) / window, mode="valid")
    return np.linspace(100 * window / len(losses), 100, len(means)), means
