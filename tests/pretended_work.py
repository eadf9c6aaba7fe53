"""What tests on the pretended device work on, and how they count; imported after `install`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import timm
import torch

from tests import pretended_cuda
from tests.pretended_cuda import DEVICE
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.batches import Batches, ImageTensors, crop_and_flip
from zoo.core.data.metered import MeteredData
from zoo.core.meter import Meter
from zoo.core.method.problem import Problem
from zoo.core.networks import cifar_resnet  # noqa: F401  (registers the networks)

__all__ = ["GPU", "batches", "growth", "images", "problem", "spent"]

GPU = f"{DEVICE}:0"


def images(count: int, augment: bool) -> ImageTensors:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    augmented = crop_and_flip if augment else None
    return ImageTensors(pixels, torch.arange(count) % 10, (0.5,) * 3, (0.3,) * 3, augmented)


def batches(count: int) -> Batches:
    """So many batches of four images."""
    return Batches(images(4 * count, False), 4, device=GPU)


def problem(name: str = "resnet20_cifar") -> Problem:
    """A network on the device, with six batches of four images to train and to search on."""
    model = timm.create_model(name, num_classes=10).to(GPU).eval()
    space = ChannelSpace.trace(model, (3, 32, 32))
    cost, meter = CostModel(space), Meter(GPU)
    data = MeteredData(batches(6), batches(6), meter)
    return Problem(model, space, cost, Budget.parse(0.5, cost), data, meter=meter)


def spent(work: Callable[[], object]) -> Counter[str]:
    """Launches, copies and waits of some work."""
    before = Counter(pretended_cuda.COUNTS)
    work()
    return pretended_cuda.COUNTS - before


def growth(work: Callable[[int], object]) -> Counter[str]:
    """What one batch more costs: counts with four less those with three."""
    three, four = (spent(lambda count=count: work(count)) for count in (3, 4))
    return four - three
