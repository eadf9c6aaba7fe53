"""Expected cost of a network whose widths are drawn at random, group by group; differentiable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zoo.core.method.problem import Problem

__all__ = ["ExpectedCost"]


class ExpectedCost:
    """Expected cost of independent widths, from their moments.

    Exact for multiply-adds and parameters, which are polynomials in the widths: the expectation of
    a product of groups is the product of theirs, and a power of a width has its own. A table of
    latencies is no polynomial: there the cost is taken as linear around the expected widths.

    Args:
        problem: gives network, budget and costs.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        metric = problem.budget.metric
        self._is_polynomial = metric != "latency"
        if metric == "latency":
            return
        monomials = problem.cost.monomials(metric)
        powers = [sorted(Counter(key).items()) for key in monomials]
        places = max([1, *map(len, powers)])
        padded = [each + [(0, 0)] * (places - len(each)) for each in powers]
        table = torch.tensor(padded, dtype=torch.int64).reshape(-1, places, 2)
        self._groups, self._powers = table[..., 0], table[..., 1]
        self._highest = max((count for each in powers for _, count in each), default=0)
        self._factors = torch.tensor(list(monomials.values()), dtype=torch.float64)

    def __call__(self, moment: Callable[[int], Tensor]) -> Tensor:
        """Expected cost in the budget's unit, a scalar, float64.

        Args:
            moment: from a power to the expected powers of all widths, shape (G,), float64.
        """
        if not self._is_polynomial:
            return self._around(moment(1))
        moments = torch.stack([moment(power) for power in range(self._highest + 1)], 1)
        terms = moments[self._groups, self._powers].prod(1)
        return (terms * self._factors).sum()

    def _around(self, means: Tensor) -> Tensor:
        """The cost as a linear function of the widths around their means, shape (G,)."""
        problem, sizes = self._problem, self._problem.space.sizes
        at = np.clip(np.rint(means.detach().numpy()).astype(np.int64), 1, sizes)
        eye = np.eye(len(at), dtype=np.int64)
        wider, narrower = np.minimum(at + eye, sizes), np.maximum(at - eye, 1)
        costs = problem.cost_of(np.concatenate([at[None], wider, narrower])).astype(np.float64)
        here, above, below = costs[0], *np.split(costs[1:], 2)
        steps = np.maximum((wider - narrower).diagonal(), 1)
        slopes = torch.from_numpy((above - below) / steps)
        change: Tensor = (slopes * (means - torch.from_numpy(at))).sum()
        return change + float(here)
