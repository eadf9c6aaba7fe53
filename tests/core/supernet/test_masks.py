"""Several subnets in one masked pass are the same subnets run one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.dmcp import Gating
from tests.core.networks.test_exact import random_config
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import UnsupportedModel
from zoo.core.supernet.gates import require_gates
from zoo.core.supernet.supernet import Supernet

SIZE = (3, 32, 32)
SUBNETS = 4
TOLERANCE = 1e-10  # relative, float64: sums in another order through a few dozen layers
NETWORKS = {
    "residual": "test_resnet",
    "depthwise": "mobilenetv2_035",
    "squeeze_excite": "test_efficientnet",
    "grouped": "test_byobnet",
    "concatenated": "densenet121",
}
ARGUMENTS: dict[str, dict[str, object]] = {
    "mobilenetv2_035": {"depth_multiplier": 0.3},
    "densenet121": {"block_config": (2, 3, 2, 2)},
}


def prepared(name: str) -> tuple[Supernet, list[SubnetConfig], Tensor, Tensor]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=4, **ARGUMENTS.get(name, {})).double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # shifts that would revive a dropped channel
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        images = torch.randn(SUBNETS * 3, *SIZE, dtype=torch.float64)
    space = ChannelSpace.trace(model, SIZE)
    rng = np.random.default_rng(0)
    configs = [random_config(space, rng) for _ in range(SUBNETS)]
    return Supernet(model, space), configs, images, torch.arange(len(images)) % 4


def leaves(supernet: Supernet) -> dict[str, Tensor]:
    own = {name: supernet._own[name] for name in supernet.space.table.parameters}
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in own.items()}


def serial(
    supernet: Supernet,
    images: Tensor,
    configs: Sequence[SubnetConfig],
    weights: dict[str, Tensor],
) -> Tensor:
    parts = images.chunk(len(configs))
    outputs = [
        supernet.forward(part, config, supernet.sliced(config, weights), training=True)
        for part, config in zip(parts, configs, strict=True)
    ]
    return torch.cat(outputs)


def gradients(logits: Tensor, labels: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    loss = F.cross_entropy(logits, labels)
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    pairs = zip(weights.items(), found, strict=True)
    return {n: torch.zeros_like(w) if g is None else g for (n, w), g in pairs}


def relative(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Largest difference over the largest gradient of the network."""
    scale = max(float(g.abs().max()) for g in first.values())
    return max(float((first[name] - second[name]).abs().max()) for name in first) / scale


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_equal_those_of_serial_slicing(kind: str) -> None:
    supernet, configs, images, labels = prepared(NETWORKS[kind])
    weights = leaves(supernet)
    one_by_one = serial(supernet, images, configs, weights)
    at_once = supernet.parallel(images, configs, weights)
    assert torch.allclose(at_once, one_by_one, rtol=TOLERANCE, atol=TOLERANCE)
    wanted = gradients(one_by_one, labels, weights)
    found = gradients(at_once, labels, weights)
    assert relative(wanted, found) < TOLERANCE


@pytest.mark.parametrize("kind", ["residual", "depthwise"])
def test_joint_statistics_lead_to_other_gradients(kind: str) -> None:
    supernet, configs, images, labels = prepared(NETWORKS[kind])
    weights = leaves(supernet)
    wanted = gradients(serial(supernet, images, configs, weights), labels, weights)
    joint = gradients(supernet.parallel(images, configs, weights, joint_norm=True), labels, weights)
    assert relative(wanted, joint) > 1e-2


def test_dropped_channels_of_all_subnets_get_no_gradient() -> None:
    supernet, configs, images, labels = prepared("test_resnet")
    weights = leaves(supernet)
    group = supernet.space.groups[2]
    configs = [SubnetConfig({**c.keep, group.name: (0, 1)}) for c in configs]
    found = gradients(supernet.parallel(images, configs, weights), labels, weights)
    (member,) = [m for m in group.members if m.role == "out"][:1]
    rows = found[member.tensor].flatten(1).abs().sum(1)
    assert bool((rows[:2] > 0).all()) and not rows[2:].any()


def test_the_network_is_left_as_it_was() -> None:
    supernet, configs, images, _ = prepared("test_efficientnet")
    before = {name: tensor.clone() for name, tensor in supernet._own.items()}
    facts = {path: sorted(vars(m)) for path, m in supernet._skeleton.named_modules()}
    supernet.parallel(images, configs)
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet._own.items())
    assert facts == {path: sorted(vars(m)) for path, m in supernet._skeleton.named_modules()}
    assert not any(m._forward_pre_hooks for m in supernet._skeleton.modules())


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    supernet, configs, images, _ = prepared("test_resnet")
    with pytest.raises(ValueError, match="11 images cannot be divided among 4 subnets"):
        supernet.parallel(images[:11], configs)


def test_inexact_groups_cannot_be_masked() -> None:
    model = timm.create_model("ecaresnet50d", num_classes=4, layers=(1, 1, 1, 1))
    supernet = Supernet(model, ChannelSpace.trace(model, SIZE, inexact=True))
    with pytest.raises(UnsupportedModel, match=r"inexact.*run subnets sliced"):
        supernet.parallel(torch.randn(2, *SIZE), [SubnetConfig.full()])


class Functional(nn.Module):
    """Reads channels with a weight that is no layer's own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.weight = nn.Parameter(torch.randn(6, 8, 1, 1))
        self.head = nn.Linear(6, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = F.conv2d(self.conv(images).relu(), self.weight)
        head: Tensor = self.head(features.mean((2, 3)))
        return head


def test_a_weight_that_is_no_layers_own_is_refused_with_its_name() -> None:
    model = Functional()
    supernet = Supernet(model, ChannelSpace.trace(model, SIZE))
    narrow = SubnetConfig({supernet.space.groups[0].name: (0, 1)})
    with pytest.raises(UnsupportedModel, match="weight reads pruned channels in a Functional"):
        supernet.parallel(torch.randn(2, *SIZE), [narrow])


class Small(nn.Module):
    """A base: a stem, something, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.mix = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def middle(self, features: Tensor) -> Tensor:
        return self.mix(features)

    def forward(self, images: Tensor) -> Tensor:
        features = self.middle(torch.relu(self.norm(self.stem(images))))
        return self.head(torch.relu(features).mean((2, 3)))


class Transposed(Small):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.ConvTranspose2d(8, 8, 3)  # type: ignore[assignment]


class Tapered(Small):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.ConvTranspose2d(8, 5, 3)  # type: ignore[assignment]
        self.head = nn.Linear(5, 4)


class SharedWeight(Small):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(8, 8, 1)
        self.again.weight = self.mix.weight

    def middle(self, features: Tensor) -> Tensor:
        return self.again(torch.relu(self.mix(features)))


class Borrowed(Small):
    def middle(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.mix.weight)


class ScaledConv(nn.Conv2d):
    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.weight * 0.5, self.bias)


class Computed(Small):
    def __init__(self) -> None:
        super().__init__()
        self.mix = ScaledConv(8, 8, 1)


class BothWays(Small):
    """Decodes with the weight that encodes, transposed."""

    def middle(self, features: Tensor) -> Tensor:
        return F.conv2d(torch.relu(self.mix(features)), self.mix.weight.transpose(0, 1))


class NormedConv(nn.Conv2d):
    """Shifts what it is given, before it convolves."""

    def __init__(self) -> None:
        super().__init__(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        nn.init.normal_(self.norm.bias)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(self.norm(features))


class Shifted(Small):
    def __init__(self) -> None:
        super().__init__()
        self.mix = NormedConv()


class GatedConv(nn.Conv2d):
    """Scales and rectifies what it is given, and squashes what comes out."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.tanh(super().forward(torch.relu(2 * features)))


class Gated(Small):
    def __init__(self) -> None:
        super().__init__()
        self.mix = GatedConv(8, 8, 1)


def supernet_of(network: type[nn.Module]) -> tuple[Supernet, list[SubnetConfig], Tensor]:
    torch.manual_seed(0)
    model = network().double()
    nn.init.normal_(next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).bias)
    space = ChannelSpace.trace(model, SIZE)
    rng = np.random.default_rng(0)
    images = torch.randn(4, *SIZE, dtype=torch.float64)
    return Supernet(model, space), [random_config(space, rng) for _ in range(2)], images


@pytest.mark.parametrize("network", [Small, Transposed, Tapered, SharedWeight, Gated])
def test_every_layer_that_reads_channels_is_masked(network: type[nn.Module]) -> None:
    supernet, configs, images = supernet_of(network)
    assert supernet.is_maskable
    at_once = supernet.parallel(images, configs)
    one_by_one = serial(supernet, images, configs, leaves(supernet))
    assert torch.allclose(at_once, one_by_one, rtol=TOLERANCE, atol=TOLERANCE)
    require_gates(supernet.space)


@pytest.mark.parametrize("network", [Borrowed, Computed, BothWays, Shifted])
def test_weights_that_no_layer_reads_with_alone_are_never_masked(network: type[nn.Module]) -> None:
    supernet, configs, images = supernet_of(network)
    assert not supernet.is_maskable
    with pytest.raises(UnsupportedModel, match=r"cannot be masked; run subnets sliced"):
        supernet.parallel(images, configs)


@pytest.mark.parametrize(("network", "group"), [(Computed, "stem"), (BothWays, "mix")])
def test_weights_that_gates_cannot_reach_are_refused(network: type[nn.Module], group: str) -> None:
    supernet, _, _ = supernet_of(network)
    widths: Any = SimpleNamespace(problem=SimpleNamespace(space=supernet.space))
    for refuse in (partial(require_gates, supernet.space), partial(Gating, widths)):
        with pytest.raises(UnsupportedModel, match=rf"the channels of '{group}' .* keep="):
            refuse()
