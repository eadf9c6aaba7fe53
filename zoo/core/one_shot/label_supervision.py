"""Stages that learn from labels, the control of stages that learn from the fullnet's features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from zoo.core.channels.config import SubnetConfig
from zoo.core.data.inputs import count_images
from zoo.core.one_shot.supernet_training import Engine
from zoo.core.supernet.stages import StageRunner, stage_costs

__all__ = ["label_losses"]


def label_losses(
    engine: Engine,
    runner: StageRunner,
    features: Sequence[Any],
    labels: Any,
    config: SubnetConfig,
) -> list[Tensor]:
    """The task's loss of the fullnet in which one stage after the other is a subnet's; charged.

    Args:
        engine: gives weights and meter.
        runner: of the stages.
        features: what enters each stage in the fullnet, detached, K or more of them.
        labels: shape (N,), or the task's targets.
        config: what the subnet keeps; junctions count as full.

    Returns:
        K scalars.
    """
    problem, losses, before = engine.problem, [], 0  # MACs of stages whose features are at hand
    n_images = count_images(features[0])
    for k, stage in enumerate(runner.stages):
        alone = SubnetConfig({n: kept for n, kept in config.keep.items() if n in stage.inner})
        values = engine.sliced(alone)
        modules = [path for later in runner.stages[k:] for path in later.modules]
        logits = runner.supernet.through(modules, features[k], alone, values, training=True)
        losses.append(problem.task.loss_of(logits, labels))
        problem.meter.passes(n_images, problem.cost.macs(alone) - before, backward=True)
        before += stage_costs(problem.space, stage).full_macs
    engine.pairs += n_images
    return losses
