"""Filters of smallest L1 norm go first, ranked over the whole network.

Paper: Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets, 2017,
    arXiv 1608.08710.

Idea: A filter whose weights are small in sum produces weak activations. The filters of smallest L1
    norm are removed, those of all layers ranked together.

Steps:
    1. `relative_magnitudes`: sum the absolute weights of every filter, over its group's mean.
    2. `global_widths`: drop the lowest scores of the network until the recounted cost fits.
    3. `keep_best`: keep the channels of largest norm.

Deviations:
    - One ranking for the whole network, in which a norm counts relative to the mean of its group;
      the paper sets a ratio for each layer by hand after looking at its sensitivity. The same ratio
      everywhere is the baseline `uniform`, which also keeps the largest norms. Expected effect:
      layers whose norms differ much are pruned more.
    - Layers tied by a skip add their norms; the paper lets the shortcut's filters decide.
      Expected effect: small.

Unknowns:
    - None that the method depends on.

Cost: No data.

Names: s_j -> score of channel j; m -> number of channels that are not kept.
"""

from dataclasses import dataclass

import numpy as np
from torch import nn

from zoo.core.channels.space import ChannelSpace
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.search.channel_scores import magnitude_scores
from zoo.core.search.widths_in_budget import global_widths, keep_best

__all__ = ["L1Norm", "relative_magnitudes"]


@dataclass(frozen=True)
class L1Norm(Pruner):
    """Largest L1 norms of the network, each relative to its group's mean."""

    def search(self, problem: Problem) -> Subnet:
        """Score by weights alone, then threshold and count."""
        if whole := unpruned(problem):
            return whole
        with problem.phase("scoring"):
            scores = relative_magnitudes(problem.model, problem.space)
        with problem.phase("search"):
            widths = global_widths(problem, scores)
        return conclude(problem, keep_best(problem.space, scores, widths))


def relative_magnitudes(model: nn.Module, space: ChannelSpace) -> dict[str, np.ndarray]:
    """L1 norms over the mean of their group, by group name, shape (size,); no unit."""
    norms = magnitude_scores(model, space)
    # A group of zeros, or one that no weight makes, stays at zero.
    return {name: each / max(float(each.mean()), 1e-12) for name, each in norms.items()}
