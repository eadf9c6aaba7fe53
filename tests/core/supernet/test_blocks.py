"""Blocks: where networks are cut, and that what happens in one block stays in it."""

from functools import cache

import numpy as np
import pytest
import timm
import torch
from torch import nn

import zoo.core.networks.cifar_resnet  # noqa: F401  # registers the networks
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.method.planted import PlantedNet
from zoo.core.supernet.blocks import Block, BlockRunner, block_macs, cut_blocks

FLOAT_NOISE = 1e-12  # float64 through one block, in the same order of operations

# Blocks by hand: residual units; inverted residuals with an expansion, stem and head where whole
# groups lie in their runs.
COUNTS = {
    "resnet20_cifar": 9,
    "resnet56_cifar": 27,
    "resnet110_cifar": 54,
    "resnet50": 16,
    "mobilenetv2_100": 16 + 2,
    "mobilenetv3_large_100": 14 + 1,
    "mobilenetv3_small_100": 11 + 1,
    "efficientnet_b0": 16 + 1,
}
# Deeper twins of others.
DEEP = ("resnet110_cifar", "mobilenetv3_large_100", "mobilenetv2_100")
QUICK_AND_SLOW = [
    pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name for name in COUNTS
]


@cache
def network(name: str, side: int = 32) -> tuple[nn.Module, ChannelSpace, tuple[Block, ...]]:
    """A float64 network with random statistics in eval mode, its space and its blocks."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        args = {"mlp_ratio": 1 / 16} if name == "vgg11_bn" else {}  # else its head takes seconds
        model = timm.create_model(name, **args).double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    space = ChannelSpace.trace(model, (3, side, side))
    return model, space, cut_blocks(model, space)


def images(count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 32, 32, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", QUICK_AND_SLOW)
def test_networks_fall_into_the_blocks_of_their_papers(name: str) -> None:
    assert len(network(name)[2]) == COUNTS[name]


def test_a_basic_block_shrinks_inside_and_a_bottleneck_in_two_places() -> None:
    assert network("resnet20_cifar")[2][3] == Block(("layer2.0",), (("layer2.0.conv1",),))
    wanted = Block(("layer1.0",), (("layer1.0.conv1",), ("layer1.0.conv2",)))
    assert network("resnet50")[2][0] == wanted


def test_the_expanded_width_takes_its_gate_along() -> None:
    blocks = network("efficientnet_b0")[2]
    wanted = (("blocks.1.1.conv_pw", "blocks.1.1.se.conv_reduce"),)
    assert [b.coordinates for b in blocks if b.modules == ("blocks.1.1",)] == [wanted]


def test_a_plain_network_is_cut_behind_its_pooling_layers() -> None:
    blocks = network("vgg11_bn")[2]
    ends = [b.output for b in blocks[:3]]
    assert ends == ["features.14", "features.21", "features.28"]
    assert [b.coordinates for b in blocks[:3]] == [
        (("features.8",),),
        (("features.15",),),
        (("features.22",),),
    ]


def test_a_network_that_is_no_chain_is_one_block() -> None:
    model = PlantedNet((1, 3, 4, 6), (0, 2, 5, 7)).eval()
    space = ChannelSpace.trace(model, (8, 4, 4))
    assert cut_blocks(model, space) == (Block(("",), (("conv_a",), ("conv_b",))),)


@pytest.mark.parametrize("name", QUICK_AND_SLOW)
def test_inner_groups_lie_in_one_block_and_no_other_reads_them(name: str) -> None:
    _, space, blocks = network(name)
    for block in blocks:
        for group in block.groups:
            for member in space.group(group).members:
                assert any(member.tensor.startswith(f"{path}.") for path in block.modules)
    names = [group for block in blocks for group in block.groups]
    modules = [path for block in blocks for path in block.modules]
    assert len(set(names)) == len(names)
    assert len(set(modules)) == len(modules)


@pytest.mark.parametrize("name", ["resnet56_cifar", "resnet50", "efficientnet_b0"])
def test_costs_of_blocks_add_up_to_the_cost_of_the_network(name: str) -> None:
    _, space, blocks = network(name)
    cost = CostModel(space)
    smallest = dict(zip([g.name for g in space.groups], WidthRules().minimums(space), strict=True))
    saved = []
    for block in blocks:
        config = SubnetConfig.from_widths(space, {g: int(smallest[g]) for g in block.groups})
        saved.append(cost.full_macs - cost.macs(config))
        assert 0 < saved[-1] < block_macs(space, block)
    inner = {g: int(smallest[g]) for block in blocks for g in block.groups}
    assert cost.full_macs - cost.macs(SubnetConfig.from_widths(space, inner)) == sum(saved)


@pytest.mark.parametrize(
    "name", ["resnet20_cifar", "mobilenetv2_035", "mobilenetv3_small_100", "test_efficientnet"]
)
def test_full_width_blocks_return_what_the_teacher_does(name: str) -> None:
    model, space, blocks = network(name)
    runner = BlockRunner(model, space, blocks)
    inputs, targets = runner.features(images())
    outputs = runner.run(dict(enumerate(inputs)), SubnetConfig.full())
    for index, target in enumerate(targets):
        assert torch.allclose(outputs[index], target, rtol=0, atol=FLOAT_NOISE)


def test_features_are_those_of_the_network_itself() -> None:
    model, space, blocks = network("resnet20_cifar")
    found = {}
    hooks = [
        model.get_submodule(block.output).register_forward_hook(
            lambda _m, _i, out, path=block.output: found.update({path: out.clone()})
        )
        for block in blocks
    ]
    with torch.no_grad():
        model(images())
    for hook in hooks:
        hook.remove()
    _, targets = BlockRunner(model, space, blocks).features(images())
    for block, target in zip(blocks, targets, strict=True):
        assert torch.equal(found[block.output], target)


@pytest.mark.parametrize("name", ["resnet20_cifar", "mobilenetv2_035", "test_efficientnet"])
def test_a_block_does_not_see_the_widths_of_another(name: str) -> None:
    model, space, blocks = network(name)
    runner = BlockRunner(model, space, blocks)
    inputs, targets = runner.features(images())
    rng = np.random.default_rng(0)
    sizes = {group.name: group.size for group in space.groups}
    half = {g: sizes[g] // 2 for g in blocks[1].groups}
    others = {
        g: int(rng.integers(1, sizes[g]))
        for block in blocks
        for g in block.groups
        if block is not blocks[1]
    }
    alone = runner.run({1: inputs[1]}, SubnetConfig.from_widths(space, half))[1]
    among = runner.run(
        dict(enumerate(inputs)), SubnetConfig.from_widths(space, {**half, **others})
    )[1]
    assert torch.equal(alone, among)
    assert not torch.allclose(alone, targets[1])


def test_running_blocks_leaves_inputs_and_network_alone() -> None:
    model, space, blocks = network("mobilenetv2_035")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    runner = BlockRunner(model, space, blocks)
    inputs, _ = runner.features(images())
    copies = [features.clone() for features in inputs]
    runner.run(dict(enumerate(inputs)), SubnetConfig.full())
    assert all(map(torch.equal, inputs, copies))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_block_that_begins_in_place_leaves_its_input_alone() -> None:
    inner = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), inner, *head)
    space = ChannelSpace.trace(model, (3, 8, 8))
    runner = BlockRunner(model, space, [Block(("1",), ((space.groups[-1].name,),))])
    features = torch.randn(2, 4, 6, 6)
    before = features.clone()
    runner.run({0: features}, SubnetConfig.full())
    assert torch.equal(features, before)
