from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tests.problems import SIDE, parent
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.errors import UnsupportedModel
from zoo.core.supernet.stages import MOST_STAGES, StageRunner, cut_stages, stage_costs
from zoo.core.supernet.supernet import Supernet

NETWORKS = ["resnet20_cifar", "mobilenetv2_050", "test_efficientnet", "test_byobnet"]
TOLERANCE = 1e-12


def random_config(space: ChannelSpace, seed: int, names: set[str]) -> SubnetConfig:
    rng = np.random.default_rng(seed)
    keep = {}
    for group in space.groups:
        if group.name in names:
            width = int(rng.integers(1, group.size + 1))
            keep[group.name] = tuple(sorted(rng.choice(group.size, width, replace=False).tolist()))
    return SubnetConfig(keep)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("resnet20_cifar", ["layer1.2", "layer2.2", "fc"]),
        ("resnet50", ["layer1.2", "layer2.3", "layer3.5", "fc"]),
        ("mobilenetv2_100", ["blocks.0", "blocks.2.2", "blocks.4.2", "classifier"]),
    ],
)
def test_cuts_lie_where_feature_info_ends_a_stage(name: str, outputs: list[str]) -> None:
    model = timm.create_model(name)
    stages = cut_stages(model, ChannelSpace.trace(model, (3, 64, 64)))
    assert [stage.output for stage in stages] == outputs
    assert len(stages) <= MOST_STAGES


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_as_many_stages_as_asked_each_with_groups_of_its_own(count: int) -> None:
    model, space = parent("resnet20_cifar")
    stages = cut_stages(model, space, count)
    inner = [name for stage in stages for name in stage.inner]
    assert len(stages) == count
    assert all(stage.inner for stage in stages)
    assert len(inner) == len(set(inner))


def test_a_group_made_in_two_stages_is_neither_inner_nor_at_a_junction() -> None:
    model, space = parent("resnet20_cifar")
    stages = cut_stages(model, space, 6)  # cuts inside layer1, so its residual group crosses
    assert stages[0].output == "layer1.0"
    assert all("conv1" not in (*stage.inner, *stage.junction) for stage in stages)
    six = cut_stages(model, space, 6)
    assert all("layer3.0.conv2" not in (*stage.inner, *stage.junction) for stage in six[:-1])
    three = cut_stages(model, space, 3)
    assert three[0].junction == ("conv1",) and three[1].junction == ("layer2.0.conv2",)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("test_resnet", 9, "at most 5 stages .* lower stages to 5 or less"),
        ("test_resnet", 0, "stages is 0; it must be at least 1"),
    ],
)
def test_impossible_numbers_are_refused(name: str, count: int, message: str) -> None:
    model, space = parent(name)
    with pytest.raises(ValueError, match=message):
        cut_stages(model, space, count)


def test_a_network_that_is_no_chain_is_one_stage_or_refused() -> None:
    model = timm.create_model("hrnet_w18_small")
    space = ChannelSpace.trace(model, (3, 64, 64))
    assert [stage.modules for stage in cut_stages(model, space)] == [("",)]
    with pytest.raises(UnsupportedModel, match=r"no chain of modules at 'transition1.1'.*stages=1"):
        cut_stages(model, space, 2)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [True, False])
def test_stages_one_after_the_other_are_the_network(name: str, training: bool) -> None:
    model, space = parent(name)
    supernet = Supernet(model, space)
    runner = StageRunner(supernet, cut_stages(model, space))
    images = torch.randn(4, 3, SIDE, SIDE, dtype=torch.float64)
    full = SubnetConfig.full()
    features = runner.features(images, supernet.sliced(full), training=training)
    whole = supernet.forward(images, full, supernet.sliced(full), training=training)
    assert len(features) == len(runner.stages) + 1
    assert torch.equal(features[-1], whole)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("is_junction_free", [False, True])
def test_subnets_run_stage_by_stage_as_in_one_piece(name: str, is_junction_free: bool) -> None:
    """A stage fed with what the subnet's earlier stages make is part of the subnet."""
    model, space = parent(name)
    supernet = Supernet(model, space)
    stages = cut_stages(model, space)
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    names = {name for stage in stages for name in stage.inner}
    if is_junction_free:
        names |= {name for stage in stages for name in stage.junction}
    config = random_config(space, 1, names)
    features = images
    for stage in stages:
        values = supernet.sliced(config, modules=stage.modules)
        features = supernet.through(stage.modules, features, config, values)
    whole = supernet.forward(images, config)
    assert float((features - whole).detach().abs().max()) < TOLERANCE


def test_a_narrow_junction_hands_on_the_channels_that_are_kept() -> None:
    model, space = parent("resnet20_cifar")
    stages = cut_stages(model, space, 3)
    runner = StageRunner(Supernet(model, space), stages)
    features = torch.arange(32, dtype=torch.float64).view(1, 32, 1, 1)
    config = SubnetConfig({"layer2.0.conv2": (1, 5, 30)})
    assert runner.narrowed(2, features, config).flatten().tolist() == [1.0, 5.0, 30.0]
    assert torch.equal(runner.narrowed(2, features, SubnetConfig.full()), features)
    assert torch.equal(runner.narrowed(3, features, config), features)  # logits


def test_running_a_stage_changes_neither_its_input_nor_other_stages() -> None:
    model, space = parent("resnet20_cifar")
    supernet = Supernet(model, space)
    runner = StageRunner(supernet, cut_stages(model, space, 3))
    values = supernet.sliced(SubnetConfig.full())
    before = {name: value.clone() for name, value in values.items()}
    entering = torch.randn(2, 16, SIDE, SIDE, dtype=torch.float64)
    kept = entering.clone()
    runner.output(1, entering, SubnetConfig.full(), values, training=True)
    changed = {name for name in values if not torch.equal(values[name], before[name])}
    assert torch.equal(entering, kept)
    assert changed and all(name.startswith("layer2.") for name in changed)


class InPlace(nn.Sequential):
    """Its second stage begins in place."""

    feature_info = ({"module": "1"},)

    def __init__(self) -> None:
        widths = ((3, 4), (4, 4), None, (4, 4), (4, 2))
        super().__init__(*(nn.Conv2d(*w, 1) if w else nn.ReLU(inplace=True) for w in widths))


def test_a_stage_that_begins_in_place_leaves_the_features_as_they_are() -> None:
    model = InPlace().eval()
    space = ChannelSpace.trace(model, (3, 4, 4))
    supernet = Supernet(model, space)
    runner = StageRunner(supernet, cut_stages(model, space, 2))
    assert runner.stages[0].modules == ("0", "1")
    images = torch.randn(2, 3, 4, 4)
    full = SubnetConfig.full()
    with torch.no_grad():
        features = runner.features(images, supernet.sliced(full), training=False)
        assert torch.equal(features[1], model[1](model[0](images)))
        assert bool((features[1] < 0).any())


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_of_the_stages_add_up_to_those_of_the_network(name: str) -> None:
    model, space = parent(name)
    stages = cut_stages(model, space)
    rng = np.random.default_rng(0)
    widths = rng.integers(1, space.sizes + 1, size=(20, len(space.sizes)))
    parts = [stage_costs(space, stage).macs_of_widths(widths) for stage in stages]
    assert (np.sum(parts, axis=0) == CostModel(space).macs_of_widths(widths)).all()
