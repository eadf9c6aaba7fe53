"""OBD-C: second-order importance of whole filters, with the diagonal of the Fisher information.

Paper: Wang, Grosse, Fidler, Zhang: EigenDamage: Structured Pruning in the Kronecker-Factored
    Eigenbasis, 2019, arXiv 1905.05934, where it is the baseline C-OBD; after LeCun, Denker, Solla:
    Optimal Brain Damage, 1989. Read: the abstract, and `pruner/fisher_diag_pruner.py` of
    alecwangcq/EigenDamage-Pytorch [official code]; PruningBench calls it OBD-C.

Idea: To second order, and with a diagonal Hessian, removing weights costs half the sum of their
    squares times their curvatures. At a minimum the curvature is the Fisher information, the mean
    squared gradient of single images. A filter costs the sum over its weights.

Steps:
    1. `fisher_scores`: sum squared weights times mean squared gradients, image by image.
    2. `relative_scores`: divide by the mean of the group.
    3. `global_widths`: drop the lowest scores of the network until the recounted cost fits.
    4. `keep_best`: keep the channels of highest score.

Deviations:
    - One half, the same for all, is left out, as in [official code].
    - Layers tied by a skip, or by a depthwise convolution, add their scores; [official code] prunes
      networks without such ties, or layers apart. Expected effect: none on plain networks.
    - Over the group's mean, where [official code] divides by the layer's sum: with a sum, channels
      of wide layers go first for their number alone. Expected effect: narrow layers are cut more.
    - One shot, in eval mode. A group keeps a minimum width, and what is left of the budget is
      filled up.

Unknowns:
    - The paper's own number of images: [official code] passes over its whole loader. Ours is a
      share of the training images.
    - Labels: [official code] leaves open whether gradients are those of true or of drawn labels
      (`fisher_type`). Ours are of true ones.

Cost: One forward and backward pass for each image of a share of the training images, one by one.

Names: F -> mean squared gradient; w^2 F -> score of a weight.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from pydantic import Field

from zoo.core.channels.space import ChannelSpace
from zoo.core.data.inputs import count_images, divided
from zoo.core.errors import UnsupportedModel
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.search.channel_scores import (
    channel_rows,
    producers,
    weight_gradient_products,
    zero_scores,
)
from zoo.core.search.widths_in_budget import global_widths, keep_best
from zoo.core.training.task import Task

__all__ = ["OBDC", "fisher_scores", "relative_scores"]


@dataclass(frozen=True)
class OBDC(Pruner):
    """Largest second-order scores of filters, each relative to its group's mean.

    Attributes:
        calibration: share of the training images whose gradients are squared.
    """

    calibration: Annotated[float, Field(gt=0)] = 0.02

    def search(self, problem: Problem) -> Subnet:
        """Score with gradients of single images, then threshold and count."""
        if whole := unpruned(problem):
            return whole
        data = problem.data
        with problem.phase("scoring"):
            n_batches = max(1, math.ceil(self.calibration * data.num_train / data.batch_size))
            scores = relative_scores(fisher_scores(problem, n_batches))
        with problem.phase("search"):
            widths = global_widths(problem, scores)
        return conclude(problem, keep_best(problem.space, scores, widths))

    def check_task(self, task: Task, space: ChannelSpace) -> None:
        """Single images are needed, so a batch has to be divisible."""
        super().check_task(task, space)
        if not task.is_divisible:
            raise UnsupportedModel(f"{task.indivisible} OBDC takes single images: use taylor")

    @classmethod
    def tiny(cls) -> Self:
        """One batch."""
        return cls(calibration=0.01)


def fisher_scores(problem: Problem, n_batches: int) -> dict[str, np.ndarray]:
    """Sum over a channel's producing weights of w^2 times the mean squared gradient.

    Args:
        problem: the parent, used in eval mode, its groups and images; each pass is charged.
        n_batches: training batches to take images from.

    Returns:
        By group name, shape (size,), float64; unit: squared nats.
    """
    totals = zero_scores(problem)
    count = 0
    for images, labels in problem.data.train(n_batches):
        n_images = count_images(images)
        single = zip(*(divided(each, n_images, n_images) for each in (images, labels)), strict=True)
        for products in weight_gradient_products(problem, single):
            count += 1
            for group in problem.space.groups:
                for member in producers(group):
                    rows = channel_rows(products[member.tensor].double(), member)
                    totals[group.name] += rows.square().sum(1)
    return {name: total.cpu().numpy() / count for name, total in totals.items()}


def relative_scores(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores over the mean of their group, by group name, shape (size,); no unit."""
    # A group of zeros, or one that no weight makes, stays at zero.
    return {name: each / max(float(each.mean()), 1e-300) for name, each in scores.items()}
