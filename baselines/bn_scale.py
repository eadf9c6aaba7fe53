"""Network slimming: BatchNorm scales under an L1 penalty decide which channels go.

Paper: Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network
    Slimming, 2017, arXiv 1708.06519.

Idea: The scale of a BatchNorm is a gate on its channel. An L1 penalty on all scales during training
    drives the gates of unneeded channels towards zero. Then one threshold for the whole network
    removes the channels of smallest scale.

Steps:
    1. `sparse_training`: train a copy of the parent with the `SparseScales` loss.
    2. `scale_scores`: read the absolute scales, summed over tied BatchNorms.
    3. `global_widths`: drop the lowest of the network until the recounted cost fits.
    4. `keep_best`: keep the channels of largest scale; the weights of the copy are handed on.

Deviations:
    - A short training that starts from the trained parent; the paper trains 160 epochs from scratch
      with lambda 1e-4. lambda is raised so that the penalty summed over epochs and learning rates
      is about the same. Expected effect: scales less cleanly separated.
    - Channels that pass through no BatchNorm, such as a squeeze-excite reduction, borrow the scale
      of equal rank: the q-quantile of their L1 norms counts as the q-quantile of all scales.
      Expected effect: such groups shrink at the average ratio.
    - A group keeps a minimum width, and what is left of the budget is filled up.

Unknowns:
    - Skip connections: the paper selects channels in front of each block of a pre-activation
      network. We tie the channels and add the scales.

Cost: `epochs` of training the full network, forward and backward. The fine-tuning starts from these
    weights, as in the paper, so this method trains longer than those that only score.

Names: gamma -> BatchNorm scale; lambda -> `l1`; g(gamma) -> absolute value.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from zoo.core.channels.space import ChannelSpace
from zoo.core.data.inputs import Inputs, call
from zoo.core.method.effort import Efforts
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.method.trained_copy import trained_copy
from zoo.core.search.channel_scores import channel_rows, magnitude_scores
from zoo.core.search.widths_in_budget import global_widths, keep_best
from zoo.core.training.task import CLASSIFICATION, Task
from zoo.core.training.train import Recipe, TrainingLoss

__all__ = ["BNScale", "SparseScales", "scale_scores", "sparse_training"]


@dataclass(frozen=True)
class BNScale(Pruner):
    """Largest BatchNorm scales after a short sparse training.

    Attributes:
        epochs: length of the sparse training.
        l1: weight of the penalty per unit of scale (lambda); the paper's 1e-4 over 160 epochs,
            whose mean rate is 0.05, is about 8e-3 over 4 epochs with a mean rate of 0.025.
        lr: highest learning rate of the cosine.
        weight_decay: 1e-4 in the paper's section 4.2.
    """

    epochs: Annotated[int, Field(ge=0)] = 4
    l1: Annotated[float, Field(ge=0)] = 8e-3
    lr: Annotated[float, Field(gt=0)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4

    def search(self, problem: Problem) -> Subnet:
        """Train a copy sparsely, then threshold its scales."""
        if whole := unpruned(problem):
            return whole
        with problem.phase("supernet"):
            slimmed = sparse_training(problem, self)
        with problem.phase("search"):
            scores = scale_scores(slimmed, problem.space)
            config = keep_best(problem.space, scores, global_widths(problem, scores))
        return conclude(problem, config, slimmed.state_dict())

    def effort(self, problem: Problem) -> Efforts:
        """The sparse training."""
        batches = problem.data.training
        images = self.epochs * batches.num_images
        return {"supernet": 3 * images * problem.cost.full_macs}

    @classmethod
    def tiny(cls) -> Self:
        """One gentle epoch."""
        return cls(epochs=1, lr=1e-3)


class SparseScales(TrainingLoss):
    """The task's loss + l1 * sum of the absolute BatchNorm scales.

    Args:
        names: the scales, as parameters of the student.
        l1: weight of the penalty.
        task: gives the loss.
    """

    def __init__(self, names: tuple[str, ...], l1: float, task: Task = CLASSIFICATION) -> None:
        super().__init__()
        self.task = task
        self.names = names
        self.l1 = l1
        self.is_capturable = task.is_classification

    def forward(self, student: nn.Module, images: Inputs, labels: Any) -> Tensor:
        """The loss of a batch of inputs and targets, a scalar."""
        penalty = sum(student.get_parameter(name).abs().sum() for name in self.names)
        return self.task.loss_of(call(student, images), labels) + self.l1 * penalty


def scale_names(space: ChannelSpace) -> tuple[str, ...]:
    """State-dict names of the norm scales of all groups, each once."""
    members = [member for group in space.groups for member in group.members]
    return tuple(dict.fromkeys(m.tensor for m in members if m.role == "norm_weight"))


def sparse_training(problem: Problem, settings: BNScale) -> nn.Module:
    """A copy of the parent, trained with a penalty on its scales."""
    recipe = Recipe(
        epochs=settings.epochs,
        batch_size=problem.data.batch_size,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
    )
    loss = SparseScales(scale_names(problem.space), settings.l1, problem.task)
    return trained_copy(problem, recipe, loss, "sparse_training")


def scale_scores(model: nn.Module, space: ChannelSpace) -> dict[str, np.ndarray]:
    """Absolute norm scales, summed over tied layers; without a norm, scales of equal rank.

    Returns:
        By group name, shape (size,), float64.
    """
    tensors = model.state_dict()
    scores = {}
    for group in space.groups:
        scales = [m for m in group.members if m.role == "norm_weight"]
        if scales:
            rows = [channel_rows(tensors[m.tensor].double(), m).abs().sum(1) for m in scales]
            scores[group.name] = torch.stack(rows).sum(0).cpu().numpy()
    if len(scores) == len(space.groups):
        return scores
    known = np.concatenate(list(scores.values())) if scores else np.linspace(0.0, 1.0, 101)
    magnitudes = magnitude_scores(model, space)
    for group in space.groups:
        if group.name not in scores:
            ranks = np.argsort(np.argsort(magnitudes[group.name], kind="stable"), kind="stable")
            scores[group.name] = np.quantile(known, (ranks + 0.5) / group.size)
    return scores
