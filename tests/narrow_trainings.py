"""Every way in which we train, on a narrow ResNet in channels_last; run in a process of its own.

`python -m tests.narrow_trainings` prints "done" at the end. The one layer that matters, with torch
alone, is `tests.bare_step`.
"""

import gc
import sys

import numpy as np
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from zoo.core.training.gradients import backward, is_guarded
from zoo.core.training.train import Recipe, TrainingLoss, train

SIDE, BATCH = 16, 8


def main() -> None:
    gc.freeze()  # else every metered phase begins with a look at all that torch holds
    every_pruner()
    both_executions()
    assert not is_guarded()  # a look into each graph was enough
    hidden_convolutions()
    sys.stdout.write("done\n")


def hidden_convolutions() -> None:
    """A checkpoint that computes its part anew, and a loss that differentiates by itself."""
    layer = nn.Conv2d(4, 8, 1, stride=2).to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 4, SIDE, SIDE, requires_grad=True)
    there = images.to(memory_format=torch.channels_last)
    backward(checkpoint(layer, there, use_reentrant=True).sum())
    assert is_guarded()
    narrow = nn.Conv2d(3, 8, 1, stride=2)
    model = nn.Sequential(narrow, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    train(model, batches(32), Recipe(epochs=1, batch_size=BATCH, lr=0.001), loss=Penalty())


class Penalty(TrainingLoss):
    """Cross-entropy and the size of its own gradient."""

    def forward(self, student: nn.Module, images: torch.Tensor, labels: torch.Tensor):
        value = F.cross_entropy(student(images), labels)
        found = torch.autograd.grad(value, list(student.parameters()), create_graph=True)
        return value + sum(each.square().sum() for each in found)


def every_pruner() -> None:
    """A search, with the training of its supernet, and the fine-tuning with its loss."""
    from zoo.core.method.discovery import get_pruner, list_pruners
    from zoo.core.method.pruner import missing_packages
    from zoo.core.networks.rebuild import rebuild

    for name in list_pruners():
        if missing_packages(get_pruner(name)):
            continue
        task = narrow_problem()
        pruner = get_pruner(name).tiny()
        subnet = pruner.search(task)
        small = rebuild(task.model, task.space, subnet.config, subnet.weights)
        loss = pruner.loss(task.model, small, task.space, subnet.config)
        train(small, batches(32), Recipe(epochs=1, batch_size=BATCH, lr=0.001), loss=loss)
        sys.stdout.write(f"{name}\n")


def both_executions() -> None:
    """The supernet engine masked, with joint statistics too, and sliced."""
    from zoo.core.channels.config import SubnetConfig
    from zoo.core.one_shot.supernet_training import Engine, starting_weights

    task = narrow_problem()
    halves = {g.name: g.size // 2 for g in task.space.groups}
    configs = [SubnetConfig.full(), SubnetConfig.from_widths(task.space, halves)]
    for execution in ("masked", "sliced"):
        engine = Engine(task, starting_weights(task, "parent"), steps=1, lr=0.01,
                        execution=execution)  # fmt: skip
        with task.meter.phase("supernet"):
            for images, labels in task.data.train(1):
                engine.update(F.cross_entropy(engine.parallel(images, configs), labels))
                engine.joint_norm_error(images, configs, torch.Tensor.sum)


def narrow_problem():
    import zoo.core.networks.cifar_resnet  # noqa: F401  # registers resnet20_cifar
    from zoo.core.channels.space import ChannelSpace
    from zoo.core.cost.budget import Budget
    from zoo.core.cost.cost_model import CostModel
    from zoo.core.data.metered import MeteredData
    from zoo.core.meter import Meter
    from zoo.core.method.problem import Problem

    torch.manual_seed(0)
    model = timm.create_model("resnet20_cifar", channels=(8, 12, 16)).eval()
    model.to(memory_format=torch.channels_last)
    space = ChannelSpace.trace(model, (3, SIDE, SIDE))
    cost, meter = CostModel(space), Meter()
    data = MeteredData(batches(32), batches(16), meter)
    return Problem(model, space, cost, Budget.parse(0.5, cost), data, meter=meter)


def batches(count: int):
    from zoo.core.data.batches import Batches, ImageTensors

    rng = np.random.default_rng(count)
    pixels = torch.from_numpy(rng.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 10, count))
    return Batches(ImageTensors(pixels, labels, (0.5,) * 3, (0.29,) * 3), BATCH, seed=0)


if __name__ == "__main__":
    main()
