"""What is a group, what is pinned and why, and the traps that users of other tools fell into."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.proof import Mismatch
from zoo.core.channels.space import ChannelSpace
from zoo.core.channels.table_builder import build_table
from zoo.core.errors import UnsupportedModel
from zoo.core.networks.rebuild import rebuild

SIZE = (3, 32, 32)


def halved(space: ChannelSpace) -> SubnetConfig:
    return SubnetConfig({g.name: tuple(range(0, g.size, 2)) for g in space.groups})


def groups_of(model: nn.Module, **arguments: bool) -> dict[str, int]:
    space = ChannelSpace.trace(model, SIZE, **arguments)
    return {group.name: group.size for group in space.groups}


def assert_equals_masked(model: nn.Module) -> ChannelSpace:
    """Trace, drop every other channel, and compare with the parent that reads zeros instead."""
    torch.manual_seed(0)
    model = model.double().eval()
    space = ChannelSpace.trace(model, SIZE)
    config = halved(space)
    small = rebuild(model, space, config)
    twin = copy.deepcopy(model)
    tensors = dict(twin.named_parameters())
    for group in space.groups:
        dropped = np.setdiff1d(np.arange(group.size), config.indices(group))
        for member in group.members:
            if member.role == "in":
                index = torch.from_numpy(member.index[dropped].reshape(-1))
                tensors[member.tensor].data.index_fill_(member.dim, index, 0.0)
    images = torch.randn(2, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(twin(images), small(images), rtol=1e-11, atol=1e-11)
    return space


def test_resnet50_has_37_groups_and_11392_channels_beside_the_stem() -> None:
    # by hand: 2 inner widths in each of 16 blocks, 4 stage widths, 1 stem;
    # 2 x (3 x 64 + 4 x 128 + 6 x 256 + 3 x 512) + 256 + 512 + 1024 + 2048 = 11,392
    space = ChannelSpace.trace(timm.create_model("resnet50"))
    assert len(space.groups) == 37
    assert sum(g.size for g in space.groups if g.name != "conv1") == 11_392
    residual = {g.name: g.size for g in space.groups if g.residual}
    assert residual == {
        "layer1.0.conv3": 256,
        "layer2.0.conv3": 512,
        "layer3.0.conv3": 1024,
        "layer4.0.conv3": 2048,
    }
    assert [p.where for p in space.pinned] == ["fc"]
    assert space.stages == ("act1", "layer1", "layer2", "layer3", "layer4")


def test_stem_residual_squeeze_and_classifier_input_are_groups() -> None:
    space = ChannelSpace.trace(timm.create_model("mobilenetv3_small_100"), SIZE)
    by_name = {group.name: group for group in space.groups}
    assert by_name["conv_stem"].size == 16
    squeeze = by_name["blocks.0.0.se.conv_reduce"]
    assert {m.tensor for m in squeeze.members} == {
        "blocks.0.0.se.conv_reduce.weight",
        "blocks.0.0.se.conv_reduce.bias",
        "blocks.0.0.se.conv_expand.weight",
    }
    head = by_name["conv_head"]
    assert ("classifier.weight", 1, "in") in {(m.tensor, m.dim, m.role) for m in head.members}
    assert by_name["blocks.2.0.conv_pwl"].residual


def test_groups_know_stage_and_block() -> None:
    space = ChannelSpace.trace(timm.create_model("resnet18"), SIZE)
    placed = {g.name: (g.stage, g.block) for g in space.groups}
    assert placed["conv1"] == (0, 0)
    assert placed["layer1.1.conv1"] == (1, 2)
    assert placed["layer4.1.conv1"] == (4, 8)


def test_depthwise_channels_belong_to_the_expansion() -> None:
    space = ChannelSpace.trace(timm.create_model("mobilenetv2_100"), SIZE)
    group = space.group("blocks.1.0.conv_pw")
    roles = [m.role for m in group.members if m.tensor.endswith("conv_dw.weight")]
    assert roles == ["depthwise"]


def test_unknown_group_names_the_nearest() -> None:
    space = ChannelSpace.trace(timm.create_model("test_resnet"), SIZE)
    with pytest.raises(ValueError, match="conv1"):
        space.group("conv1x")


class Branch(nn.Module):
    """A base for small networks: a stem, something, and a classifier."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 5)

    def features(self, images: Tensor) -> Tensor:
        return torch.relu(self.norm(self.stem(images)))

    def middle(self, features: Tensor) -> Tensor:
        return features

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.middle(self.features(images)).mean((2, 3)))


class OneChannelGate(Branch):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(8, 1, 1)

    def middle(self, features: Tensor) -> Tensor:
        return features * torch.sigmoid(self.gate(features))


class OneChannelGateExpanded(OneChannelGate):
    def middle(self, features: Tensor) -> Tensor:
        return features * torch.sigmoid(self.gate(features)).expand_as(features)


@pytest.mark.parametrize("network", [OneChannelGate, OneChannelGateExpanded])
def test_one_channel_gate_ties_nothing_together(network: type[Branch]) -> None:
    space = assert_equals_masked(network())
    assert {g.name: g.size for g in space.groups} == {"stem": 8}


class OneOutput(Branch):
    """A dense convolution with groups == 1 == its output channels, and one with one input."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(8, 1, 3, padding=1)
        self.up = nn.Conv2d(1, 8, 3, padding=1)

    def middle(self, features: Tensor) -> Tensor:
        return self.up(self.down(features))


def test_convolution_with_one_channel_is_not_depthwise() -> None:
    space = assert_equals_masked(OneOutput())
    assert {g.name: g.size for g in space.groups} == {"stem": 8, "up": 8}


class Twice(Branch):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(8, 8, 3, padding=1)

    def middle(self, features: Tensor) -> Tensor:
        return self.shared(self.shared(features))


def test_convolution_called_twice_ties_what_it_reads_to_what_it_makes() -> None:
    space = assert_equals_masked(Twice())
    assert {g.name: g.size for g in space.groups} == {"stem": 8}


class Grouped(Branch):
    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.head = nn.Linear(12, 5)

    def middle(self, features: Tensor) -> Tensor:
        return self.grouped(features)


def test_grouped_convolution_loses_the_same_from_each_of_its_groups() -> None:
    space = assert_equals_masked(Grouped())
    assert {g.name: (g.size, g.members[0].index.shape) for g in space.groups} == {
        "stem": (4, (4, 2)),
        "grouped": (6, (6, 2)),
    }
    small = rebuild(Grouped(), space, SubnetConfig({"stem": (1,), "grouped": (0, 5)}))
    grouped = small.get_submodule("grouped")
    assert isinstance(grouped, nn.Conv2d)
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (2, 4, 2)


class Multiplied(Branch):
    """Depthwise with two outputs for each input."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.head = nn.Linear(16, 5)

    def middle(self, features: Tensor) -> Tensor:
        return self.wide(features)


def test_depthwise_with_a_multiplier_keeps_its_outputs_together() -> None:
    space = assert_equals_masked(Multiplied())
    assert {g.name: g.size for g in space.groups} == {"stem": 8}


class Shuffled(Branch):
    def middle(self, features: Tensor) -> Tensor:
        images, channels, height, width = features.shape
        parts = features.view(images, 2, channels // 2, height, width)
        return parts.transpose(1, 2).reshape(features.shape)


def test_channel_shuffle_keeps_its_two_halves_alike() -> None:
    space = assert_equals_masked(Shuffled())
    assert {g.name: g.size for g in space.groups} == {"stem": 4}


class HardCoded(Branch):
    """The inner size of a view is a number in the code, which surgery cannot change."""

    def middle(self, features: Tensor) -> Tensor:
        images, _, height, width = features.shape
        halves = features.view(images, -1, 4, height, width)
        return halves.sum(1).repeat(1, 2, 1, 1)


def test_a_number_of_channels_in_code_pins_them() -> None:
    space = ChannelSpace.trace(HardCoded(), SIZE)
    assert space.groups == ()
    assert space.pinned[0].where == "stem"
    assert "in code" in space.pinned[0].reason


class ShapedLike(Branch):
    """Reshapes something fixed to the shape of its input: nothing that is reshaped has channels."""

    def middle(self, features: Tensor) -> Tensor:
        return features.new_ones(len(features), 8, 32, 32).reshape(features.shape)


def test_channels_that_only_give_their_number_are_pinned() -> None:
    assert groups_of(ShapedLike()) == {}


class Attention(nn.Module):
    """Self-attention over positions, whose result is shaped as its input."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 8, 1)

    def forward(self, features: Tensor) -> Tensor:
        keys, values = self.keys(features).flatten(2), self.values(features).flatten(2)
        weights = (keys.transpose(1, 2) @ keys).softmax(-1)
        return (values @ weights).view(features.shape)


class WithAttention(Branch):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.wide = Attention(), nn.Conv2d(8, 12, 3)
        self.head = nn.Linear(12, 5)

    def middle(self, features: Tensor) -> Tensor:
        return self.wide(self.attention(features))


def test_a_shape_that_is_held_in_one_module_pins_no_other() -> None:
    assert groups_of(WithAttention()) == {"wide": 12}


class Halved(Branch):
    """Takes the halves of its channels; the number of kept ones may be odd, or lie in one half."""

    def middle(self, features: Tensor) -> Tensor:
        half = features.shape[1] // 2
        return torch.cat([features[:, :half].relu(), features[:, half:]], 1)


class HandShuffled(Branch):
    """A channel shuffle by views: four groups of as many channels as there are."""

    def middle(self, features: Tensor) -> Tensor:
        images, channels, height, width = features.shape
        parts = features.view(images, 4, channels // 4, height, width)
        return parts.transpose(1, 2).reshape(images, channels, height, width)


def test_parts_that_code_computes_are_pinned_before_any_search() -> None:
    assert groups_of(Halved(16)) == {}


def test_a_shuffle_by_views_follows_every_width() -> None:
    """With one channel a group `reshape` needs no copy, which the proof must not call a fault."""
    model = HandShuffled(16).double().eval()
    space = assert_equals_masked(model)
    assert groups_of(model) == {"stem": 4}
    for kept in ((2,), (0, 3), (1, 2, 3)):
        assert rebuild(model, space, SubnetConfig({"stem": kept})).stem.out_channels == 4 * len(
            kept
        )


class Flattened(Branch):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.features(images), 4).flatten(1))


def test_flattened_channel_takes_all_its_columns_along() -> None:
    space = assert_equals_masked(Flattened())
    reader = space.group("stem").members[-1]
    assert (reader.tensor, reader.dim) == ("head.weight", 1)
    assert reader.index.tolist() == [list(range(16 * c, 16 * c + 16)) for c in range(8)]


class WithoutRule(Branch):
    def middle(self, features: Tensor) -> Tensor:
        return features.sort(dim=1).values


def test_an_operator_without_a_rule_pins_its_channels_and_says_why() -> None:
    space = ChannelSpace.trace(WithoutRule(), SIZE)
    assert space.groups == ()
    stem = next(p for p in space.pinned if p.where == "stem")
    assert stem.channels == 8
    assert stem.reason == "operator sort in WithoutRule has no rule"


ACTIVATIONS = [
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.LogSigmoid, nn.CELU, nn.SELU,
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_let_channels_pass(activation: type[nn.Module]) -> None:
    class Activated(Branch):
        def __init__(self) -> None:
            super().__init__()
            self.act = activation()

        def middle(self, features: Tensor) -> Tensor:
            return self.act(features)

    assert groups_of(Activated()) == {"stem": 8}


class Attended(Branch):
    def middle(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).transpose(1, 2)
        weights = (tokens @ tokens.transpose(1, 2)).softmax(-1)
        return (weights @ tokens).transpose(1, 2).reshape(features.shape)


def test_a_product_of_two_activations_pins_their_channels() -> None:
    assert groups_of(Attended()) == {}


class PaddedShortcut(Branch):
    """The parameter-free shortcut of CIFAR ResNets: channels are padded with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def middle(self, features: Tensor) -> Tensor:
        return self.wide(features) + F.pad(features, (0, 0, 0, 0, 4, 4))


def test_channels_added_to_zero_padding_stay() -> None:
    space = assert_equals_masked(PaddedShortcut())
    assert {g.name: g.size for g in space.groups} == {"stem": 8}
    pinned = {(p.where, p.channels, p.reason) for p in space.pinned}
    assert ("wide", 8, "joined with fixed channels in PaddedShortcut") in pinned


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("ecaresnet50d", {"layers": (2, 1, 1, 1)}), ("convnext_tiny", {"depths": (1, 2, 1, 1)})],
)
def test_mixed_channels_are_pinned_by_default_and_freed_on_request(
    name: str, blocks: dict[str, object]
) -> None:
    model = timm.create_model(name, **blocks)
    default = ChannelSpace.trace(model, (3, 64, 64))
    freed = ChannelSpace.trace(model, (3, 64, 64), inexact=True)
    assert all(group.exact for group in default.groups)
    more = {g.name for g in freed.groups} - {g.name for g in default.groups}
    assert more == {g.name for g in freed.groups if not g.exact} != set()
    reasons = " ".join(p.reason for p in default.pinned)
    assert "along the channels" in reasons or "layer norm" in reasons


def test_group_norm_is_inexact_and_loses_evenly() -> None:
    class Normed(Branch):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(2, 8)  # type: ignore[assignment]

    assert groups_of(Normed()) == {}
    assert groups_of(Normed(), inexact=True) == {"stem": 4}


def test_pruning_a_pruned_network_again() -> None:
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_small_050", num_classes=4).double().eval()
    space = ChannelSpace.trace(model, SIZE)
    once = rebuild(model, space, halved(space))
    assert_equals_masked(once)


def test_network_that_looks_at_values_is_refused_by_name() -> None:
    class Looking(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features if features.sum() > 0 else -features

    model = nn.Sequential(nn.Conv2d(3, 8, 1), Looking(), nn.Flatten(), nn.Linear(8 * 1024, 2))
    with pytest.raises(UnsupportedModel, match="'1'"):
        ChannelSpace.trace(model, SIZE)


def test_space_of_another_network_is_refused() -> None:
    space = ChannelSpace.trace(timm.create_model("test_resnet"), SIZE)
    with pytest.raises(ValueError, match="trace the network"):
        rebuild(timm.create_model("test_efficientnet"), space, SubnetConfig.full())


def test_a_wrong_table_is_caught_by_the_proof() -> None:
    """Two halves of a split change places in the smaller network: shapes fit, wiring does not."""

    class Halves(Branch):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.order = [0, 1]

        def middle(self, features: Tensor) -> Tensor:
            parts = features.split([4, 4] if features.shape[1] == 8 else [2, 2], 1)
            first, second = (0, 1) if features.shape[1] == 8 else (1, 0)
            return torch.cat([self.left(parts[first]), self.right(parts[second])], 1)

    model = Halves()
    space = ChannelSpace.trace(model, SIZE)
    free = {g.name for g in space.groups}
    assert not any(name.startswith("stem") for name in free)  # found by the probe, and pinned
    from zoo.core.channels.proof import prove
    from zoo.core.channels.resize import resized_copy
    from zoo.core.tracing.trace import on_meta, trace_model

    trace = trace_model(on_meta(model), SIZE)
    table = build_table(trace, inexact=False, stages={}, blocks={})
    config = SubnetConfig({g.name: (0, 1) for g in table.groups})
    with pytest.raises(Mismatch):
        prove(trace, table, config, resized_copy(model, table, config), SIZE)
