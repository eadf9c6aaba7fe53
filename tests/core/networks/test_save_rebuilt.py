"""What `rebuild` made, without a result of `prune`, is saved and loaded as well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import zoo
from tests.core.networks.saving import SIZE, Backbone, assert_same, fresh, randomise


def seeded(make: Callable[..., nn.Module], seed: int = 0, **args: Any) -> nn.Module:
    """A network in float64, so that equal outputs mean equal networks."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = make(**args).eval()
        randomise(model)
    return model.double()


def residual(seed: int = 0) -> nn.Module:
    block = torchvision.models.resnet.BasicBlock
    return seeded(torchvision.models.ResNet, seed, block=block, layers=[1] * 4, num_classes=4)


def mobile(seed: int = 0) -> nn.Module:
    return seeded(torchvision.models.mobilenet_v2, seed, width_mult=0.25, num_classes=4)


def own(seed: int = 0) -> nn.Module:
    return seeded(Backbone, seed, form=nn.Identity())


def rebuilt(parent: nn.Module) -> tuple[nn.Module, zoo.ChannelSpace, zoo.SubnetConfig]:
    """Half of every group, and of these not the first channels."""
    space = zoo.ChannelSpace.trace(parent, SIZE)
    keep = {g.name: tuple(range(g.size))[-max(1, g.size // 2) :] for g in space.groups}
    config = zoo.SubnetConfig(keep)
    return zoo.rebuild(parent, space, config), space, config


def test_a_rebuilt_network_of_timm_is_loaded_by_timm_alone(tmp_path: Path) -> None:
    model, space, config = rebuilt(fresh().double())
    zoo.save_pruned(model, tmp_path, space=space, config=config)
    assert_same(model, zoo.load_pruned(tmp_path))


@pytest.mark.parametrize("make", [residual, mobile, own])
def test_networks_that_are_not_timm_s_are_loaded_into_a_fresh_parent(
    make: Callable[..., nn.Module], tmp_path: Path
) -> None:
    model, space, config = rebuilt(make())
    zoo.save_pruned(model, tmp_path, space=space, config=config)
    kind = type(model)
    told = f"{kind.__module__}.{kind.__qualname__} was not made by timm"
    assert json.loads((tmp_path / "network.json").read_text())["needs_parent"] == told
    with pytest.raises(ValueError, match=rf"{told}; call load_pruned\(directory, parent=\.\.\.\)"):
        zoo.load_pruned(tmp_path)
    assert_same(model, zoo.load_pruned(tmp_path, parent=make(seed=1)))


def test_a_parent_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    model, space, config = rebuilt(mobile())
    zoo.save_pruned(model, tmp_path, space=space, config=config)
    with pytest.raises(ValueError, match="cannot be loaded"):
        zoo.load_pruned(tmp_path, parent=residual())
    other = mobile()
    other.features[2].conv[1][0].stride = (1, 1)  # the same tensors, another network
    with pytest.raises(ValueError, match="with the given parent the network has other outputs"):
        zoo.load_pruned(tmp_path, parent=other)


def test_arguments_of_timm_are_taken_where_timm_keeps_none(tmp_path: Path) -> None:
    parent = fresh("resnet18", layers=[1] * 4, channels=[16, 16, 24, 24], output_stride=8)
    del parent._model_args
    model, space, config = rebuilt(parent)
    args = {"layers": [1] * 4, "channels": [16, 16, 24, 24], "output_stride": 8}
    zoo.save_pruned(model, tmp_path, space=space, config=config, model_args=args)
    assert_same(model, zoo.load_pruned(tmp_path))


def test_another_configuration_or_network_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    parent = fresh()
    model, space, config = rebuilt(parent)
    less = zoo.SubnetConfig.from_widths(space, {space.groups[0].name: 2})
    for network, kept in ((model, less), (parent, config)):
        with pytest.raises(ValueError, match="kept other channels"):
            zoo.save_pruned(network, tmp_path / "new", space=space, config=kept)
    model.layer1[0].conv2.stride = (2, 2)
    with pytest.raises(zoo.UnsupportedModel):
        zoo.save_pruned(model, tmp_path / "new", space=space, config=config)
    assert not (tmp_path / "new").exists()


def test_a_network_alone_is_told_what_it_lacks(tmp_path: Path) -> None:
    model, space, config = rebuilt(fresh())
    with pytest.raises(TypeError, match=r"without space and config .*space=\.\.\., config=\.\.\."):
        zoo.save_pruned(model, tmp_path)
    with pytest.raises(TypeError, match="without config cannot"):
        zoo.save_pruned(model, tmp_path, space=space)
    with pytest.raises(TypeError, match="belong to a network; dict is none"):
        zoo.save_pruned({}, tmp_path, space=space, config=config)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
