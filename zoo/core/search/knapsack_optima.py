"""Optima of a multiple-choice knapsack over its capacities: the steps of its best value.

One choice from each group, of most value within a capacity. Over all capacities the best value is a
staircase below a concave function, its linear relaxation. A stretch of capacities is solved at
once: a line bounds the relaxation there, each choice loses something against the line, and an
optimum loses no more than the staircase lies below it. So only the choices that lose little are
added up, group by group, and only sums that no other matches or beats are kept. How little is tried
from small to large: the staircase that is found proves it. How many units the costs have does not
matter. Where values tie, a capacity has several optima. The cheapest are found first; where some of
more value do not fit, the others of that value are tried too.

Related: Pisinger, A minimal algorithm for the multiple-choice knapsack problem, 1995.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from zoo.core.search.knapsack_relaxation import PIECES, Addition, Line, Relaxation
from zoo.core.search.knapsack_ties import TiedSums

__all__ = ["fitting_optima"]

logger = logging.getLogger(__name__)

NOISE = 1e-12
"""Share of the largest total gain by which a sum may be off."""

EQUAL = 2e-14
"""The same for sums that tie: many times what adding rounds, and rare between others."""

MOST_SUMS = 10_000_000
"""Most sums that are compared at once; they take about half a gigabyte."""

SOME_SUMS = 400_000  # kept in view where all would be too many
FEW_SUMS = 16_000  # enough for a bound of what optima lose
GROWTH = 4

STRETCHES = 64  # bounded at once


def fitting_optima(
    costs: Sequence[np.ndarray],
    values: Sequence[np.ndarray],
    recount: Callable[[np.ndarray], np.ndarray],
    limit: int,
) -> np.ndarray:
    """The optima of the largest capacities among which one's recount is within a limit.

    The last of them that fits is the most valuable of all optima that do: larger capacities were
    solved too, or their optima cannot fit, since entries that are no higher do not.

    Of optima of one value that fit it is the cheapest, and of those that cost the same the one of
    lowest entries, the group of the largest costs first.

    Two things are too many to try where most choices are optima, as with values proportional to
    costs. Of the ties of one value those of least recount are followed, `MOST_TIED` at once. And
    where even one capacity takes more than `MOST_SUMS` sums, the sums that lose the least are kept:
    not every capacity is solved then, and a warning says what the solutions may lose.

    Args:
        costs: of each group's entries, int64, ascending from 0, shape (n,).
        values: of the same entries, ascending, the same shapes.
        recount: from entries, shape (m, G), to their cost, shape (m,). It must not fall where an
            entry rises; it need not be the sum of `costs`.
        limit: most that it may be.

    Returns:
        The entry of each group, shape (m, G), values ascending; where no optimum fits, that of
        capacity 0.
    """

    def excess(entries: np.ndarray) -> np.ndarray:
        return np.asarray(recount(entries) - limit)

    knapsack = _Knapsack(tuple(costs), tuple(value - value[0] for value in values))
    pieces = knapsack.pieces
    firsts = np.arange(0, max(1, len(pieces.owners)), PIECES)[::-1]
    for at in range(0, len(firsts), STRETCHES):
        some = firsts[at : at + STRETCHES]
        lowest = knapsack.lowest_entries(*pieces.known_losses(some))
        for first in some[excess(lowest) <= 0].tolist():
            found = knapsack.fitting(*pieces.capacities(first), excess)
            if found is not None:
                return found
    return pieces.lowest[None]


@dataclass(frozen=True)
class _Sums:
    """Sums of one entry from every group that no other sum matches or beats.

    Attributes:
        costs: ascending, beside those of the line's entries, shape (n,).
        gains: the same, ascending too.
        picks: for each group that had a choice its ordinal, and for each sum up to it the entry
            and the ordinal of the sum before.
        has_ties: whether a sum was left out that gains as much as one that is kept.
    """

    costs: np.ndarray
    gains: np.ndarray
    picks: list[tuple[int, np.ndarray, np.ndarray]]
    has_ties: bool

    def start(self, line: Line) -> int:
        """The last sum within the smallest capacity; -1 if there is none."""
        return int(np.searchsorted(self.costs, line.low, side="right")) - 1

    def loss(self, line: Line) -> float:
        """Most that the best of the sums within a capacity loses against the line."""
        start = self.start(line)
        if start < 0:
            return np.inf
        ends = np.append(self.costs[start + 1 :] - 1, line.high)
        return float((line.slope * ends - self.gains[start:]).max())

    def thinned(self, slope: float, most: int) -> _Sums:
        """The sums that lose the least in each of some ranges of cost."""
        if len(self.costs) <= most:
            return self
        lost = slope * self.costs - self.gains
        ranges = (self.costs - self.costs[0]) * most // (self.costs[-1] - self.costs[0] + 1)
        order = np.lexsort((lost, ranges))
        best = np.sort(order[np.append(True, np.diff(ranges[order]) > 0)])
        *picks, (group, chosen, before) = self.picks
        picks = [*picks, (group, chosen[best], before[best])]
        return _Sums(self.costs[best], self.gains[best], picks, self.has_ties)

    def entries(self, of_line: np.ndarray) -> np.ndarray:
        """Entries that add up to the sums, shape (n, G), from those of the line, shape (G,)."""
        at = np.arange(len(self.costs))
        found = np.tile(of_line, (len(at), 1))
        for group, chosen, before in reversed(self.picks):
            found[:, group] = chosen[at]
            at = before[at]
        return found


@dataclass(frozen=True)
class _Knapsack:
    """Groups of entries.

    Attributes:
        costs: per group int64, shape (n,), ascending from 0.
        gains: values above that of the first entry, the same shapes.
    """

    costs: tuple[np.ndarray, ...]
    gains: tuple[np.ndarray, ...]

    @cached_property
    def pieces(self) -> Relaxation:
        """The relaxation."""
        return Relaxation.of(self.costs, self.gains)

    @cached_property
    def noise(self) -> float:
        """What a sum of gains may be off by."""
        return NOISE * float(self.pieces.gains[-1])

    @cached_property
    def equal(self) -> float:
        """What sums that tie may differ by."""
        return EQUAL * float(self.pieces.gains[-1])

    def lowest_entries(self, slopes: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """The first entry of each group that loses no more than it may against a line.

        Args:
            slopes: of lines, shape (n,).
            losses: against them, shape (n,).

        Returns:
            Shape (n, G).
        """
        found = []
        for cost, gain in zip(self.costs, self.gains, strict=True):
            above = gain - slopes[:, None] * cost
            least = above.max(axis=1) - losses - self.noise
            found.append((above >= least[:, None]).argmax(axis=1))
        return np.stack(found, axis=1)

    @cached_property
    def rising(self) -> tuple[np.ndarray, ...]:
        """Of each group's entries whether they gain more than every one below, shape (n,)."""
        highest = map(np.maximum.accumulate, self.gains)
        return tuple(np.append(True, each[1:] > each[:-1]) for each in highest)

    def fitting(
        self, low: int, high: int, excess: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray | None:
        """The optima of the largest capacities in a range among which one fits, shape (n, G).

        Args:
            low: the smallest capacity.
            high: the largest.
            excess: from entries, shape (n, G), to what is above the limit, shape (n,).
        """
        line = Line.through(self.pieces, low, high)
        loss = self._bound(line)
        lowest = self.lowest_entries(np.array([line.slope]), np.array([loss]))
        if excess(lowest)[0] > 0:
            return None
        sums = self._sums(line, loss, most=MOST_SUMS)
        if sums is not None:
            return self._fitting_sums(line, loss, sums, excess)
        middle = (low + high) // 2
        if low == high or not self._is_solvable(middle):
            return self._choices_near(high, excess)
        found_above = self.fitting(middle + 1, high, excess)
        return self.fitting(low, middle, excess) if found_above is None else found_above

    def _is_solvable(self, capacity: int) -> bool:
        """Whether one capacity takes no more sums than can be compared."""
        line = Line.through(self.pieces, capacity, capacity)
        return self._sums(line, self._bound(line), most=MOST_SUMS) is not None

    def _fitting_sums(
        self, line: Line, loss: float, sums: _Sums, excess: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray | None:
        """The optima of all capacities up to the most valuable one that fits; None if none does."""
        start = max(0, sums.start(line))
        found = sums.entries(line.entries)[start:]
        fits = np.flatnonzero(excess(found) <= 0)
        if sums.has_ties and (not len(fits) or fits[-1] < len(found) - 1):
            above = sums.gains[start + fits[-1]] if len(fits) else -np.inf
            tied = TiedSums.of(line, self._additions(line, loss), loss, self.equal)
            best = tied.best_fitting(float(above), excess)
            if best is not None:
                return best[None]
        return found if len(fits) else None

    def _choices_near(self, high: int, excess: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Choices that lose little against the relaxation, up to a capacity, shape (n, G).

        They begin with the last corner of the relaxation that fits, an optimum of its capacity.
        """
        corners = self.pieces.corners()
        fits = np.flatnonzero(excess(corners) <= 0)
        corner = int(fits[-1]) if len(fits) else 0
        low = min(int(self.pieces.costs[corner]), high)
        line = Line.through(self.pieces, low, high)
        sums = self._sums(line, self._bound(line), most=SOME_SUMS, thin=True)
        assert sums is not None
        found = sums.entries(line.entries)
        gained = line.gain + sums.gains
        better = np.flatnonzero((excess(found) <= 0) & (gained > self.pieces.gains[corner]))
        gap = 0.0
        if len(better):
            bound = self.pieces.bound(line.cost + int(sums.costs[better[-1]]))
            gap = max(0.0, 1 - float(gained[better[-1]]) / bound)
        logger.warning(
            "a capacity of this knapsack takes more than %s sums: the choice found may lose %.0e "
            "of the value of an optimum, and larger capacities that fit may have been passed over",
            f"{MOST_SUMS:,}",
            gap,
        )
        return np.concatenate([corners[[corner]], found[better[-1:]]])

    def _bound(self, line: Line) -> float:
        """What optima lose at most against a line: what some sums do that are quickly found."""
        loss, best = max(line.ahead / 512, 2 * self.noise), np.inf
        while GROWTH * loss < best:
            sums = self._sums(line, loss, most=FEW_SUMS, thin=True)
            assert sums is not None
            best = min(best, sums.loss(line) + self.noise)
            loss *= GROWTH
        return best

    def _additions(self, line: Line, loss: float) -> list[Addition]:
        """The entries that lose no more than a loss, of groups with a choice, small costs first."""
        choices = []
        for g in np.argsort([cost[-1] for cost in self.costs], kind="stable").tolist():
            at = line.entries[g]
            cost, gain = self.costs[g] - self.costs[g][at], self.gains[g] - self.gains[g][at]
            kept = np.flatnonzero((line.slope * cost - gain <= loss) & self.rising[g])
            if len(kept) != 1 or kept[0] != at:
                choices.append((g, kept, cost[kept], gain[kept]))
        least = _later_sums([int(cost[0]) for _, _, cost, _ in choices])
        most = _later_sums([int(cost[-1]) for _, _, cost, _ in choices])
        return [
            Addition(*choice, *later) for choice, *later in zip(choices, least, most, strict=True)
        ]

    def _sums(self, line: Line, loss: float, *, most: int, thin: bool = False) -> _Sums | None:
        """The sums that may be optima and lose no more than a loss against a line.

        Args:
            line: gives the capacities too.
            loss: of any optimum no more, or optima are missing.
            most: sums that are compared at once.
            thin: whether to go on with fewer where they are more.

        Returns:
            None if they are more and must not be thinned.
        """
        sums = _Sums(np.zeros(1, np.int64), np.zeros(1), [], has_ties=False)
        for addition in self._additions(line, loss):
            n_entries = len(addition.entries)
            if n_entries * len(sums.costs) > most:
                if not thin:
                    return None
                sums = sums.thinned(line.slope, max(1, most // n_entries))
            can, (costs, gains) = addition.sums(sums.costs, sums.gains, line, loss)
            can = can[np.lexsort((-gains[can], costs[can]))]
            highest = np.maximum.accumulate(gains[can])
            is_step = np.append(True, highest[1:] > highest[:-1])[: len(can)]
            is_tied = ~is_step[1:] & (gains[can[1:]] >= highest[:-1] - self.equal)
            has_ties = sums.has_ties or bool(is_tied.any())
            can = can[is_step]
            entry, before = np.divmod(can.astype(np.int32), np.int32(max(len(sums.costs), 1)))
            pick = addition.group, addition.entries[entry].astype(np.int32), before
            sums = _Sums(costs[can], gains[can], [*sums.picks, pick], has_ties)
        return sums


def _later_sums(costs: Sequence[int]) -> np.ndarray:
    """What the costs behind each one add up to, shape (n,)."""
    return np.append(np.cumsum(costs[::-1])[::-1][1:], 0)[: len(costs)].astype(np.int64)
