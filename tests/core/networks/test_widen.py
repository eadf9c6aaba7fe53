"""A widened network holds the given one in its leading channels, exactly."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

import zoo
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.networks.widen import widen

SIZE = (3, 32, 32)
NETWORKS: dict[str, tuple[str, dict[str, object]]] = {
    "residual": ("test_resnet", {}),
    "depthwise": ("mobilenetv2_035", {"depth_multiplier": 0.3}),
    "squeeze_excite": ("test_efficientnet", {}),
    "grouped": ("test_byobnet", {}),
    "concatenated": ("densenet121", {"block_config": (2, 3, 2, 2)}),
    "split": ("res2net50_26w_4s", {"layers": (1, 1, 1, 1)}),
    "split unevenly": ("mixnet_s", {}),
}
SLOW = ("split unevenly",)


def prepared(name: str, **arguments: object) -> tuple[nn.Module, ChannelSpace]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=4, **arguments).eval()
    return model, ChannelSpace.trace(model, SIZE)


def old_widths(space: ChannelSpace, wide: ChannelSpace) -> zoo.SubnetConfig:
    return zoo.SubnetConfig.from_widths(wide, {g.name: g.size for g in space.groups})


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in NETWORKS]
)
def test_rebuilt_to_the_old_widths_it_is_the_given_network(kind: str) -> None:
    name, arguments = NETWORKS[kind]
    model, space = prepared(name, **arguments)
    wide = widen(model, space, 1.5)
    found = ChannelSpace.trace(wide, SIZE)
    assert found.sizes.tolist() == np.floor(1.5 * space.sizes + 0.5).tolist()
    config, cost, wide_cost = old_widths(space, found), CostModel(space), CostModel(found)
    assert wide_cost.macs(config) == cost.full_macs
    assert wide_cost.params(config) == cost.full_params
    assert wide_cost.full_params == sum(p.numel() for p in wide.parameters())
    again = zoo.rebuild(wide, found, config)
    own, others = model.state_dict(), again.state_dict()
    assert own.keys() == others.keys()
    assert all(torch.equal(own[name], others[name]) for name in own)
    images = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(images), again(images))


@pytest.mark.parametrize("kind", ["residual", "depthwise", "squeeze_excite"])
def test_it_runs_trains_and_has_fresh_metadata(kind: str) -> None:
    name, arguments = NETWORKS[kind]
    model, space = prepared(name, **arguments)
    before = copy.deepcopy(model.state_dict())
    wide = widen(model, space, 2)
    images = torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(0))
    assert wide.num_features == 2 * model.num_features
    wanted = [2 * info["num_chs"] for info in model.feature_info]
    assert [info["num_chs"] for info in wide.feature_info] == wanted
    maps = wide.forward_intermediates(images, intermediates_only=True)
    assert [found.shape[1] for found in maps] == wanted
    wide.train()(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in wide.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    wide.reset_classifier(7)
    assert wide(images).shape == (4, 7)


def test_new_entries_are_drawn_from_the_old_ones_by_seed() -> None:
    model, space = prepared("test_resnet")
    state = torch.get_rng_state()
    first, again, other = (widen(model, space, 1.5, seed=s).conv1[0].weight for s in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.isin(first, model.conv1[0].weight).all()


def test_given_widths_are_taken_and_narrower_ones_refused() -> None:
    model, space = prepared("test_resnet")
    name, size = space.groups[1].name, space.groups[1].size
    wide = ChannelSpace.trace(widen(model, space, {name: size + 3}), SIZE)
    assert (wide.sizes - space.sizes).tolist() == [3 * (g.name == name) for g in space.groups]
    with pytest.raises(ValueError, match=f"{name}.*has {size} channels already, not {size - 1}"):
        widen(model, space, {name: size - 1})
    with pytest.raises(ValueError, match=r"multiplier is 0.5; it must be at least 1"):
        widen(model, space, 0.5)


class Shuffled(nn.Module):
    """Reads its channels in another order than it makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.conv(images).mean((2, 3))
        shuffled = features.view(-1, 2, 3).transpose(1, 2).flatten(1)
        logits: torch.Tensor = self.head(shuffled)
        return logits


def test_channels_in_no_regular_order_keep_their_number() -> None:
    model = Shuffled().eval()
    with pytest.raises(zoo.UnsupportedModel, match="wider architecture"):
        widen(model, ChannelSpace.trace(model, SIZE), 1.5)


def test_a_wide_supernet_reaches_the_budget_of_the_narrow_network(tmp_path: Path) -> None:
    model, space = prepared("test_efficientnet")
    limit = CostModel(space).full_macs
    wide = zoo.widen(model, space, 1.5)
    images = torch.randn(16, *SIZE, generator=torch.Generator().manual_seed(0))
    loader = DataLoader([(image, i % 4) for i, image in enumerate(images)], batch_size=8)
    result = zoo.prune(
        wide, loader, loader, "pse_net", macs=limit, progress=False, recipe=zoo.Recipe(epochs=0),
        settings={"steps": 2, "lr": 1e-4, "evaluations": 4, "population": 2, "parents": 2},
    )  # fmt: skip
    assert result.parent_macs > 2 * limit
    assert 0.97 * limit < result.macs <= limit
    zoo.save_pruned(result, tmp_path)
    loaded = zoo.load_pruned(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(images), result.model(images))


class SharedDepthwise(nn.Module):
    """Two depthwise convolutions with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.first, self.second = (nn.Conv2d(8, 8, 3, groups=8) for _ in range(2))
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.second(torch.relu(self.first(torch.relu(self.stem(images)))))
        return self.head(torch.relu(features).mean((2, 3)))


def test_layers_that_share_a_weight_change_their_sizes_together() -> None:
    torch.manual_seed(0)
    model = SharedDepthwise().double().eval()
    space = zoo.ChannelSpace.trace(model, (3, 8, 8))
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    wide = zoo.widen(model, space, 1.5)
    assert wide.second.groups == wide.first.groups == 12
    config = zoo.SubnetConfig({"stem": (0, 3, 4)})
    sliced = zoo.Supernet(model, space).forward(images, config)
    assert torch.allclose(sliced, zoo.rebuild(model, space, config)(images), rtol=1e-12)
