"""Uniform width: every group at the same keep ratio.

Paper: None; the width multiplier of Howard et al.: MobileNets, 2017, arXiv 1704.04861, applied to a
    trained network.

Idea: Every group keeps the same share of its channels, those of largest L1 norm. This is the
    control that any decision about widths has to beat: nothing is searched, and the channels are
    chosen as anyone would without a search.

Steps:
    1. `uniform_widths`: take the largest common keep ratio whose recounted cost fits.
    2. `channel_order`: rank the channels of each group, by norm or by position.
    3. `keep_best`: keep the first of that order.

Deviations:
    - The ratio is found on the recounted cost, and groups that rounding left behind are widened
      until nothing fits, so that the budget is met. Expected effect: none on the comparison.
    - The parent's weights are inherited; a width multiplier trains from scratch.
    - Channels of largest norm stay (Li et al. 2017, as in `l1_norm`); a width multiplier has no
      weights to choose by. With channels = "first" the leading ones stay, which throws away what
      the parent has learned about their worth and makes a weaker control.

Unknowns:
    - None.

Cost: No data.

Names: width multiplier -> keep ratio.
"""

from dataclasses import dataclass
from typing import Literal

from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.search.channel_scores import channel_order
from zoo.core.search.widths_in_budget import keep_best, uniform_widths

__all__ = ["Uniform"]


@dataclass(frozen=True)
class Uniform(Pruner):
    """The same keep ratio everywhere.

    Attributes:
        channels: which ones of a group stay, those of largest L1 norm or the leading ones.
    """

    channels: Literal["l1", "first"] = "l1"

    def search(self, problem: Problem) -> Subnet:
        """Count, and keep the first channels of the order."""
        if whole := unpruned(problem):
            return whole
        with problem.phase("scoring"):
            order = channel_order(problem, by_magnitude=self.channels == "l1")
        with problem.phase("search"):
            widths = uniform_widths(problem)
        return conclude(problem, keep_best(problem.space, order, widths))
