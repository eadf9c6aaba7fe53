"""Numbers that happen to equal a width: none of them may change, and nothing else may be lost.

Every network has 4, 7 or 16 channels where some other number is just as large. The rebuilt network
must compute what its parent computes with zeros in place of the dropped channels, in float64.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.proof import Mismatch, prove
from zoo.core.channels.resize import resized_copy
from zoo.core.channels.space import ChannelSpace
from zoo.core.networks.rebuild import rebuild
from zoo.core.supernet.supernet import Supernet
from zoo.core.tracing.trace import on_meta, trace_model

SIZE = (3, 16, 16)
CONFIGS = 3
# float64 sums of a few layers in another order
TOLERANCE = 1e-11


class Plain(nn.Module):
    """A stem of C channels, something that holds the number C, and a classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.mix = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, 5)
        self.s = width

    def middle(self, features: Tensor) -> Tensor:
        return features

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.stem(images)))
        return self.head(self.mix(self.middle(features)).mean((2, 3)))


class Temperature(Plain):
    def middle(self, features: Tensor) -> Tensor:
        return features / self.s


class InPlace(Plain):
    def middle(self, features: Tensor) -> Tensor:
        return features.clone().mul_(self.s).add_(self.s)


class TemperatureBesideAView(Plain):
    """The channels are viewed with one attribute, and divided by another of the same value."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.channels = width

    def middle(self, features: Tensor) -> Tensor:
        rows = features.view(-1, self.channels, 256)
        return (rows / self.s).view(-1, self.channels, 16, 16)


class Scale(Plain):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.scale = width**-0.5

    def middle(self, features: Tensor) -> Tensor:
        return features * self.scale


@dataclass
class Settings:
    temperature: float
    width: int


class Configured(Plain):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.settings = Settings(float(width), width)
        self.table = {"power": [width, (width,)]}
        self.space = SimpleNamespace(width=width)

    def middle(self, features: Tensor) -> Tensor:
        power = self.table["power"][0]
        return features / self.settings.temperature + power / self.settings.width + self.space.width


_NUMBERS = {4: [4], 7: [7], 16: [16]}


class Global(Plain):
    def middle(self, features: Tensor) -> Tensor:
        return features / _NUMBERS[len(self.stem.weight) if self.s == 0 else self.s][0]


class Closure(Plain):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.divide = lambda features: features / width

    def middle(self, features: Tensor) -> Tensor:
        return self.divide(features)


class FromValues(Plain):
    def middle(self, features: Tensor) -> Tensor:
        scale = torch.tensor(float(self.s), device=features.device, dtype=features.dtype)
        return features / scale + features.new_tensor([self.s])


class Resized(Plain):
    """Sizes of maps: kernel, pooling, interpolation, padding, shuffling."""

    def middle(self, features: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(features, self.s)
        small = F.max_pool2d(small, self.s, stride=1, padding=self.s // 2)
        small = F.interpolate(small, size=(self.s, self.s))
        return F.pad(small, (self.s, 0, 0, self.s))


class Rows(Plain):
    """A view, a split and chunks of the positions, of which there are as many as channels."""

    def middle(self, features: Tensor) -> Tensor:
        features = F.adaptive_avg_pool2d(features, self.s)
        rows = features.view(len(features), -1, self.s, self.s)
        halves = rows.split(self.s - self.s // 2, 3)
        return torch.cat([*halves, *rows.unflatten(3, (1, self.s)).flatten(3).chunk(self.s, 3)], 3)


class Positions(Plain):
    def middle(self, features: Tensor) -> Tensor:
        ramp = torch.arange(self.s, device=features.device, dtype=features.dtype)
        return F.adaptive_avg_pool2d(features, self.s) * ramp


class Kernel(Plain):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.wide = nn.Conv2d(width, width, width, padding=width // 2, groups=width)
        self.pool = nn.AvgPool2d(width, stride=1)

    def middle(self, features: Tensor) -> Tensor:
        return self.pool(self.wide(features))


class Shuffle(Plain):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.grow = nn.Conv2d(width, 4 * width, 1)
        self.shuffle = nn.PixelShuffle(2)

    def middle(self, features: Tensor) -> Tensor:
        return self.shuffle(self.grow(features))


class Dropped(Plain):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm = nn.BatchNorm2d(width, eps=1 / width, momentum=1 / width)
        self.drop = nn.Dropout(1 / width)

    def middle(self, features: Tensor) -> Tensor:
        return F.dropout(self.drop(features), 1 / self.s, self.training)


class WholeDtype(Plain):
    def middle(self, features: Tensor) -> Tensor:
        return features.to(torch.float32 if self.s % 2 else torch.float64).to(features.dtype)


class Halves(Plain):
    """Sizes that do have to follow: a split and slices by attributes, beside a temperature."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.left, self.right = width // 2, width - width // 2
        self.sizes = [self.left, self.right]
        self.temperature = width // 2
        self.first = nn.Conv2d(self.left, self.left, 1)
        self.second = nn.Conv2d(self.right, self.right, 1)

    def middle(self, features: Tensor) -> Tensor:
        sliced = torch.cat([features[:, : self.left], features[:, self.left :]], 1)
        first, second = sliced.split(self.sizes, 1)
        return torch.cat([self.first(first), self.second(second / self.temperature)], 1)


FOLLOWED = [
    Temperature, InPlace, TemperatureBesideAView, Scale, Configured, Global, Closure, FromValues,
    Resized, Rows, Positions, Kernel, Shuffle, Dropped, WholeDtype, Halves,
]  # fmt: skip


class ScaledByShape(Plain):
    """The divisor is the number of channels at hand, so the smaller network divides by less."""

    def middle(self, features: Tensor) -> Tensor:
        return features / features.shape[1]


class ScaledByLayer(Plain):
    def middle(self, features: Tensor) -> Tensor:
        return features * self.mix.in_channels**-0.5


class ScaledByMetaValue(Plain):
    """No operator shows the number that a tensor is made from."""

    def middle(self, features: Tensor) -> Tensor:
        return features / torch.tensor(float(features.shape[1]), device=features.device)


class ScaledByHostValue(Plain):
    def middle(self, features: Tensor) -> Tensor:
        return features / torch.tensor(float(features.shape[1]))


class SizeAndTemperature(Plain):
    """One attribute is both a number of channels and a temperature."""

    def middle(self, features: Tensor) -> Tensor:
        rows = features.view(-1, self.s, 256)
        return (rows / self.s).view(-1, self.s, 16, 16)


class SwappedByWidth(Plain):
    """Which of two tensors is read depends on the number of channels."""

    def middle(self, features: Tensor) -> Tensor:
        maps = [features * 2, features * 3]
        return maps[0 if features.shape[1] == self.s else 1].abs()


class FilledByWidth(Plain):
    def middle(self, features: Tensor) -> Tensor:
        return F.pad(features, (1, 1), value=float(features.shape[1]))


class DivisorByWidth(Plain):
    def middle(self, features: Tensor) -> Tensor:
        return F.avg_pool2d(features, 2, divisor_override=features.shape[1])


PINNED = [
    ScaledByShape, ScaledByLayer, ScaledByMetaValue, ScaledByHostValue, SizeAndTemperature,
    SwappedByWidth, FilledByWidth, DivisorByWidth,
]  # fmt: skip


def prepared(network: type[Plain], width: int) -> nn.Module:
    torch.manual_seed(0)
    model = network(width).double().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    return model


def masked(model: nn.Module, space: ChannelSpace, config: SubnetConfig, images: Tensor) -> Tensor:
    """What the parent makes of the images when its layers read zeros for dropped channels."""
    twin = copy.deepcopy(model)
    tensors = dict(twin.named_parameters())
    for group in space.groups:
        dropped = np.setdiff1d(np.arange(group.size), config.indices(group))
        for member in group.members:
            if member.role == "in":
                index = torch.from_numpy(member.index[dropped].reshape(-1))
                tensors[member.tensor].data.index_fill_(member.dim, index, 0.0)
    result: Tensor = twin(images)
    return result


def assert_exact(model: nn.Module) -> ChannelSpace:
    """The rebuilt network and the sliced supernet equal the masked parent at random widths."""
    space = ChannelSpace.trace(model, SIZE)
    supernet = Supernet(model, space)
    rng = np.random.default_rng(0)
    images = torch.randn(2, *SIZE, dtype=torch.float64)
    for _ in range(CONFIGS):
        widths = {g.name: int(rng.integers(1, g.size + 1)) for g in space.groups}
        config = SubnetConfig(
            {
                g.name: tuple(np.sort(rng.choice(g.size, widths[g.name], False)).tolist())
                for g in space.groups
            }
        )
        with torch.no_grad():
            expected = masked(model, space, config, images)
            assert torch.allclose(
                rebuild(model, space, config)(images), expected, rtol=TOLERANCE, atol=TOLERANCE
            )
            assert torch.allclose(
                supernet.forward(images, config), expected, rtol=TOLERANCE, atol=TOLERANCE
            )
    return space


@pytest.mark.parametrize("width", [4, 7, 16])
@pytest.mark.parametrize("network", FOLLOWED)
def test_a_number_that_equals_a_width_keeps_its_value(network: type[Plain], width: int) -> None:
    space = assert_exact(prepared(network, width))
    assert {g.name.split("[")[0] for g in space.groups} >= {"stem", "mix"}


@pytest.mark.parametrize("width", [4, 7, 16])
@pytest.mark.parametrize("network", PINNED)
def test_a_number_that_is_made_from_a_width_pins_its_channels(
    network: type[Plain], width: int
) -> None:
    space = assert_exact(prepared(network, width))
    assert [g.name for g in space.groups] == ["mix"]


def test_only_what_the_smaller_network_cannot_do_without_changes() -> None:
    model = prepared(TemperatureBesideAView, 16)
    space = ChannelSpace.trace(model, SIZE)
    assert [(held.path, held.name) for held in space.table.held] == [("", "channels")]
    small = rebuild(model, space, SubnetConfig.from_widths(space, {"stem": 3}))
    assert (small.channels, small.s) == (3, 16)
    halves = ChannelSpace.trace(prepared(Halves, 16), SIZE)
    assert sorted(held.name for held in halves.table.held) == ["left", "sizes"]


def test_the_proof_compares_numbers() -> None:
    model = prepared(Temperature, 16)
    space = ChannelSpace.trace(model, SIZE)
    config = SubnetConfig.from_widths(space, {"stem": 8})
    small = resized_copy(model, space.table, config)
    prove(space.trace_record, space.table, config, small, SIZE)
    small.s = 8  # type: ignore[assignment]
    with pytest.raises(Mismatch, match=r"aten\.div\.Tensor"):
        prove(space.trace_record, space.table, config, small, SIZE)


@pytest.mark.parametrize(("start", "end"), [(0, 9), (1, 8), (8, 16)])
def test_the_proof_compares_the_positions_of_slices(start: int, end: int) -> None:
    class Sliced(Plain):
        def __init__(self) -> None:
            super().__init__(16)
            self.ends = (0, 8)
            self.mix = nn.Conv2d(8, 16, 1)

        def middle(self, features: Tensor) -> Tensor:
            return features[:, self.ends[0] : self.ends[1]]

    model = Sliced()
    trace = trace_model(on_meta(model), SIZE)
    table = ChannelSpace.trace(model, SIZE).table
    model.ends = (start, end)
    with pytest.raises(Mismatch):
        prove(trace, table, SubnetConfig.full(), model, SIZE)
