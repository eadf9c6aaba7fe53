"""Costs against published constants, hand counts and one-by-one evaluation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel, _expanded, _sum_of_products
from zoo.core.networks.rebuild import rebuild

SIZE = (3, 32, 32)

# torchvision's convention at 224 x 224; the first four also stand in torchvision's `_ops`
PUBLISHED = {
    "resnet18": (1_814_073_344, 11_689_512),
    "resnet50": (4_089_184_256, 25_557_032),
    "mobilenetv2_100": (300_774_272, 3_504_872),
    "mobilenetv3_large_100": (216_589_760, 5_483_032),
    "mobilenetv3_small_100": (56_510_400, 2_542_856),
    "efficientnet_b0": (385_814_752, 5_288_548),
}


LARGE = ("resnet50", "mobilenetv3_large_100", "mobilenetv3_small_100")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in PUBLISHED],
)
def test_full_networks_cost_what_is_published(name: str) -> None:
    cost = CostModel(ChannelSpace.trace(timm.create_model(name)))
    assert (cost.full_macs, cost.full_params) == PUBLISHED[name]


class Known(nn.Module):
    """Small enough to count by hand, with a depthwise and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)  # 16 x 16 x 9 x 3 x 8 = 55,296
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)  # 16 x 16 x 9 x 8 = 18,432
        self.grouped = nn.Conv2d(8, 12, 1, stride=2, groups=2)  # 8 x 8 x 4 x 12 = 3,072
        self.head = nn.Linear(12, 5)  # 60

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.grouped(self.deep(self.stem(images))).mean((2, 3)))


def test_costs_equal_a_hand_count() -> None:
    space = ChannelSpace.trace(Known(), (3, 16, 16))
    cost = CostModel(space)
    assert cost.full_macs == 55_296 + 18_432 + 3_072 + 60
    assert cost.full_params == (216 + 8) + 72 + (48 + 12) + (60 + 5)
    # half of every group: 4 of 8 (as 2 in each of 2 groups), 6 of 12
    config = SubnetConfig.from_widths(space, {"stem": 2, "grouped": 3})
    assert cost.macs(config) == 27_648 + 9_216 + 8 * 8 * 2 * 6 + 30
    assert cost.params(config) == (108 + 4) + 36 + (12 + 6) + (30 + 5)
    small = rebuild(Known(), space, config)
    assert sum(p.numel() for p in small.parameters()) == cost.params(config)


def test_population_costs_equal_one_by_one_costs() -> None:
    space = ChannelSpace.trace(timm.create_model("efficientnet_b0"), SIZE)
    cost = CostModel(space)
    rng = np.random.default_rng(0)
    widths = rng.integers(1, space.sizes + 1, size=(3000, len(space.groups)))
    macs, params = cost.macs_of_widths(widths), cost.params_of_widths(widths)
    assert macs.dtype == params.dtype == np.int64
    for row in range(0, 3000, 500):
        named = {g.name: int(w) for g, w in zip(space.groups, widths[row], strict=True)}
        config = SubnetConfig.from_widths(space, named)
        assert (cost.macs(config), cost.params(config)) == (macs[row], params[row])


def test_more_channels_never_cost_less() -> None:
    space = ChannelSpace.trace(timm.create_model("mobilenetv3_small_100"), SIZE)
    cost = CostModel(space)
    rng = np.random.default_rng(0)
    narrow = rng.integers(1, space.sizes, size=(200, len(space.groups)))
    wide = np.minimum(narrow + rng.integers(0, 3, size=narrow.shape), space.sizes)
    assert (cost.macs_of_widths(wide) >= cost.macs_of_widths(narrow)).all()
    assert (cost.params_of_widths(wide) >= cost.params_of_widths(narrow)).all()


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (np.zeros((1, 11), dtype=np.int64), "below 1"),
        (np.full((1, 11), 10**6), "above the size"),
        (np.ones((1, 3), dtype=np.int64), "a column for each group"),
        (np.ones(11, dtype=np.int64), "a column for each group"),
        (np.ones((1, 11)), "must be integers"),
    ],
)
def test_impossible_widths_are_refused(widths: np.ndarray, message: str) -> None:
    cost = CostModel(ChannelSpace.trace(timm.create_model("test_resnet"), SIZE))
    with pytest.raises(ValueError, match=message):
        cost.macs_of_widths(widths)


def test_budget_is_a_share_up_to_one_and_a_number_above() -> None:
    cost = CostModel(ChannelSpace.trace(timm.create_model("test_resnet"), SIZE))
    assert Budget.parse(0.5, cost) == Budget("macs", cost.full_macs // 2)
    assert Budget.parse(1.0, cost).limit == cost.full_macs
    assert Budget.parse(cost.full_macs - 1, cost).limit == cost.full_macs - 1
    assert Budget.parse(0.25, cost, "params").limit == cost.full_params // 4
    for wrong in (0, -1, float("nan"), float("inf"), cost.full_macs + 1):
        with pytest.raises(ValueError, match="budget"):
            Budget.parse(wrong, cost)


@given(
    size=st.integers(1, 300),
    divisor=st.integers(1, 64),
    min_keep=st.floats(0.01, 1.0),
)
def test_legal_widths_are_all_multiples_from_the_floor_on_and_the_whole(
    size: int, divisor: int, min_keep: float
) -> None:
    steps = WidthRules(min_keep, divisor).steps(size)
    floor = min_keep * size - 1e-6
    every = [w for w in range(1, size) if w % divisor == 0 and w >= floor]
    assert steps == (*every, size)


def test_a_divisor_above_the_size_keeps_the_group_whole() -> None:
    assert WidthRules(divisor=16).steps(8) == (8,)


def test_configurations_are_values() -> None:
    first = SubnetConfig({"b": (1, 2), "a": (0,)})
    second = SubnetConfig({"a": (0,), "b": (1, 2)})
    assert first == second
    assert len({first, second}) == 1
    assert SubnetConfig.from_json(first.to_json()) == first
    assert eval(repr(first)) == first


def test_a_network_beyond_exact_integers_is_refused() -> None:
    class Huge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.device("meta"):
                self.first = nn.Conv2d(3, 1024, 3)
                self.second = nn.Conv2d(1024, 1024, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.second(self.first(images)).mean((2, 3))

    with pytest.raises(ValueError, match="beyond exact"):
        CostModel(ChannelSpace.trace(Huge(), (3, 40_000, 40_000)))


def test_a_sum_without_products_is_zero() -> None:
    none = np.zeros((0, 3), dtype=np.int64)
    count = _sum_of_products(none, np.zeros(0, dtype=np.int64), [])
    assert count(np.ones((4, 3), dtype=np.int64)).tolist() == [0, 0, 0, 0]


def test_products_multiplied_out_are_the_same_sum() -> None:
    rng = np.random.default_rng(0)
    slopes, fixed = rng.integers(0, 3, (6, 4)), rng.integers(0, 4, 6)
    orders = (0, 1, 2, 2, 3, 3)
    products = [(int(rng.integers(1, 9)), tuple(rng.integers(0, 6, n).tolist())) for n in orders]
    widths = rng.integers(1, 20, (50, 4))
    monomials = _expanded(slopes, fixed, products)
    assert max(map(len, monomials)) == 3 and all(key == tuple(sorted(key)) for key in monomials)
    found = [
        sum(value * math.prod(int(row[group]) for group in key) for key, value in monomials.items())
        for row in widths
    ]
    assert found == _sum_of_products(slopes, fixed, products)(widths).tolist()
