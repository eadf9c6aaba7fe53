"""DepGraph: the norm of everything that is coupled to a channel decides, after sparse learning.

Paper: Fang, Ma, Song, Mi, Wang: DepGraph: Towards Any Structural Pruning, 2023, arXiv 2301.12900.
    Read: the authors' library Torch-Pruning 1.6.1 [official code], its `GroupMagnitudeImportance`
    and `GroupNormPruner`; not the paper.

Idea: A channel of a group goes with rows, columns and batch-norm scales of several layers, so all
    of them make its importance. Sparse learning first drives channels of low importance towards
    zero as a whole. Then the lowest of the network go, each relative to its group's mean.

Steps:
    1. `sparse_training`: train a copy of the parent with the `GroupSparsity` loss.
    2. `coupled_norms`: sum the squares of all coupled weights of a channel, over its group's mean.
    3. `global_widths`: drop the lowest of the network until the recounted cost fits.
    4. `keep_best`: keep the channels of largest norm; the weights of the copy are handed on.

Deviations:
    - A short training that starts from the trained parent; the strength is raised to match. With
      epochs = 0 there is none, and the norms of the parent decide. Expected effect of a short one:
      norms less cleanly separated.
    - The groups are those traced here, not by the authors' graph. Expected effect: none where both
      tie the same layers.
    - A group keeps a minimum width, and what is left of the budget is filled up.

Unknowns:
    - The paper's equations were not read. [official code]: importance is the sum of squares over a
      group's members, divided by its mean within the group; sparse learning adds reg * gamma * w
      to the gradient, gamma = (2^4)^((max - I) / (max - min)), I the root of the importance.
    - Length of sparse learning, and `reg`: [official code] has 1e-4 as a default, and leaves both
      to scripts. Ours is larger for the shorter training.

Cost: `epochs` of training the full network, forward and backward; no data with epochs = 0. The own
    finish starts from these weights.

Names: I_{g,k} -> norm of channel k of group g; gamma_k -> `strengths`; alpha -> `alpha`;
    reg -> `reg`.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from zoo.core.channels.space import ChannelSpace
from zoo.core.data.inputs import Inputs, call
from zoo.core.method.effort import Efforts
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.method.trained_copy import trained_copy
from zoo.core.search.channel_scores import coupled_norms, coupled_squares
from zoo.core.search.widths_in_budget import global_widths, keep_best
from zoo.core.training.task import CLASSIFICATION, Task
from zoo.core.training.train import Recipe, TrainingLoss

__all__ = ["DepGraph", "GroupSparsity", "sparse_training", "strengths"]


@dataclass(frozen=True)
class DepGraph(Pruner):
    """Largest coupled norms, relative to their group, after sparse learning.

    Attributes:
        epochs: length of sparse learning; 0 for none.
        reg: strength of the penalty; [official code] has 1e-4 for longer trainings.
        alpha: the least important channel of a group is drawn to zero 2^alpha times as strongly as
            the most important one; 4 in [official code].
        lr: highest learning rate of the cosine.
    """

    epochs: Annotated[int, Field(ge=0)] = 4
    reg: Annotated[float, Field(ge=0)] = 1e-3
    alpha: Annotated[float, Field(ge=0)] = 4.0
    lr: Annotated[float, Field(gt=0)] = 0.02

    def search(self, problem: Problem) -> Subnet:
        """Train a copy sparsely, then threshold its norms."""
        if whole := unpruned(problem):
            return whole
        model, weights = problem.model, None
        if self.epochs:
            with problem.phase("supernet"):
                model = sparse_training(problem, self)
            weights = model.state_dict()
        with problem.phase("search"):
            scores = coupled_norms(model, problem.space)
            config = keep_best(problem.space, scores, global_widths(problem, scores))
        return conclude(problem, config, weights)

    def effort(self, problem: Problem) -> Efforts:
        """The sparse training."""
        images = self.epochs * problem.data.training.num_images
        return {"supernet": 3 * images * problem.cost.full_macs}

    @classmethod
    def tiny(cls) -> Self:
        """One gentle epoch."""
        return cls(epochs=1, lr=1e-3)


class GroupSparsity(TrainingLoss):
    """The task's loss + reg / 2 * sum of gamma_k times the squares of all weights of channel k.

    Its gradient adds reg * gamma_k * w for each group that a weight w belongs to.

    Args:
        space: the groups.
        reg: strength.
        alpha: see `strengths`.
        task: gives the loss.
    """

    def __init__(
        self, space: ChannelSpace, reg: float, alpha: float, task: Task = CLASSIFICATION
    ) -> None:
        super().__init__()
        self.task = task
        self.space = space
        self.reg = reg
        self.alpha = alpha
        self.is_capturable = task.is_classification

    def forward(self, student: nn.Module, images: Inputs, labels: Any) -> Tensor:
        """The loss of a batch of inputs and targets, a scalar."""
        squares = coupled_squares(self.space, dict(student.named_parameters()))
        penalty = sum(
            (strengths(each.detach(), self.alpha) * each).sum() for each in squares.values()
        )
        return self.task.loss_of(call(student, images), labels) + 0.5 * self.reg * penalty


def strengths(squares: Tensor, alpha: float) -> Tensor:
    """How strongly each channel of a group is drawn to zero: gamma, from 1 to 2^alpha.

    Args:
        squares: sums of squares of the channels' weights, shape (size,).
        alpha: the exponent of the least important channel.

    Returns:
        Shape (size,); ones where all channels are alike.
    """
    norms = squares.sqrt()
    spread = norms.max() - norms.min()
    # Chosen on the device: the host would wait for each group in each step.
    shares = torch.where(spread > 0, (norms.max() - norms) / spread, torch.zeros_like(norms))
    return torch.pow(2.0, alpha * shares)


def sparse_training(problem: Problem, settings: DepGraph) -> nn.Module:
    """A copy of the parent, trained with a penalty on whole channels."""
    recipe = Recipe(epochs=settings.epochs, batch_size=problem.data.batch_size, lr=settings.lr)
    loss = GroupSparsity(problem.space, settings.reg, settings.alpha, problem.task)
    return trained_copy(problem, recipe, loss, "sparse_training")
