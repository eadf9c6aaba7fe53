"""From scores to a configuration within a budget: the selection rules that methods share.

Widths are chosen on the recounted cost of the whole network: every rule lists its candidate width
vectors, ascending in cost, counts all of them in one vectorised call and takes the largest that
fits: bisection in one step. What is left below the budget is filled up channel by channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.method.problem import Problem

__all__ = [
    "fill_closely",
    "fill_up",
    "global_widths",
    "keep_best",
    "largest_feasible",
    "legal_widths",
    "next_widths",
    "random_widths",
    "uniform_widths",
]

_SCALES = 256  # candidates on the way from the smallest to the full network
_SLACK = 0.02  # share of the budget that may stay unused where widths are multiples of a divisor


def legal_widths(problem: Problem, widths: np.ndarray) -> np.ndarray:
    """Round widths down to legal ones, or up to the smallest where they are below it.

    Args:
        problem: gives the space and the rules.
        widths: shape (n, G), each between 0 and the group's size.

    Returns:
        Shape (n, G), int64.
    """
    columns = []
    for legal, column in zip(problem.legal, widths.T, strict=True):
        if len(legal) == legal[-1] - legal[0] + 1:  # all that lie between are legal
            columns.append(np.clip(column, legal[0], legal[-1]))
            continue
        columns.append(legal[np.maximum(np.searchsorted(legal, column, side="right") - 1, 0)])
    return np.stack(columns, axis=1).astype(np.int64)


def next_widths(problem: Problem, widths: np.ndarray) -> np.ndarray:
    """The next wider legal width of every group, shape (G,); the widest where there is none."""
    return np.asarray(_next_table(problem)[np.arange(len(widths)), widths])


def largest_feasible(problem: Problem, candidates: np.ndarray) -> np.ndarray:
    """The costliest candidate within the budget; the first one among equals.

    Args:
        problem: gives cost and budget.
        candidates: legal widths, shape (n, G); at least one must fit.

    Returns:
        Widths, shape (G,).
    """
    costs = problem.cost_of(candidates)
    best = np.argmax(np.where(costs <= problem.budget.limit, costs, -1))
    return np.asarray(candidates[best])


def fill_up(
    problem: Problem, widths: np.ndarray, priority: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Widen one group at a time by one legal step while any step still fits the budget.

    Args:
        problem: gives cost, budget and rules.
        widths: legal widths within the budget, shape (G,).
        priority: from the current widths to how much each group wants its next step, shape (G,);
            among the steps that fit, the highest goes first.

    Returns:
        Widths from which no single legal step fits, shape (G,).
    """
    wider, groups = _next_table(problem), np.arange(len(widths))
    while True:
        steps = wider[groups, widths]
        candidates = np.where(np.eye(len(widths), dtype=bool), steps, widths)
        costs = problem.cost_of(candidates)
        fits = (costs <= problem.budget.limit) & (steps > widths)
        if not fits.any():
            return widths
        widths = candidates[np.argmax(np.where(fits, priority(widths), -np.inf))]


def fill_closely(
    problem: Problem,
    widths: np.ndarray,
    priority: Callable[[np.ndarray], np.ndarray],
    *,
    slack: float,
    free: np.ndarray | None = None,
) -> np.ndarray:
    """Fill up; where every single step is too large, take one and give up channels elsewhere.

    Args:
        problem: gives cost, budget and rules.
        widths: legal widths within the budget, shape (G,).
        priority: as `fill_up` takes it.
        slack: share of the budget that may stay unused.
        free: which groups may be narrowed, bool, shape (G,); all if None.

    Returns:
        Widths within the budget, shape (G,); more may stay unused where no exchange helps.
    """
    wanted = (1 - slack) * problem.budget.limit
    widths = fill_up(problem, widths, priority)
    cost = _cost(problem, widths)
    is_held = np.zeros(len(widths), dtype=bool) if free is None else ~free
    while cost < wanted:
        wider = next_widths(problem, widths)
        exchanged = []
        for group in np.flatnonzero(wider > widths).tolist():
            is_wider = np.arange(len(widths)) == group
            fitted = _fitted(problem, np.where(is_wider, wider, widths), is_held | is_wider)
            exchanged.append(fill_up(problem, fitted, priority))
        best = max(exchanged, key=lambda each: _cost(problem, each), default=widths)
        if not cost < _cost(problem, best) <= problem.budget.limit:
            break
        widths, cost = best, _cost(problem, best)
    return widths


def _filled(
    problem: Problem,
    widths: np.ndarray,
    priority: Callable[[np.ndarray], np.ndarray],
    free: np.ndarray | None = None,
) -> np.ndarray:
    """Fill up by single steps, or closely where a divisor makes these large; shape (G,)."""
    if problem.rules.divisor == 1:
        return fill_up(problem, widths, priority)
    return fill_closely(problem, widths, priority, slack=_SLACK, free=free)


def _fitted(problem: Problem, widths: np.ndarray, is_kept: np.ndarray) -> np.ndarray:
    """Narrow groups that are not kept step by step until the widths, shape (G,), fit.

    A step that fits and leaves the most cost ends it; before that, the largest step is taken.
    """
    minimums = problem.narrowest
    while (cost := _cost(problem, widths)) > problem.budget.limit:
        eye = np.eye(len(widths), dtype=bool)
        narrower = np.maximum(legal_widths(problem, np.where(eye, widths - 1, widths)), minimums)
        costs = problem.cost_of(narrower)
        costs[is_kept] = cost
        if (costs >= cost).all():
            break
        fits = costs <= problem.budget.limit
        pick = np.where(fits, costs, -1).argmax() if fits.any() else costs.argmin()
        widths = narrower[pick]
    return widths


def _cost(problem: Problem, widths: np.ndarray) -> int:
    return int(problem.cost_of(widths[None])[0])


def random_widths(
    problem: Problem, rng: np.random.Generator, free: np.ndarray | None = None
) -> np.ndarray:
    """Random legal widths just below the budget.

    Each group draws a ratio; all ratios are scaled by one factor, the largest that fits.

    Args:
        problem: gives cost, budget and rules.
        rng: all that is drawn comes from here.
        free: which groups may be narrowed, bool, shape (G,); all if None.

    Returns:
        Legal widths, shape (G,); the narrowest if nothing fits.
    """
    sizes = problem.space.sizes
    free = np.ones(len(sizes), dtype=bool) if free is None else free
    ratios = 1.0 - rng.random(len(sizes))
    factors = np.geomspace(1e-2, 1.0, _SCALES) / ratios.min()
    ratios = np.minimum(factors[:, None] * ratios, 1.0)
    candidates = legal_widths(problem, np.where(free, ratios, 1.0) * sizes)
    narrowest = np.where(free, problem.narrowest, problem.widest)
    widths = largest_feasible(problem, np.vstack([narrowest, candidates]))
    return _filled(problem, widths, lambda widths: rng.random(len(widths)), free)


def uniform_widths(problem: Problem) -> np.ndarray:
    """Widths at the largest common keep ratio that fits, filled up where a group lags behind.

    Returns:
        Legal widths, shape (G,).
    """
    sizes = problem.space.sizes
    # Only at these ratios does the width of any group change; k / size * size may be just below k.
    ratios = np.unique(np.concatenate([np.arange(size + 1) / size for size in sizes]))
    candidates = legal_widths(problem, np.floor(ratios[:, None] * sizes + 1e-9))
    widths = largest_feasible(problem, candidates)
    return _filled(problem, widths, lambda widths: -widths / sizes)


def global_widths(problem: Problem, scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Widths when the lowest-scoring channels of the whole network go first.

    Args:
        problem: gives cost, budget and rules.
        scores: by group name, shape (size,), comparable between groups; higher = keep.

    Returns:
        Legal widths, shape (G,); a group keeps its minimum however low it scores.

    Raises:
        ValueError: naming a group with a score that is NaN.
    """
    _refuse_nan(scores)
    groups = problem.space.groups
    sizes = problem.space.sizes
    owner = np.repeat(np.arange(len(groups)), sizes)
    order = np.argsort(np.concatenate([scores[g.name] for g in groups]), kind="stable")
    # Row i, summed up to there, counts what each group has lost when the i lowest scores are gone.
    dropped = np.zeros((len(order) + 1, len(groups)), dtype=np.int64)
    dropped[np.arange(1, len(order) + 1), owner[order]] = 1
    candidates = legal_widths(problem, sizes - dropped.cumsum(axis=0))
    ranked = [np.append(np.sort(scores[g.name])[::-1], -np.inf) for g in groups]
    return _filled(
        problem,
        largest_feasible(problem, candidates),
        lambda widths: np.array([s[w] for s, w in zip(ranked, widths, strict=True)]),
    )


def keep_best(
    space: ChannelSpace, scores: Mapping[str, np.ndarray], widths: np.ndarray
) -> SubnetConfig:
    """The configuration that keeps the `widths[g]` best channels of every group.

    Args:
        space: the groups.
        scores: by group name, shape (size,); equal scores favour the lower index.
        widths: shape (G,).

    Raises:
        ValueError: naming a group with a score that is NaN.
    """
    _refuse_nan(scores)
    keep = {}
    for group, width in zip(space.groups, widths, strict=True):
        best = np.argsort(-scores[group.name], kind="stable")[:width]
        keep[group.name] = tuple(sorted(best.tolist()))
    return SubnetConfig(keep)


def _refuse_nan(scores: Mapping[str, np.ndarray]) -> None:
    """NaN has no place in an order: channels would be kept by where they stand."""
    for name, each in scores.items():
        if count := int(np.isnan(each).sum()):
            raise ValueError(
                f"{count} of {len(each)} scores of group {name!r} are NaN; give each channel a "
                "number, infinity for one that has to stay"
            )


def _next_table(problem: Problem) -> np.ndarray:
    """The next legal width of every group at every width, int64, shape (G, largest size + 1)."""
    sizes = problem.space.sizes
    table = np.zeros((len(sizes), sizes.max(initial=0) + 1), dtype=np.int64)
    for row, legal, size in zip(table, problem.legal, sizes, strict=True):
        place = np.searchsorted(legal, np.arange(size + 1), side="right")
        row[: size + 1] = legal[np.minimum(place, len(legal) - 1)]
    return table
