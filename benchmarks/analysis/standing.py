"""Standing of methods over many tasks: average ranks, critical difference, stability over budgets.

A task is a network with data, recipe and budget on which several methods ran; each gets a rank by
its mean final accuracy over seeds, the best rank 1, ties shared, and a method that did not end
there is last. Friedman's test asks whether the ranks differ at all, Nemenyi's critical difference
by how much two average ranks must differ (Demsar 2006). Reads records and nothing else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.analysis.comparison import Comparison, Row
from benchmarks.analysis.ranking import drawn_counts, interval_of, kendall_tau, kendall_taus
from benchmarks.analysis.uncertainty import LEVEL

__all__ = ["Stability", "Standing", "average_ranks", "stability"]

RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Standing:
    """Ranks of methods over tasks.

    Attributes:
        methods: names, the best average rank first.
        ranks: shape (tasks, methods), columns as `methods`.
        names: what each method is called without settings, for its colour.
        left_out: tasks that not all of these methods were run on.
    """

    methods: tuple[str, ...]
    ranks: np.ndarray
    names: tuple[str, ...]
    left_out: int = 0

    @property
    def tasks(self) -> int:
        """How many tasks the ranks are averaged over."""
        return len(self.ranks)

    @property
    def average(self) -> np.ndarray:
        """Average rank of each method, shape (methods,)."""
        average: np.ndarray = self.ranks.mean(axis=0)
        return average

    @cached_property
    def critical_difference(self) -> float:
        """Difference of two average ranks that Nemenyi's test calls significant at 5 %."""
        from scipy.stats import studentized_range  # slow to import

        count = len(self.methods)
        quantile = float(studentized_range.ppf(LEVEL, count, np.inf)) / math.sqrt(2)
        return quantile * math.sqrt(count * (count + 1) / (6 * self.tasks))

    @property
    def p_value(self) -> float | None:
        """Friedman's test that all methods rank alike; None for fewer than three or one task."""
        if len(self.methods) < 3 or self.tasks < 2:
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
        title: network and data.
        budgets: the two.
        methods: how many were ranked.
        seeds: behind each mean.
        tau: Kendall's tau-b of the mean final accuracies.
        low: lower end of its bootstrap interval over methods and seeds.
        high: upper end.
    """

    title: str
    budgets: tuple[str, str]
    methods: int
    seeds: int
    tau: float
    low: float
    high: float


def average_ranks(comparisons: Iterable[Comparison]) -> Standing | None:
    """Ranks of the methods of the fullest task over all tasks that have them all.

    Returns:
        None if there are no two tasks that have the same methods.
    """
    tasks = [task for comparison in comparisons for task in _tasks(comparison)]
    if not tasks:
        return None
    methods = max((sorted(task) for task in tasks), key=len)
    shared = [task for task in tasks if all(name in task for name in methods)]
    if len(shared) < 2:
        return None
    ranks = np.array([_ranks([_score(task[name]) for name in methods]) for task in shared])
    order = np.lexsort((methods, ranks.mean(axis=0)))
    return Standing(
        tuple(methods[i] for i in order),
        ranks[:, order],
        tuple(shared[0][methods[i]].cell.method for i in order),
        len(tasks) - len(shared),
    )


def stability(comparisons: Iterable[Comparison]) -> list[Stability]:
    """Every pair of budgets of every comparison that at least three methods share."""
    found = []
    for comparison in comparisons:
        tasks = {next(iter(task.values())).budget: task for task in _tasks(comparison)}
        for first, second in itertools.combinations(tasks, 2):
            rows = [(tasks[first][m], tasks[second][m]) for m in tasks[first] if m in tasks[second]]
            rows = [(a, b) for a, b in rows if a.ok and b.ok]
            if len(rows) >= 3 and _shared_seeds(rows):
                found.append(_stability(comparison, (first, second), rows))
    return found


def _tasks(comparison: Comparison) -> Iterator[dict[str, Row]]:
    """Rows of each budget by the name of their method, where at least two ran to the end."""
    rows = sorted(comparison.rows, key=lambda row: (row.cell.metric, -row.cell.budget))
    for _, group in itertools.groupby(rows, lambda row: (row.cell.metric, row.cell.budget)):
        task = {comparison.label(row): row for row in group}
        if sum(bool(row.ok) for row in task.values()) >= 2:
            yield task


def _score(row: Row) -> float:
    top1 = row.mean(lambda record: record.top1.finetuned)
    return top1.mean if top1 and not row.lost else -math.inf


def _ranks(scores: Sequence[float]) -> np.ndarray:
    """Ranks from 1 for the best score, the mean rank for ties, shape (methods,)."""
    from scipy.stats import rankdata  # slow to import

    ranks: np.ndarray = rankdata(-np.array(scores))
    return ranks


def _stability(
    comparison: Comparison, budgets: tuple[str, str], rows: Sequence[tuple[Row, Row]]
) -> Stability:
    seeds = _shared_seeds(rows)
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
        first, second = top1[:, :, way].mean(axis=2)
        taus[chosen] = kendall_taus(first, second, counts[chosen])
    low, high = interval_of(taus)
    first, second = top1.mean(axis=2)
    tau = kendall_tau(first, second)
    return Stability(comparison.title, budgets, count, repeats, tau, low, high)


def _shared_seeds(rows: Iterable[tuple[Row, Row]]) -> set[int]:
    """The seeds in which every row has a final accuracy."""
    return set.intersection(*(set(row.top1_by_seed) for pair in rows for row in pair))
