"""Trade-offs between loss and cost: archives that evolution fills, and their best combinations."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.core.search.evolution import Evaluated, State, children
from zoo.core.search.prior import uniform_prior
from zoo.core.search.width_grid import StateSpace, covering_states

__all__ = ["Archive", "best_combinations", "evolve_archive", "skyband"]


@dataclass(frozen=True, eq=False)
class Archive:
    """What a search evaluated.

    Attributes:
        states: distinct, in order of evaluation, int64, shape (n, F).
        losses: lower is better, shape (n,).
        costs: shape (n,), int64.
    """

    states: np.ndarray
    losses: np.ndarray
    costs: np.ndarray


def evolve_archive(
    space: StateSpace,
    loss: Callable[[State], float],
    rng: np.random.Generator,
    *,
    evaluations: int,
    population: int,
    mutation: float,
) -> Archive:
    """Evolve all trade-offs between loss and cost at once.

    The first generation are the widest and the narrowest state and draws that cover the costs.
    Later parents are the states that none beats in both, so every cost has descendants.

    Args:
        space: what may be chosen, and what it costs.
        loss: of a state; called once for each.
        rng: all that is drawn comes from here.
        evaluations: distinct states scored in all; fewer if nothing new turns up.
        population: children of a generation, and size of the first one.
        mutation: probability with which a coordinate mutates.
    """
    evaluated = Evaluated(lambda state: -loss(state))
    flat = uniform_prior(space.sizes)
    ends = np.stack([space.full, np.zeros_like(space.full)])
    drawn = covering_states(space, max(0, population - len(ends)), rng)
    evaluated.take(np.concatenate([ends, drawn]), evaluations)
    stale = 0
    while len(evaluated.scores) < evaluations and stale < 5:
        before = len(evaluated.scores)
        found = _archived(space, evaluated)
        best = [tuple(found.states[i].tolist()) for i in skyband(found.losses, found.costs)]
        evaluated.take(children(best, population, flat, mutation, rng), evaluations)
        stale = stale + 1 if len(evaluated.scores) == before else 0
    return _archived(space, evaluated)


def _archived(space: StateSpace, evaluated: Evaluated) -> Archive:
    states = np.array(list(evaluated.scores), dtype=np.int64)
    return Archive(states, -np.array(list(evaluated.scores.values())), space.costs(states))


def skyband(losses: np.ndarray, costs: np.ndarray, count: int = 1) -> np.ndarray:
    """Ordinals of the points that fewer than a number of others match or beat in loss and cost.

    With a number of one this is the Pareto front. Of equal points the first ones are kept.

    Args:
        losses: shape (n,).
        costs: shape (n,).
        count: the number.

    Returns:
        Shape (m,), by ascending cost.
    """
    best: list[float] = []  # the smallest losses so far, negated, the largest of them first
    kept = []
    for at in np.lexsort((losses, costs)).tolist():
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
