"""Recorded steps without CUDA: weights of plain ones, and what is refused or recorded anew.

pytest gets this file by its path, in a process of its own; see tests/test_pretended_cuda.py.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests import pretended_cuda, pretended_graph
from tests.pretended_cuda import pretended
from tests.pretended_graph import Graph

pretended_cuda.install()

import timm  # noqa: E402

from tests.pretended_work import GPU, batches, images  # noqa: E402
from zoo.core.data.batches import Batches  # noqa: E402
from zoo.core.training import captured  # noqa: E402
from zoo.core.training.captured import WARM_UP  # noqa: E402
from zoo.core.training.checkpoint import Checkpoints  # noqa: E402
from zoo.core.training.events import StepEvent, Watch  # noqa: E402
from zoo.core.training.passes import Pass, Trained  # noqa: E402
from zoo.core.training.train import Recipe, TaskLoss, TrainingLoss, train  # noqa: E402

# Without an average: timm gives it a generator, which the device does not have.
GRAPH = Recipe(3, 4, lr=0.05, clip_grad=2.0, warmup_epochs=1.0, cuda_graph=True)
N_IMAGES = 26  # six batches of 4 and one of 2


def small(dropout: float) -> Any:
    """A convolution, a norm, a dropout and a layer, drawn alike each time."""
    torch.manual_seed(0)
    layers = {
        "conv1": nn.Conv2d(3, 16, 3, stride=4),
        "bn1": nn.BatchNorm2d(16),
        "act": nn.ReLU(inplace=True),
        "drop": nn.Dropout(dropout),
        "layer1": nn.Conv2d(16, 10, 8),
        "flat": nn.Flatten(),
    }
    return nn.Sequential(OrderedDict(layers))


def trained(recipe: Recipe, dropout: float = 0.0, **options: Any) -> dict[str, torch.Tensor]:
    """Weights on the CPU after a training on the device."""
    model = small(dropout)
    source = Batches(images(N_IMAGES, True), 4, seed=1, shuffle=True, device=GPU)
    with pretended():
        make = options.pop("watching", None)
        if make is not None:
            options["watch"] = make(model)
        train(model.to(GPU), source, recipe, **options)
        return {name: tensor.cpu() for name, tensor in model.state_dict().items()}


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert not [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)]


def replays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled with what graphs do."""
    done: list[str] = []
    add, replay = Graph.put_back, Graph.replay
    monkeypatch.setattr(Graph, "put_back", lambda g: (done.append("recorded"), add(g))[1])
    monkeypatch.setattr(Graph, "replay", lambda g: (done.append("replayed"), replay(g))[1])
    return done


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lookahead_sgd"])
def test_recorded_steps_train_the_same_weights(
    optimizer: str, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = replays(monkeypatch)
    # The pretended device draws from a generator of the host's, which is refused otherwise.
    monkeypatch.setattr(captured, "_is_same", lambda *_: True)
    recipe = replace(GRAPH, optimizer=optimizer)
    found = trained(recipe, dropout)
    # Of 18 whole batches three run as ever; so do the three smaller ones.
    assert done == ["recorded", *["replayed"] * 15]
    assert_equal(found, trained(replace(recipe, cuda_graph=False), dropout))


def test_a_recorded_pass_is_four_launches_and_no_wait() -> None:
    with pretended():
        model = timm.create_model("resnet20_cifar", num_classes=10).to(GPU)
        both = Trained(model, TaskLoss())
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        plain = Pass(both, optimizer, torch.device(GPU), is_bf16=False)
        recorded = captured.CapturedPass(plain, both, torch.device(GPU))
        costs = []
        for run in (plain, recorded):
            for batch in batches(WARM_UP + 2).epoch(0):
                before = Counter(pretended_cuda.COUNTS)
                run(*batch)
                cost = pretended_cuda.COUNTS - before
            costs.append(cost)
    assert costs[0]["launch"] > 170
    # Images and labels go in, all kernels run, and the loss comes out.
    assert costs[1] == {"launch": 4}


def test_losses_of_recorded_steps_are_their_own() -> None:
    def losses(recipe: Recipe) -> list[float]:
        found: list[float] = []
        # Losses of an epoch are read together, long after the next step wrote over its own.
        trained(recipe, watch=Watch(on_epoch=lambda event: found.append(event.loss)))
        return found

    assert losses(GRAPH) == losses(replace(GRAPH, cuda_graph=False))


def test_a_recorded_step_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, seconds=0)

    def stop(event: StepEvent) -> None:
        if event.step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(GRAPH, checkpoints=kept, watch=Watch(on_step=stop))
    assert_equal(trained(GRAPH, checkpoints=kept.fresh("")), trained(GRAPH))


CHANGES: dict[str, Callable[[Any], object]] = {
    "a mode": lambda model: model.bn1.eval(),
    "frozen weights": lambda model: model.layer1.requires_grad_(False),
    "a buffer": lambda model: setattr(model.bn1, "running_mean", torch.ones(16, device=GPU)),
    "a hook": lambda model: model.layer1.register_forward_hook(lambda *each: 2 * each[2]),
    "a setting": lambda model: setattr(model.bn1, "momentum", 0.5),
}


@pytest.mark.parametrize("when", ["on_step", "on_epoch"])
@pytest.mark.parametrize("name", CHANGES)
def test_what_a_callback_changes_is_seen(name: str, when: str) -> None:
    def watching(model: nn.Module) -> Watch:
        def change(event: Any) -> None:
            if event.step == (10 if when == "on_step" else 7):
                CHANGES[name](model)

        return Watch(**{when: change})

    found = trained(GRAPH, watching=watching)
    assert_equal(found, trained(replace(GRAPH, cuda_graph=False), watching=watching))
    assert any(not torch.equal(found[key], tensor) for key, tensor in trained(GRAPH).items())


class Faulty(TrainingLoss):
    """Cross-entropy, and something that a recording would not repeat."""

    is_capturable = True

    def __init__(self, fault: Callable[[Faulty, torch.Tensor], float]) -> None:
        super().__init__()
        self.fault = fault
        self.steps = 0

    def forward(self, student: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        value = F.cross_entropy(student(images), labels)
        return value * self.fault(self, value)


def count(loss: Faulty, _: torch.Tensor) -> float:
    loss.steps += 1
    return 1.0 / loss.steps


FAULTS: dict[str, tuple[Callable[[Faulty, torch.Tensor], float], str]] = {
    "read": (lambda _, value: value.item(), r"reads a value on the host at pretended_graph\.py"),
    "branch": (lambda _, value: 2.0 if value > 1 else 1.0, "reads a value on the host"),
    "draw": (lambda *_: random.random(), "draws random numbers on the host"),
    "numpy": (lambda *_: float(np.random.rand()), "draws random numbers on the host"),
    "torch": (lambda *_: float(torch.rand(())), "draws random numbers on the host"),
    "count": (count, "changes attributes of loss"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_pass_that_a_recording_would_not_repeat_is_refused(name: str) -> None:
    fault, reason = FAULTS[name]
    with pytest.raises(ValueError, match=f"cannot be a CUDA graph: it {reason}.*cuda_graph"):
        trained(GRAPH, loss=Faulty(fault))
    assert pretended_graph.SYNC_MODE == [0]


def test_a_wait_that_comes_later_ends_the_training_with_its_place() -> None:
    seen = []

    def late(_: Faulty, value: torch.Tensor) -> float:
        seen.append(0)
        return value.item() if len(seen) > WARM_UP else 1.0

    with pytest.raises(ValueError, match=r"not permitted.*\) at pretended_graph\.py:\d+; set"):
        trained(GRAPH, loss=Faulty(late))


def test_batches_of_more_than_tensors_are_refused() -> None:
    source = Batches(images(N_IMAGES, False), 4, device=GPU)

    class Weighted:
        """Its batches carry a weight."""

        batch_size, num_images = 4, N_IMAGES
        __len__ = source.__len__

        def epoch(self, index: int) -> Any:
            return ((x, (y, 0.5)) for x, y in source.epoch(index))

    with pretended(), pytest.raises(ValueError, match="a batch holds a float beside tensors"):
        train(small(0.0).to(GPU), Weighted(), GRAPH)
