"""Optima of one value: a capacity of a multiple-choice knapsack has several where values tie.

Sums that tie are kept beside each other, one of each cost, group by group. Then choices are read
back from the last group to the first; those that cannot fit, whatever the groups before choose, are
given up on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.core.search.knapsack_relaxation import Addition, Line

__all__ = ["TiedSums"]

MOST_TIED = 4_000
"""Most choices of tied optima that are followed at once."""

MOST_READS = 32  # in smaller and smaller parts; what is then left is read at once

MOST_SUMS = 1_000_000  # compared at once; of more, ties are left out


@dataclass(frozen=True)
class TiedSums:
    """Sums of one entry from every group that no cheaper sum beats; one of each cost.

    Attributes:
        line: the sums are beside its entries.
        additions: the groups that had a choice, in the order in which they were added.
        costs: ascending, before the first group, between groups, and behind the last, each (n,).
        gains: the same shapes.
        noise: sums of gains that are this close are equal.
    """

    line: Line
    additions: Sequence[Addition]
    costs: Sequence[np.ndarray]
    gains: Sequence[np.ndarray]
    noise: float

    @classmethod
    def of(cls, line: Line, additions: Sequence[Addition], loss: float, noise: float) -> TiedSums:
        """Add the groups up, without what loses more than a loss against the line."""
        costs, gains = [np.zeros(1, np.int64)], [np.zeros(1)]
        for addition in additions:
            can, (cost, gain) = addition.sums(costs[-1], gains[-1], line, loss)
            order = can[np.lexsort((-gain[can], cost[can]))]
            cost, gain = cost[order], gain[order]
            most = np.maximum.accumulate(gain)
            kept = np.append(True, np.diff(cost) > 0)[: len(cost)] & (gain >= most - noise)
            if np.count_nonzero(kept) * len(addition.entries) > MOST_SUMS:
                kept = np.append(True, most[1:] > most[:-1] + noise)
            costs.append(cost[kept])
            gains.append(gain[kept])
        return cls(line, additions, costs, gains, noise)

    def best_fitting(
        self, above: float, excess: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray | None:
        """The most valuable optimum that fits, the cheapest of these, then that of lowest entries.

        Args:
            above: it must gain more than this.
            excess: from entries, shape (n, G), to what is above the limit, shape (n,).

        Returns:
            Entries, shape (G,); None if there is none.
        """
        costs, gains = self.costs[-1], self.gains[-1]
        most = np.maximum.accumulate(gains)
        steps = np.cumsum(np.append(True, most[1:] > most[:-1] + self.noise)[: len(costs)])
        at = np.flatnonzero(gains > above + self.noise)
        waiting, reads = [at] if len(at) else [], 0
        while waiting:
            if reads >= MOST_READS:
                waiting = [np.concatenate(waiting)]
            at = waiting.pop()
            first, last = steps[at[0]], steps[at[-1]]
            read = self._read_back(at, excess, is_last=reads >= MOST_READS or first == last)
            if read is None:  # the more valuable half next
                is_lower = steps[at] <= (first + last) // 2
                waiting += [at[is_lower], at[~is_lower]]
            elif len(read[0]):
                return self._best(*read, steps)
            reads += 1
        return None

    def _best(self, rows: np.ndarray, entries: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The most valuable of some choices, the cheapest of these, then that of lowest entries."""
        narrow = [entries[:, addition.group] for addition in self.additions]
        best = np.lexsort((*narrow, self.costs[-1][rows], -steps[rows]))[0]
        return np.asarray(entries[best])

    def _read_back(
        self, at: np.ndarray, excess: Callable[[np.ndarray], np.ndarray], *, is_last: bool
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Every choice that adds up to some of the last sums and fits.

        Args:
            at: ordinals of the sums, shape (m,).
            excess: as `best_fitting` takes it.
            is_last: whether to go on with those of least excess where they are too many.

        Returns:
            For each its sum, shape (n,), and entries, shape (n, G); None if they are too many.
        """
        rows, costs, gains = at, self.costs[-1][at], self.gains[-1][at]
        lowest = self.line.entries.copy()
        for addition in self.additions:
            lowest[addition.group] = addition.entries[0]
        entries = np.tile(lowest, (len(at), 1))
        before = list(zip(self.additions, self.costs, self.gains, strict=False))
        for addition, sum_costs, sum_gains in reversed(before):
            left = costs[:, None] - addition.costs
            missing = gains[:, None] - addition.gains
            found = np.minimum(np.searchsorted(sum_costs, left), len(sum_costs) - 1)
            is_sum = (sum_costs[found] == left) & (np.abs(sum_gains[found] - missing) <= self.noise)
            of, chosen = np.nonzero(is_sum)
            entries = entries[of]
            entries[:, addition.group] = addition.entries[chosen]
            above = excess(entries)
            fits = np.flatnonzero(above <= 0)
            if len(fits) > MOST_TIED:
                if not is_last:
                    return None
                fits = np.sort(fits[np.argsort(above[fits], kind="stable")[:MOST_TIED]])
            rows, entries = rows[of[fits]], entries[fits]
            costs, gains = left[is_sum][fits], missing[is_sum][fits]
        return rows, entries
