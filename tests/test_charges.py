"""What searches and fine-tunings are charged, against a count of every product that torch makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.problems import problem
from tests.ready import OURS, ready
from zoo.core.method.discovery import get_pruner
from zoo.core.networks.rebuild import rebuild
from zoo.core.training.train import Recipe, train

aten = torch.ops.aten

MOST_BACKWARD = 1.5
"""The most that the charge for backward passes may exceed the products made.

Gradients of images are never computed, nor those of what a block reads that is trained alone. The
first layers of a network, or of its blocks, so cost one forward pass backward, not two.
"""


class Products(TorchDispatchMode):
    """Counts multiply-adds of convolutions and linear layers, forward and backward.

    Attributes:
        forward, backward: so far; what runs on the meta device is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.backward = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        count = _products(func.overloadpacket, args, out)
        if torch._C._current_graph_task_id() == -1:
            self.forward += count
        else:
            self.backward += count
        return out


def _products(op: Any, args: Any, out: Any) -> int:
    """Multiply-adds of one call: of each output as many as a filter has weights."""
    if op is aten.convolution and args[0].device.type != "meta":
        return int(out.numel() * args[1][0].numel())
    if op is aten.convolution_backward:
        gradient, _, weight = args[:3]
        n_factors = sum(map(bool, args[10][:2]))  # input, weight
        return int(gradient.numel() * weight[0].numel() * n_factors)
    factors = {aten.mm: args[:2], aten.bmm: args[:2], aten.addmm: args[1:3]}.get(op)
    if factors is None or factors[0].device.type == "meta":
        return 0
    return int(factors[0].numel() * factors[1].shape[-1])


def held(forward: int, backward: int, counted: Products) -> None:
    """Forward passes are charged exactly; backward passes at twice that, never too little."""
    assert forward == counted.forward
    assert backward <= MOST_BACKWARD * counted.backward
    assert backward >= counted.backward


@pytest.mark.parametrize("network", ["resnet20_cifar", "test_efficientnet"])
@pytest.mark.parametrize("name", ready(OURS))
def test_a_search_is_charged_the_products_that_it_makes(name: str, network: str) -> None:
    asked = problem(network)
    asked.method = name
    with Products() as counted:
        get_pruner(name).tiny().search(asked)
    spent = asked.meter.total()
    held(spent.macs_forward, spent.macs_backward, counted)


@pytest.mark.parametrize("distill", [None, 0.0, 1.0])
@pytest.mark.parametrize("name", ["uniform", "bnp", "knapsack"])
def test_a_fine_tuning_is_charged_the_products_that_it_makes(
    name: str, distill: float | None
) -> None:
    """With the loss of a method (None), cross-entropy (0) or the common distillation (1)."""
    asked, pruner = problem("resnet20_cifar"), get_pruner(name).tiny()
    asked.method = name
    config = pruner.search(asked).config
    small = rebuild(asked.model, asked.space, config)
    if distill is None:
        loss = pruner.loss(asked.model, small, asked.space, config)
    else:
        loss = asked.common_loss(distill, label_smoothing=0.0)
    recipe = Recipe(epochs=1, lr=1e-6)  # the network is untrained: errors relative to it are large
    with asked.meter.phase("finetune") as spent, Products() as counted:
        macs = asked.cost.macs(config)
        train(small, asked.data.training, recipe, loss=loss, meter=asked.meter, macs_per_image=macs)
    assert spent.images == asked.data.num_train
    held(spent.macs_forward, spent.macs_backward, counted)
