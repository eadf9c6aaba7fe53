"""The knapsack over channels: items by group, and solvers for every capacity at once.

A group's channels weigh the same, so its best ones always go first and a solution is a width for
each group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Items", "best_for_capacities", "exact_widths", "greedy_widths", "lp_bound"]

ROUNDING = 1e-12
"""Share of the largest gain by which a sum may be off."""


@dataclass(frozen=True)
class Items:
    """The knapsack: one item per (group, channel), the channels of a group best first.

    Attributes:
        values: per group, values in descending order, shape (size,).
        weights: cost of one channel of each group, int64, shape (G,).
        legal: legal widths of each group, ascending; the first is kept in any case.
    """

    values: tuple[np.ndarray, ...]
    weights: np.ndarray
    legal: tuple[tuple[int, ...], ...]

    def value(self, widths: np.ndarray) -> np.ndarray:
        """Total value of the kept items, for widths of shape (..., G)."""
        total = np.zeros(widths.shape[:-1])
        for values, column in zip(self.values, np.moveaxis(widths, -1, 0), strict=True):
            total = total + np.append(0.0, np.cumsum(values))[column]
        return total

    def cost(self, widths: np.ndarray) -> np.ndarray:
        """Total weight of the kept items, for widths of shape (..., G)."""
        return np.asarray(widths @ self.weights)

    def steps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All widenings from one legal width to the next, group by group.

        Returns:
            Group index, value gained and cost added, each of shape (steps,).
        """
        owners, gains, costs = [], [], []
        for g, (values, legal) in enumerate(zip(self.values, self.legal, strict=True)):
            totals = np.concatenate([[0.0], np.cumsum(values)])[list(legal)]
            owners.append(np.full(len(legal) - 1, g))
            gains.append(np.diff(totals))
            costs.append(np.diff(legal) * self.weights[g])
        return np.concatenate(owners), np.concatenate(gains), np.concatenate(costs)

    def next_densities(self, widths: np.ndarray) -> np.ndarray:
        """Value per cost of the next channel of every group, shape (G,); 0 where all are kept."""
        following = [np.append(v, 0.0)[w] for v, w in zip(self.values, widths, strict=True)]
        return np.asarray(np.array(following) / np.maximum(self.weights, 1))


def greedy_widths(items: Items) -> np.ndarray:
    """Drop items from the full network, lowest value per cost first [official code].

    Returns:
        The solutions for all capacities, from the full network down, shape (n, G).
    """
    owners, gains, costs = items.steps()
    densities = np.divide(gains, costs, out=np.full(len(gains), np.inf), where=costs > 0)
    dropped = np.zeros((len(owners) + 1, len(items.legal)), dtype=np.int64)
    dropped[np.arange(1, len(owners) + 1), owners[np.argsort(densities, kind="stable")]] = 1
    left = np.array([len(legal) - 1 for legal in items.legal]) - dropped.cumsum(axis=0)
    return _widths_at(items, left)


def exact_widths(items: Items, resolution: int) -> np.ndarray:
    """Solve the knapsack for every capacity by dynamic programming over groups.

    Costs are divided by their gcd. If the whole network is then still more than `resolution` units,
    the unit grows, each width's cost is rounded up, so that no solution exceeds its capacity, and
    greedy solutions join those, lest rounding cost more than being greedy does.

    Returns:
        The solution for each capacity in units, from the smallest network up, shape (n, G).
    """
    costs = [
        (np.array(legal) - legal[0]) * int(weight)
        for legal, weight in zip(items.legal, items.weights, strict=True)
    ]
    common = int(np.gcd.reduce(np.concatenate(costs))) or 1
    most = sum(int(cost[-1]) for cost in costs) // common
    growth = max(1, -(-most // resolution))
    curves = [
        _Curve(-(-cost // (common * growth)), np.append(0.0, np.cumsum(values))[list(legal)])
        for cost, values, legal in zip(costs, items.values, items.legal, strict=True)
    ]
    solved = _widths_at(items, _best_positions(curves))
    return solved if growth == 1 else np.concatenate([solved, greedy_widths(items)])


def best_for_capacities(costs: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> np.ndarray:
    """Choose one entry of each group for most value, for every capacity, by dynamic programming.

    Args:
        costs: of the entries of each group, in units, int64, ascending from 0, shape (n,).
        values: of the same entries, ascending, the same shapes.

    Returns:
        The entry of each group for each capacity from 0 up, shape (capacities, G).
    """
    return _best_positions([_Curve(*pair) for pair in zip(costs, values, strict=True)])


@dataclass(frozen=True)
class _Curve:
    """What the legal widths of a group cost in units, and their values, both ascending.

    Attributes:
        costs: int64, shape (n,), the first 0.
        values: shape (n,).
    """

    costs: np.ndarray
    values: np.ndarray

    @cached_property
    def gains(self) -> np.ndarray:
        """Values above that of the first width, shape (n,)."""
        return np.asarray(self.values - self.values[0])

    @cached_property
    def bound(self) -> np.ndarray:
        """The least concave function above the gains, at each of the costs, shape (n,)."""
        corners: list[int] = []
        for at in range(len(self.costs)):
            while corners and self._is_below(corners, at):
                corners.pop()
            corners.append(at)
        return np.asarray(np.interp(self.costs, self.costs[corners], self.gains[corners]))

    def _is_below(self, corners: list[int], at: int) -> bool:
        """Whether the last corner lies below the line from the one before it to a point."""
        last = corners[-1]
        if self.costs[last] == self.costs[at]:
            return True
        if len(corners) == 1:
            return False
        before = corners[-2]
        run, rise = self.costs - self.costs[before], self.gains - self.gains[before]
        return bool(rise[last] * run[at] <= rise[at] * run[last])


@dataclass(frozen=True)
class _Pieces:
    """Straight pieces of concave bounds, the steepest first; their sums bound what can be reached.

    Attributes:
        costs: shape (n,).
        gains: shape (n,).
        is_last: whether a piece is of the group that was added last, shape (n,).
    """

    costs: np.ndarray
    gains: np.ndarray
    is_last: np.ndarray

    def add(self, curve: _Curve) -> _Pieces:
        """The pieces with those of one more group."""
        costs = np.concatenate([self.costs, np.diff(curve.costs)])
        gains = np.concatenate([self.gains, np.diff(curve.bound)])
        is_last = np.arange(len(costs)) >= len(self.costs)
        slopes = np.divide(gains, costs, out=np.full(len(costs), np.inf), where=costs > 0)
        order = np.argsort(-slopes, kind="stable")
        return _Pieces(costs[order], gains[order], is_last[order])

    def reached(self, capacities: np.ndarray) -> np.ndarray:
        """Upper bound of the gain within some capacities, the same shape."""
        ends, sums = (np.append(0, np.cumsum(each)) for each in (self.costs, self.gains))
        return np.asarray(np.interp(capacities, ends, sums))

    def share_of_last(self, capacities: np.ndarray) -> np.ndarray:
        """How much of some capacities the whole pieces of the last group take, the same shape."""
        ends = np.append(0, np.cumsum(self.costs))
        spent = np.append(0, np.cumsum(np.where(self.is_last, self.costs, 0)))
        return np.asarray(spent[np.searchsorted(ends, capacities, side="right") - 1])


def _best_positions(curves: Sequence[_Curve]) -> np.ndarray:
    """The best width of every group for each capacity in units, as positions, shape (n, G)."""
    order = np.argsort([curve.costs[-1] for curve in curves], kind="stable")  # small tables first
    best, pieces = np.zeros(1), _Pieces(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))
    choices: dict[int, np.ndarray] = {}
    for g in order:
        best, choices[g], pieces = _with_group(best, pieces, curves[g])
    left = np.arange(len(best))
    chosen = np.zeros((len(best), len(curves)), dtype=np.int64)
    for g in reversed(order):
        left = np.minimum(left, len(choices[g]) - 1)
        chosen[:, g] = choices[g][left]
        left = left - curves[g].costs[chosen[:, g]]
    return chosen


def _with_group(
    best: np.ndarray, pieces: _Pieces, curve: _Curve
) -> tuple[np.ndarray, np.ndarray, _Pieces]:
    """Let one more group compete.

    For each capacity the search starts at the width that the bound gives the group and goes up and
    down from there, until the bound of what lies beyond is below what was found. The bound is
    concave in the width's cost, so nothing better lies behind. Trying every width instead takes
    some hundred times as long, and keeping undominated sums, as `best_combinations` does, longer.

    Args:
        best: the largest gain of the groups so far within each capacity, shape (n,).
        pieces: of their bounds.
        curve: of the group.

    Returns:
        The largest gains with it, shape (n + its largest cost,), the group's position in each,
        and the pieces with its own.
    """
    capacities = np.arange(len(best) + int(curve.costs[-1]))
    reached = pieces.reached(capacities)
    best = np.append(best, np.full(len(capacities) - len(best), best[-1]))
    pieces = pieces.add(curve)
    share = pieces.share_of_last(capacities)
    start = np.searchsorted(curve.costs, share, side="right") - 1
    found = best[capacities - curve.costs[start]] + curve.gains[start]
    choice = start.astype(np.int32)
    noise = ROUNDING * max(1.0, float(reached[-1] + curve.gains[-1]))
    for step in (1, -1):
        open_, at = capacities, start
        while len(open_):
            at = at + step
            can = (at >= 0) & (at < len(curve.costs))
            open_, at = open_[can], at[can]
            can = curve.costs[at] <= open_
            open_, at = open_[can], at[can]
            left = open_ - curve.costs[at]
            can = reached[left] + curve.bound[at] >= found[open_] - noise
            open_, at, left = open_[can], at[can], left[can]
            gains = best[left] + curve.gains[at]
            # Of equal gains the narrowest, so that the order of the search does not show.
            is_narrower = (gains == found[open_]) & (at < choice[open_])
            better = (gains > found[open_]) | is_narrower
            found[open_[better]], choice[open_[better]] = gains[better], at[better]
    return found, choice, pieces


def _widths_at(items: Items, positions: np.ndarray) -> np.ndarray:
    """Legal widths at positions, shape (n, G), in each group's list of them."""
    columns = zip(items.legal, positions.T, strict=True)
    return np.stack([np.array(legal)[column] for legal, column in columns], axis=1)


def lp_bound(items: Items, capacity: int) -> float:
    """Upper bound of the value within a capacity: that of the best split items.

    Raises:
        ValueError: if the smallest widths already exceed the capacity.
    """
    smallest = np.array([legal[0] for legal in items.legal])
    left = capacity - int(items.cost(smallest))
    if left < 0:
        raise ValueError(f"capacity {capacity} is below the smallest network, {capacity - left}")
    _, gains, costs = items.steps()
    densities = np.divide(gains, costs, out=np.full(len(gains), np.inf), where=costs > 0)
    order = np.argsort(-densities, kind="stable")
    before = np.concatenate([[0], np.cumsum(costs[order])[:-1]])
    shares = np.clip((left - before) / np.maximum(costs[order], 1), 0.0, 1.0)
    shares[costs[order] == 0] = 1.0
    return float(items.value(smallest) + shares @ gains[order])
