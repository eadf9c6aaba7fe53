"""Standing of methods over many tasks: average ranks, critical difference, stability over budgets.

A task is a network with data, recipe and budget on which several methods ran; each gets a rank by
its mean final accuracy over the seeds that all have, the best rank 1, ties shared. Tasks that share
a network and its data, whatever trained it, are not independent, so ranks are averaged over the
tasks of a network first, then over networks. Friedman's test asks whether the ranks differ at all,
Nemenyi's critical difference by how much two average ranks must differ (Demsar 2006); both count
networks and need five of them. Reads records and nothing else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from benchmarks.analysis.comparison import Comparison, Row, shared_seeds
from benchmarks.analysis.effects import distinct, names_over, of_one_protocol
from benchmarks.analysis.ranking import drawn_counts, interval_of, kendall_tau, kendall_taus
from benchmarks.analysis.uncertainty import LEVEL, mean_accuracies

__all__ = ["FEWEST_NETWORKS", "Stability", "Standing", "average_ranks", "stability"]

RESAMPLES = 1000
FEWEST_NETWORKS = 5
"""Independent tasks below which neither test is made."""


@dataclass(frozen=True, eq=False)
class Standing:
    """Ranks of methods over networks.

    Attributes:
        methods: names, the best average rank first.
        ranks: averages over the budgets of each network, shape (networks, methods), columns as
            `methods`.
        names: what each method is called without settings, for its colour.
        tasks: how many tasks the ranks are from.
        left_out: tasks that not all of these methods were run on.
        without_seed: tasks in which these methods have no seed in common.
        fewest_seeds: behind the ranks of a task, where methods have more than all share; else 0.
        unranked: methods that were run on all tasks and lost seeds, and in how many tasks.
    """

    methods: tuple[str, ...]
    ranks: np.ndarray
    names: tuple[str, ...]
    tasks: int
    left_out: int = 0
    without_seed: int = 0
    fewest_seeds: int = 0
    unranked: Mapping[str, int] = field(default_factory=dict)

    @property
    def networks(self) -> int:
        """How many networks with data there are: the independent tasks."""
        return len(self.ranks)

    @property
    def is_testable(self) -> bool:
        """Whether the networks are enough for the two tests."""
        return self.networks >= FEWEST_NETWORKS

    @property
    def average(self) -> np.ndarray:
        """Average rank of each method, shape (methods,)."""
        average: np.ndarray = self.ranks.mean(axis=0)
        return average

    @cached_property
    def critical_difference(self) -> float:
        """Difference of two average ranks that Nemenyi's test calls significant at 5 %.

        Averages over budgets spread less than the ranks that its formula is for, so it is rather
        too large than too small.
        """
        from scipy.stats import studentized_range  # slow to import

        count = len(self.methods)
        quantile = float(studentized_range.ppf(LEVEL, count, np.inf)) / math.sqrt(2)
        return quantile * math.sqrt(count * (count + 1) / (6 * self.networks))

    @property
    def p_value(self) -> float | None:
        """Friedman's test that all methods rank alike; None for fewer than three methods."""
        if len(self.methods) < 3:
            return None
        if not np.ptp(self.ranks, axis=1).any():
            return 1.0  # all tie in every task, which the formula divides by zero for
        from scipy.stats import friedmanchisquare  # slow to import

        return float(friedmanchisquare(*self.ranks.T).pvalue)

    @property
    def cliques(self) -> list[tuple[int, int]]:
        """Longest runs of methods that do not differ by the critical difference: first and last."""
        average = self.average
        runs: list[tuple[int, int]] = []
        for first in range(len(average)):
            within = np.flatnonzero(average <= average[first] + self.critical_difference)
            last = int(within[-1])
            if last > first and not any(last <= end for _, end in runs):
                runs.append((first, last))
        return runs


@dataclass(frozen=True)
class Stability:
    """How alike a ranking of methods is at two budgets of one comparison.

    Attributes:
        title: network and data, and what trained it where several did.
        budgets: the two, with their metric where the comparison has several.
        methods: how many were ranked.
        left_out: how many others were run at both and lost seeds.
        seeds: behind each mean.
        tau: Kendall's tau-b of the mean final accuracies.
        low: lower end of its bootstrap interval over methods and seeds.
        high: upper end.
    """

    title: str
    budgets: tuple[str, str]
    methods: int
    left_out: int
    seeds: int
    tau: float
    low: float
    high: float


def average_ranks(comparisons: Iterable[Comparison]) -> Standing | None:
    """Ranks of the methods of the fullest task over all tasks that have them all.

    A method that lost a seed in one of these tasks has no mean there and no rank.

    Returns:
        None if there are no two tasks that have the same methods, or no two methods with ranks.
    """
    kept = of_one_protocol(distinct(comparisons))
    called = names_over(kept)
    tasks = [(each.network, task) for each in kept for task in _tasks(each, called)]
    if not tasks:
        return None
    names = max((sorted(task) for _, task in tasks), key=len)
    shared = [(place, task) for place, task in tasks if all(name in task for name in names)]
    lost = {name: sum(not task[name].top1_by_seed for _, task in shared) for name in names}
    methods = [name for name in names if not lost[name]]
    alike = [(place, [task[name] for name in methods]) for place, task in shared]
    ranked = [(place, rows) for place, rows in alike if shared_seeds(rows)]
    if len(ranked) < 2 or len(methods) < 2:
        return None
    by_network: dict[Hashable, list[np.ndarray]] = {}
    for network, rows in ranked:
        by_network.setdefault(network, []).append(_ranks(rows))
    ranks = np.array([np.mean(found, axis=0) for found in by_network.values()])
    order = np.lexsort((methods, ranks.mean(axis=0)))
    return Standing(
        tuple(methods[i] for i in order),
        ranks[:, order],
        tuple(ranked[0][1][i].cell.method for i in order),
        len(ranked),
        len(tasks) - len(shared),
        len(shared) - len(ranked),
        min((len(shared_seeds(rows)) for _, rows in ranked if _is_uneven(rows)), default=0),
        {name: count for name, count in lost.items() if count},
    )


def stability(comparisons: Iterable[Comparison]) -> list[Stability]:
    """Every pair of budgets of one metric of every comparison that three methods share, or more."""
    found = []
    for comparison in distinct(comparisons):
        tasks = _tasks(comparison, names_over([comparison]))
        for first, second in itertools.combinations(tasks, 2):
            ends = [next(iter(task.values())) for task in (first, second)]
            if ends[0].cell.metric != ends[1].cell.metric:
                continue
            both = [(row, second[method]) for method, row in first.items() if method in second]
            rows = [(a, b) for a, b in both if a.top1_by_seed and b.top1_by_seed]
            if len(rows) >= 3 and shared_seeds(itertools.chain.from_iterable(rows)):
                left_out = len(both) - len(rows)
                budgets = comparison.told_budget(ends[0]), comparison.told_budget(ends[1])
                found.append(_stability(comparison, budgets, rows, left_out))
    return found


def _tasks(comparison: Comparison, names: Mapping[str, str]) -> Iterator[dict[str, Row]]:
    """Rows of each budget by the name of their method, where at least two ran to the end."""
    rows = sorted(comparison.rows, key=lambda row: (row.cell.metric, -row.cell.budget))
    for _, group in itertools.groupby(rows, lambda row: row.asked):
        task = {names[row.method]: row for row in group}
        if sum(bool(row.ok) for row in task.values()) >= 2:
            yield task


def _ranks(rows: Sequence[Row]) -> np.ndarray:
    """Ranks from 1 for the best mean accuracy over common seeds, ties shared, shape (methods,)."""
    seeds = sorted(shared_seeds(rows))
    means = mean_accuracies([[row.top1_by_seed[seed] for seed in seeds] for row in rows])
    ahead, alike = means[:, None] < means, means[:, None] == means
    ranks: np.ndarray = ahead.sum(axis=1) + (alike.sum(axis=1) + 1) / 2
    return ranks


def _is_uneven(rows: Sequence[Row]) -> bool:
    """Whether some rows have seeds that others do not have."""
    return any(row.top1_by_seed.keys() != rows[0].top1_by_seed.keys() for row in rows)


def _stability(
    comparison: Comparison,
    budgets: tuple[str, str],
    rows: Sequence[tuple[Row, Row]],
    left_out: int,
) -> Stability:
    seeds = shared_seeds(itertools.chain.from_iterable(rows))
    # Shape (2 budgets, methods, seeds).
    top1 = np.array([[[r.top1_by_seed[s] for s in sorted(seeds)] for r in side]
                     for side in zip(*rows, strict=True)])  # fmt: skip
    rng = np.random.default_rng(0)
    count, repeats = top1.shape[1:]
    draws = [(rng.integers(count, size=count), rng.integers(repeats, size=repeats))
             for _ in range(RESAMPLES)]  # fmt: skip
    counts = drawn_counts(np.array([methods for methods, _ in draws]), count)
    # Few seeds can be drawn in few ways, and only another draw of seeds changes the accuracies.
    ways, which = np.unique([seeds for _, seeds in draws], axis=0, return_inverse=True)
    taus = np.empty(RESAMPLES)
    for place, way in enumerate(ways):
        chosen = which.ravel() == place
        first, second = mean_accuracies(top1[:, :, way])
        taus[chosen] = kendall_taus(first, second, counts[chosen])
    low, high = interval_of(taus)
    first, second = mean_accuracies(top1)
    tau = kendall_tau(first, second)
    return Stability(comparison.heading, budgets, count, left_out, repeats, tau, low, high)
