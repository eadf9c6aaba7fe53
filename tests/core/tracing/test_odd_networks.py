"""Odd but plausible networks: rebuilt ones compute what their masked parents compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.core.channels.test_space import Branch, assert_equals_masked, groups_of

POSITIONS = 32 * 32


class TokenNorm(Branch):
    """A group norm of tokens: the channels lie among the positions that it averages over."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.tokens = nn.GroupNorm(groups, POSITIONS)

    def middle(self, features: Tensor) -> Tensor:
        tokens = self.tokens(features.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(features.shape)


@pytest.mark.parametrize("groups", [1, 4, POSITIONS])
def test_a_group_norm_mixes_the_channels_that_it_averages_over(groups: int) -> None:
    assert groups_of(TokenNorm(groups)) == {}
    assert groups_of(TokenNorm(groups), inexact=True) == {"stem": 8}


class SumInOneCall(Branch):
    """The sum of a linear layer and a product, in the one call that torch has for both."""

    def __init__(self) -> None:
        super().__init__()
        self.skip = nn.Linear(8, 6)
        self.weight = nn.Parameter(torch.randn(8, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images).mean((2, 3))
        return self.head(torch.addmm(self.skip(features), features, self.weight))


def test_a_sum_with_a_product_ties_the_channels_of_both() -> None:
    space = assert_equals_masked(SumInOneCall())
    assert {g.name: g.size for g in space.groups} == {"stem": 8, "skip": 6}
    assert ("weight", 1) in {(m.tensor, m.dim) for m in space.group("skip").members}


class Rewrapped(Branch):
    """A mean over the channels of an object that torch made without an operator."""

    def middle(self, features: Tensor) -> Tensor:
        return features * nn.Parameter(features).mean(1, keepdim=True)


class OwnTensor(Tensor):
    pass


class OfAnotherClass(Branch):
    def middle(self, features: Tensor) -> Tensor:
        mean = features.as_subclass(OwnTensor).mean(1, keepdim=True)
        return features * mean.as_subclass(Tensor)


class WeightInDisguise(Branch):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(8, 8, 1)

    def middle(self, features: Tensor) -> Tensor:
        weight = nn.Parameter(self.mix.weight)
        return F.conv2d(features, weight / weight.mean(1, keepdim=True))


@pytest.mark.parametrize("network", [Rewrapped, OfAnotherClass, WeightInDisguise])
def test_a_tensor_in_another_object_keeps_its_channels(network: type[Branch]) -> None:
    assert "stem" not in groups_of(network())
    assert groups_of(network(), inexact=True)["stem"] == 8


class Coordinates(Branch):
    """Position maps, expanded along one axis each, beside the channels (CoordConv)."""

    def __init__(self) -> None:
        super().__init__()
        self.after = nn.Conv2d(10, 6, 3, stride=2, padding=1)
        self.head = nn.Linear(6, 5)

    def middle(self, features: Tensor) -> Tensor:
        images, _, height, width = features.shape
        kind = {"device": features.device, "dtype": features.dtype}
        rows = torch.linspace(-1, 1, height, **kind).view(1, 1, -1, 1)
        columns = torch.linspace(-1, 1, width, **kind).view(1, 1, 1, -1)
        maps = [each.expand(images, 1, height, width) for each in (rows, columns)]
        return self.after(torch.cat([features, *maps], 1))


class Context(Coordinates):
    """What is averaged over all positions, at each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.after = nn.Conv2d(16, 6, 3, stride=2, padding=1)

    def middle(self, features: Tensor) -> Tensor:
        mean = features.mean((2, 3), keepdim=True).expand_as(features)
        return self.after(torch.cat([features, mean], 1))


@pytest.mark.parametrize("network", [Coordinates, Context])
def test_maps_that_repeat_one_value_leave_the_channels_beside_them_free(
    network: type[Branch],
) -> None:
    space = assert_equals_masked(network())
    assert {g.name: g.size for g in space.groups} == {"stem": 8, "after": 6}
