"""A copy of the parent that a search trains, under a loss of the method's own."""

from __future__ import annotations

from torch import nn

from zoo.core.method.problem import Problem
from zoo.core.tracing.copies import copy_network
from zoo.core.training.train import Recipe, TrainingLoss, train

__all__ = ["trained_copy"]


def trained_copy(problem: Problem, recipe: Recipe, loss: TrainingLoss, step: str) -> nn.Module:
    """A trained copy of the parent; charged, traced, and gone on with if it was cut.

    Args:
        problem: gives parent and training batches.
        recipe: how to train.
        loss: of the method.
        step: name of the trace row that holds the losses of the epochs.
    """
    model = copy_network(problem.model)
    losses = train(
        model,
        problem.data.training,
        recipe,
        loss=loss,
        meter=problem.meter,
        macs_per_image=problem.cost.full_macs,
        watch=problem.watch,
        checkpoints=problem.checkpoints,
    )
    problem.trace(step, losses=list(losses))
    return model
