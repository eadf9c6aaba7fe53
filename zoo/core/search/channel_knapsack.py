"""The knapsack over channels: items by group, and solvers for whole ranges of capacities.

A group's channels weigh the same, so its best ones always go first and a solution is a width for
each group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zoo.core.search.knapsack_optima import fitting_optima

__all__ = ["Items", "exact_widths", "greedy_widths", "lp_bound"]


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


def exact_widths(
    items: Items, recount: Callable[[np.ndarray], np.ndarray], limit: int
) -> np.ndarray:
    """Solve the knapsack exactly, for the largest capacities that a recount allows.

    Args:
        items: the knapsack.
        recount: from widths, shape (n, G), to costs, shape (n,); must not fall where a width grows.
        limit: most that the recount may be.

    Returns:
        Solutions of neighbouring capacities, shape (n, G), values ascending. The last whose recount
        is within the limit is the most valuable of all capacities' solutions that are, tied ones
        among them; there is none if the smallest network's is not. Where that is too much to count,
        as `fitting_optima` says, a warning tells what the last may lose.
    """
    costs = [
        (np.array(legal) - legal[0]) * int(weight)
        for legal, weight in zip(items.legal, items.weights, strict=True)
    ]
    values = [
        np.append(0.0, np.cumsum(values))[list(legal)]
        for legal, values in zip(items.legal, items.values, strict=True)
    ]
    found = fitting_optima(costs, values, lambda at: recount(_widths_at(items, at)), limit)
    return _widths_at(items, found)


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
