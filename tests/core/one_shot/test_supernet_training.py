"""The supernet engine: equal updates by either execution, exact charges, training done once."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.problems import BATCH, problem
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.errors import Diverged
from zoo.core.method.discovery import get_pruner
from zoo.core.method.problem import Problem
from zoo.core.one_shot.supernet_training import (
    SLICED_FROM,
    Engine,
    Execution,
    starting_weights,
)
from zoo.core.one_shot.train_once import train_once
from zoo.core.search.channel_scores import channel_order
from zoo.core.search.width_grid import WidthGrid, independent_states
from zoo.core.supernet.trained_store import SupernetStore, Trained

SUBNETS = 4
TOLERANCE = 1e-10


def configs_of(task: Problem, count: int = SUBNETS) -> list[SubnetConfig]:
    grid = WidthGrid.make(task, 5)
    order = channel_order(task, by_magnitude=True)
    states = independent_states(grid, count, np.random.default_rng(0))
    return [grid.config(state, order) for state in states]


def engine(
    task: Problem, execution: Execution = "sliced", steps: int = 3, **more: object
) -> Engine:
    weights = starting_weights(task, "parent")
    return Engine(task, weights, steps=steps, lr=0.1, execution=execution, **more)  # type: ignore[arg-type]


def updated(execution: Execution) -> dict[str, Tensor]:
    """Weights after three updates with momentum and weight decay."""
    task = problem()
    made, configs = engine(task, execution), configs_of(task)
    with task.meter.phase("supernet"):
        for images, labels in task.data.train(3):
            made.update(F.cross_entropy(made.parallel(images, configs), labels))
    return made.trained()


def test_both_executions_make_the_same_updates() -> None:
    masked, sliced = updated("masked"), updated("sliced")
    own = problem().model.state_dict()
    for name, weight in masked.items():
        scale = float((weight - own[name]).abs().max())
        assert scale > 0
        assert float((weight - sliced[name]).abs().max()) < TOLERANCE * max(scale, 1e-3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_whole_leading_and_gathered_slices_add_up_exactly(
    layout: torch.memory_format,
) -> None:
    task = problem("test_efficientnet")
    weights = {
        name: weight.detach().to(memory_format=layout).requires_grad_()
        if weight.ndim == 4
        else weight
        for name, weight in starting_weights(task, "parent").items()
    }
    made = Engine(task, weights, steps=3, lr=0.01, momentum=0.0)
    taken: dict[str, Tensor] = {}

    def take(*_: object) -> None:
        taken.update({n: w.grad.clone() for n, w in made.weights.items() if w.grad is not None})

    made._optimizer.register_step_pre_hook(take)
    leading = SubnetConfig.from_widths(
        task.space, {g.name: (g.size + 1) // 2 for g in task.space.groups}
    )
    configs = [SubnetConfig.full(), leading, *configs_of(task, 2)]
    rates = (0.01, 0.0075)  # the cosine of three updates
    for step in range(2):  # buffers of the first update must not leak into the second
        images = torch.randn(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(step)).double()
        used = configs if step == 0 else configs[1:]
        copies = {n: w.detach().clone().requires_grad_() for n, w in made.weights.items()}
        supernet = task.supernet
        wanted = sum(
            supernet.forward(images, c, supernet.sliced(c, copies), training=True).square().sum()
            for c in used
        )
        torch.autograd.backward(wanted)
        with task.meter.phase("supernet"):
            made.update(torch.stack([made.logits(images, c).square().sum() for c in used]).sum())
        for name, weight in made.weights.items():
            expected, found = copies[name].grad, taken[name]
            assert expected is not None
            scale = float(expected.abs().max())
            assert float((found - expected).abs().max()) <= TOLERANCE * max(scale, 1.0), name
            decay = 5e-4 if weight.ndim > 1 else 0.0
            after = copies[name].detach() - rates[step] * (expected + decay * copies[name].detach())
            assert float((weight.detach() - after).abs().max()) <= TOLERANCE * max(scale, 1.0), name


def test_the_error_of_joint_statistics_is_that_to_the_gradient_of_serial_passes() -> None:
    task = problem()
    made, configs = engine(task, "masked", norm="joint"), configs_of(task)
    images = torch.randn(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    before = made.trained()
    before = {name: weight.clone() for name, weight in before.items()}

    def loss(logits: Tensor) -> Tensor:
        return logits.square().mean()

    with task.meter.phase("supernet"):
        found = made.joint_norm_error(images, configs, loss)
        alone = made.joint_norm_error(images, configs[:1], loss)
    assert task.meter.spent["supernet"].macs_forward == 4 * BATCH * task.cost.full_macs
    assert all(torch.equal(before[name], weight) for name, weight in made.trained().items())
    assert alone == 0  # one subnet has the whole batch to itself either way
    supernet, weights = task.supernet, list(made.weights.values())
    parts = [
        supernet.forward(part, c, supernet.sliced(c, made.weights), training=True)
        for part, c in zip(images.chunk(SUBNETS), configs, strict=True)
    ]
    joint = supernet.parallel(images, configs, made.weights, joint_norm=True)
    serial, wrong = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss(out), weights)])
        for out in (torch.cat(parts), joint)
    )
    assert found == pytest.approx(float((wrong - serial).norm() / serial.norm()), rel=1e-8)
    assert found > 0.01


def test_auto_slices_where_a_part_is_much_work_and_masks_elsewhere() -> None:
    task = problem()
    enough = SLICED_FROM // task.cost.full_macs + 1
    assert engine(task, "auto").chosen(enough) == "sliced"
    assert engine(task, "auto").chosen(enough - 1) == "masked"
    assert engine(task, "auto", norm="joint").chosen(enough) == "masked"
    assert engine(task, "masked").chosen(enough) == "masked"
    assert engine(task, "sliced").chosen(1) == "sliced"


def test_auto_slices_where_masks_cannot_stand_for_slices() -> None:
    model = timm.create_model("ecaresnet26t", num_classes=10).double()
    given = problem()
    exact, free = (ChannelSpace.trace(model, (3, 8, 8), inexact=i) for i in (False, True))
    for space, wanted in ((exact, "masked"), (free, "sliced")):
        cost = CostModel(space)
        task = Problem(model, space, cost, Budget.parse(0.5, cost), given.data, meter=given.meter)
        made = engine(task, "auto")
        assert made.chosen(1) == wanted
    configs = configs_of(task, 2)
    with task.meter.phase("supernet"):
        logits = made.parallel(torch.randn(4, 3, 8, 8).double(), configs)
    assert logits.shape == (4, 10)


def test_a_masked_pass_costs_the_full_width_and_a_sliced_one_its_subnets() -> None:
    for execution in ("masked", "sliced"):
        task = problem()
        configs = configs_of(task)
        made = engine(task, execution)
        with task.meter.phase("supernet"):
            made.parallel(torch.randn(BATCH, 3, 8, 8).double(), configs)
        subnets = sum(BATCH // SUBNETS * task.cost.macs(config) for config in configs)
        wanted = BATCH * task.cost.full_macs if execution == "masked" else subnets
        spent = task.meter.spent["supernet"]
        assert (spent.macs_forward, spent.macs_backward) == (wanted, 2 * wanted)
        assert made.pairs == BATCH


def test_the_learning_rate_falls_to_zero_with_the_last_update() -> None:
    task = problem()
    made = engine(task, steps=2)
    rates = []
    with task.meter.phase("supernet"):
        for images, labels in task.data.train(2):
            rates.append(made._optimizer.param_groups[0]["lr"])
            made.update(F.cross_entropy(made.logits(images, SubnetConfig.full()), labels))
    assert rates == pytest.approx([0.1, 0.05])
    assert made._optimizer.param_groups[0]["lr"] == pytest.approx(0)


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    with pytest.raises(Diverged, match="supernet's loss is nan; lower its learning rate"):
        engine(problem()).update(torch.tensor(float("nan")))


def test_sliced_subnets_cannot_share_batch_statistics() -> None:
    with pytest.raises(ValueError, match="use execution 'masked'"):
        engine(problem(), "sliced", norm="joint")


def test_training_starts_from_copies_of_the_parents_weights() -> None:
    task = problem()
    weights = starting_weights(task, "parent")
    for name, parameter in task.model.named_parameters():
        assert torch.equal(weights[name], parameter) and weights[name] is not parameter
        assert weights[name].requires_grad and weights[name].is_leaf


def test_new_weights_repeat_by_seed_and_touch_nothing() -> None:
    task = problem()
    before, state = task.model.state_dict()["conv1.weight"].clone(), torch.get_rng_state()
    first, again = (starting_weights(task, "scratch")["conv1.weight"] for _ in range(2))
    task.seed = 1
    other = starting_weights(task, "scratch")["conv1.weight"]
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, before)
    assert torch.equal(task.model.state_dict()["conv1.weight"], before)
    assert torch.equal(torch.get_rng_state(), state)


def trained_in(store: SupernetStore, settings: dict[str, object]) -> tuple[Problem, Trained, int]:
    """A training of one update through a store, and how often it ran."""
    task, ran = problem(), 0
    task.store = store

    def train() -> Trained:
        nonlocal ran
        ran += 1
        made = engine(task)
        for images, labels in task.data.train(1):
            made.update(F.cross_entropy(made.logits(images, SubnetConfig.full()), labels))
        task.trace("train", pairs=made.pairs)
        return Trained(made.trained(), {"losses": np.array([1.5, 2.5])})

    return task, train_once(task, settings, train), ran


def test_a_supernet_is_trained_once_and_charged_each_time(tmp_path: Path) -> None:
    store = SupernetStore(tmp_path, "origin")
    first, made, ran = trained_in(store, {"steps": 1})
    second, read, ran_again = trained_in(store, {"steps": 1})
    assert (ran, ran_again) == (1, 0)
    assert all(torch.equal(made.weights[name], read.weights[name]) for name in made.weights)
    assert np.array_equal(read.records["losses"], [1.5, 2.5])
    assert first.meter.spent["supernet"] == second.meter.spent["supernet"]
    rows = [task.trace_rows[-1] for task in (first, second)]
    assert [row["reused"] for row in rows] == [False, True]
    assert rows[0]["key"] == rows[1]["key"]
    assert first.trace_rows[:-1] == second.trace_rows[:-1] == [{"step": "train", "pairs": BATCH}]


@pytest.mark.parametrize("kind", ["cut", "zeroed", "zeroed data"])
def test_a_damaged_supernet_is_trained_anew(tmp_path: Path, kind: str) -> None:
    store = SupernetStore(tmp_path, "origin")
    _, made, _ = trained_in(store, {"steps": 1})
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    half = len(whole) // 2
    damages = {
        "cut": whole[:half],
        "zeroed": bytes(len(whole)),
        "zeroed data": whole[:half] + bytes(half),
    }
    path.write_bytes(damages[kind])
    with pytest.warns(UserWarning, match="checksum does not hold.*is made anew"):
        task, again, ran = trained_in(store, {"steps": 1})
    assert ran == 1 and task.trace_rows[-1]["reused"] is False
    assert all(torch.equal(made.weights[name], again.weights[name]) for name in made.weights)
    assert trained_in(store, {"steps": 1})[2] == 0


def test_other_settings_or_another_origin_are_another_supernet(tmp_path: Path) -> None:
    store = SupernetStore(tmp_path, "origin")
    runs = [
        trained_in(store, {"steps": 1})[2],
        trained_in(store, {"steps": 2})[2],
        trained_in(SupernetStore(tmp_path, "elsewhere"), {"steps": 1})[2],
    ]
    assert runs == [1, 1, 1]


def test_a_training_that_breaks_leaves_nothing_behind(tmp_path: Path) -> None:
    task = problem()
    task.store = SupernetStore(tmp_path, "origin")

    def broken() -> Trained:
        raise Diverged("no number")

    with pytest.raises(Diverged):
        train_once(task, {}, broken)
    assert not list(tmp_path.glob("*.safetensors"))
    assert trained_in(task.store, {})[2] == 1


def test_two_trainings_of_one_supernet_take_turns(tmp_path: Path) -> None:
    store, seen = SupernetStore(tmp_path, "origin"), []
    is_inside = threading.Event()

    def first() -> None:
        with store.locked({}):
            is_inside.set()
            time.sleep(0.3)
            seen.append("first leaves")

    thread = threading.Thread(target=first)
    thread.start()
    is_inside.wait()
    with store.locked({}):
        seen.append("second enters")
    thread.join()
    assert seen == ["first leaves", "second enters"]


TRAINED = ("autoslim", "bcnet", "bn_scale", "bnp", "dmcp", "metapruning", "pse_net", "stagewise")


def with_frozen(is_frozen: Callable[[str], bool]) -> Problem:
    task = problem()
    task = replace(task, model=copy.deepcopy(task.model))
    for name, parameter in task.model.named_parameters():
        parameter.requires_grad_(not is_frozen(name))
    return task


@pytest.mark.parametrize("method", TRAINED)
def test_frozen_parameters_stay_as_they_are(method: str) -> None:
    frozen = "layer1.0.conv1.weight"
    task = with_frozen(lambda name: name == frozen)
    own = task.model.state_dict()
    weights = get_pruner(method).tiny().search(task).weights or {}
    assert torch.equal(weights.get(frozen, own[frozen]), own[frozen])
    moved = any(not torch.equal(weight, own[name]) for name, weight in weights.items())
    assert moved or method == "metapruning"  # which hands on no weights


def test_a_supernet_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="all parameters are frozen"):
        get_pruner("autoslim").tiny().search(with_frozen(lambda name: True))
