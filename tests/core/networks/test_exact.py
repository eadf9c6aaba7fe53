"""The oracle of the project: a rebuilt network computes what its masked parent computes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.cost.count import count_macs
from zoo.core.networks.rebuild import rebuild
from zoo.core.supernet.supernet import Supernet

# fmt: off
NETWORKS = [
    "resnet18", "resnet34", "resnet50", "resnet50d", "ecaresnet50d", "seresnet50",
    "resnext50_32x4d", "mobilenetv2_100", "mobilenetv3_large_100", "mobilenetv3_small_100",
    "mobilenetv4_conv_small", "efficientnet_b0", "efficientnet_b1", "efficientnet_lite0",
    "tf_efficientnetv2_s", "mnasnet_100", "regnety_008", "densenet121", "vgg16_bn",
    "convnext_tiny", "dla34", "hrnet_w18", "cspresnet50", "mixnet_s", "res2net50_26w_4s",
    "resnest50d", "test_resnet", "test_efficientnet", "test_byobnet",
]
# fmt: on
INEXACT = ("ecaresnet50d", "convnext_tiny")
ARGUMENTS = {"vgg16_bn": {"mlp_ratio": 1 / 16}}  # of its 138 million weights, 119 are in the head
# One network of each kind, with few of its blocks: others repeat them more often.
SHORT: dict[str, dict[str, object]] = {
    "resnet18": {"layers": (2, 1, 1, 1)},
    "seresnext50_32x4d": {"layers": (1, 2, 1, 1)},  # groups and gates
    "ecaresnet50d": {"layers": (2, 1, 1, 1)},  # attention over channels
    "res2net50_26w_4s": {"layers": (1, 2, 1, 1)},  # equal parts, joined again
    "resnest50d": {"layers": (1, 1, 2, 1)},  # attention over parts
    "mobilenetv2_100": {"depth_multiplier": 0.3},
    "mobilenetv3_small_100": {},
    "densenet121": {"block_config": (2, 3, 2, 2)},
    "convnext_tiny": {"depths": (1, 2, 1, 1)},
    "vgg16_bn": {},
    "test_resnet": {},
    "test_efficientnet": {},
    "test_byobnet": {},
}
FEW_CONFIGS, MANY_CONFIGS = 3, 20
SIZE = (3, 32, 32)
# float64 sums in another order: a few hundred layers of rounding at 1e-16 each
TOLERANCE = 1e-10


def randomized(name: str, *, is_short: bool) -> nn.Module:
    """A network in float64 and eval mode with random batch-norm statistics and biases."""
    torch.manual_seed(0)
    args = {**ARGUMENTS.get(name, {}), **(SHORT[name] if is_short else {})}
    model = timm.create_model(name, num_classes=10, **args).double().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        elif getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, std=0.1)
    return model


def random_config(space: ChannelSpace, rng: np.random.Generator) -> SubnetConfig:
    """Random widths from 1 channel to all, and random channels."""
    keep = {}
    for group in space.groups:
        width = int(rng.integers(1, group.size + 1))
        keep[group.name] = tuple(np.sort(rng.choice(group.size, width, replace=False)).tolist())
    return SubnetConfig(keep)


def masked(
    model: nn.Module, space: ChannelSpace, config: SubnetConfig, images: torch.Tensor
) -> torch.Tensor:
    """Logits of the parent at full size whose layers read zeros in place of dropped channels.

    The mask sits on what a layer reads: a channel masked where it is made would come back through
    the bias or the batch-norm shift behind it.
    """
    own = dict(model.named_parameters())
    tensors: dict[str, torch.Tensor] = {}
    for group in space.groups:
        dropped = np.setdiff1d(np.arange(group.size), config.indices(group))
        for member in group.members:
            if member.role == "in":
                positions = torch.from_numpy(member.index[dropped].reshape(-1))
                if member.tensor not in tensors:
                    tensors[member.tensor] = own[member.tensor].detach().clone()
                tensors[member.tensor].index_fill_(member.dim, positions, 0.0)
    logits: torch.Tensor = functional_call(model, tensors, (images,))
    return logits


def relative_difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max() / left.abs().max())


def counted_macs(model: nn.Module) -> int:
    """Independent count: torch's own counter over convolutions and linear layers, halved."""
    aten = torch.ops.aten
    meta = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        meta(torch.empty(1, *SIZE, device="meta", dtype=torch.float64))
    found = counter.get_flop_counts()["Global"]
    return sum(found.get(op, 0) for op in (aten.convolution, aten.addmm, aten.mm)) // 2


def few_or_many(names: Sequence[str]) -> pytest.MarkDecorator:
    """Short networks with few random configurations, and all whole with many, which takes long."""
    few = [(name, FEW_CONFIGS) for name in SHORT if names == NETWORKS or name in names]
    many = [pytest.param(name, MANY_CONFIGS, marks=pytest.mark.slow) for name in names]
    return pytest.mark.parametrize(("name", "configs"), [*few, *many])


@few_or_many(NETWORKS)
def test_rebuilt_network_equals_masked_parent(name: str, configs: int) -> None:
    model = randomized(name, is_short=configs == FEW_CONFIGS)
    space = ChannelSpace.trace(model, SIZE)
    cost = CostModel(space)
    rng = np.random.default_rng(0)
    images = torch.randn(1, *SIZE, dtype=torch.float64)
    assert len(space.groups) > 3
    for step in range(configs):
        config = random_config(space, rng)
        small = rebuild(model, space, config)
        with torch.no_grad():
            expected = masked(model, space, config, images)
            assert relative_difference(expected, small(images)) < TOLERANCE
        assert cost.params(config) == sum(p.numel() for p in small.parameters())
        if step < FEW_CONFIGS:
            assert cost.macs(config) == counted_macs(small) == count_macs(small, SIZE)


@few_or_many(INEXACT)
def test_inexact_groups_rebuild_to_the_sliced_supernet(name: str, configs: int) -> None:
    model = randomized(name, is_short=configs == FEW_CONFIGS)
    exact = ChannelSpace.trace(model, SIZE)
    space = ChannelSpace.trace(model, SIZE, inexact=True)
    assert all(group.exact for group in exact.groups)
    assert len(space.groups) > len(exact.groups)
    supernet, cost = Supernet(model, space), CostModel(space)
    rng = np.random.default_rng(0)
    images = torch.randn(1, *SIZE, dtype=torch.float64)
    for step in range(configs):
        config = random_config(space, rng)
        small = rebuild(model, space, config)
        with torch.no_grad():
            logits = small(images)
            assert relative_difference(supernet.forward(images, config), logits) < TOLERANCE
            if step == 0:  # the reason why these groups are not free by default
                assert relative_difference(masked(model, space, config, images), logits) > 1e-3
        assert cost.macs(config) == counted_macs(small)
        assert cost.params(config) == sum(p.numel() for p in small.parameters())
