"""Filters of smallest L1 norm go first, at the same keep ratio in every group.

Paper: Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets, 2017,
    arXiv 1608.08710.

Idea: A filter whose weights are small in sum produces weak activations. Within a layer the filters
    of smallest L1 norm are removed. The ratio is set per layer, not by the norms.

Steps:
    1. `magnitude_scores`: sum the absolute weights of every filter.
    2. `uniform_widths`: take the largest common keep ratio whose recounted cost fits.
    3. `keep_best`: keep the channels of largest norm.

Deviations:
    - One ratio for all groups; the paper sets ratios by hand after looking at the sensitivity of
      each layer. Expected effect: worse at strong pruning, where sensitive layers suffer.
    - Layers tied by a skip add their norms; the paper lets the shortcut's filters decide.
      Expected effect: small.

Unknowns:
    - None that the method depends on.

Cost: No data.

Names: s_j -> score of channel j; m -> number of channels that are not kept.
"""

from dataclasses import dataclass

from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.search.channel_scores import magnitude_scores
from zoo.core.search.widths_in_budget import keep_best, uniform_widths

__all__ = ["L1Norm"]


@dataclass(frozen=True)
class L1Norm(Pruner):
    """Largest L1 norms of every group, at one keep ratio."""

    def search(self, problem: Problem) -> Subnet:
        """Score by weights alone, then count."""
        if whole := unpruned(problem):
            return whole
        with problem.meter.phase("scoring"):
            scores = magnitude_scores(problem.model, problem.space)
        with problem.meter.phase("search"):
            widths = uniform_widths(problem)
        return conclude(problem, keep_best(problem.space, scores, widths))
