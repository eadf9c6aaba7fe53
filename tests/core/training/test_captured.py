"""Steps as CUDA graphs: what is refused anywhere, and on a GPU the weights of a plain training.

How recorded steps replay is tested without a GPU in tests/on_pretended_cuda.py.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.core.data.batches import Batches, ImageTensors
from zoo.core.networks import cifar_resnet  # noqa: F401  (registers the network)
from zoo.core.training.captured import check_capture
from zoo.core.training.distill import BlockDistillation
from zoo.core.training.events import Watch
from zoo.core.training.task import Task
from zoo.core.training.train import Recipe, TaskLoss, TrainingLoss, train

CUDA = torch.device("cuda")

GRAPH = Recipe(
    epochs=3, batch_size=16, lr=0.05, warmup_epochs=1.0, clip_grad=2.0, ema_decay=0.9,
    cuda_graph=True,
)  # fmt: skip


def images(count: int = 120) -> ImageTensors:
    """Ten classes; 120 images are seven batches of 16 and one of 8."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return ImageTensors(pixels, torch.arange(count) % 10, (0.5,) * 3, (0.3,) * 3)


def network(dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = timm.create_model("resnet20_cifar", num_classes=10, drop_rate=dropout)
    return model.to(CUDA)


def test_a_cpu_is_refused_before_any_work() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="needs a CUDA device and the network is on cpu"):
        train(model, Batches(images(), 16), GRAPH)


def test_a_loss_of_ones_own_is_refused_unless_it_says_that_it_may_be_recorded() -> None:
    class Own(TrainingLoss):
        """Cross-entropy."""

    for loss in (Own(), TaskLoss(task=Task(loss=F.cross_entropy))):
        with pytest.raises(ValueError, match=r"runs the Python of a loss once.*is_capturable"):
            check_capture(CUDA, loss.is_capturable, type(loss).__name__)
    check_capture(CUDA, TaskLoss().is_capturable, "TaskLoss")


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.core.training.captured.world", lambda: 2)
    with pytest.raises(ValueError, match="records a training in one process, and 2 train together"):
        check_capture(CUDA, True, "TaskLoss")


# What follows needs a GPU.


@pytest.fixture
def exact() -> Any:
    """cuDNN's algorithms chosen alike and adding in one order, without TF32."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield


def trained(recipe: Recipe, model: nn.Module, **options: Any) -> dict[str, Tensor]:
    torch.cuda.manual_seed(0)
    train(model, Batches(images(), 16, seed=1, shuffle=True, device=CUDA), recipe, **options)
    return model.state_dict()


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        # float32 sums in another order, over 24 steps.
        assert torch.allclose(found[name].float(), tensor.float(), rtol=1e-3, atol=1e-4), name


@pytest.mark.gpu
@pytest.mark.parametrize(
    "recipe",
    [
        GRAPH,
        replace(GRAPH, clip_grad=None, ema_decay=None, channels_last=False),
        replace(GRAPH, optimizer="adamw", lr=1e-3),
        replace(GRAPH, optimizer="lookahead_sgd", schedule="multistep"),
    ],
    ids=["sgd", "plain", "adamw", "lookahead"],
)
def test_a_gpu_trains_the_same_weights(recipe: Recipe, exact: None) -> None:
    wanted = trained(replace(recipe, cuda_graph=False), network())
    assert_close(trained(recipe, network()), wanted)


@pytest.mark.gpu
def test_a_gpu_draws_new_dropout_in_every_step(exact: None) -> None:
    plain = trained(replace(GRAPH, cuda_graph=False), network(0.5))
    assert_close(trained(GRAPH, network(0.5)), plain)


@pytest.mark.gpu
def test_a_gpu_trains_in_bfloat16(exact: None) -> None:
    wanted = trained(replace(GRAPH, bf16=True, cuda_graph=False), network())
    found = trained(replace(GRAPH, bf16=True), network())
    for name, tensor in wanted.items():
        # bfloat16 has three digits.
        assert torch.allclose(found[name].float(), tensor.float(), rtol=0.05, atol=0.02), name


@pytest.mark.gpu
def test_a_gpu_learns_from_a_teacher(exact: None) -> None:
    def loss() -> TrainingLoss:
        teacher = network().eval().requires_grad_(False)
        return BlockDistillation(teacher, ("layer1", "layer2"), macs=1, beta=1.0, kd=1.0)

    wanted = trained(replace(GRAPH, cuda_graph=False), network(), loss=loss())
    assert_close(trained(GRAPH, network(), loss=loss()), wanted)


def halved(model: Any) -> None:
    model.conv1.weight.data = 0.5 * model.conv1.weight.data


@pytest.mark.gpu
@pytest.mark.parametrize("change", [halved, lambda model: model.bn1.eval()])
def test_a_gpu_sees_what_a_callback_changes(change: Callable[[Any], Any], exact: None) -> None:
    def watch(model: nn.Module) -> Watch:
        return Watch(on_step=lambda event: event.step == 10 and change(model))

    plain, found = network(), network()
    wanted = trained(replace(GRAPH, cuda_graph=False), plain, watch=watch(plain))
    assert_close(trained(GRAPH, found, watch=watch(found)), wanted)


class Faulty(TrainingLoss):
    """Cross-entropy, and something that a recording would not repeat."""

    is_capturable = True

    def __init__(self, fault: Callable[[Faulty, Tensor], float]) -> None:
        super().__init__()
        self.fault = fault
        self.steps = 0

    def forward(self, student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        value = F.cross_entropy(student(images), labels)
        return value * self.fault(self, value)


def count(loss: Faulty, value: Tensor) -> float:
    loss.steps += 1
    return 1.0 / loss.steps


FAULTS: dict[str, tuple[Callable[[Faulty, Tensor], float], str]] = {
    "read": (lambda _, value: value.item(), r"reads a value on the host at test_captured\.py"),
    "branch": (lambda _, value: 2.0 if value > 1 else 1.0, "reads a value on the host"),
    "draw": (lambda *_: random.random(), "draws random numbers on the host"),
    "count": (count, "changes attributes of loss"),
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAULTS)
def test_a_gpu_refuses_a_pass_that_a_recording_would_not_repeat(name: str) -> None:
    fault, reason = FAULTS[name]
    before = torch.cuda.get_sync_debug_mode()
    with pytest.raises(ValueError, match=f"cannot be a CUDA graph: it {reason}.*cuda_graph"):
        trained(GRAPH, network(), loss=Faulty(fault))
    assert torch.cuda.get_sync_debug_mode() == before
    trained(GRAPH, network())  # the device is as good as before


@pytest.mark.gpu
def test_a_gpu_gives_the_memory_of_a_recording_back() -> None:
    def left() -> int:
        trained(GRAPH, model)
        gc.collect()
        return torch.cuda.memory_allocated()

    model = network()
    first = left()
    assert left() <= first
