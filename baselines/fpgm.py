"""Filter pruning via geometric median: the most replaceable filters go first.

Paper: He, Liu, Wang, Hu, Yang: Filter Pruning via Geometric Median for Deep Convolutional Neural
    Networks Acceleration, 2019, arXiv 1811.00250.

Idea: A filter near the geometric median of its layer is represented by the others, so it can go
    whatever its norm. Closeness is measured by the sum of Euclidean distances to all filters of the
    layer. Every layer is pruned at the same rate.

Steps:
    1. `distance_scores`: sum the distances of each filter to all others of its layer.
    2. `uniform_widths`: take the largest common keep ratio whose recounted cost fits.
    3. `keep_best`: keep the channels farthest from the rest.

Deviations:
    - One shot on a trained network; the paper zeroes filters after every epoch of training and lets
      them recover. Expected effect: worse, since no filter can come back.
    - Layers tied by a skip add their distances. Expected effect: small.

Unknowns:
    - None that the method depends on.

Cost: No data.

Names: F_{i,j} -> row of a weight; g(x) -> score, the sum of distances.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.channels.space import ChannelSpace
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.search.channel_scores import channel_scores
from zoo.core.search.widths_in_budget import keep_best, uniform_widths

__all__ = ["FPGM", "distance_scores"]


@dataclass(frozen=True)
class FPGM(Pruner):
    """Filters farthest from the geometric median of every group, at one keep ratio."""

    def search(self, problem: Problem) -> Subnet:
        """Score by weights alone, then count."""
        if whole := unpruned(problem):
            return whole
        with problem.phase("scoring"):
            scores = distance_scores(problem.model, problem.space)
        with problem.phase("search"):
            widths = uniform_widths(problem)
        return conclude(problem, keep_best(problem.space, scores, widths))


def distance_scores(model: nn.Module, space: ChannelSpace) -> dict[str, np.ndarray]:
    """Sum of Euclidean distances to all filters of the layer, added over tied layers.

    Returns:
        By group name, shape (size,), float64.
    """

    def distances(rows: Tensor) -> Tensor:
        # Without the matrix-multiplication shortcut, which loses digits for near filters.
        return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)

    return channel_scores(space, model.state_dict(), distances)
