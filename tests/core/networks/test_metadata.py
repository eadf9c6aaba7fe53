"""The widths that blocks and networks state beside their layers are right after surgery."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models import FeatureDictNet
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.networks.rebuild import rebuild
from zoo.core.networks.widen import widen

SIZE = (3, 64, 64)
SHORT: dict[str, dict[str, Any]] = {
    "vgg11_bn": {"mlp_ratio": 1 / 16},
    "densenet121": {"block_config": (2, 2, 2, 2)},
    "fastvit_t8": {"layers": (1, 1, 1, 1)},
    "repvit_m0_9": {"depth": (1, 1, 1, 1)},
}
"""What makes networks of seconds small, with every kind of block left in them."""


def or_slow(fast: str, slow: str) -> list[Any]:
    """Names of networks; some take too long to be looked at each time."""
    return [*fast.split(), *(pytest.param(n, marks=pytest.mark.slow) for n in slow.split())]


REPARAMETERIZED = or_slow("test_byobnet fastvit_t8 repvit_m0_9", "mobileone_s0")
BACKBONES = or_slow(
    "test_resnet test_efficientnet test_convnext test_byobnet densenet121 mobilenetv3_small_050 "
    "ghostnet_050 fastvit_t8",
    "vgg11_bn dla46_c cspresnet50 hrnet_w18_small xception41 inception_v3",
)


def smaller(model: nn.Module, size: tuple[int, int, int] = SIZE) -> nn.Module:
    space = ChannelSpace.trace(model, size)
    rng = np.random.default_rng(0)
    widths = {g.name: int(rng.integers(max(1, g.size // 3), g.size)) for g in space.groups}
    return rebuild(model, space, SubnetConfig.from_widths(space, widths))


def vary_statistics(model: nn.Module) -> None:
    """Give batch norms statistics and weights that a wrong fusion would show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.8, 1.5)
            nn.init.uniform_(module.weight, 0.2, 0.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)


@pytest.mark.parametrize("name", REPARAMETERIZED)
def test_smaller_network_can_be_reparameterized(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, **SHORT.get(name, {})).double().eval()
    vary_statistics(model)
    small = smaller(model)
    images = torch.randn(2, *SIZE, dtype=torch.float64)
    torch.set_default_dtype(torch.float64)  # timm makes the new layers in the default type
    try:
        fused = timm.utils.reparameterize_model(small)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        expected, found = small(images), fused(images)
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()


def channels(features: Any, model: nn.Module) -> list[int]:
    dim = 3 if getattr(model, "output_fmt", "NCHW") == "NHWC" else 1
    return [f.shape[dim] for f in tree_leaves(features)]


@pytest.mark.parametrize("name", BACKBONES)
def test_feature_extractor_states_the_channels_it_returns(name: str) -> None:
    size = (3, 96, 96) if name == "inception_v3" else SIZE
    args = SHORT.get(name, {}) if name != "vgg11_bn" else {}  # it has no head to shorten
    model = timm.create_model(name, features_only=True, **args).eval()
    small = smaller(model, size)
    with torch.no_grad():
        features = small(torch.zeros(1, *size))
    assert small.feature_info.channels() == channels(features, small)


def test_feature_dictionary_states_the_channels_it_returns() -> None:
    model = FeatureDictNet(timm.create_model("test_resnet"), out_indices=(1, 3))
    small = smaller(model)
    with torch.no_grad():
        assert small.feature_info.channels() == channels(small(torch.zeros(1, *SIZE)), small)


@pytest.mark.parametrize("kind", ["hook", "getter", "dict"])
def test_every_kind_of_feature_extractor(kind: str) -> None:
    options = {"features_only": True, "feature_cls": kind, "out_indices": (1, 2)}
    model = timm.create_model("test_resnet", **options).eval()
    small = smaller(model)
    with torch.no_grad():
        found = small(torch.zeros(1, *SIZE))
    assert small.feature_info.channels() == channels(found, small)


def test_channels_last_maps_are_told_from_their_positions() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, embed_dim=24,
                              depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), img_size=64)  # fmt: skip
    small = smaller(model.eval())
    with torch.no_grad():
        assert small.feature_info.channels() == channels(small(torch.zeros(1, *SIZE)), small)


@pytest.mark.parametrize(
    "name",
    ["vgg11_bn", "densenet121", "test_convnext2", "mobilenetv4_conv_small_050", "repvit_m0_9"],
)
def test_whole_network_states_its_widths(name: str) -> None:
    small = smaller(timm.create_model(name, num_classes=10, **SHORT.get(name, {})).eval())
    images = torch.zeros(1, *SIZE)
    with torch.no_grad():
        features = small.forward_features(images)
        hidden = small.forward_head(features, pre_logits=True)
        maps = small.forward_intermediates(images, intermediates_only=True)
        assert small.num_features == features.shape[1]
        assert small.head_hidden_size == hidden.flatten(1).shape[1]
        assert [info["num_chs"] for info in small.feature_info] == [m.shape[1] for m in maps]
        small.reset_classifier(7)
        assert small(images).shape == (1, 7)


def test_backbone_inside_a_network_states_its_widths() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = timm.create_model("test_resnet", features_only=True)
            self.head = nn.Conv2d(self.backbone.feature_info.channels()[-1], 5, 1)

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.head(self.backbone(images)[-1])
            return out

    small = smaller(Detector().eval())
    with torch.no_grad():
        features = small.backbone(torch.zeros(1, *SIZE))
    assert small.backbone.feature_info.channels() == channels(features, small.backbone)
    assert small.backbone.feature_info.channels()[-1] == small.head.in_channels


class Scaled(nn.Module):
    """A block whose forward pass computes with what it states."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.dim = 16, 16, 16
        self.one = nn.Conv2d(16, 24, 1)
        self.two = nn.Conv2d(24, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.two(self.one(x))) * self.dim**-0.5


class Stated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.block = Scaled()
        self.plain = nn.Sequential(nn.Conv2d(16, 24, 1))
        self.plain.in_channels, self.plain.out_channels, self.plain.stride = 16, 24, 24
        self.fc = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.plain(self.block(self.stem(x))).mean((2, 3)))
        return out


def test_a_stated_width_that_the_forward_pass_computes_with_stays() -> None:
    model = Stated().eval()
    space = ChannelSpace.trace(model, SIZE)
    config = SubnetConfig.from_widths(space, {"stem": 10, "block.one": 11, "plain.0": 7})
    small = rebuild(model, space, config)
    assert small.block.dim == 16
    assert (small.plain.in_channels, small.plain.out_channels, small.plain.stride) == (10, 7, 24)


def test_equal_numbers_are_told_apart_by_what_flows_through_the_block() -> None:
    model = Stated().eval()
    model.plain[0] = nn.Conv2d(16, 16, 1)
    model.plain.out_channels = 16
    model.fc = nn.Linear(16, 3)
    space = ChannelSpace.trace(model, SIZE)
    config = SubnetConfig.from_widths(space, {"stem": 10, "plain.0": 7})
    small = rebuild(model, space, config)
    assert (small.plain.in_channels, small.plain.out_channels) == (10, 7)


def test_layers_that_share_a_weight_state_the_same_sizes() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(a, 8, 3) for a in (3, 8, 8)), nn.Flatten(), nn.Linear(8 * 58 * 58, 2)
    )
    model[2].weight = model[1].weight
    model[3] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model[4] = nn.Linear(8, 2)
    small = smaller(model)
    assert small[2].weight is small[1].weight
    assert small[1].in_channels < 8
    for layer in (small[1], small[2]):
        assert (layer.out_channels, layer.in_channels) == tuple(layer.weight.shape[:2])


def test_wider_network_states_its_widths() -> None:
    model = timm.create_model("test_resnet").eval()
    wide = widen(model, ChannelSpace.trace(model, SIZE), 1.5)
    with torch.no_grad():
        maps = wide.forward_intermediates(torch.zeros(1, *SIZE), intermediates_only=True)
    assert [info["num_chs"] for info in wide.feature_info] == [m.shape[1] for m in maps]
    assert wide.num_features == maps[-1].shape[1]
