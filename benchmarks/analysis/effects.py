"""The effect of each method over all networks and budgets, against uniform width.

An effect is a difference of final accuracies paired by network, data, budget and seed. Networks are
what varies most, and the budgets and seeds of one network share its weights and its data; so an
interval is that of a bootstrap which draws networks, then seeds in each of them, and keeps all
budgets of a seed together. A seed that lacks one of the budgets that the method has on its network
does not count: gains grow as budgets shrink, so a mean over fewer budgets cannot be compared. What
two kinds of processors trained, or two recipes, is one network: its seeds are those of both, since
a seed is another parent there. Records of an earlier protocol than others are left out. Reads
records and nothing else.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.analysis.comparison import Comparison, Row
from benchmarks.analysis.names import short_name
from benchmarks.analysis.uncertainty import LEVEL, RESAMPLES

__all__ = [
    "Effect",
    "cluster_interval",
    "distinct",
    "names_over",
    "of_one_protocol",
    "overall_effects",
]


@dataclass(frozen=True)
class Effect:
    """Mean gain of a method over uniform width.

    Attributes:
        method: its name, with the settings in which variants differ.
        mean: over networks, of the mean over a network's seeds, of the mean over a seed's budgets.
        interval: over networks and seeds; None for one network, which says nothing of others.
        networks: networks with data that the mean is over.
        tasks: budgets of these networks, on each kind of processor and with each recipe.
        left_out: tasks without a gain, since a seed of the method or of uniform width failed, or
            no seed has all budgets.
    """

    method: str
    mean: float
    interval: tuple[float, float] | None
    networks: int
    tasks: int
    left_out: int


def overall_effects(comparisons: Iterable[Comparison]) -> list[Effect]:
    """The effect of every method that has a gain, the largest first.

    Methods that lost tasks, or were run on fewer of them, come last: their means are over other
    tasks than the others'.
    """
    rows: dict[str, list[tuple[Comparison, Row]]] = {}
    kept = of_one_protocol(distinct(comparisons))
    names = names_over(kept)
    for comparison in kept:
        for row in comparison.rows:
            if row.is_compared:
                rows.setdefault(names[row.method], []).append((comparison, row))
    effects = [effect for name, found in rows.items() if (effect := _effect(name, found))]
    tasks = {name: len(_tasks(found)) for name, found in rows.items()}

    def order(effect: Effect) -> tuple[bool, float, str]:
        has_all = tasks[effect.method] == max(tasks.values()) and not effect.left_out
        return not has_all, -effect.mean, effect.method

    return sorted(effects, key=order)


def names_over(comparisons: Iterable[Comparison]) -> dict[str, str]:
    """What methods are called over several comparisons, by their names with all settings.

    Settings that differ between two networks only are told, too: those are two methods.
    """
    cells = {row.method: row.cell for comparison in comparisons for row in comparison.rows}
    return {method: short_name(cell, cells.values()) for method, cell in cells.items()}


def of_one_protocol(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """The comparisons of the latest protocol among them: no number of another one is beside it."""
    comparisons = list(comparisons)
    latest = max((each.cell.protocol for each in comparisons), default=0)
    return [each for each in comparisons if each.cell.protocol == latest]


def distinct(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """One of the comparisons that hold the same accuracies beside the times of several devices.

    One is left out only if another one holds all its records.
    """
    comparisons = list(comparisons)
    ids = [{(r.id, r.cell.key) for row in c.rows for r in row.records} for c in comparisons]
    return [
        comparison
        for place, (comparison, mine) in enumerate(zip(comparisons, ids, strict=True))
        if not any(mine < other for other in ids) and mine not in ids[:place]
    ]


def cluster_interval(clusters: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Percentile interval of the mean of cluster means; the same in every call.

    Args:
        clusters: values of each cluster; clusters are drawn, then values in each that was drawn.
    """
    rng = np.random.default_rng(0)
    count = len(clusters)
    drawn = rng.integers(count, size=(RESAMPLES, count))
    means = np.empty(drawn.shape)
    for place, cluster in enumerate(clusters):
        values, here = np.asarray(cluster), drawn == place
        again = rng.integers(len(values), size=(int(here.sum()), len(values)))
        means[here] = values[again].mean(axis=1)
    low, high = np.quantile(means.mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _effect(name: str, rows: Sequence[tuple[Comparison, Row]]) -> Effect | None:
    """The effect of one method from its rows and the comparisons that they are of."""
    trained_alike: dict[tuple[Hashable, str, str], list[Row]] = {}  # whatever timed them
    budgets: dict[Hashable, set[tuple[str, float]]] = {}
    for comparison, row in rows:
        place = (comparison.network, comparison.cell.comparison, comparison.trained_on)
        trained_alike.setdefault(place, []).append(row)
    for network, asked in _tasks(rows):
        budgets.setdefault(network, set()).add(asked)
    clusters: dict[Hashable, list[float]] = {}
    tasks = left_out = 0
    for (network, *_), found in trained_alike.items():
        gains: dict[tuple[str, float], dict[int, float]] = {}
        for row in found:
            gains.setdefault(row.asked, {}).update(row.gain_by_seed or {})
        means = _seed_means([gains.get(each, {}) for each in budgets.get(network, ())])
        counted = len(budgets[network]) if means else 0
        tasks += counted
        left_out += len(gains) - counted
        if means:
            clusters.setdefault(network, []).extend(means)
    if not clusters:
        return None
    interval = cluster_interval([*clusters.values()]) if len(clusters) > 1 else None
    mean = float(np.mean([np.mean(values) for values in clusters.values()]))
    return Effect(name, mean, interval, len(clusters), tasks, left_out)


def _tasks(
    rows: Iterable[tuple[Comparison, Row]],
) -> set[tuple[Hashable, tuple[str, float]]]:
    """Networks with budgets that have a gain, on whatever processor."""
    return {(each.network, row.asked) for each, row in rows if row.gain_by_seed}


def _seed_means(gains: Sequence[Mapping[int, float]]) -> list[float]:
    """Mean gain over the budgets, for each seed that has all of them."""
    seeds = sorted(set.intersection(*(set(each) for each in gains))) if gains else []
    return [float(np.mean([each[seed] for each in gains])) for seed in seeds]
