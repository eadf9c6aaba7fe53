"""No training of ours reaches torch's kernel that writes past its buffer.

What torch really ran is read from oneDNN's own log, in processes of their own: a kernel that is
reached may end them.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import zoo
import zoo.core.networks.cifar_resnet  # registers resnet20_cifar
from benchmarks.studies.convolutions import INSTRUCTIONS, checked, environment
from zoo.core.data.loaders import LoaderBatches
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet
from zoo.core.training import gradients as way
from zoo.core.training.gradients import (
    LEAST_CHANNELS,
    backward,
    gradients,
    guard,
    is_guarded,
    is_unsafe,
)
from zoo.core.training.train import Recipe, TrainingLoss, train

ROOT = Path(__file__).parents[3]

# A strided 1 x 1 weight gradient in channels_last, as oneDNN's log tells it.
REACHED = re.compile(
    r"backward_weights,src:\w+::blocked:acdb::.*,mb\d+_ic(\d+)oc\d+_\S*kh1sh(\d)\S*kw1sw(\d)"
)


def log_of(module: str, instructions: str) -> str:
    """What a process printed, oneDNN's log in it; it has to end well."""
    run = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env={**environment(instructions), "ONEDNN_VERBOSE": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-2000:]
    assert "\ndone\n" in run.stdout, run.stdout[-2000:]
    return run.stdout


def reached(log: str) -> list[str]:
    """Lines of a log where the kernel ran on fewer channels than it can."""
    return [
        found.group()
        for found in REACHED.finditer(log)
        if int(found[1]) < LEAST_CHANNELS and max(int(found[2]), int(found[3])) > 1
    ]


needs_x86 = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability()
    not in ("AVX2", "AVX512"),
    reason="the kernel is one of oneDNN for AVX2 and AVX-512",
)  # fmt: skip


@needs_x86
def test_the_log_shows_the_kernel_where_torch_is_alone() -> None:
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("with AVX2 the process would end")
    assert len(reached(log_of("tests.bare_step", "ALL"))) == 1


@needs_x86
@pytest.mark.parametrize("instructions", ["ALL", pytest.param("AVX2", marks=pytest.mark.slow)])
def test_no_training_of_any_pruner_reaches_the_kernel(instructions: str) -> None:
    log = log_of("tests.narrow_trainings", instructions)
    assert log.count("exec,cpu,convolution") > 3000
    assert reached(log) == []


@pytest.fixture
def unguarded() -> Iterator[None]:
    """A process as it is before code from outside came into it."""
    was_guarded = is_guarded()
    unguard()
    yield
    unguard()
    if was_guarded:
        guard()


@pytest.fixture(params=["look", "guard"])
def either_way(request: pytest.FixtureRequest, unguarded: None) -> None:
    """A look into each graph, or torch's own function replaced."""
    if request.param == "guard":
        guard()


def unguard() -> None:
    """Take the replaced function away; no other thread computes here."""
    libraries = way.__dict__["_libraries"]
    while libraries:
        libraries.pop()._destroy()
    guard.cache_clear()


def compared(
    forward: Callable[..., Tensor], *tensors: Tensor, tolerance: float
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of gradients, guarded and by a strided convolution in float64 of another kind."""
    guarded = [each.clone().requires_grad_() for each in tensors]
    exact = [each.double().clone().requires_grad_() for each in tensors]
    output = forward(F, *guarded)
    outer = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    backward((output * outer).sum())
    (forward(_ByHand, *exact) * outer).sum().backward()
    pairs = [(mine.grad, its.grad) for mine, its in zip(guarded, exact, strict=True)]
    for mine, its in pairs:
        assert mine is not None and its is not None
        assert float((mine - its).abs().max()) <= tolerance * max(1.0, float(its.abs().max()))
    return pairs  # type: ignore[return-value]


class _ByHand:
    """1 x 1 convolutions as a product with a matrix, which no convolution of torch computes."""

    @staticmethod
    def conv(
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        *,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        groups: int,
    ) -> Tensor:
        padded = F.pad(images, [p for each in reversed(padding) for p in (each, each)])
        read = padded[(..., *(slice(None, None, s) for s in stride))]
        split = read.unflatten(1, (groups, -1))
        matrix = weight.flatten(1).unflatten(0, (groups, -1))
        made = torch.einsum("ngc...,goc->ngo...", split, matrix).flatten(1, 2)
        return made + bias.view(-1, *(1 for _ in stride))

    conv1d = conv2d = conv3d = conv


@pytest.mark.parametrize(
    ("sides", "stride", "padding", "groups", "channels"),
    [
        ((9,), (2,), (0,), 1, 3),
        ((9,), (3,), (2,), 1, 3),
        ((9, 12), (2, 2), (0, 0), 1, 1),
        ((9, 12), (2, 2), (0, 0), 1, 15),
        ((9, 12), (2, 1), (0, 0), 1, 4),
        ((9, 12), (1, 3), (1, 0), 2, 8),
        ((8, 11), (2, 2), (1, 2), 4, 4),
        ((5, 6, 7), (2, 2, 2), (0, 0, 0), 1, 5),
        ((5, 6, 7), (2, 1, 3), (1, 0, 1), 5, 5),
    ],
)
@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.usefixtures("either_way")
def test_gradients_are_those_of_a_matrix_product(
    sides: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    groups: int,
    channels: int,
    is_last: bool,
) -> None:
    made = torch.Generator().manual_seed(0)
    images = torch.randn(3, channels, *sides, generator=made)
    if is_last and len(sides) == 2:
        images = images.to(memory_format=torch.channels_last)
    weight = torch.randn(8 * groups, channels // groups, *(1 for _ in sides), generator=made)
    bias = torch.randn(8 * groups, generator=made)

    def forward(namespace: object, *tensors: Tensor) -> Tensor:
        call = getattr(namespace, f"conv{len(sides)}d")
        output: Tensor = call(*tensors, stride=stride, padding=padding, groups=groups)
        return output

    pairs = compared(forward, images, weight, bias, tolerance=1e-5)
    assert pairs[0][0].stride() == images.stride()


@pytest.mark.usefixtures("unguarded")
def test_gradients_of_gradients_pass_too() -> None:
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    guard()
    assert torch.autograd.gradgradcheck(
        lambda i, w: F.conv2d(i, w, stride=2), (images, weight), atol=1e-7
    )


@pytest.mark.usefixtures("unguarded")
def test_a_look_leads_one_pass_around_and_leaves_nothing() -> None:
    images = torch.randn(2, 3, 6, 6)
    weight = torch.randn(4, 3, 1, 1, requires_grad=True)
    loss = F.conv2d(images, weight, stride=2).square().sum()
    met = calls_of_torch(lambda: backward(loss))
    assert [(list(args[4]), args[1].shape[2:]) for args in met] == [([1, 1], (3, 3))]
    assert not is_guarded()
    loss = F.conv2d(images, weight, stride=2).square().sum()
    met = calls_of_torch(lambda: loss.backward())
    assert [list(args[4]) for args in met] == [[2, 2]]


def calls_of_torch(call: Callable[[], object]) -> list[tuple[Any, ...]]:
    """Arguments of each backward pass of a convolution that torch computes meanwhile."""
    original = torch.library.get_kernel("aten::convolution_backward", "CPU")
    met: list[tuple[Any, ...]] = []

    def seen(keys: torch.DispatchKeySet, *args: Any) -> Any:
        met.append(args)
        return original.call_boxed(keys, *args)

    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    library.impl("convolution_backward", seen, "CPU", with_keyset=True)  # type: ignore[no-untyped-call]
    try:
        call()
    finally:
        library._destroy()  # type: ignore[no-untyped-call]
    return met


@pytest.mark.usefixtures("unguarded")
def test_a_look_is_in_force_for_one_layer_alone() -> None:
    images = torch.randn(2, 3, 6, 6, requires_grad=True)
    weight = torch.randn(3, 3, 1, 1, requires_grad=True)
    modes: list[object] = []
    before = images * 1
    before.register_hook(lambda _: modes.append(_get_current_dispatch_mode()))  # type: ignore[no-untyped-call]
    weight.register_post_accumulate_grad_hook(
        lambda _: modes.append(_get_current_dispatch_mode())  # type: ignore[no-untyped-call]
    )
    backward(F.conv2d(before, weight, stride=2).square().sum())
    assert modes == [None, None]
    assert _get_current_dispatch_mode() is None  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("unguarded")
def test_a_pass_that_fails_leaves_torch_as_it_was() -> None:
    weight = torch.randn(4, 3, 1, 1, requires_grad=True)
    output = F.conv2d(torch.randn(2, 3, 6, 6), weight, stride=2)
    with torch.no_grad():
        weight.mul_(2)  # so the layer itself has no gradient any more
    with pytest.raises(RuntimeError, match="inplace"):
        backward(output.sum())
    assert _get_current_dispatch_mode() is None  # type: ignore[no-untyped-call]


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images * 2

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> Tensor:  # type: ignore[override]
        return outer * 2


OPAQUE: dict[str, Callable[[Tensor], Tensor]] = {
    "checkpoint": lambda x: checkpoint(torch.sin, x, use_reentrant=True),
    "function": lambda x: _Twice.apply(x),  # type: ignore[no-untyped-call]
    "compiled": torch.compile(torch.sin, backend="aot_eager"),
}


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize("hidden", OPAQUE)
def test_where_a_graph_hides_something_the_process_is_guarded(hidden: str) -> None:
    leaf = torch.ones(3, requires_grad=True)
    backward(leaf.sin().sum())
    assert not is_guarded()
    backward(OPAQUE[hidden](leaf).sum())
    assert is_guarded()


@pytest.mark.usefixtures("unguarded")
def test_code_from_outside_guards_the_process() -> None:
    images = TensorDataset(torch.rand(8, 3, 16, 16), torch.arange(8) % 10)
    batches = LoaderBatches(DataLoader(images, batch_size=8))
    model, recipe = nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), Recipe(epochs=1, batch_size=8)
    train(model, batches, recipe)
    assert not is_guarded()
    train(model, batches, recipe, loss=_ForeignLoss())
    assert is_guarded()
    unguard()

    class ForeignPruner(Pruner):
        def search(self, problem: Problem) -> Subnet:
            raise NotImplementedError

    assert is_guarded()


class _ForeignLoss(TrainingLoss):
    def forward(self, student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(student(images), labels)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    "needed", [(True, False), (False, True)], ids=["input alone", "weight alone"]
)
def test_only_wanted_gradients_are_made(needed: tuple[bool, bool]) -> None:
    images = torch.randn(2, 3, 5, 5, requires_grad=needed[0])
    weight = torch.randn(4, 3, 1, 1, requires_grad=needed[1])
    backward(F.conv2d(images, weight, stride=2).sum())
    assert (images.grad is not None, weight.grad is not None) == needed


def test_gradients_by_name_are_zeros_only_where_asked() -> None:
    used, unused = (torch.ones(2, requires_grad=True) for _ in range(2))
    found = gradients(used.sum(), [used, unused], zeros=True)
    assert [each.tolist() for each in found] == [[1, 1], [0, 0]]
    with pytest.raises(RuntimeError, match="unused"):
        gradients(used.sum(), [used, unused])


@pytest.mark.parametrize(
    ("weight", "stride", "unsafe"),
    [
        ((8, 1, 1, 1), (2, 2), True),
        ((8, 15, 1, 1), (1, 2), True),
        ((8, 16, 1, 1), (2, 2), False),
        ((8, 4, 1, 1), (1, 1), False),
        ((8, 4, 3, 3), (2, 2), False),
        ((8, 4, 1, 3), (2, 2), False),
        ((8, 4, 1), (2,), True),
    ],
)
def test_only_narrow_strided_1x1_is_led_around(
    weight: tuple[int, ...], stride: tuple[int, ...], unsafe: bool
) -> None:
    assert is_unsafe(weight, stride) is unsafe


def test_pruned_networks_keep_classes_hooks_and_keys() -> None:
    model = timm.create_model("resnet20_cifar", channels=(8, 12, 16))
    facts = [(type(m), len(m._forward_hooks), sorted(vars(m))) for m in model.modules()]
    before = {name: type(module) for name, module in model.named_modules()}
    images = TensorDataset(torch.rand(16, 3, 16, 16), torch.arange(16) % 10)
    loader = DataLoader(images, batch_size=8)
    recipe = Recipe(epochs=1, batch_size=8, lr=0.001)
    result = zoo.prune(model, loader, loader, "l1_norm", macs=0.5, recipe=recipe, progress=False)
    after = {name: type(module) for name, module in result.model.named_modules()}
    assert after == before
    assert result.model.state_dict().keys() == model.state_dict().keys()
    assert facts == [(type(m), len(m._forward_hooks), sorted(vars(m))) for m in model.modules()]
    assert not any("forward" in vars(module) for module in result.model.modules())
    assert nn.Conv2d in after.values()


# What differentiates; `x.backward` of whatever x, torch.autograd and torch.func.
DIFFERENTIATES = re.compile(
    r"(\.backward|autograd\.grad|autograd\.functional\.\w+|func\.(grad|grad_and_value|vjp|jvp|"
    r"jacrev|jacfwd|hessian|linearize))$"
)
SOURCES = [
    path
    for folder in ("zoo", "baselines", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.match("test_*.py")
]
# The one place, and the study of torch as it is.
EXEMPT = ("zoo/core/training/gradients.py", "benchmarks/studies/convolutions.py")


def differentiating(source: str) -> list[int]:
    """Lines of a source that differentiate by themselves, or take what does under another name."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and DIFFERENTIATES.search(ast.unparse(node)):
            lines.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module in ("torch.autograd", "torch.func"):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            lines += [node.lineno for name in names if DIFFERENTIATES.search(name)]
    return lines


def test_gradients_are_made_in_one_place() -> None:
    found = {str(path.relative_to(ROOT)): differentiating(path.read_text()) for path in SOURCES}
    assert {path for path, lines in found.items() if lines} == {*EXEMPT}, found


@pytest.mark.parametrize(
    "line",
    [
        "loss.backward()",
        "torch.autograd.backward(loss)",
        "torch.autograd.grad(loss, [x])",
        "call = loss.backward",
        "from torch.autograd import grad",
        "from torch.func import grad",
        "torch.func.vjp(f, x)",
    ],
)
def test_a_new_backward_pass_is_seen(line: str) -> None:
    assert differentiating(line) == [1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs its cases in forks")
@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("study", ["narrow", "sweep"])
def test_guarded_convolutions_are_right(study: str, instructions: str) -> None:
    found = checked(study, instructions, guarded=True)  # type: ignore[arg-type]
    assert len(found) > 500
    assert [each for each in found if each.fault] == []
