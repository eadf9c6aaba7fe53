"""Small search problems in float64, so that equalities are not blurred."""

from functools import cache

import numpy as np
import timm
import torch
from torch import nn

import zoo.core.networks.cifar_resnet  # noqa: F401  # registers resnet20_cifar
from zoo.core.channels.config import WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.batches import Batches, ImageTensors
from zoo.core.data.metered import MeteredData
from zoo.core.meter import Meter
from zoo.core.method.problem import Problem

SIDE = 8
BATCH = 8


@cache
def parent(name: str) -> tuple[nn.Module, ChannelSpace]:
    """A float64 network in eval mode, with statistics that are not those of a fresh one."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=10).double()
        model.train()
        for _ in range(3):
            model(torch.randn(16, 3, SIDE, SIDE, dtype=torch.float64))
    model.eval()
    return model, ChannelSpace.trace(model, (3, SIDE, SIDE))


def problem(
    name: str = "resnet20_cifar", keep_ratio: float = 0.5, rules: WidthRules | None = None
) -> Problem:
    model, space = parent(name)
    cost, meter = CostModel(space), Meter()
    data = MeteredData(*batches(), meter)
    budget = Budget.parse(keep_ratio, cost)
    return Problem(model, space, cost, budget, data, rules or WidthRules(), meter=meter)


def batches() -> tuple[Batches, Batches]:
    """The training and the search images of every problem, charged to nobody."""
    parts = []
    for seed, count in enumerate((4 * BATCH, 2 * BATCH)):
        rng = np.random.default_rng(seed)
        pixels = torch.from_numpy(rng.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8))
        labels = torch.from_numpy(rng.integers(0, 10, count))
        dataset = ImageTensors(pixels, labels, (0.5,) * 3, (0.29,) * 3)
        parts.append(_Doubled(dataset, BATCH, seed=0))
    return parts[0], parts[1]


class _Doubled(Batches):
    """Batches in float64, so that equalities are not blurred."""

    def epoch(self, index):  # type: ignore[no-untyped-def]
        for images, labels in super().epoch(index):
            yield images.double(), labels
