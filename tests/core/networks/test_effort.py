"""How many passes and copies pruning takes: counts, since seconds are not the same twice."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.networks.rebuild import rebuild
from zoo.core.tracing import copies, operator_mode
from zoo.core.tracing.atoms import Op
from zoo.core.tracing.trace import on_meta, trace_model

SIZE = (3, 32, 32)
# name, arguments, what the trace and then the rebuilding take: (passes, copies)
NETWORKS: list[tuple[str, dict[str, Any], tuple[int, int], tuple[int, int]]] = [
    ("resnet18", {"layers": (1, 1, 1, 1)}, (1, 1), (1, 2)),
    ("mobilenetv3_small_050", {}, (1, 1), (1, 2)),
    ("densenet121", {"block_config": (2, 2, 2, 2)}, (1, 1), (1, 2)),
    ("test_convnext", {}, (3, 3), (1, 2)),  # layer norms are given widths: two more are tried
]


@contextmanager
def counted(model: nn.Module) -> Iterator[Counter[str]]:
    """Counts passes, copies of the whole network, operators, and those left to torch's kernels."""
    found: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        forward, copy = type(model).forward, copies._copy
        rule_of = operator_mode.shape_rule

        def passes(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            found["passes"] += 1
            return forward(self, *args, **kwargs)

        def copied(*args: Any) -> nn.Module:
            found["copies"] += 1
            return copy(*args)

        def looked_up(name: str) -> Any:
            rule = rule_of(name)
            found["operators"] += 1
            found["left to torch"] += rule is None
            return rule

        patch.setattr(type(model), "forward", passes)
        patch.setattr(copies, "_copy", copied)
        patch.setattr(operator_mode, "shape_rule", looked_up)
        yield found


@pytest.mark.parametrize(("name", "args", "tracing", "rebuilding"), NETWORKS)
def test_passes_and_copies(
    name: str, args: dict[str, Any], tracing: tuple[int, int], rebuilding: tuple[int, int]
) -> None:
    model = timm.create_model(name, **args).eval()
    with counted(model) as found:
        space = ChannelSpace.trace(model, SIZE)
    assert (found["passes"], found["copies"]) == tracing
    config = SubnetConfig.from_widths(space, {g.name: (g.size + 1) // 2 for g in space.groups})
    with counted(model) as found:
        rebuild(model, space, config)
    assert (found["passes"], found["copies"]) == rebuilding
    assert found["left to torch"] <= 0.1 * found["operators"] or name == "test_convnext"


def test_a_trace_leaves_no_tensor_to_the_collector() -> None:
    """The classes made to watch a pass lie in circles, which wait for Python's collector."""
    model = timm.create_model("mobilenetv3_small_050").eval()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        ChannelSpace.trace(model, SIZE)
        gc.collect()
        kinds = Counter(type(each) for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert kinds[type] > 0
    assert not kinds.keys() & {Tensor, nn.Parameter, Op}


class Plain(nn.Module):
    """Two convolutions and a classifier; subclasses meet a number of channels, each in its way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.mix = nn.Conv2d(16, 12, 3, padding=1)
        self.head = nn.Linear(12, 5)

    def middle(self, x: Tensor) -> Tensor:
        return x

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.mix(self.middle(F.relu(self.stem(images)))).mean((2, 3)))


class ReadsAShape(Plain):
    def middle(self, x: Tensor) -> Tensor:
        return x / x.shape[2]


class ReadsALength(Plain):
    def middle(self, x: Tensor) -> Tensor:
        return x * len(self.stem.weight) ** -0.5


class ReadsALayer(Plain):
    def middle(self, x: Tensor) -> Tensor:
        return x * self.mix.in_channels**-0.5


class DecidesByALayer(Plain):
    def middle(self, x: Tensor) -> Tensor:
        return F.silu(x) if self.mix.in_channels > 8 else x


class MakesATensor(Plain):
    def middle(self, x: Tensor) -> Tensor:
        return x * torch.ones(16, 1, 1, device=x.device)


class Reshapes(Plain):
    def middle(self, x: Tensor) -> Tensor:
        return x.view(1, 16, 32, 32)


class GroupsByItself(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 1, 3, 3))

    def middle(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, padding=1, groups=16)


class PastTheFunctions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * x.shape[1] ** -0.5


class CallsPast(Plain):
    def middle(self, x: Tensor) -> Tensor:
        return PastTheFunctions.apply(x)  # type: ignore[no-any-return, no-untyped-call]


MEETING = [
    ReadsAShape, ReadsALength, ReadsALayer, DecidesByALayer, MakesATensor, Reshapes,
    GroupsByItself, CallsPast,
]  # fmt: skip


def test_a_network_of_layers_meets_no_width() -> None:
    assert trace_model(on_meta(Plain().eval()), SIZE).is_blind


@pytest.mark.parametrize("network", MEETING)
def test_code_that_meets_a_width_is_seen(network: type[Plain]) -> None:
    assert not trace_model(on_meta(network().eval()), SIZE).is_blind


class AsksForTheMode(Plain):
    def middle(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class ChangesWithTheMode(Plain):
    is_trained = False

    def train(self, mode: bool = True) -> Plain:
        self.is_trained = mode
        return super().train(mode)

    def middle(self, x: Tensor) -> Tensor:
        return F.silu(x) if self.is_trained else x


class Registered(Plain):
    """Its subclasses are registered somewhere, so none may be made to watch it."""

    made: list[type] = []

    def __init_subclass__(cls) -> None:
        Registered.made.append(cls)


@pytest.mark.parametrize(
    ("network", "passes"),
    [(Plain, 1), (AsksForTheMode, 3), (ChangesWithTheMode, 3), (Registered, 2)],
)
def test_training_mode_runs_where_it_may_differ(network: type[Plain], passes: int) -> None:
    """Once to see whether it differs, and once more where it does."""
    model = network().eval()
    meta = on_meta(model)
    with counted(model) as found:
        trace_model(meta, SIZE)
    assert found["passes"] == passes
    assert type(meta) is network and not Registered.made
