"""A subnet run on slices of the full weights is the rebuilt subnet."""

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
from zoo.core.supernet.supernet import Supernet, recalibrate

SIZE = (3, 32, 32)
NETWORKS = [
    "test_resnet",
    "mobilenetv3_small_050",
    "res2net50_26w_4s",
    pytest.param("mixnet_s", marks=pytest.mark.slow),
]
# One block of each stage is enough.
ARGUMENTS = {"res2net50_26w_4s": {"layers": (1, 1, 1, 1)}}


def prepared(name: str) -> tuple[nn.Module, ChannelSpace, SubnetConfig]:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4, **ARGUMENTS.get(name, {})).double().eval()
    space = ChannelSpace.trace(model, SIZE)
    rng = np.random.default_rng(0)
    keep = {}
    for group in space.groups:
        width = int(rng.integers(2, group.size + 1))
        keep[group.name] = tuple(np.sort(rng.choice(group.size, width, replace=False)).tolist())
    return model, space, SubnetConfig(keep)


@pytest.mark.parametrize("name", NETWORKS)
def test_sliced_logits_equal_rebuilt_logits(name: str) -> None:
    model, space, config = prepared(name)
    images = torch.randn(2, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        sliced = Supernet(model, space).forward(images, config)
        assert torch.allclose(sliced, rebuild(model, space, config)(images), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_a_slice_reach_the_full_weights(name: str) -> None:
    model, space, config = prepared(name)
    images = torch.randn(4, *SIZE, dtype=torch.float64)
    Supernet(model, space).forward(images, config, training=True).square().sum().backward()
    small = rebuild(model, space, config).train()
    small(images).square().sum().backward()
    full = dict(model.named_parameters())
    kept = space.table.kept_positions(config)
    for parameter, small_parameter in zip(full.items(), small.parameters(), strict=True):
        name, whole = parameter
        assert whole.grad is not None and small_parameter.grad is not None
        outside = whole.grad.clone()
        index = [
            torch.arange(size)
            if (axis := space.table.tensors.get((name, dim))) is None or kept[axis] is None
            else torch.from_numpy(kept[axis])
            for dim, size in enumerate(whole.shape)
        ]
        part = outside[torch.meshgrid(*index, indexing="ij")]
        assert torch.allclose(part, small_parameter.grad, rtol=1e-8, atol=1e-10)
        outside[torch.meshgrid(*index, indexing="ij")] = 0
        assert not outside.any()


def test_running_a_subnet_leaves_the_model_alone() -> None:
    model, space, config = prepared("test_efficientnet")
    model.train()
    before = copy.deepcopy(model.state_dict())
    sizes = [m.groups for m in model.modules() if isinstance(m, nn.Conv2d)]
    supernet = Supernet(model, space)
    images = torch.randn(4, *SIZE, dtype=torch.float64)
    supernet.forward(images, config, training=True)
    supernet.recalibrated(config, [images])
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())
    assert sizes == [m.groups for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert model.training


def test_an_error_inside_leaves_the_supernet_usable() -> None:
    model, space, config = prepared("test_efficientnet")
    supernet = Supernet(model, space)
    with pytest.raises(RuntimeError):
        supernet.forward(torch.zeros(2, 5, 32, 32, dtype=torch.float64), config)
    images = torch.randn(2, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(supernet.forward(images, SubnetConfig.full()), model(images))


def test_recalibrated_statistics_are_averages_over_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 1024, 2)).double()
    batches = [torch.randn(8, *SIZE, dtype=torch.float64) * k + k for k in (1, 2, 3)]
    recalibrate(model, batches)
    norm = model[0]
    assert isinstance(norm, nn.BatchNorm2d)
    means = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    variances = torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0)
    assert torch.allclose(norm.running_mean, means)  # type: ignore[arg-type]
    assert torch.allclose(norm.running_var, variances)  # type: ignore[arg-type]
    assert norm.momentum == 0.1
    assert norm.training


def test_recalibrated_slice_equals_recalibrated_rebuilt_network() -> None:
    model, space, config = prepared("test_efficientnet")
    batches = [torch.randn(8, *SIZE, dtype=torch.float64) for _ in range(3)]
    supernet = Supernet(model, space)
    small = rebuild(model, space, config)
    recalibrate(small, batches)
    with torch.no_grad():
        values = supernet.recalibrated(config, batches)
        sliced = supernet.forward(batches[0], config, values)
        assert torch.allclose(sliced, small(batches[0]), rtol=1e-10, atol=1e-11)
    stale = rebuild(model, space, config)
    with torch.no_grad():
        assert not torch.allclose(stale(batches[0]), small(batches[0]))


def test_recalibration_without_images_is_refused() -> None:
    model, space, config = prepared("test_resnet")
    with pytest.raises(ValueError, match="at least one batch"):
        Supernet(model, space).recalibrated(config, [])


def test_chunks_of_one_channel_are_followed() -> None:
    """A split into equal parts, each left with a single channel, as Res2Net may end up with."""
    model, space, _ = prepared("res2net50_26w_4s")
    config = SubnetConfig({group.name: (group.size - 1,) for group in space.groups})
    images = torch.randn(1, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        sliced = Supernet(model, space).forward(images, config)
        assert torch.allclose(sliced, rebuild(model, space, config)(images), rtol=1e-11, atol=1e-12)
