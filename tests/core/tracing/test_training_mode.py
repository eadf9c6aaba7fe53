"""What a network runs only while it trains follows the smaller widths, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.errors import UnsupportedModel
from zoo.core.networks.rebuild import rebuild

SIZE = (3, 32, 32)


class Net(nn.Module):
    """Two convolutions and a classifier; subclasses add what runs only while training."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 12, 3, padding=1)
        self.fc = nn.Linear(12, 5)

    def head(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.two(self.bn(self.one(x)).relu()))


class AuxiliaryHead(Net):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(8, 6, 1)
        self.aux = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.bn(self.one(x)).relu()
        out = self.head(self.two(x))
        if self.training:
            return out, self.aux(self.hidden(x).mean((2, 3)))
        return out


class DeepSupervision(Net):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Conv2d(8, 5, 1), nn.Conv2d(12, 5, 1)])

    def forward(self, x: Tensor) -> Any:
        maps = [self.bn(self.one(x)).relu()]
        maps.append(self.two(maps[0]))
        if self.training:
            return [head(x) for head, x in zip(self.heads, maps, strict=True)]
        return self.head(maps[1])


class SideBranch(Net):
    """A branch beside the second layer, added while training."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Conv2d(8, 12, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.bn(self.one(x)).relu()
        y = self.two(x)
        return self.head(y + self.side(x) if self.training else y)


class EvalOnly(Net):
    """A layer that training leaves out, and a tie that only training makes."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(8, 12, 1)
        self.gate = nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.bn(self.one(x)).relu()
        y = self.two(x)
        if not self.training:
            return self.head(self.gate(y) * self.same(x).sigmoid())
        return self.head(self.gate(y + self.same(x)))


class OtherOrder(Net):
    """Reads every parameter in both modes, and joins other channels while training."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Conv2d(8, 12, 3, padding=1)
        self.last = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.bn(self.one(x)).relu()
        a, b = self.two(x), self.extra(x)
        if self.training:
            return self.fc((a + b).mean((2, 3))) + self.last(b.mean((2, 3)))
        return self.fc(a.mean((2, 3))) + self.last(b.mean((2, 3)))


class Noisy(Net):
    """Dropout as a function, dropped paths and noise: they hold no number of channels."""

    def forward(self, x: Tensor) -> Any:
        x = F.dropout(self.bn(self.one(x)).relu(), 0.2, self.training)
        if self.training:
            x = x * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.9).div_(0.9)
            x = x + 0.1 * torch.randn_like(x) + torch.zeros_like(x).uniform_()
        return self.head(F.dropout2d(self.two(x), 0.2, self.training))


class ReturnsMore(Net):
    """Both modes call the same operators; training mode returns more of what they make."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.bn(self.one(x)).relu()
        out, more = self.head(self.two(x)), self.aux(x.mean((2, 3)))
        return (out, more) if self.training else out


class KeepsMore(ReturnsMore):
    """Training mode leaves what the other mode throws away where a loss finds it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.one(x)).relu()
        more = self.aux(x.mean((2, 3)))
        if self.training:
            self.kept = more
        return self.head(self.two(x))


class CountsWhileTraining(Net):
    """A number of channels that only training mode multiplies by."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.one(x)).relu()
        return self.head(self.two(x * (x.shape[1] if self.training else 1)))


def halved(space: ChannelSpace) -> SubnetConfig:
    return SubnetConfig({g.name: tuple(range(0, g.size, 2)) for g in space.groups})


def train_step(model: nn.Module, size: tuple[int, int, int]) -> list[str]:
    """Run forward and backward in training mode; names of parameters left without gradient."""
    outputs = model.train()(torch.randn(2, *size))
    sum(out.sum() for out in tree_leaves(outputs)).backward()
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("kind", [AuxiliaryHead, DeepSupervision, SideBranch, EvalOnly, OtherOrder])
def test_smaller_network_runs_in_both_modes(kind: Callable[[], Net]) -> None:
    model = kind()
    space = ChannelSpace.trace(model, SIZE)
    small = rebuild(model, space, halved(space))
    idle = train_step(model, SIZE)
    assert train_step(small, SIZE) == idle
    assert small.eval()(torch.randn(1, *SIZE)).shape == (1, 5)
    assert small.one.out_channels == 4
    assert small.two.out_channels == 6


def test_auxiliary_head_reads_the_kept_channels() -> None:
    torch.manual_seed(0)
    model = AuxiliaryHead().double()
    space = ChannelSpace.trace(model, SIZE)
    keep = {"one": (0, 3, 7), "two": tuple(range(12))}
    small = rebuild(model, space, SubnetConfig(keep))
    assert torch.equal(small.hidden.weight, model.hidden.weight[:, [0, 3, 7]])
    assert torch.equal(small.aux.weight, model.aux.weight)


@pytest.mark.parametrize("kind", [ReturnsMore, KeepsMore])
def test_what_only_training_mode_hands_out_keeps_its_channels(kind: Callable[[], Net]) -> None:
    space = ChannelSpace.trace(kind(), SIZE)
    assert {g.name: g.size for g in space.groups} == {"one": 8, "two": 12}
    assert "aux" in {p.where for p in space.pinned}
    small = rebuild(kind(), space, halved(space)).train()
    outputs = small(torch.randn(2, *SIZE))
    more = small.kept if kind is KeepsMore else outputs[1]
    assert more.shape == (2, 5)


def test_a_number_that_only_training_mode_computes_with_pins_channels() -> None:
    space = ChannelSpace.trace(CountsWhileTraining(), SIZE)
    assert {g.name for g in space.groups} == {"two"}


def test_layers_that_only_train_keep_their_own_channels_and_cost_nothing() -> None:
    plain, model = (ChannelSpace.trace(kind(), SIZE) for kind in (Net, AuxiliaryHead))
    assert [g.name for g in model.groups] == [g.name for g in plain.groups]
    assert CostModel(model).full_macs == CostModel(plain).full_macs
    reasons = {p.where: p.reason for p in model.pinned}
    assert reasons["hidden"] == "made in training mode only"
    assert reasons["aux"] == "output of the network"


def test_a_tie_that_only_training_makes_holds() -> None:
    eval_only = ChannelSpace.trace(OtherOrder(), SIZE)
    (joined,) = (g for g in eval_only.groups if g.name == "two")
    assert {m.tensor for m in joined.members} >= {"two.weight", "extra.weight", "last.weight"}


def test_noise_and_dropout_pin_nothing() -> None:
    plain, noisy = (ChannelSpace.trace(kind(), SIZE) for kind in (Net, Noisy))
    assert [(g.name, g.size) for g in noisy.groups] == [(g.name, g.size) for g in plain.groups]
    assert len(noisy.trace_record.ops) > noisy.trace_record.eval_ops


def test_one_pass_is_enough_where_training_calls_the_same_operators() -> None:
    trace = ChannelSpace.trace(timm.create_model("test_resnet"), SIZE).trace_record
    assert trace.eval_ops == len(trace.ops)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_byobnet", "resnet18"])
def test_timm_dropouts_change_no_group(name: str) -> None:
    plain = ChannelSpace.trace(timm.create_model(name), SIZE)
    noisy = ChannelSpace.trace(timm.create_model(name, drop_rate=0.2, drop_path_rate=0.2), SIZE)
    assert [(g.name, g.size) for g in noisy.groups] == [(g.name, g.size) for g in plain.groups]


def test_torchvision_auxiliary_logits() -> None:
    model = torchvision.models.googlenet(num_classes=4, aux_logits=True, init_weights=False)
    space = ChannelSpace.trace(model, (3, 64, 64))
    small = rebuild(model, space, halved(space))
    assert train_step(small, (3, 64, 64)) == []
    assert small.aux1.conv.conv.in_channels == model.aux1.conv.conv.in_channels // 2


def test_parameters_that_no_pass_reads_are_named_and_keep_their_widths() -> None:
    model = Net()
    model.spare = nn.Linear(12, 7)
    space = ChannelSpace.trace(model, SIZE)
    (named,) = (p for p in space.pinned if p.where == "spare")
    assert named.channels == 7
    assert "no pass reads it" in named.reason
    small = rebuild(model, space, halved(space))
    assert small.spare.weight.shape == (7, 12)


class StopsInTraining(Net):
    """Training mode depends on values, which the meta device does not hold."""

    def __init__(self, *, has_aux: bool) -> None:
        super().__init__()
        self.aux = nn.Linear(8, 5) if has_aux else None

    def forward(self, x: Tensor) -> Any:
        x = self.bn(self.one(x)).relu()
        if self.training and torch.rand(1, device=x.device).item() > 2:
            return self.aux(x.mean((2, 3)))
        return self.head(self.two(x))


def test_unread_parameters_and_a_training_pass_that_stops_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match=r"aux\.weight, aux\.bias are not used in eval mode"):
        ChannelSpace.trace(StopsInTraining(has_aux=True), SIZE)


def test_a_training_pass_that_stops_is_told_where_eval_mode_read_everything() -> None:
    with pytest.warns(UserWarning, match="only eval mode was traced"):
        space = ChannelSpace.trace(StopsInTraining(has_aux=False), SIZE)
    assert [g.name for g in space.groups] == ["one", "two"]
