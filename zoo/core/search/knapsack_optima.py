"""Optima of a multiple-choice knapsack over its capacities: the steps of its best value.

One choice from each group, of most value within a capacity. Over all capacities the best value is a
staircase below a concave function, its linear relaxation. A stretch of capacities is solved at
once: a line bounds the relaxation there, each choice loses something against the line, and an
optimum loses no more than the staircase lies below it. So only the choices that lose little are
added up, group by group, and only sums that no other matches or beats are kept. How little is tried
from small to large: the staircase that is found proves it. How many units the costs have does not
matter.

Related: Pisinger, A minimal algorithm for the multiple-choice knapsack problem, 1995.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from zoo.core.search.multiple_choice import skyband

__all__ = ["fitting_optima"]

NOISE = 1e-12
"""Share of the largest total gain by which a sum may be off."""

MOST_SUMS = 10_000_000
"""Most sums that are compared at once; they take about half a gigabyte."""

FEW_SUMS = 4_000  # enough for a bound of what optima lose
GROWTH = 4

PIECES = 16  # of the relaxation in a stretch: more make longer lists, fewer make more of them
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

    Of equally valuable choices the cheapest is the optimum, and of those that cost the same the one
    of lowest entries, the group of the largest costs first.

    Args:
        costs: of each group's entries, int64, ascending from 0, shape (n,).
        values: of the same entries, ascending, the same shapes.
        recount: from entries, shape (m, G), to their cost, shape (m,). It must not fall where an
            entry rises; it need not be the sum of `costs`.
        limit: most that it may be.

    Returns:
        The entry of each group, shape (m, G), values ascending; where no optimum fits, that of
        capacity 0.

    Raises:
        ValueError: if one capacity alone takes more than `MOST_SUMS` sums.
    """

    def fits(entries: np.ndarray) -> np.ndarray:
        return np.asarray(recount(entries) <= limit)

    knapsack = _Knapsack(tuple(costs), tuple(value - value[0] for value in values))
    pieces = knapsack.pieces
    firsts = np.arange(0, max(1, len(pieces.owners)), PIECES)[::-1]
    for at in range(0, len(firsts), STRETCHES):
        some = firsts[at : at + STRETCHES]
        lowest = knapsack.lowest_entries(*pieces.known_losses(some))
        for first in some[fits(lowest)].tolist():
            found = knapsack.fitting(*pieces.capacities(first), fits)
            if found is not None:
                return found
    return pieces.lowest[None]


@dataclass(frozen=True)
class _Pieces:
    """The relaxation: straight pieces, steepest first, each from one entry of a group to another.

    Attributes:
        owners: group of each piece, shape (P,).
        entries: entry that each piece ends at, shape (P,).
        slopes: gain per cost, and 0 behind the last piece, shape (P + 1,).
        costs: int64, at the ends of the pieces, from the first entries on, shape (P + 1,).
        gains: the same for the gains.
        lowest: entries where the pieces begin, the best of no cost, shape (G,).
    """

    owners: np.ndarray
    entries: np.ndarray
    slopes: np.ndarray
    costs: np.ndarray
    gains: np.ndarray
    lowest: np.ndarray

    @classmethod
    def of(cls, costs: Sequence[np.ndarray], gains: Sequence[np.ndarray]) -> _Pieces:
        """The pieces of all groups, by descending slope."""
        corners = [_corners(*pair) for pair in zip(costs, gains, strict=True)]
        lowest = np.array([each[0] for each in corners], dtype=np.int64)
        runs = [np.diff(cost[at]) for cost, at in zip(costs, corners, strict=True)]
        rises = [np.diff(gain[at]) for gain, at in zip(gains, corners, strict=True)]
        # Concave but for rounding, which must not put a group's pieces out of order.
        falling = [np.minimum.accumulate(b / a) for a, b in zip(runs, rises, strict=True)]
        order = np.argsort(-np.concatenate(falling), kind="stable")
        owners = np.repeat(np.arange(len(corners)), [len(each) - 1 for each in corners])
        start = sum(float(gain[at]) for gain, at in zip(gains, lowest, strict=True))
        return cls(
            owners[order],
            np.concatenate([each[1:] for each in corners])[order],
            np.append(np.concatenate(falling)[order], 0.0),
            np.append(0, np.cumsum(np.concatenate(runs)[order])),
            np.cumsum(np.append(start, np.concatenate(rises)[order])),
            lowest,
        )

    def capacities(self, first: int) -> tuple[int, int]:
        """The smallest and the largest capacity of the stretch that begins with a piece."""
        last = min(first + PIECES, len(self.owners))
        return int(self.costs[first]), int(self.costs[last]) - (last < len(self.owners))

    def middle(self, low: int, high: int) -> int:
        """The piece in the middle of some capacities; the line through it bounds all gains."""
        return int(np.searchsorted(self.costs, (low + high) // 2, side="right")) - 1

    def known_losses(self, firsts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What optima lose at most against the line of their stretch: what whole pieces do.

        Args:
            firsts: the piece that each stretch begins with, shape (n,).

        Returns:
            Slopes of the lines and the losses, each of shape (n,).
        """
        middles = np.array([self.middle(*self.capacities(first)) for first in firsts.tolist()])
        slopes = self.slopes[middles]
        at = np.minimum(firsts[:, None] + np.arange(PIECES + 1), len(self.owners))
        ahead = self.costs[at[:, 1:]] - self.costs[middles, None]
        lines = self.gains[middles, None] + slopes[:, None] * ahead
        return slopes, (lines - self.gains[at[:, :-1]]).max(axis=1)

    def up_to(self, piece: int) -> np.ndarray:
        """The entries, shape (G,), at which a piece begins."""
        entries = self.lowest.copy()
        entries[self.owners[:piece]] = self.entries[:piece]  # the last of a group's pieces stays
        return entries


def _corners(costs: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Where the least concave function above a group's gains has corners, the cheapest first."""
    corners: list[int] = []
    x, y = costs.tolist(), gains.tolist()
    for at in range(len(x)):
        while corners and (
            x[corners[-1]] == x[at]
            or (len(corners) > 1 and _is_below(x, y, (corners[-2], corners[-1], at)))
        ):
            corners.pop()
        corners.append(at)
    return np.array(corners, dtype=np.int64)


def _is_below(x: list[int], y: list[float], points: tuple[int, int, int]) -> bool:
    """Whether the second of three points lies below the line between the others."""
    a, b, c = points
    return (y[b] - y[a]) * (x[c] - x[a]) < (y[c] - y[a]) * (x[b] - x[a])


@dataclass(frozen=True)
class _Line:
    """A line above the relaxation, through entries that lose nothing against it.

    Attributes:
        entries: shape (G,).
        slope: gain per cost.
        ahead: what the piece behind the entries gains.
        low: what the smallest capacity in question leaves beside the entries, may be negative.
        high: what the largest leaves.
    """

    entries: np.ndarray
    slope: float
    ahead: float
    low: int
    high: int

    @classmethod
    def through(cls, pieces: _Pieces, low: int, high: int) -> _Line:
        """The line through the piece in the middle of some capacities."""
        middle = pieces.middle(low, high)
        ahead = pieces.gains[min(middle + 1, len(pieces.owners))] - pieces.gains[middle]
        cost = int(pieces.costs[middle])
        slope = float(pieces.slopes[middle])
        return cls(pieces.up_to(middle), slope, float(ahead), low - cost, high - cost)


@dataclass(frozen=True)
class _Sums:
    """Sums of one entry from every group that no other sum matches or beats.

    Attributes:
        costs: ascending, beside those of the line's entries, shape (n,).
        gains: the same, ascending too.
        picks: for each group that had a choice its ordinal, and for each sum up to it the entry
            and the ordinal of the sum before.
    """

    costs: np.ndarray
    gains: np.ndarray
    picks: list[tuple[int, np.ndarray, np.ndarray]]

    def start(self, line: _Line) -> int:
        """The last sum within the smallest capacity; -1 if there is none."""
        return int(np.searchsorted(self.costs, line.low, side="right")) - 1

    def loss(self, line: _Line) -> float:
        """Most that the best of the sums within a capacity loses against the line."""
        start = self.start(line)
        if start < 0:
            return np.inf
        ends = np.append(self.costs[start + 1 :] - 1, line.high)
        return float((line.slope * ends - self.gains[start:]).max())

    def thinned(self, slope: float, most: int) -> _Sums:
        """The sums that lose the least in each of some ranges of cost, without picks."""
        lost = slope * self.costs - self.gains
        ranges = (self.costs - self.costs[0]) * most // (self.costs[-1] - self.costs[0] + 1)
        order = np.lexsort((lost, ranges))
        best = np.sort(order[np.append(True, np.diff(ranges[order]) > 0)])
        return _Sums(self.costs[best], self.gains[best], [])

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
    def pieces(self) -> _Pieces:
        """The relaxation."""
        return _Pieces.of(self.costs, self.gains)

    @cached_property
    def noise(self) -> float:
        """What a sum of gains may be off by."""
        return NOISE * float(self.pieces.gains[-1])

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

    def fitting(
        self, low: int, high: int, fits: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray | None:
        """The optima of the largest capacities in a range among which one fits, shape (n, G).

        Args:
            low: the smallest capacity.
            high: the largest.
            fits: from entries, shape (n, G), to whether they fit, shape (n,).
        """
        line = _Line.through(self.pieces, low, high)
        loss = self._bound(line)
        if not fits(self.lowest_entries(np.array([line.slope]), np.array([loss]))).any():
            return None
        sums = self._sums(line, loss, most=MOST_SUMS)
        if sums is not None:
            found = sums.entries(line.entries)[sums.start(line) :]
            return found if fits(found).any() else None
        if low == high:
            raise ValueError(
                f"capacity {low:,} of a knapsack takes more than {MOST_SUMS:,} sums; values that "
                'vary more take fewer, and solver="greedy" takes none'
            )
        middle = (low + high) // 2
        found_above = self.fitting(middle + 1, high, fits)
        return self.fitting(low, middle, fits) if found_above is None else found_above

    def _bound(self, line: _Line) -> float:
        """What optima lose at most against a line: what some sums do that are quickly found."""
        loss, best = max(line.ahead / 512, 2 * self.noise), np.inf
        while GROWTH * loss < best:
            sums = self._sums(line, loss, most=FEW_SUMS, thin=True)
            assert sums is not None
            best = min(best, sums.loss(line) + self.noise)
            loss *= GROWTH
        return best

    def _sums(self, line: _Line, loss: float, *, most: int, thin: bool = False) -> _Sums | None:
        """The sums that may be optima and lose no more than a loss against a line.

        Args:
            line: gives the capacities too.
            loss: of any optimum no more, or optima are missing.
            most: sums that are compared at once.
            thin: whether to go on with fewer where they are more, without the picks.

        Returns:
            None if they are more and must not be thinned.
        """
        steps = []
        for g in np.argsort([cost[-1] for cost in self.costs], kind="stable").tolist():
            cost = self.costs[g] - self.costs[g][line.entries[g]]
            gain = self.gains[g] - self.gains[g][line.entries[g]]
            kept = np.flatnonzero(line.slope * cost - gain <= loss)
            if len(kept) > 1:
                steps.append((g, kept, cost[kept], gain[kept]))
        least = _later_sums([int(cost[0]) for _, _, cost, _ in steps])
        greatest = _later_sums([int(cost[-1]) for _, _, cost, _ in steps])
        sums = _Sums(np.zeros(1, np.int64), np.zeros(1), [])
        for (g, kept, cost, gain), less, more in zip(steps, least, greatest, strict=True):
            if len(cost) * len(sums.costs) > most:
                if not thin:
                    return None
                sums = sums.thinned(line.slope, max(1, most // len(cost)))
            costs = (cost[:, None] + sums.costs).ravel()
            gains = (gain[:, None] + sums.gains).ravel()
            lost = line.slope * np.maximum(costs, line.low - more) - gains
            can = np.flatnonzero((lost <= loss) & (costs + less <= line.high))
            can = can[skyband(-gains[can], costs[can])]
            picks = sums.picks
            if not thin:
                entry, parent = np.divmod(can.astype(np.int32), np.int32(max(len(sums.costs), 1)))
                picks = [*picks, (g, kept[entry].astype(np.int32), parent)]
            sums = _Sums(costs[can], gains[can], picks)
        return sums


def _later_sums(costs: Sequence[int]) -> np.ndarray:
    """What the costs behind each one add up to, shape (n,)."""
    return np.append(np.cumsum(costs[::-1])[::-1][1:], 0)[: len(costs)].astype(np.int64)
