"""A problem with one right answer: channels that carry everything beside channels that are dead.

Two parallel 1 x 1 convolutions read an eight-channel image; in an image of class k, channel k is
bright. Live channels detect one class each, dead ones have zero weights and are read by nobody,
so dropping a dead channel changes nothing and dropping a live one loses exactly one class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.batches import Batches, Sample
from zoo.core.data.metered import MeteredData
from zoo.core.meter import Meter
from zoo.core.method.problem import Problem

__all__ = [
    "BY_ACCURACY",
    "BY_SCORES",
    "Golden",
    "PlantedNet",
    "planted_data",
    "planted_golden",
    "planted_problem",
]

CLASSES = 8
SIDE = 4
IMAGES_PER_CLASS = 8
BATCH_SIZE = 16
NOISE = 0.05

BY_SCORES = (
    "By hand: the cost is linear in the 16 channels, so half of them fit; the 8 live ones carry "
    "all eight classes and the other 8 are zero."
)
BY_ACCURACY = "By hand: of all pairs of widths that fit, only (4, 4) keeps all eight classes."


@dataclass(frozen=True)
class Golden:
    """A fixed problem, the one right answer, and why it is right.

    Attributes:
        problem: what to search.
        expected: the answer; groups left out keep all channels.
        story: where the answer comes from, by hand or by brute force.
        settings: hyperparameters that differ from `tiny()`.
    """

    problem: Problem
    expected: SubnetConfig
    story: str
    settings: Mapping[str, object] = field(default_factory=dict)


class PlantedNet(nn.Module):
    """Two parallel branches of eight channels each, concatenated, pooled and classified.

    Args:
        live_a: channels of branch a that detect a class, in the order of the classes.
        live_b: channels of branch b that detect the remaining classes.

    Raises:
        ValueError: if there are not exactly as many live channels as classes.
    """

    def __init__(self, live_a: Sequence[int], live_b: Sequence[int]) -> None:
        super().__init__()
        if len(live_a) + len(live_b) != CLASSES:
            raise ValueError(f"{len(live_a)} + {len(live_b)} live channels, need {CLASSES}")
        self.conv_a = nn.Conv2d(CLASSES, CLASSES, 1, bias=False)
        self.bn_a = nn.BatchNorm2d(CLASSES)
        self.conv_b = nn.Conv2d(CLASSES, CLASSES, 1, bias=False)
        self.bn_b = nn.BatchNorm2d(CLASSES)
        # One class more than the labels have: it wins when no detector fires.
        self.fc = nn.Linear(2 * CLASSES, CLASSES + 1)
        with torch.no_grad():
            for parameter in (self.conv_a.weight, self.conv_b.weight, *self.fc.parameters()):
                parameter.zero_()
            self.bn_a.weight.zero_()
            self.bn_b.weight.zero_()
            self.fc.bias[CLASSES] = 0.1
            for label, channel in enumerate(live_a):
                self._plant(self.conv_a, self.bn_a, channel, 0, label)
            for label, channel in enumerate(live_b, start=len(live_a)):
                self._plant(self.conv_b, self.bn_b, channel, CLASSES, label)

    def _plant(
        self, conv: nn.Conv2d, bn: nn.BatchNorm2d, channel: int, at: int, label: int
    ) -> None:
        conv.weight[channel, label] = 1.0
        bn.weight[channel] = 1.0
        self.fc.weight[label, at + channel] = 1.0

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (N, 9), of images of shape (N, 8, 4, 4)."""
        a = torch.relu(self.bn_a(self.conv_a(images)))
        b = torch.relu(self.bn_b(self.conv_b(images)))
        logits: Tensor = self.fc(torch.cat([a, b], dim=1).mean((2, 3)))
        return logits


def planted_data(seed: int) -> Dataset[Sample]:
    """Images, shape (64, 8, 4, 4), and labels: channel k is bright in an image of class k."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat(IMAGES_PER_CLASS)
    images = NOISE * torch.rand(len(labels), CLASSES, SIDE, SIDE, generator=generator)
    images[torch.arange(len(labels)), labels] += 1.0
    return cast(Dataset[Sample], TensorDataset(images, labels))


def planted_problem(live_a: Sequence[int], live_b: Sequence[int], keep_ratio: float) -> Problem:
    """The search problem of a planted network.

    Args:
        live_a: channels of branch a that detect a class, in the order of the classes.
        live_b: channels of branch b that detect the remaining classes.
        keep_ratio: budget as a share of the network's MACs.
    """
    model = PlantedNet(live_a, live_b).eval()
    space = ChannelSpace.trace(model, input_size=(CLASSES, SIDE, SIDE))
    cost = CostModel(space)
    meter = Meter()
    train, search = (Batches(planted_data(seed), BATCH_SIZE) for seed in (0, 1))
    data = MeteredData(train, search, meter)
    return Problem(model, space, cost, Budget.parse(keep_ratio, cost), data, meter=meter)


def planted_golden(story: str = BY_SCORES, **settings: object) -> Golden:
    """Half of each branch is live and the budget is half: exactly the live channels stay.

    Args:
        story: why a method must find this.
        **settings: hyperparameters that differ from `tiny()`.
    """
    live_a, live_b = (1, 3, 4, 6), (0, 2, 5, 7)
    problem = planted_problem(live_a, live_b, keep_ratio=0.5)
    keep = {
        group.name: live_a if group.members[0].tensor == "conv_a.weight" else live_b
        for group in problem.space.groups
    }
    return Golden(problem, SubnetConfig(keep), story, settings)
