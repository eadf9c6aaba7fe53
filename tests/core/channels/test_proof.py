"""What is broken on purpose is caught: by the proof, or by the parent that reads zeros instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo.core.channels import resize
from zoo.core.channels.channel_table import Axis
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.proof import Mismatch, prove
from zoo.core.channels.resize import resized_copy
from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import UnsupportedModel
from zoo.core.networks import rebuild as rebuilding
from zoo.core.networks.rebuild import rebuild
from zoo.core.tracing import rules
from zoo.core.tracing.atoms import Atoms

SIZE = (3, 16, 16)


class Mixed(nn.Module):
    """A residual sum, a concatenation, a depthwise and a grouped convolution, norms and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.right = nn.Conv2d(8, 6, 1)
        self.join = nn.Conv2d(18, 10, 1)
        self.head = nn.Linear(10, 5)
        self.order = 1
        self.scale = 0.5

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(images)))
        x = x + self.deep(self.left(x)) * self.scale
        parts = [self.grouped(x), self.right(x)][:: self.order]
        x = torch.relu(self.join(torch.cat(parts, 1)))
        return self.head(x.mean((2, 3)))


def prepared() -> tuple[Mixed, ChannelSpace, SubnetConfig]:
    torch.manual_seed(0)
    model = Mixed().double().eval()
    for tensor in (*model.norm.parameters(), model.norm.running_mean, model.norm.running_var):
        tensor.data.uniform_(0.5, 1.5)
    space = ChannelSpace.trace(model, SIZE)
    rng = np.random.default_rng(0)
    keep = {}
    for group in space.groups:
        chosen = rng.choice(group.size, size=group.size // 2, replace=False)
        keep[group.name] = tuple(np.sort(chosen).tolist())
    return model, space, SubnetConfig(keep)


def error_against_masked(
    model: nn.Module, space: ChannelSpace, config: SubnetConfig, small: nn.Module
) -> float:
    """Difference from the parent whose layers read zeros in place of dropped channels."""
    tensors = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    for group in space.groups:
        dropped = np.setdiff1d(np.arange(group.size), config.indices(group))
        for member in group.members:
            if member.role == "in":
                index = torch.from_numpy(member.index[dropped].reshape(-1))
                tensors[member.tensor].index_fill_(member.dim, index, 0.0)
    images = torch.randn(2, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        wanted = torch.func.functional_call(model, tensors, (images,))
        return float((small(images) - wanted).abs().max())


def test_the_network_itself_passes_both() -> None:
    model, space, config = prepared()
    assert len(space.groups) == 4  # stem with left and deep, grouped, right, join
    assert error_against_masked(model, space, config, rebuild(model, space, config)) < 1e-12


def cut(name: str, dim: int = 0) -> Callable[[Any], None]:
    def mutate(small: Any) -> None:
        path, _, attribute = name.rpartition(".")
        module = small.get_submodule(path)
        tensor = getattr(module, attribute)
        shorter = tensor.detach().narrow(dim, 0, tensor.shape[dim] - 1)
        if isinstance(tensor, nn.Parameter):
            shorter = nn.Parameter(shorter)
        setattr(module, attribute, shorter)

    return mutate


def stated(path: str, name: str, value: Any) -> Callable[[Any], None]:
    return lambda small: setattr(small.get_submodule(path), name, value)


BROKEN_NETWORKS: dict[str, Callable[[Any], None]] = {
    "a filter is missing": cut("left.weight"),
    "a read channel is missing": cut("join.weight", 1),
    "a bias is too short": cut("right.bias"),
    "a bias is gone": stated("right", "bias", None),
    "a norm's weight is too short": cut("norm.weight"),
    "a norm's statistics are too short": cut("norm.running_var"),
    "a depthwise filter is missing": cut("deep.weight"),
    "a grouped filter is missing": cut("grouped.weight"),
    "other groups": stated("grouped", "groups", 1),
    "another order of a concatenation": stated("", "order", -1),
    "another stride": stated("right", "stride", (2, 2)),
    "another padding": stated("left", "padding", (0, 0)),
    "another number": stated("", "scale", 0.25),
    "another epsilon": stated("norm", "eps", 1e-3),
    "a layer is skipped": stated("", "deep", nn.Identity()),
    "a layer is run twice": lambda small: stated("", "left", nn.Sequential(small.left, small.left))(
        small
    ),
    "a layer reads another's channels": lambda small: setattr(small, "deep", small.left),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN_NETWORKS)
def test_the_proof_catches_a_network_that_is_not_the_predicted_one(broken: str) -> None:
    model, space, config = prepared()
    small = resized_copy(model, space.table, config)
    prove(space.trace_record, space.table, config, small, SIZE)
    BROKEN_NETWORKS[broken](small)
    with pytest.raises(Mismatch):
        prove(space.trace_record, space.table, config, small, SIZE)


def is_caught(model: nn.Module, space: ChannelSpace, config: SubnetConfig) -> bool:
    """Whether the proof refuses what is rebuilt, or the masked parent shows the error."""
    try:
        small = rebuild(model, space, config)
    except (UnsupportedModel, RuntimeError, ValueError):
        return True
    return error_against_masked(model, space, config, small) > 1e-6


UNIONS = range(23)


@pytest.mark.parametrize("lost", UNIONS)
def test_a_union_that_a_rule_forgets_is_caught_or_pins(
    lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one tie of the trace, nothing is rebuilt that computes something else."""
    model, right, _ = prepared()
    count = 0
    unite = Atoms.unite

    def forgetful(self: Atoms, left: np.ndarray, other: np.ndarray, where: str) -> None:
        nonlocal count
        count += 1
        if count != lost + 1:
            unite(self, left, other, where)

    monkeypatch.setattr(Atoms, "unite", forgetful)
    space = ChannelSpace.trace(model, SIZE)
    monkeypatch.undo()
    assert count > lost, "the network states fewer ties: shorten the range"
    config = SubnetConfig({g.name: tuple(range(0, g.size, 2)) for g in space.groups})
    is_alike = [(g.name, g.size) for g in space.groups] == [(g.name, g.size) for g in right.groups]
    same = is_alike and all(
        [(m.tensor, m.dim) for m in ours.members] == [(m.tensor, m.dim) for m in theirs.members]
        for ours, theirs in zip(space.groups, right.groups, strict=True)
    )
    assert same or is_caught(model, space, config)


def test_a_concatenation_in_the_wrong_order_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, _ = prepared()
    cat = rules._RULES["cat"]

    def swapped(flow: Any, call: Any) -> None:
        cat(flow, call)
        (out,) = call.outputs
        flow.set(out, {1: np.roll(flow.get(out)[1], 1)})

    rules._rule_of.cache_clear()
    monkeypatch.setitem(rules._RULES, "cat", swapped)
    space = ChannelSpace.trace(model, SIZE)
    monkeypatch.undo()
    rules._rule_of.cache_clear()
    config = SubnetConfig({g.name: tuple(range(0, g.size, 2)) for g in space.groups})
    assert is_caught(model, space, config)


@pytest.mark.parametrize("name", ["stem.weight", "norm.bias", "deep.weight", "join.weight"])
def test_channels_taken_from_the_wrong_place_are_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shapes are right, so the proof sees nothing; the masked parent does."""
    model, space, config = prepared()
    right = resize.Place.of

    def wrong(table: Any, kept: Any, tensor_name: str, tensor: Tensor) -> resize.Place:
        moved = tensor.roll(1, 0) if tensor_name == name else tensor
        return right(table, kept, tensor_name, moved)

    monkeypatch.setattr(resize.Place, "of", wrong)
    assert is_caught(model, space, config)


def test_an_axis_that_keeps_the_wrong_number_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model, space, config = prepared()
    kept = Axis.kept
    axis = space.table.axes[space.table.tensors["join.weight", 1]]

    def wrong(self: Axis, masks: Any) -> np.ndarray | None:
        found = kept(self, masks)
        return found[1:] if self is axis and found is not None else found

    monkeypatch.setattr(Axis, "kept", wrong)
    assert is_caught(model, space, config)


def test_rebuilding_ends_with_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    model, space, config = prepared()
    proved = []
    monkeypatch.setattr(rebuilding, "prove", lambda *given: proved.append(given[3]))
    small = rebuild(model, space, config)
    assert proved and proved[-1] is small
