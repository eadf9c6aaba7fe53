"""Networks that hold more than parameters and buffers are copied, or refused with a way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import UnsupportedModel
from zoo.core.networks.rebuild import rebuild
from zoo.core.tracing.copies import copy_network
from zoo.core.tracing.trace import on_meta

SIZE = (3, 16, 16)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 6, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip


def halved(space: ChannelSpace) -> SubnetConfig:
    return SubnetConfig({g.name: tuple(range(0, g.size, 2)) for g in space.groups})


def assert_equals_masked(model: nn.Module) -> nn.Module:
    """The smaller network computes what the parent does whose dropped channels are zeros."""
    model = model.double().eval()
    space = ChannelSpace.trace(model, SIZE)
    small = rebuild(model, space, halved(space))
    masked = copy_network(model)
    tensors = dict(masked.named_parameters())
    for group in space.groups:
        for member in group.members:
            if member.role in ("out", "bias"):
                index = torch.from_numpy(member.index[1::2].reshape(-1))
                tensors[member.tensor].data.index_fill_(member.dim, index, 0.0)
    images = torch.randn(2, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(masked(images), small(images), rtol=1e-12, atol=1e-12)
    small.train()(images).sum().backward()
    return small


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (weight_norm, "torch.nn.utils.remove_weight_norm(model.get_submodule('2'), 'weight')"),
        (spectral_norm, "torch.nn.utils.remove_spectral_norm(model.get_submodule('2'), 'weight')"),
        (
            lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
            "torch.nn.utils.prune.remove(model.get_submodule('2'), 'weight')",
        ),
    ],
)
def test_a_weight_that_a_hook_computes_is_refused_with_the_remedy(
    change: Callable[[nn.Module], Any], remedy: str
) -> None:
    model = network()
    change(model[2])
    model(torch.randn(1, *SIZE))
    with pytest.raises(UnsupportedModel) as caught:
        ChannelSpace.trace(model, SIZE)
    assert "module '2'" in str(caught.value)
    assert remedy in str(caught.value)
    eval(remedy, {"torch": torch, "model": model})  # the way out that the message names
    assert_equals_masked(model)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    ],
)
def test_parametrized_weights_are_pruned_around_exactly(
    change: Callable[[nn.Module], Any],
) -> None:
    model = network()
    change(model[2])
    small = assert_equals_masked(model)
    assert small[2].weight.shape[1] == small[2].in_channels == small[0].out_channels


class Remembers(nn.Module):
    """Keeps what its last pass computed, with its graph, alone and in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.last: Tensor | None = None
        self.history: list[dict[str, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.last = self.body[:3](images)
        self.history.append({"maps": self.last * 2})
        out: Tensor = self.body[3:](self.last)
        return out


def test_what_the_last_pass_left_is_copied_without_its_graph() -> None:
    model = Remembers().double()
    images = torch.randn(2, *SIZE, dtype=torch.float64)
    model(images)
    kept = model.last
    twin = copy_network(model)
    assert torch.equal(twin.last, kept)
    assert twin.last.is_leaf
    assert twin.history[0]["maps"].is_leaf
    assert_equals_masked(model)
    assert model.last is not None
    assert not model.last.is_meta


def test_an_attribute_that_cannot_be_copied_is_named() -> None:
    model = network()
    model[2].lines = (line for line in "ab")
    with pytest.raises(UnsupportedModel, match=r"2\.lines"):
        ChannelSpace.trace(model, SIZE)


def test_a_lazy_module_is_named_with_the_remedy() -> None:
    model = network()
    model[0] = nn.LazyConv2d(8, 3)
    with pytest.raises(UnsupportedModel, match=r"0\.weight has no shape yet.*run one batch"):
        ChannelSpace.trace(model, SIZE)
    model(torch.randn(1, *SIZE))
    assert_equals_masked(model)


class Unregistered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.hidden = [nn.Conv2d(8, 8, 1)]
        self.fc = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc(self.hidden[0](self.stem(images)).mean((2, 3)))
        return out


def test_modules_in_a_plain_list_are_refused_with_the_remedy() -> None:
    with pytest.raises(UnsupportedModel, match=r"neither trained nor saved.*nn\.ModuleList"):
        ChannelSpace.trace(Unregistered(), SIZE)


def test_memory_layout_of_the_weights_is_kept() -> None:
    model = network().to(memory_format=torch.channels_last)
    space = ChannelSpace.trace(model, SIZE)
    small = rebuild(model, space, halved(space))
    layout = torch.channels_last
    for full, part in zip(model.parameters(), small.parameters(), strict=True):
        if full.ndim == 4:
            assert part.is_contiguous(memory_format=layout)


class Buffers(nn.Module):
    """Vectors of the width in buffers, saved or not, and in parameter containers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.register_buffer("mask", torch.rand(8, 1, 1), persistent=False)
        self.vectors = nn.ParameterList([nn.Parameter(torch.rand(8))])
        self.maps = nn.ParameterDict({"scale": nn.Parameter(torch.rand(1, 8, 1, 1))})
        self.fc = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images) * self.mask * self.maps["scale"]
        out: Tensor = self.fc(maps.mean((2, 3)) * self.vectors[0])
        return out


def test_buffers_and_parameter_containers_follow() -> None:
    small = assert_equals_masked(Buffers())
    assert small.mask.shape == (4, 1, 1)
    assert small.vectors[0].shape == (4,)
    assert small.maps["scale"].shape == (1, 4, 1, 1)
    assert "mask" not in small.state_dict()


def test_a_hook_that_changes_the_output_stays_part_of_the_network() -> None:
    model = network()
    model[2].register_forward_hook(lambda _module, _inputs, output: 3 * output)
    assert_equals_masked(model)


def test_a_hook_that_reads_values_is_named_with_the_remedy() -> None:
    model, means = network(), []
    handle = model[2].register_forward_hook(lambda *call: means.append(call[2].mean().item()))
    with pytest.raises(UnsupportedModel, match=r"module '2'.*stopped in a hook.*handle\.remove"):
        ChannelSpace.trace(model, SIZE)
    handle.remove()
    assert_equals_masked(model)


class Frozen(nn.Sequential):
    """Notes each change of mode."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.told = mode
        return self


@pytest.mark.parametrize("kind", [nn.Sequential, Frozen])
def test_a_copy_without_data_is_in_eval_mode_by_the_ways_of_its_classes(
    kind: type[nn.Sequential],
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), kind(nn.BatchNorm2d(4), nn.Dropout()))
    copied = on_meta(model.train())
    assert [module.training for module in copied.modules()] == [False] * 5
    assert getattr(copied[1], "told", False) is False
    assert hasattr(copied[1], "told") == (kind is Frozen)
    assert all(module.training for module in model.modules())
