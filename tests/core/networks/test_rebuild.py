"""Surgery leaves the given network alone and timm's metadata in order."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.networks.rebuild import rebuild

SIZE = (3, 64, 64)
WITH_HEADS: list[tuple[str, dict[str, object]]] = [
    ("resnet18", {}),
    ("mobilenetv3_small_100", {}),
    ("test_efficientnet", {}),
    ("vgg16_bn", {"mlp_ratio": 1 / 16}),  # else its head takes seconds
    ("densenet121", {"block_config": (2, 3, 2, 2)}),
    ("convnext_tiny", {"depths": (1, 1, 2, 1)}),
    ("dla34", {}),
]
WHOLE = ["efficientnet_b0", "densenet121", "regnety_008", "convnext_tiny", "cspresnet50"]


def smaller(model: nn.Module) -> tuple[ChannelSpace, nn.Module]:
    space = ChannelSpace.trace(model, SIZE)
    rng = np.random.default_rng(0)
    widths = {g.name: int(rng.integers(max(1, g.size // 3), g.size)) for g in space.groups}
    return space, rebuild(model, space, SubnetConfig.from_widths(space, widths))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [*WITH_HEADS, *(pytest.param(name, {}, marks=pytest.mark.slow) for name in WHOLE)],
)
def test_timm_metadata_follows_the_smaller_network(name: str, arguments: dict[str, object]) -> None:
    model = timm.create_model(name, num_classes=10, **arguments).eval()
    space, small = smaller(model)
    images = torch.zeros(1, *SIZE)
    with torch.no_grad():
        features = small.forward_features(images)
        assert small.num_features == features.shape[1]
        hidden = small.forward_head(features, pre_logits=True)
        assert small.head_hidden_size == hidden.shape[-1]
        maps = small.forward_intermediates(images, intermediates_only=True)
        listed = [info["num_chs"] for info in small.feature_info]
        assert listed == [feature.shape[1] for feature in maps]
        is_free = [g.residual for g in space.groups]
        assert not any(is_free) or listed != [info["num_chs"] for info in model.feature_info]
        small.reset_classifier(7)
        assert small(images).shape == (1, 7)


def test_given_network_is_untouched() -> None:
    model = timm.create_model("test_efficientnet").train()
    calls: list[int] = []
    model.conv_stem.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    modules = [(id(m), dict(vars(m))) for m in model.modules()]
    _, small = smaller(model)
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    for (key, attributes), module in zip(modules, model.modules(), strict=True):
        assert key == id(module)
        assert {k: v for k, v in vars(module).items() if isinstance(v, int)} == {
            k: v for k, v in attributes.items() if isinstance(v, int)
        }
    assert small.training
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in small.parameters()}
    assert shared == set()


def test_model_keeps_the_mode_it_was_left_in() -> None:
    model = timm.create_model("test_resnet").train()
    model.bn1.eval()
    _, small = smaller(model)
    assert small.training
    assert not small.bn1.training


def test_optimizer_of_the_smaller_network_holds_only_its_tensors() -> None:
    model = timm.create_model("test_resnet", num_classes=4)
    _, small = smaller(model)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in small.parameters()}
    assert not held & {id(p) for p in model.parameters()}
    small(torch.randn(2, *SIZE)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_full_configuration_rebuilds_the_same_network() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_byobnet").eval()
    space = ChannelSpace.trace(model, SIZE)
    same = rebuild(model, space, SubnetConfig.full())
    images = torch.randn(1, *SIZE)
    with torch.no_grad():
        assert torch.equal(model(images), same(images))


def test_given_weights_replace_those_of_the_model() -> None:
    torch.manual_seed(0)
    model, other = (timm.create_model("test_resnet").eval() for _ in range(2))
    space = ChannelSpace.trace(model, SIZE)
    config = SubnetConfig({g.name: (0, g.size - 1) for g in space.groups})
    images = torch.randn(1, *SIZE)
    with torch.no_grad():
        assert torch.equal(
            rebuild(model, space, config, other.state_dict())(images),
            rebuild(other, space, config)(images),
        )


def test_state_dict_and_deep_copy_of_a_rebuilt_network() -> None:
    model = timm.create_model("test_efficientnet").eval()
    _, small = smaller(model)
    twin = copy.deepcopy(small)
    twin.load_state_dict(small.state_dict())
    images = torch.randn(1, *SIZE)
    with torch.no_grad():
        assert torch.equal(small(images), twin(images))


def test_frozen_parameters_stay_frozen() -> None:
    model = timm.create_model("test_resnet")
    model.conv1.requires_grad_(False)
    _, small = smaller(model)
    frozen = [name for name, p in small.named_parameters() if not p.requires_grad]
    assert frozen == [name for name, p in model.named_parameters() if not p.requires_grad]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"layer1.0.conv1": ()}, "keeps no channel"),
        ({"layer1.0.conv1": (0, 0)}, "unique"),
        ({"layer1.0.conv1": (2, 1)}, "ascending"),
        ({"layer1.0.conv1": (-1, 0)}, "not negative"),
        ({"layer1.0.conv1": (10_000,)}, "does not exist"),
        ({"layer1.0.conv9": (0,)}, "layer1.0.conv9"),
    ],
)
def test_impossible_configuration_is_refused(
    keep: dict[str, tuple[int, ...]], message: str
) -> None:
    model = timm.create_model("test_resnet")
    space = ChannelSpace.trace(model, SIZE)
    with pytest.raises(ValueError, match=message):
        rebuild(model, space, SubnetConfig(keep))
