"""The CIFAR ResNets are the known networks, and behave as timm's."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import zoo.core.networks.cifar_resnet  # noqa: F401  (registers the names)

# He et al. 2016 with option B shortcuts: MACs of convolutions and linear layers at 32 x 32, and
# parameters with ten classes.
KNOWN = {
    "resnet20_cifar": (40_813_184, 272_474),
    "resnet56_cifar": (125_747_840, 855_770),
    "resnet110_cifar": (253_149_824, 1_730_714),
}


@pytest.mark.parametrize("name", KNOWN)
def test_macs_and_parameters_are_the_known_ones(name: str) -> None:
    model = timm.create_model(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    macs, parameters = KNOWN[name]
    assert counter.get_total_flops() == 2 * macs
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", KNOWN)
def test_depth_is_the_one_in_the_name(name: str) -> None:
    layers = [
        module
        for path, module in timm.create_model(name).named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "downsample" not in path
    ]
    assert len(layers) == int("".join(filter(str.isdigit, name)))


def test_feature_info_states_the_real_channels_and_strides() -> None:
    model = timm.create_model("resnet20_cifar").eval()
    _, features = model.forward_intermediates(torch.zeros(1, 3, 32, 32))
    assert len(features) == len(model.feature_info) == 4
    modules = dict(model.named_modules())
    for feature, info in zip(features, model.feature_info, strict=True):
        assert info["module"] in modules
        assert feature.shape[1:] == (info["num_chs"], *(32 // info["reduction"],) * 2)


def test_features_only_gives_the_intermediates() -> None:
    model = timm.create_model("resnet20_cifar", features_only=True).eval()
    features = model(torch.randn(1, 3, 32, 32))
    assert [tuple(feature.shape[1:]) for feature in features] == [
        *((16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)),
    ]


def test_intermediates_end_with_the_features() -> None:
    model = timm.create_model("resnet20_cifar").eval()
    images = torch.randn(2, 3, 32, 32)
    last, features = model.forward_intermediates(images, indices=[1, 3])
    assert torch.equal(last, model.forward_features(images))
    assert torch.equal(features[1], last)
    early = model.forward_intermediates(images, indices=[1], stop_early=True)
    assert torch.equal(early[0], features[0])


def test_unused_stages_can_be_dropped() -> None:
    model = timm.create_model("resnet20_cifar").eval()
    images = torch.randn(2, 3, 32, 32)
    expected = model.forward_intermediates(images, indices=[2], intermediates_only=True)
    assert model.prune_intermediate_layers([2]) == [2]
    assert torch.equal(model.forward_features(images), expected[0])
    assert model.num_features == 32
    assert not any(name.startswith("layer3.") for name in model.state_dict())


def test_group_matcher_names_stages_and_blocks() -> None:
    model = timm.create_model("resnet20_cifar")
    for is_coarse, layers in ((True, 1 + 3 + 1), (False, 1 + 9 + 1)):
        groups = timm.models.group_parameters(model, model.group_matcher(coarse=is_coarse))
        assert len(groups) == layers


def test_the_head_can_be_reset() -> None:
    model = timm.create_model("resnet20_cifar", num_classes=7).eval()
    model.reset_classifier(3)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert model.num_classes == 3


def test_images_may_have_other_channels() -> None:
    model = timm.create_model("resnet20_cifar", in_chans=1, num_classes=4).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 4)


def test_widths_can_be_given() -> None:
    model = timm.create_model("resnet20_cifar", channels=(4, 8, 16)).eval()
    assert [info["num_chs"] for info in model.feature_info] == [4, 4, 8, 16]
    with pytest.raises(ValueError, match="3 channels; give an even number"):
        timm.create_model("resnet20_cifar", channels=(3, 8, 16))


def test_checkpointing_changes_no_gradient() -> None:
    model = timm.create_model("resnet20_cifar").double().eval()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    gradients = []
    for is_enabled in (False, True):
        model.set_grad_checkpointing(is_enabled)
        model.zero_grad()
        model(images).square().sum().backward()
        gradients.append(model.conv1.weight.grad.clone())
    # The same operations in the same order: any difference would be an error.
    assert torch.equal(*gradients)


def test_pretrained_weights_are_refused() -> None:
    with pytest.raises((ValueError, RuntimeError), match="pretrained"):
        timm.create_model("resnet20_cifar", pretrained=True)
