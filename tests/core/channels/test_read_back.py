"""What another program pruned is read back by value, exactly or not at all."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import timm
import torch
from torch import nn

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.read_back import read_config, tagged_copy
from zoo.core.channels.space import ChannelSpace
from zoo.core.contract.trial import same_config
from zoo.core.errors import UnsupportedModel
from zoo.core.method.planted import PlantedNet
from zoo.core.networks.rebuild import rebuild

NETWORKS = ("test_resnet", "test_efficientnet", "mobilenetv2_035", "regnetx_002")


@cache
def tagged(name: str) -> tuple[nn.Module, ChannelSpace]:
    model = timm.create_model(name, num_classes=10).eval()
    return tagged_copy(model), ChannelSpace.trace(model, (3, 32, 32))


def drawn(space: ChannelSpace, seed: int) -> SubnetConfig:
    rng = np.random.default_rng(seed)
    keep = {}
    for group in space.groups:
        width = rng.integers(1, group.size + 1)
        keep[group.name] = tuple(sorted(rng.choice(group.size, width, replace=False).tolist()))
    return SubnetConfig(keep)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_kept_is_read_back(name: str) -> None:
    parent, space = tagged(name)
    for seed in range(3):
        config = drawn(space, seed)
        found = read_config(parent, rebuild(parent, space, config), space)
        assert same_config(space, found, config)


def test_channels_of_equal_weights_are_told_apart() -> None:
    model = PlantedNet((1, 3, 4, 6), (0, 2, 5, 7))  # half of its filters are zero
    space = ChannelSpace.trace(model, (8, 4, 4))
    parent = tagged_copy(model)
    config = SubnetConfig({group.name: (0, 2, 5) for group in space.groups})
    assert read_config(parent, rebuild(parent, space, config), space) == config


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tags_change_weights_in_the_last_digits_of_single_precision_at_most(
    dtype: torch.dtype,
) -> None:
    model = timm.create_model("test_resnet", num_classes=10).to(dtype)
    for before, after in zip(model.parameters(), tagged_copy(model).parameters(), strict=True):
        assert after.dtype == torch.float64
        torch.testing.assert_close(after, before.double(), rtol=2**-23, atol=1e-300)


def changed(parent: nn.Module, change: Callable[[nn.Module], None]) -> nn.Module:
    twin = tagged_copy(parent)  # tagged again it is the same
    with torch.no_grad():
        change(twin)
    return twin


def scaled(network: nn.Module) -> None:
    network.get_parameter("layer1.0.conv1.weight").mul_(1 + 2**-20)


def turned(network: nn.Module) -> None:
    weight = network.get_parameter("layer1.0.bn1.weight")
    weight.copy_(weight.flip(0))


def halved(network: nn.Module) -> None:
    layer = network.get_submodule("layer1.0.bn1")
    layer.weight = nn.Parameter(layer.weight[::2].clone())


def without_a_class(network: nn.Module) -> None:
    network.fc.bias = nn.Parameter(network.fc.bias[1:].clone())


def without_a_bias(network: nn.Module) -> None:
    network.fc.bias = None


def in_single_precision(network: nn.Module) -> None:
    network.float()


def mixed(network: nn.Module) -> None:
    """A block that is no product of rows and columns of the parent's."""
    weight = network.get_parameter("fc.weight")
    weight[0, :2] = weight[0, :2].flip(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scaled, "layer1.0.conv1.weight: weights are new or were changed"),
        (turned, "layer1.0.bn1.weight, dimension 0: channels are in another order than"),
        (halved, "it lacks channels of group 'layer1.0.conv1' that are left elsewhere"),
        (without_a_class, "fc.bias, dimension 0: channels are gone that are no part of any group"),
        (without_a_bias, r"has other weights than its parent: \['fc.bias'\]"),
        (in_single_precision, "became .* of torch.float32"),
        (mixed, "fc.weight: weights are new or were changed"),
    ],
)
def test_what_cannot_be_read_is_refused(change: Callable[[nn.Module], None], message: str) -> None:
    parent, space = tagged("test_resnet")
    with pytest.raises(UnsupportedModel, match=message):
        read_config(parent, changed(parent, change), space)


def test_channels_that_all_layers_sorted_alike_are_read_back() -> None:
    parent, space = tagged("test_resnet")
    config = drawn(space, 0)
    pruned = rebuild(parent, space, config)
    group = next(g for g in space.groups if 3 < len(config.indices(g)) < g.size)
    order = torch.randperm(len(config.indices(group)), generator=torch.Generator().manual_seed(0))
    sorted_, half = tagged_copy(pruned), tagged_copy(pruned)
    members = [m for m in group.members if m.role not in ("norm_mean", "norm_var")]
    with torch.no_grad():
        for network, turned_ in ((sorted_, members), (half, members[:-1])):
            for name, tensor in network.named_parameters():
                tensor.copy_(pruned.get_parameter(name))  # with the tags of the parent
            for member in turned_:
                tensor = network.get_parameter(member.tensor)
                tensor.copy_(tensor.index_select(member.dim, order))
    assert same_config(space, read_config(parent, sorted_, space), config)
    with pytest.raises(UnsupportedModel, match="in another order than elsewhere"):
        read_config(parent, half, space)


def test_a_part_of_a_channel_is_refused() -> None:
    """A channel that is read at several positions goes with all of them or with none."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.fc = nn.Linear(4 * 4, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(images).flatten(1))

    model = Flat()
    space = ChannelSpace.trace(model, (3, 2, 2))
    parent = tagged_copy(model)
    pruned = tagged_copy(parent)
    pruned.fc.weight = nn.Parameter(pruned.fc.weight[:, 1:].clone())
    with pytest.raises(UnsupportedModel, match=r"fc.weight, dimension 1: it lacks channels"):
        read_config(parent, pruned, space)
