"""The linear relaxation of a multiple-choice knapsack, and lines that bound it.

Each group's gains lie below a concave function of straight pieces; the pieces of all groups, the
steepest first, are the relaxation over all capacities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["PIECES", "Addition", "Line", "Relaxation"]

PIECES = 16
"""Pieces in a stretch of capacities: more make longer lists, fewer make more of them."""


@dataclass(frozen=True)
class Relaxation:
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
    def of(cls, costs: Sequence[np.ndarray], gains: Sequence[np.ndarray]) -> Relaxation:
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

    def bound(self, capacity: int) -> float:
        """The most that can be gained within a capacity, or more."""
        return float(np.interp(capacity, self.costs, self.gains))

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

    def corners(self) -> np.ndarray:
        """The entries, shape (P + 1, G), at which each piece begins, and those behind the last."""
        return np.stack([self.up_to(piece) for piece in range(len(self.owners) + 1)])


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
class Line:
    """A line above the relaxation, through entries that lose nothing against it.

    Attributes:
        entries: shape (G,).
        cost: of the entries.
        gain: of the entries.
        slope: gain per cost.
        ahead: what the piece behind the entries gains.
        low: what the smallest capacity in question leaves beside the entries, may be negative.
        high: what the largest leaves.
    """

    entries: np.ndarray
    cost: int
    gain: float
    slope: float
    ahead: float
    low: int
    high: int

    @classmethod
    def through(cls, pieces: Relaxation, low: int, high: int) -> Line:
        """The line through the piece in the middle of some capacities."""
        middle = pieces.middle(low, high)
        ahead = pieces.gains[min(middle + 1, len(pieces.owners))] - pieces.gains[middle]
        cost, gain = int(pieces.costs[middle]), float(pieces.gains[middle])
        slope = float(pieces.slopes[middle])
        entries = pieces.up_to(middle)
        return cls(entries, cost, gain, slope, float(ahead), low - cost, high - cost)


@dataclass(frozen=True)
class Addition:
    """The entries of a group that are added to sums of the groups before.

    Attributes:
        group: its ordinal.
        entries: shape (n,).
        costs: beside that of the line's entry, ascending, shape (n,).
        gains: the same.
        least_later: what the groups behind cost at least.
        most_later: what they cost at most.
    """

    group: int
    entries: np.ndarray
    costs: np.ndarray
    gains: np.ndarray
    least_later: int
    most_later: int

    def sums(
        self, costs: np.ndarray, gains: np.ndarray, line: Line, loss: float
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """The sums with each of the entries added, and which of them may become optima.

        Args:
            costs: of the sums before, shape (m,).
            gains: the same.
            line: gives the capacities too.
            loss: of any optimum no more against the line.

        Returns:
            Ordinals among all sums, n * m in the order of the entries; their costs and gains.
        """
        all_costs = (self.costs[:, None] + costs).ravel()
        all_gains = (self.gains[:, None] + gains).ravel()
        lost = line.slope * np.maximum(all_costs, line.low - self.most_later) - all_gains
        can = np.flatnonzero((lost <= loss) & (all_costs + self.least_later <= line.high))
        return can, (all_costs, all_gains)
