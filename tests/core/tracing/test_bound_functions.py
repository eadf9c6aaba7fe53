"""A copy runs its own modules, also where a function stands between it and them."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import UnsupportedModel
from zoo.core.networks.rebuild import rebuild
from zoo.core.tracing.copies import copy_network

SIZE = (3, 8, 8)


class Net(nn.Module):
    """A batch norm and a dropout that a function of the network runs, not its forward pass."""

    act: Callable[[Tensor], Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, 5)
        self.slope = 0.1

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc(self.last(self.middle(self.conv(images))).mean((2, 3)))
        return out

    def middle(self, maps: Tensor) -> Tensor:
        return self.act(maps)

    def own(self, maps: Tensor) -> Tensor:
        out: Tensor = self.drop(self.norm(maps))
        return out


def by_closure(net: Net) -> None:
    net.act = lambda maps: net.drop(net.norm(maps))


def by_parts(net: Net) -> None:
    norm, drop = net.norm, net.drop
    net.act = lambda maps: drop(norm(maps))


def by_default(net: Net) -> None:
    def act(maps: Tensor, norm: nn.Module = net.norm, *, drop: nn.Module = net.drop) -> Any:
        return drop(norm(maps))

    net.act = act


def by_partial(net: Net) -> None:
    def run(drop: nn.Module, norm: nn.Module, maps: Tensor) -> Any:
        return drop(norm(maps))

    net.act = functools.partial(run, net.drop, net.norm)


def by_partial_of_a_closure(net: Net) -> None:
    net.act = functools.partial(lambda drop, maps: drop(net.norm(maps)), net.drop)


def by_method(net: Net) -> None:
    net.act = net.own


def by_list(net: Net) -> None:
    steps = [net.norm, net.drop]
    net.steps = {"all": [lambda maps: functools.reduce(lambda y, step: step(y), steps, maps)]}
    net.middle = types.MethodType(lambda self, maps: self.steps["all"][0](maps), net)


def by_inner_function(net: Net) -> None:
    def twice(maps: Tensor, count: int = 1) -> Tensor:
        return net.own(maps) if count == 2 else twice(maps, count + 1)

    net.act = functools.wraps(twice)(lambda maps: twice(maps))


def by_sequence(net: Net) -> None:
    both = nn.Sequential(net.norm, net.drop)
    net.act = lambda maps: both(maps)


def by_mode(net: Net) -> None:
    net.act = lambda maps: F.dropout(net.norm(maps), 0.5, net.training)


def by_hook(net: Net) -> None:
    net.act = F.relu
    net.conv.register_forward_hook(lambda module, args, output: net.drop(net.norm(output)))


def by_pre_hook(net: Net) -> None:
    net.act = F.relu
    net.last.register_forward_pre_hook(lambda module, args: net.drop(net.norm(args[0])))


def by_forward(net: Net) -> None:
    net.act = F.relu
    before = net.forward

    def forward(images: Tensor) -> Tensor:
        net.norm(torch.ones(2, 8, 1, 1, device=images.device, dtype=images.dtype))
        out: Tensor = net.drop(before(images))
        return out

    net.forward = forward


def by_forward_of_a_part(net: Net) -> None:
    net.act = F.relu
    last = net.last.forward
    net.last.forward = functools.partial(lambda run, maps: last(run(maps)), net.own)


WAYS = [
    by_closure, by_parts, by_default, by_partial, by_partial_of_a_closure, by_method, by_list,
    by_inner_function, by_sequence, by_mode, by_hook, by_pre_hook, by_forward,
    by_forward_of_a_part,
]  # fmt: skip


def made(way: Callable[[Net], None]) -> Net:
    torch.manual_seed(0)
    net = Net().double()
    net.norm.running_var.uniform_(0.5, 2)
    net.norm.running_mean.normal_()
    way(net)
    return net


def images() -> Tensor:
    return torch.randn(4, *SIZE, dtype=torch.float64)


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_has_its_own_mode_and_statistics(way: Callable[[Net], None]) -> None:
    for original_is_trained in (True, False):
        net = made(way).train(original_is_trained)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        twin, given = copy_network(net).eval(), images()
        assert torch.equal(twin(given), twin(given))  # no dropout
        twin.train()(given)
        assert not torch.equal(twin.norm.running_mean, net.norm.running_mean)
        assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
        assert torch.equal(copy_network(twin).eval()(given), twin.eval()(given))


@pytest.mark.parametrize("way", [way for way in WAYS if way is not by_forward])
def test_a_smaller_network_is_cut_through_functions_as_through_methods(
    way: Callable[[Net], None],
) -> None:
    net, plain = made(way).train(), made(by_method).eval()
    assert_cut(net)
    if way in (by_hook, by_pre_hook, by_forward_of_a_part):  # they run in another place
        return
    given = images()
    config = halved(ChannelSpace.trace(net, SIZE))
    smaller = [rebuild(each, ChannelSpace.trace(each, SIZE), config) for each in (net, plain)]
    first, second = (each.eval()(given) for each in smaller)
    assert torch.equal(first, second)


def halved(space: ChannelSpace) -> SubnetConfig:
    return SubnetConfig({g.name: tuple(range(0, g.size, 2)) for g in space.groups})


def assert_cut(net: Net) -> None:
    """The norm that only a function runs is cut with the convolution before it."""
    space = ChannelSpace.trace(net, SIZE)
    small = rebuild(net, space, halved(space))
    assert small.norm.running_mean.shape == (4,) and small.conv.weight.shape[0] == 4
    small.train()(images()).sum().backward()
    assert small.norm.weight.grad is not None and net.norm.weight.grad is None


@pytest.mark.parametrize("is_trained", [True, False])
def test_the_accuracy_of_the_parent_does_not_depend_on_the_mode_it_is_given_in(
    is_trained: bool,
) -> None:
    net = made(by_closure).float().eval()
    pictures = torch.randn(40, *SIZE)
    labels = net(pictures).argmax(1)
    batches = [(pictures[i : i + 8], labels[i : i + 8]) for i in range(0, 40, 8)]
    mean = net.norm.running_mean.clone()
    result = zoo.prune(
        net.train(is_trained), batches, batches, macs=0.7, recipe=zoo.Recipe(epochs=1),
        progress=False,
    )  # fmt: skip
    assert result.parent_val_top1 == 1.0
    assert torch.equal(net.norm.running_mean, mean) and net.training == is_trained
    assert not torch.equal(result.model(pictures), result.model.train()(pictures))


def test_a_hook_that_counts_counts_for_whoever_registered_it() -> None:
    net, calls, told = made(by_closure), [], {"number": 0}

    def count(module: nn.Module, args: object, output: Tensor) -> None:
        told["number"] += 1
        calls.append(type(net).__name__)

    net.conv.register_forward_hook(count)
    copy_network(net)(images())
    assert calls == ["Net"] and told == {"number": 1}
    ChannelSpace.trace(net, SIZE)
    assert len(calls) == told["number"] > 1


def test_functions_that_lead_to_no_part_are_not_made_anew() -> None:
    def act(maps: Tensor, slope: float = 0.1) -> Tensor:
        return F.leaky_relu(maps, slope)

    net = made(by_closure)
    net.act, net.table = act, {"acts": [act, functools.partial(act, slope=0.2)]}
    twin = copy_network(net)
    assert twin.act is act and twin.table["acts"][0] is act
    assert twin.table is not net.table


def test_two_functions_of_one_scope_share_it_in_the_copy_too() -> None:
    net, shared = made(by_closure), [0.0]
    modules = [net]

    def add() -> float:
        shared[0] += modules[0].slope
        return shared[0]

    def renew() -> None:
        nonlocal modules
        modules = [*modules, *modules]

    net.act, net.add, net.renew = F.relu, add, renew
    twin = copy_network(net)
    twin.slope = 10.0
    twin.renew()
    assert twin.add() == 10.0 and len(modules) == 1
    assert twin.add.__closure__[0].cell_contents == [twin, twin]
    assert twin.add.__name__ == "add" and not hasattr(twin.add, "__wrapped__")


GLOBAL: list[nn.Module] = []


def through_a_global(maps: Tensor) -> Any:
    return GLOBAL[0].own(maps)


class Holder:
    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        self.run = run

    def __call__(self, maps: Tensor) -> Tensor:
        return self.run(maps)


class OwnCopy(nn.Module):
    def __deepcopy__(self, memo: dict[int, Any]) -> OwnCopy:
        twin = OwnCopy()
        twin.act = self.act
        return twin


@pytest.fixture
def known() -> Any:
    GLOBAL.append(made(by_closure))
    yield GLOBAL[0]
    GLOBAL.clear()


def by_a_global(net: Net) -> None:
    net.act = through_a_global


def by_a_function_that_reads_a_global(net: Net) -> None:
    net.act = lambda maps: through_a_global(maps)


def by_a_global_in_a_hook(net: Net) -> None:
    net.conv.register_forward_hook(lambda *call: through_a_global(call[2]))


def by_an_object(net: Net) -> None:
    net.act = Holder(lambda maps: net.own(maps))


def by_a_module_that_copies_itself(net: Net) -> None:
    net.part = OwnCopy()
    net.part.act = lambda maps: net.own(maps)


@pytest.mark.parametrize(
    ("way", "told"),
    [
        (by_a_global, r"'Net': a function in attribute 'act'.*through_a_global reads.*'GLOBAL'"),
        (by_a_function_that_reads_a_global, "attribute 'act'.*global 'through_a_global'"),
        (by_a_global_in_a_hook, r"module 'conv': a function in a hook.*its first argument"),
        (by_an_object, r"attribute 'act'.*it lies in a Holder"),
        (by_a_module_that_copies_itself, "module 'part'.*attribute 'act'.*OwnCopy copies itself"),
    ],
)
def test_what_cannot_be_bound_is_refused_before_anything_runs(
    known: Net, way: Callable[[Net], None], told: str
) -> None:
    way(known)
    mean = known.norm.running_mean.clone()
    batches = [(images().float(), torch.zeros(4, dtype=torch.int64))]
    with pytest.raises(UnsupportedModel, match=told):
        zoo.prune(known.float().train(), batches, batches, macs=0.5, progress=False)
    assert torch.equal(known.norm.running_mean, mean.float())
