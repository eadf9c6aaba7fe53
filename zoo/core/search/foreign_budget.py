"""Bring a pruner that knows no budget of ours within one: bisect what it is asked to remove."""

from __future__ import annotations

from collections.abc import Callable

from zoo.core.channels.config import SubnetConfig
from zoo.core.errors import InfeasibleBudget
from zoo.core.method.problem import Problem

__all__ = ["fewest_removed"]


def fewest_removed(
    problem: Problem, prune: Callable[[int], SubnetConfig], most: int
) -> SubnetConfig:
    """What is left when a pruner is asked to remove as little as meets the budget.

    Costs are taken to fall as more is removed; where they do not, the result is still within the
    budget. Each try is traced.

    Args:
        problem: gives costs, budget and rules.
        prune: from a number of parts to remove, 1 to `most`, to what is left.
        most: the most that may be asked for.

    Returns:
        The configuration of the smallest number that fits.

    Raises:
        InfeasibleBudget: if none fits, or what fits breaks the rules of widths; with what the
            pruner reached.
    """
    low, high = 0, most + 1  # nothing removed is too costly, and more than all is never tried
    best: SubnetConfig | None = None
    costs: list[int] = []
    while high - low > 1:
        count = (low + high) // 2
        config = prune(count)
        costs.append(problem.cost_of_config(config))
        problem.trace("try", removed=count, of=most, cost=costs[-1])
        if costs[-1] <= problem.budget.limit:
            high, best = count, config
        else:
            low = count
    if best is None:
        reached = problem.budget.format_cost(min(costs, default=problem.full_cost))
        raise InfeasibleBudget(
            f"budget {problem.budget} was missed: {problem.method or 'the pruner'} reached "
            f"{reached}; raise the budget or lower min_keep ({problem.rules.min_keep})"
        )
    try:
        problem.rules.check(problem.space, best)
    except ValueError as error:
        raise InfeasibleBudget(
            f"budget {problem.budget} is met only against the rules: {error}"
        ) from error
    return best
