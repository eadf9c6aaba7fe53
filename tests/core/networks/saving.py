"""Networks of every kind, pruned, saved and held against what is loaded."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch
from torch import Tensor, nn

import zoo
from zoo.core.networks.architecture import Architecture
from zoo.core.networks.save import Saveable

SIZE = (3, 32, 32)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(0))


def fresh(name: str = "test_resnet", **args: Any) -> nn.Module:
    """A network whose branches, statistics and head are as of a trained one: nothing is zero."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = timm.create_model(name, **({"num_classes": 4} | args)).eval()
        randomise(model)
    return model


# What timm names resnet18, with a block in each stage: most of the time goes with their number.
SHORT = {"layers": [1, 1, 1, 1], "channels": [16, 24, 32, 48]}


def randomise(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            wide = torch.rand(tensor.shape, dtype=torch.float32) + 0.5
            tensor.copy_(wide if "bias" not in name and "mean" not in name else wide - 1)


def pruned(parent: nn.Module, share: float = 0.5, inexact: bool = False, **args: Any) -> Any:
    """Half of every group, and of these not the first channels."""
    space = zoo.ChannelSpace.trace(parent, SIZE, inexact=inexact)
    keep = {g.name: tuple(range(g.size))[-max(1, int(share * g.size)) :] for g in space.groups}
    config = zoo.SubnetConfig(keep)
    return SimpleNamespace(
        model=zoo.rebuild(parent, space, config).eval(),
        config=config,
        space=space,
        architecture=Architecture.of(parent, **args),
    )


@cache
def _half() -> Any:
    return pruned(fresh())


def half() -> Any:
    """The same as `pruned(fresh())`, in less time."""
    found = _half()
    return SimpleNamespace(**vars(found) | {"model": copy.deepcopy(found.model)})


def saved(result: Saveable, folder: Path) -> None:
    """Save where no warning is expected."""
    zoo.save_pruned(result, folder)


def assert_same(first: nn.Module, second: nn.Module) -> None:
    mine, its = first.state_dict(), second.state_dict()
    assert mine.keys() == its.keys()
    for name in mine:
        assert mine[name].dtype == its[name].dtype and torch.equal(mine[name], its[name])
    own = next(first.parameters()).dtype
    with torch.no_grad():
        assert torch.equal(first(images().to(own)), second(images().to(own)))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "network.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class Backbone(nn.Module):
    """Puts its logits out in a form of choice."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.head = nn.Linear(24, 4)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        features = torch.relu(self.second(torch.relu(self.first(x))))
        return self.form(self.head(features.mean((2, 3))))
