"""Uniform width: every group at the same keep ratio.

Paper: None; the width multiplier of Howard et al.: MobileNets, 2017, arXiv 1704.04861, applied to a
    trained network.

Idea: Every group keeps the same share of its channels. Which ones is not decided by any score: the
    first ones stay. This is the control that any decision about widths or channels has to beat.

Steps:
    1. `uniform_widths`: take the largest common keep ratio whose recounted cost fits.
    2. `from_widths`: keep the first channels of every group.

Deviations:
    - The ratio is found on the recounted cost, and groups that rounding left behind are widened
      until nothing fits, so that the budget is met. Expected effect: none on the comparison.
    - The parent's weights are inherited; a width multiplier trains from scratch.

Unknowns:
    - None.

Cost: No data.

Names: width multiplier -> keep ratio.
"""

from dataclasses import dataclass

from zoo.core.channels.config import SubnetConfig
from zoo.core.method.planted import Golden, planted_problem
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.search.widths_in_budget import uniform_widths

__all__ = ["Uniform"]


@dataclass(frozen=True)
class Uniform(Pruner):
    """The same keep ratio everywhere, first channels first."""

    def search(self, problem: Problem) -> Subnet:
        """Count, and keep the first channels."""
        if whole := unpruned(problem):
            return whole
        with problem.meter.phase("search"):
            widths = uniform_widths(problem)
        names = [group.name for group in problem.space.groups]
        config = SubnetConfig.from_widths(problem.space, dict(zip(names, widths, strict=True)))
        return conclude(problem, config)

    @classmethod
    def golden(cls) -> Golden:
        """Half of two groups of eight is four of each."""
        problem = planted_problem((0, 1, 2, 3), (4, 5, 6, 7), keep_ratio=0.5)
        expected = SubnetConfig({group.name: (0, 1, 2, 3) for group in problem.space.groups})
        return Golden(problem, expected, "By hand: the cost is linear in 2 x 8 equal channels.")
