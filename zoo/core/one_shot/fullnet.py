"""The whole network's pass in an update of stages, whose features their subnets learn from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.core.channels.config import SubnetConfig
from zoo.core.data.inputs import Inputs, count_images, mapped
from zoo.core.one_shot.supernet_training import Engine
from zoo.core.supernet.stages import StageRunner
from zoo.core.training.ranks import rank
from zoo.core.training.task import outputs_in

__all__ = ["fullnet_pass"]


def fullnet_pass(
    engine: Engine, runner: StageRunner, images: Inputs, labels: Any, *, is_trained: bool
) -> tuple[list[Any], list[Tensor]]:
    """Run the fullnet in training mode; charged.

    Args:
        engine: gives weights and meter.
        runner: of the stages.
        images: shape (N, C, H, W), or other inputs.
        labels: shape (N,), or the task's targets.
        is_trained: whether to return its loss, with gradients.

    Returns:
        F_0 to F_K, detached, and the fullnet's loss, a scalar, in a list that is empty if it is not
        trained.
    """
    values = engine.sliced(SubnetConfig.full())
    # Every rank needs the features; the loss has gradients in rank 0, see `Engine.losses`.
    with torch.set_grad_enabled(is_trained and rank() == 0):
        features = runner.features(images, values, training=True)
        loss_of = engine.problem.task.loss_of
        terms = [loss_of(outputs_in(features[-1]), labels)] if is_trained else []
    n_images, full_macs = count_images(images), engine.problem.cost.full_macs
    engine.problem.meter.passes(n_images, full_macs, backward=is_trained)
    engine.pairs += n_images if is_trained else 0
    return [mapped(feature, Tensor.detach) for feature in features], terms
