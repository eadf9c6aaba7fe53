"""Multiple-choice knapsack, solved exactly: one choice from each list, within a limit of cost."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

__all__ = ["best_combinations", "skyband"]


def skyband(losses: np.ndarray, costs: np.ndarray, count: int = 1) -> np.ndarray:
    """Indices of the `count`-skyband; the Pareto front for `count=1`.

    These are the points that fewer than `count` others match or beat in both loss and cost. Of
    equal points the first ones are kept.

    Args:
        losses: shape (n,).
        costs: shape (n,).
        count: how many others it takes to drop a point.

    Returns:
        Shape (m,), by ascending cost.
    """
    order = np.lexsort((losses, costs))
    if count == 1:  # needs no heap, and is asked for once in every generation
        lowest = np.minimum.accumulate(losses[order])
        front: np.ndarray = order[np.concatenate([[True], lowest[1:] < lowest[:-1]])[: len(order)]]
        return front
    best: list[float] = []  # the smallest losses so far, negated, the largest of them first
    kept = []
    for at in order.tolist():
        loss = float(losses[at])
        if len(best) == count:
            if loss >= -best[0]:
                continue
            heapq.heapreplace(best, -loss)
        else:
            heapq.heappush(best, -loss)
        kept.append(at)
    return np.array(kept, dtype=np.int64)


def best_combinations(
    losses: Sequence[np.ndarray], costs: Sequence[np.ndarray], limit: int, count: int
) -> list[tuple[int, ...]]:
    """The combinations of least summed loss within a limit of summed cost: one entry per archive.

    A multiple-choice knapsack, solved exactly: archive after archive, a partial combination is
    dropped only if `count` others match or beat it in both sums, or if nothing could fit with it.

    Args:
        losses: for each archive, shape (n,).
        costs: the same shapes, integers; may be negative.
        limit: most that the costs may add up to.
        count: how many combinations; fewer if fewer fit.

    Returns:
        For each combination the ordinal of its entry in each archive, the best first.
    """
    kept = [skyband(loss, cost, count) for loss, cost in zip(losses, costs, strict=True)]
    least = [int(cost[chosen].min()) for cost, chosen in zip(costs, kept, strict=True)]
    rest = np.append(np.cumsum(least[::-1])[::-1][1:], 0)
    sums, totals = np.zeros(1), np.zeros(1, dtype=np.int64)
    picked = np.zeros((1, 0), dtype=np.int64)
    for loss, cost, chosen, to_come in zip(losses, costs, kept, rest, strict=True):
        sums = (sums[:, None] + loss[chosen]).ravel()
        totals = (totals[:, None] + cost[chosen]).ravel()
        rows = np.repeat(picked, len(chosen), axis=0)
        picked = np.column_stack([rows, np.tile(chosen, len(picked))])
        fits = np.flatnonzero(totals + to_come <= limit)
        fits = fits[skyband(sums[fits], totals[fits], count)]
        sums, totals, picked = sums[fits], totals[fits], picked[fits]
    order = np.lexsort((totals, sums))[:count]
    return [tuple(row) for row in picked[order].tolist()]
