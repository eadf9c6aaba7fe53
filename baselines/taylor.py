"""First-order Taylor importance, ranked over the whole network.

Paper: Molchanov, Mallya, Tyree, Frosio, Kautz: Importance Estimation for Neural Network Pruning,
    2019, arXiv 1906.10771.

Idea: The importance of a channel is the squared change of the loss when a gate behind it is set to
    zero, to first order. Behind a batch normalisation that is the square of scale times its
    gradient plus shift times its gradient. Scores are comparable between layers. The lowest of the
    whole network go first.

Steps:
    1. `squared_gates`: average the squared gate products over batches.
    2. `global_widths`: drop the lowest scores of the network until the recounted cost fits.
    3. `keep_best`: keep the channels of highest score.

Deviations:
    - One shot; the paper removes a few channels at a time while it trains and re-scores. Expected
      effect: worse at strong pruning, where early removals change what matters.
    - The network is in eval mode and its weights stand still. The gate stands behind the
      normalisation, as in the paper and in HALP: before it the products of a filter leave out mean
      and shift, and in train mode their sum vanishes. Without a normalisation, weights and bias of
      the layer make the same product.
    - Layers tied by a skip, or by a depthwise convolution, add their squares. Expected effect:
      small.
    - A group keeps a minimum width, and what is left of the budget is filled up.
    - Scores know no cost. Where late channels are many, cheap and of little score each, as in
      EfficientNets, a limit on MACs empties the late layers down to their minimum widths before the
      dear early ones lose much. Expected effect: far below uniform width there.

Unknowns:
    - Number of images: the paper averages over the batches between two removals; our default is
      one tenth of the training images.

Cost: One forward and backward pass over a tenth of the training images.

Names: I_S -> score; g_s w_s -> `weight_gradient_products`; z -> gate of a channel.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from zoo.core.channels.channel_group import PRODUCERS, ChannelGroup, Member, Role
from zoo.core.data.batches import Batch
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.search.channel_scores import channel_rows, weight_gradient_products
from zoo.core.search.widths_in_budget import global_widths, keep_best

__all__ = ["Taylor", "squared_gates"]

NORM: tuple[Role, ...] = ("norm_weight", "norm_bias")
LAYER: tuple[Role, ...] = (*PRODUCERS, "bias")


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
        with problem.phase("scoring"):
            scores = squared_gates(problem, data.train(n_batches))
        with problem.phase("search"):
            widths = global_widths(problem, scores)
        return conclude(problem, keep_best(problem.space, scores, widths))

    @classmethod
    def tiny(cls) -> Self:
        """One batch."""
        return cls(calibration=0.01)


def squared_gates(problem: Problem, batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """Squared change of the loss, to first order, when a channel's gates close; mean over batches.

    Args:
        problem: the parent, used in eval mode, and its groups.
        batches: images (N, C, H, W) and labels (N,), or other inputs and targets.

    Returns:
        By group name, shape (size,), float64; unit: squared nats.
    """
    gates = {group.name: _gates(group) for group in problem.space.groups}
    per_batch = []
    for products in weight_gradient_products(problem, batches, (*NORM, *LAYER)):
        per_batch.append({name: _scores(found, products) for name, found in gates.items()})
    # Read once at the end: each read waits for the device.
    found = {name: torch.stack([scores[name] for scores in per_batch]) for name in gates}
    return {name: np.mean(each.cpu().numpy(), axis=0) for name, each in found.items()}


def _gates(group: ChannelGroup) -> list[list[Member]]:
    """The parameters that make the output of each layer of a group, its normalisation's if any."""
    has_norm = any(member.role in NORM for member in group.members)
    by_layer: dict[str, list[Member]] = {}
    for member in group.members:
        if member.role in (NORM if has_norm else LAYER):
            by_layer.setdefault(member.tensor.rpartition(".")[0], []).append(member)
    return list(by_layer.values())


def _scores(gates: Sequence[Sequence[Member]], products: Mapping[str, Tensor]) -> Tensor:
    """Sum over the gates of a group of their squared products, shape (size,), float64."""
    squares = []
    for members in gates:
        rows = [channel_rows(products[m.tensor].double(), m).sum(1) for m in members]
        squares.append(torch.stack(rows).sum(0).square())
    return torch.stack(squares).sum(0)
