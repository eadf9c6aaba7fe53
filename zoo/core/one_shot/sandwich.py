"""The sandwich rule: on each batch the full network, the smallest, and some between."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from zoo.core.channels.config import SubnetConfig
from zoo.core.data.inputs import Inputs
from zoo.core.method.problem import Problem
from zoo.core.one_shot.effort import middle_macs
from zoo.core.one_shot.shared_terms import Term
from zoo.core.one_shot.supernet_training import Engine
from zoo.core.search.width_grid import StateSpace
from zoo.core.training.distill import output_error
from zoo.core.training.task import Answer

__all__ = ["sandwich_losses", "sandwich_macs", "sandwich_states"]


def sandwich_states(grid: StateSpace, between: np.ndarray) -> np.ndarray:
    """The full state, the smallest and those between, shape (n + 2, G), for (n, G)."""
    return np.concatenate([grid.full[None], np.zeros_like(grid.full)[None], between])


def sandwich_losses(
    engine: Engine, inputs: Inputs, targets: Any, configs: Sequence[SubnetConfig]
) -> Tensor:
    """Losses of networks on the same batch: the first learns from the targets, the rest from it.

    They learn from its detached softmax or, where a task has a loss of its own, from its outputs;
    charged.

    Args:
        engine: runs subnets.
        inputs: of a batch, such as images (N, C, H, W).
        targets: of the same.
        configs: what each network keeps; the first should be the full one.

    Returns:
        Shape (networks,); unit of cross-entropies: nats.

    Source: Yu, Huang 2019, as in the card of baselines/autoslim.py.
    """
    problem = engine.problem
    wide = engine.shared_answer(inputs, configs[0])
    terms = [
        Term(problem.cost.macs(config), partial(_imitation, engine, inputs, config, wide))
        for config in configs[1:]
    ]
    return engine.losses(terms, [problem.task.loss_of(wide.outputs, targets)])


def sandwich_macs(problem: Problem, between: int) -> int:
    """Multiply-adds of an update's forward passes for one image.

    Args:
        problem: gives the network.
        between: networks between the full and the smallest.
    """
    least, middle = middle_macs(problem)
    return problem.cost.full_macs + least + between * middle


def _imitation(engine: Engine, inputs: Inputs, config: SubnetConfig, wide: Answer) -> list[Tensor]:
    """What a subnet learns from the full network, one scalar; no gradient reaches the latter."""
    narrow = engine.answer(inputs, config)
    if engine.problem.task.is_classification:
        return [F.cross_entropy(narrow.outputs, wide.outputs.detach().softmax(1))]
    return [output_error(narrow.compared, wide.compared)]
