"""First-order Taylor importance, ranked over the whole network.

Paper: Molchanov, Mallya, Tyree, Frosio, Kautz: Importance Estimation for Neural Network Pruning,
    2019, arXiv 1906.10771.

Idea: The importance of a channel is the squared change of the loss when it is set to zero, to first
    order: the square of the sum of weight times gradient. Scores are comparable between layers. The
    lowest of the whole network go first.

Steps:
    1. `squared_sums`: average the squared sum of weight times gradient over batches.
    2. `global_widths`: drop the lowest scores of the network until the recounted cost fits.
    3. `keep_best`: keep the channels of highest score.

Deviations:
    - One shot; the paper removes a few channels at a time while it trains and re-scores. Expected
      effect: worse at strong pruning, where early removals change what matters.
    - The network is in eval mode and its weights stand still. In train mode the sum vanishes before
      a BatchNorm by scale invariance; the paper's gates sit after it.
    - Layers tied by a skip add their squared sums. Expected effect: small.
    - A group keeps a minimum width, and what is left of the budget is filled up.

Unknowns:
    - Number of images: the paper averages over the batches between two removals; our default is
      one tenth of the training images.

Cost: One forward and backward pass over a tenth of the training images.

Names: I_S -> score; g_s w_s -> `weight_gradient_products`; S -> the filters of a channel.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from pydantic import Field
from torch import Tensor

from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.search.channel_scores import channel_scores, weight_gradient_products
from zoo.core.search.widths_in_budget import global_widths, keep_best

__all__ = ["Taylor", "squared_sums"]


@dataclass(frozen=True)
class Taylor(Pruner):
    """Squared first-order Taylor scores under a global threshold.

    Attributes:
        calibration: share of the training images that scores are averaged over.
    """

    calibration: Annotated[float, Field(gt=0)] = 0.1

    def search(self, problem: Problem) -> Subnet:
        """Score with gradients, then threshold and count."""
        if whole := unpruned(problem):
            return whole
        data = problem.data
        n_batches = max(1, math.ceil(self.calibration * data.num_train / data.batch_size))
        with problem.meter.phase("scoring"):
            scores = squared_sums(problem, data.train(n_batches))
        with problem.meter.phase("search"):
            widths = global_widths(problem, scores)
        return conclude(problem, keep_best(problem.space, scores, widths))

    @classmethod
    def tiny(cls) -> Self:
        """One batch."""
        return cls(calibration=0.01)


def squared_sums(
    problem: Problem, batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, np.ndarray]:
    """Squared sum of weight times gradient of each filter, averaged over batches.

    Args:
        problem: the parent, used in eval mode, and its groups.
        batches: images (N, C, H, W) and labels (N,).

    Returns:
        By group name, shape (size,), float64; unit: squared nats.
    """
    per_batch = [
        channel_scores(problem.space, products, lambda rows: rows.sum(1).square())
        for products in weight_gradient_products(problem, batches)
    ]
    return {name: np.mean([scores[name] for scores in per_batch], axis=0) for name in per_batch[0]}
