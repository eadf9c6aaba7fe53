"""Whether a method serves a task with a loss of its own, and the loss that it fine-tunes with."""

from __future__ import annotations

import inspect
import logging
import math
from typing import TypedDict

from torch import nn

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.data.pairs import ReadBatch
from zoo.core.errors import UnsupportedModel
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner
from zoo.core.training.task import Loss, Metric, Task
from zoo.core.training.train import Recipe, TaskLoss, TrainingLoss

__all__ = ["TaskArguments", "check_served", "check_task_arguments", "own_loss"]


_LOGGER = logging.getLogger(__name__)


class TaskArguments(TypedDict, total=False):
    """What a network is for, where it is no plain classifier.

    Attributes:
        loss: a scalar from what the network returns in training mode and the targets of a batch;
            cross-entropy of logits if it is left out.
        metric: what candidates and results are compared by; top-1 if it is left out.
        batch: turns what a loader yields into (inputs, targets). Inputs are a tensor, a tuple (by
            position) or a dict (by keyword); targets are anything.
        part: path of the module that alone is pruned, such as "backbone". Its outputs keep their
            widths, and a budget of multiply-adds counts it alone. For networks that cannot be
            traced as a whole.
    """

    loss: Loss | None
    metric: Metric | None
    batch: ReadBatch | None
    part: str


def check_task_arguments(recipe: Recipe, distill: float | None, given: TaskArguments) -> None:
    """Refuse what no loss, metric, batch or weight can be, and what needs cross-entropy.

    Args:
        recipe: of fine-tuning.
        distill: weight of the common distillation, or None.
        given: as somebody gave it.

    Raises:
        TypeError: for an argument of another name or kind, with the way out.
        ValueError: for label smoothing with a loss of its own, or a weight below 0.
    """
    if distill is not None and not 0 <= distill < math.inf:
        raise ValueError(f"distill, {distill}, is no weight; give 0 or above, such as 1")
    for name in given:
        if name not in TaskArguments.__annotations__:
            raise TypeError(f"prune() got an unexpected keyword argument {name!r}")
    for name, takes in (("loss", "(outputs, targets)"), ("batch", "what a loader yields")):
        value = given.get(name)
        if value is not None and not callable(value):
            raise TypeError(f"{name} is {value!r}; give a function of {takes}")
    metric: object = given.get("metric")
    if metric is not None and not isinstance(metric, Metric):
        raise TypeError(
            f"metric is {metric!r}; give zoo.Metric(name, compute, higher_is_better=...)"
        )
    if given.get("loss") is not None and recipe.label_smoothing:
        raise ValueError(
            f"label_smoothing, {recipe.label_smoothing}, belongs to cross-entropy; leave it out of "
            "the recipe, and smooth in your loss"
        )


def check_served(
    pruner: Pruner, task: Task, space: ChannelSpace, distill: float | None, *, is_tuned: bool
) -> None:
    """Refuse a task that the method or the fine-tuning cannot serve, before any work.

    Args:
        pruner: the method.
        task: as the first batches have shown it.
        space: the parent's channel groups.
        distill: weight of the common distillation; None for the method's own loss.
        is_tuned: whether there is any fine-tuning.

    Raises:
        UnsupportedModel: with the way out.
    """
    pruner.check_task(task, space)
    if task.is_classification or not is_tuned:
        return
    if distill and not task.is_comparable:
        raise UnsupportedModel(f"{task.incomparable} distill={distill} compares: leave it out")
    if distill is None and not _takes_task(pruner):
        raise UnsupportedModel(
            f"the loss of {type(pruner).__name__} is for cross-entropy, as it takes no task; give "
            "distill=0 to fine-tune with your loss alone"
        )


def own_loss(
    pruner: Pruner,
    problem: Problem,
    student: nn.Module,
    config: SubnetConfig,
    label_smoothing: float = 0.0,
) -> TrainingLoss | None:
    """The loss that a method fine-tunes with; None for cross-entropy alone.

    Args:
        pruner: the method.
        problem: gives the teacher and the task.
        student: the network that is trained.
        config: the channels that it kept.
        label_smoothing: of the cross-entropy, also where it is a part of the method's loss.
    """
    task = problem.task.smoothed(label_smoothing)
    takes_task = _takes_task(pruner)
    # A method for classifiers need not know of tasks; smoothing is all that it misses.
    named = {"task": task} if takes_task or not task.is_classification else {}
    loss = pruner.loss(problem.model, student, problem.space, config, **named)
    if loss is not None and label_smoothing and not takes_task:
        _LOGGER.warning(
            "label_smoothing %g is not used: the loss of %s takes no task, which holds it",
            label_smoothing,
            type(pruner).__name__,
        )
    if loss is None and not problem.task.is_classification:
        return TaskLoss(task=problem.task)
    return loss


def _takes_task(pruner: Pruner) -> bool:
    return "task" in inspect.signature(pruner.loss).parameters
