"""Ceilings on waits of the host and blocking copies, for each loop that a GPU is kept busy by.

pytest gets this file by its path, in a process of its own; see tests/test_pretended_cuda.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import timm

from tests import pretended_cuda
from tests.pretended_cuda import pretended

pretended_cuda.install()

from baselines.autoslim import AutoSlim  # noqa: E402
from baselines.bcnet import BCNet  # noqa: E402
from baselines.bn_scale import SparseScales, scale_names  # noqa: E402
from baselines.depgraph import GroupSparsity  # noqa: E402
from baselines.halp import norm_values  # noqa: E402
from baselines.obd_c import fisher_scores  # noqa: E402
from baselines.taylor import squared_gates  # noqa: E402
from tests.pretended_work import GPU, batches, growth, problem, spent  # noqa: E402
from zoo import bnp  # noqa: E402
from zoo.core.channels.config import SubnetConfig  # noqa: E402
from zoo.core.method.problem import Problem  # noqa: E402
from zoo.core.networks.rebuild import rebuild  # noqa: E402
from zoo.core.one_shot.one_shot import OneShot, RankedWidths, list_widths  # noqa: E402
from zoo.core.one_shot.supernet_training import (  # noqa: E402
    Engine,
    Execution,
    starting_weights,
)
from zoo.core.supernet.supernet import recalibrate  # noqa: E402
from zoo.core.training.events import Watch  # noqa: E402
from zoo.core.training.train import Recipe, TrainingLoss, evaluate, train  # noqa: E402
from zoo.knapsack import Knapsack  # noqa: E402
from zoo.pse_net import PSENet  # noqa: E402
from zoo.stagewise import Stagewise  # noqa: E402

SUBNETS = 4


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    with pretended():
        yield


def drawn(widths: RankedWidths, rng: np.random.Generator) -> list[SubnetConfig]:
    """Configurations whose channels are no runs, so that indices are needed."""
    sizes = widths.grid.sizes
    return [widths.config(np.array([rng.integers(n) for n in sizes])) for _ in range(SUBNETS)]


def assert_kept_busy(cost: Counter[str], waits: int = 1) -> None:
    assert cost["wait"] <= waits and cost["to_device"] == 0


def test_a_training_step() -> None:
    model = timm.create_model("resnet20_cifar", num_classes=10).to(GPU)
    cost = growth(lambda count: train(model, batches(count), Recipe(1, 4, lr=1e-4)))
    assert_kept_busy(cost)


def test_an_evaluated_batch() -> None:
    model = timm.create_model("resnet20_cifar", num_classes=10).to(GPU)
    assert_kept_busy(growth(lambda count: evaluate(model, batches(count))), waits=0)


def test_a_recalibrated_batch() -> None:
    asked = problem()
    inputs = [images for images, _ in batches(4).epoch(0)]
    assert_kept_busy(growth(lambda count: recalibrate(asked.model, inputs[:count])), waits=0)


@pytest.mark.parametrize("execution", ["masked", "sliced"])
def test_a_step_of_a_supernet_with_new_subnets(execution: Execution) -> None:
    asked = problem()
    widths, rng = list_widths(asked, PSENet.tiny()), np.random.default_rng(0)
    engine = Engine(asked, starting_weights(asked, "parent"), steps=9, lr=1e-4, execution=execution)
    images, labels = next(batches(1).epoch(0))

    def step() -> None:
        losses = engine.part_losses(images, labels, drawn(widths, rng))
        engine.update(losses.mean(), losses)

    with asked.meter.phase("supernet"):
        step()
        cost = spent(step)
    assert_kept_busy(cost)
    # Indices go to the device once for each configuration, masks once for all.
    assert cost["to_device_unwaited"] <= (1 if execution == "masked" else SUBNETS)


def test_a_score_of_a_subnet() -> None:
    asked = problem()
    configs = drawn(list_widths(asked, PSENet.tiny()), np.random.default_rng(0))

    def score(config: SubnetConfig, train: int = 2, held_out: int = 2) -> Counter[str]:
        options = {"recalibration_batches": train, "search_batches": held_out}
        return spent(lambda: asked.accuracy(config, **options))

    with asked.meter.phase("search"):
        score(configs[0])  # brings the images to the device
        first, again = score(configs[1]), score(configs[1])
        assert_kept_busy(score(configs[1], train=3) - again, waits=0)
        assert_kept_busy(score(configs[1], held_out=3) - again, waits=0)
    # Right answers are read at the end, and each of two passes brings its order of images.
    assert first["wait"] == 1 and first["to_device"] <= 2
    # Indices of a configuration stay where they are.
    assert again["to_device_unwaited"] == first["to_device_unwaited"] - 1


@pytest.mark.parametrize("cls", [PSENet, Stagewise, AutoSlim, BCNet])
def test_an_update_of_a_method(cls: type[OneShot]) -> None:
    asked = problem()
    # Callers who are told of every step wait for nothing more.
    asked.watch = Watch(on_step=lambda event: None)

    def work(steps: int) -> None:
        pruner = replace(cls.tiny(), steps=steps)
        with asked.meter.phase("supernet"):
            pruner.train_anew(list_widths(asked, pruner))

    assert_kept_busy(growth(work))


def test_an_update_and_a_round_of_blocks() -> None:
    asked = problem()
    settings = bnp.BNP.tiny()
    grid, runner = bnp.prepare_blocks(asked, settings.candidates)
    with asked.meter.phase("supernet"):
        assert_kept_busy(
            growth(
                lambda steps: bnp.distil_blocks(asked, grid, runner, replace(settings, steps=steps))
            )
        )
    weights = dict(asked.model.named_parameters())
    one = grid.config(asked.space, [0 for _ in grid.rates])
    rounds = [(one, range(len(grid.blocks)))] * 4
    with asked.meter.phase("scoring"):
        cost = growth(
            lambda count: bnp.block_errors(asked, runner, weights, rounds[:count], settings)
        )
    assert_kept_busy(cost)


def losses(asked: Problem, small: Any, config: SubnetConfig) -> dict[str, TrainingLoss]:
    found = {
        "blocks": bnp.BNP.tiny().loss(asked.model, small, asked.space, config),
        "positions": Knapsack.tiny().loss(asked.model, small, asked.space, config),
        "answer": asked.common_loss(1.0, 0.1),
        "scales": SparseScales(scale_names(asked.space), 1e-4),
    }
    return {name: loss for name, loss in found.items() if loss is not None}


@pytest.mark.parametrize("name", ["blocks", "positions", "answer"])
def test_a_step_of_a_distillation(name: str) -> None:
    asked = problem()
    config = SubnetConfig.full()
    small = rebuild(asked.model, asked.space, config)
    loss = losses(asked, small, config)[name]
    assert_kept_busy(
        growth(lambda count: train(small, batches(count), Recipe(1, 4, lr=1e-4), loss=loss))
    )


@pytest.mark.parametrize("name", ["scales", "channels"])
def test_a_step_of_a_sparse_training(name: str) -> None:
    asked = problem()
    loss: TrainingLoss = SparseScales(scale_names(asked.space), 1e-4)
    if name == "channels":
        loss = GroupSparsity(asked.space, 1e-4, 4.0)
    model = asked.model
    assert_kept_busy(
        growth(lambda count: train(model, batches(count), Recipe(1, 4, lr=1e-4), loss=loss))
    )


SCORES: dict[str, Callable[[Problem, int], object]] = {
    "taylor": lambda asked, count: squared_gates(asked, islice(asked.data.train(count), count)),
    "halp": norm_values,
    "obd_c": fisher_scores,
}


@pytest.mark.parametrize("name", SCORES)
def test_a_batch_that_channels_are_scored_with(name: str) -> None:
    asked = problem()
    with asked.meter.phase("scoring"):
        cost = growth(lambda count: SCORES[name](asked, count))
    assert_kept_busy(cost, waits=0)
    assert not cost["to_device_unwaited"]  # positions of channels are there already
