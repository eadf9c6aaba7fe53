"""PSE-Net, AutoSlim and BCNet: what each trains on, and what each makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.autoslim import AutoSlim, slim, train_sandwich
from baselines.bcnet import (
    BCNet,
    complement,
    mean_losses,
    population_prior,
    right_side,
    train_coupled,
)
from tests.problems import BATCH, batches, problem
from zoo.core.channels.config import SubnetConfig
from zoo.core.method.problem import Problem
from zoo.core.one_shot.one_shot import OneShot, RankedWidths
from zoo.core.one_shot.supernet_training import Engine, starting_weights
from zoo.core.search.channel_scores import channel_order
from zoo.core.search.evolution import Evaluated, one_by_one
from zoo.core.search.prior import LossRecords, Prior
from zoo.core.search.width_grid import WidthGrid
from zoo.pse_net import PSENet, explore, train_parallel

TOLERANCE = 1e-10
ALL = [PSENet, AutoSlim, BCNet]


def space_of(task: Problem, ratios: int = 5) -> RankedWidths:
    grid = WidthGrid.make(task, ratios)
    return RankedWidths(task, grid, channel_order(task, by_magnitude=True))


def difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def rows(task: Problem, step: str) -> dict[str, object]:
    (row,) = [row for row in task.trace_rows if row["step"] == step]
    return row


# PSE-Net


@pytest.mark.parametrize("execution", ["masked", "sliced"])
def test_parallel_training_is_serial_training_of_the_same_subnets(execution: str) -> None:
    task = problem()
    settings = replace(PSENet.tiny(), steps=2, lr=0.1, execution=execution)  # type: ignore[arg-type]
    with task.meter.phase("supernet"):
        trained = train_parallel(space_of(task), settings)
    states = trained.records["states"].reshape(2, 4, -1)
    again = problem()
    widths = space_of(again)
    engine = Engine(again, starting_weights(again, "parent"), steps=2, lr=0.1)
    with again.meter.phase("supernet"):
        for (images, labels), drawn in zip(again.data.train(2), states, strict=True):
            losses = [
                F.cross_entropy(engine.logits(part, widths.config(state)), target)
                for part, target, state in zip(images.chunk(4), labels.chunk(4), drawn, strict=True)
            ]
            engine.update(torch.stack(losses).mean())
    assert difference(trained.weights, engine.trained()) < TOLERANCE


def test_recorded_losses_are_those_of_each_subnets_own_images() -> None:
    task = problem()
    settings = replace(PSENet.tiny(), steps=1)
    with task.meter.phase("supernet"):
        trained = train_parallel(space_of(task), settings)
    again = problem()
    widths = space_of(again)
    (images, labels) = next(iter(batches()[0].epoch(0)))
    for part, target, state, loss in zip(
        images.chunk(4), labels.chunk(4), trained.records["states"], trained.records["losses"],
        strict=True,
    ):  # fmt: skip
        values = again.supernet.sliced(widths.config(state))
        logits = again.supernet.forward(part, widths.config(state), values, training=True)
        assert float(F.cross_entropy(logits, target).detach()) == pytest.approx(loss)


def test_a_batch_that_does_not_divide_loses_its_rest() -> None:
    task = problem()
    with task.meter.phase("supernet"):
        trained = train_parallel(space_of(task), replace(PSENet.tiny(), steps=1, subnets=3))
    assert len(trained.records["losses"]) == 3
    assert rows(task, "train_parallel")["pairs"] == BATCH - BATCH % 3


def test_joint_statistics_report_their_gradient_error_once_and_charge_it() -> None:
    found = {}
    for norm in ("separate", "joint"):
        task = problem()
        settings = replace(PSENet.tiny(), execution="masked", norm=norm)  # type: ignore[arg-type]
        with task.meter.phase("supernet"):
            train_parallel(space_of(task), settings)
        found[norm] = task
    assert not [row for row in found["separate"].trace_rows if row["step"] == "joint_norm"]
    assert float(rows(found["joint"], "joint_norm")["gradient_error"]) > 0.01  # type: ignore[arg-type]
    spent = [found[norm].meter.spent["supernet"] for norm in ("separate", "joint")]
    two_passes = 2 * BATCH * found["joint"].cost.full_macs
    assert spent[1].macs_forward - spent[0].macs_forward == two_passes
    assert spent[1].macs_backward - spent[0].macs_backward == 2 * two_passes


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        (PSENet, {"evaluations": 0}, "evaluations is 0; it must be at least 1"),
        (PSENet, {"parents": 0}, "parents is 0"),
        (PSENet, {"subnets": 0}, "subnets is 0"),
        (PSENet, {"steps": -1}, "steps is -1; it must be at least 0"),
        (PSENet, {"slack": 1.0}, "slack is 1.0; it must be at least 0 and below 1"),
        (PSENet, {"kind": "evolve"}, "unknown kind 'evolve'"),
        (AutoSlim, {"reevaluate": 0}, "reevaluate is 0"),
        (AutoSlim, {"random_subnets": -1}, "random_subnets is -1; it must be at least 0"),
        (BCNet, {"population": 0}, "population is 0"),
        (BCNet, {"lr": 0.0}, "lr is 0.0; it must be above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_trained(
    method: type[OneShot], change: dict[str, object], message: str
) -> None:
    task = problem()
    with pytest.raises(ValueError, match=message):
        replace(method.tiny(), **change).search(task)  # type: ignore[arg-type]
    assert not task.meter.spent


def test_random_search_scores_as_many_as_evolution_where_draws_repeat() -> None:
    task = problem()
    widths = space_of(task, ratios=2)
    settings = replace(PSENet.tiny(), ratios=2, kind="random", slack=0.9, evaluations=100)
    evaluated = Evaluated(one_by_one(lambda state: float(sum(state))))
    last_only = Prior(np.tile([0.97, 0.03], (len(widths.grid.sizes), 1)))
    explore(widths, evaluated, last_only, settings, np.random.default_rng(0))
    assert len(evaluated.scores) == 100


@pytest.mark.parametrize(
    "change",
    [{"kind": "random"}, {"init": "uniform"}, {"redraw": "uniform"}, {"sampling": "independent"},
     {"subnets": 1}, {"norm": "joint"}, {"start": "scratch"}, {"execution": "masked"}],
    ids=str,
)  # fmt: skip
def test_every_ingredient_can_be_switched_and_the_budget_is_met(change: dict[str, object]) -> None:
    task = problem()
    subnet = replace(PSENet.tiny(), **change).search(task)
    share = task.cost.macs(subnet.config) / task.budget.limit
    assert 0.98 < share <= 1
    assert len(rows(task, "search_widths")["scores"]) == 8  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "evolve"}, "unknown kind 'evolve'.*evolution"),
        ({"init": "flat"}, "unknown init 'flat'"),
        ({"subnets": 0}, "subnets is 0; it must be at least 1"),
        ({"ratios": 1}, "ratios is 1; it must be at least 2"),
    ],
)
def test_settings_that_do_not_exist_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PSENet.tiny(), **change).search(problem())


# What all have in common


@pytest.mark.parametrize("cls", ALL)
def test_settings_of_the_search_do_not_train_another_supernet(
    cls: type[OneShot],
) -> None:
    own = {field.name for field in fields(cls)} - {field.name for field in fields(OneShot)}
    assert cls.search_fields <= own
    trains = own - cls.search_fields
    wanted = {
        PSENet: {"subnets", "execution", "norm", "sampling"},
        AutoSlim: {"random_subnets"},
        BCNet: set(),
    }
    assert trains == wanted[cls]  # type: ignore[index]


@pytest.mark.parametrize("cls", ALL)
def test_trained_weights_are_handed_on_and_scores_are_accuracies_with_them(
    cls: type[OneShot],
) -> None:
    pruner = replace(cls.tiny(), lr=0.05)
    task = problem()
    subnet = pruner.search(task)
    assert subnet.weights is not None
    name = "layer1.0.conv1.weight"
    assert not torch.equal(subnet.weights[name], task.model.state_dict()[name])
    again = problem()
    (score,) = pruner.scores(again, [subnet.config])
    weights = {n: subnet.weights[n] for n, _ in task.model.named_parameters()}
    widths = RankedWidths(
        again, WidthGrid.make(again, pruner.ratios), channel_order(again, by_magnitude=True)
    )
    with again.meter.phase("search"):
        assert score == pruner.accuracy(widths, subnet.config, weights)


# AutoSlim


def test_the_sandwich_is_one_update_on_labels_and_soft_targets() -> None:
    task = problem()
    settings = replace(AutoSlim.tiny(), steps=1, lr=0.1)
    with task.meter.phase("supernet"):
        trained = train_sandwich(space_of(task, 4), settings)
    states = trained.records["states"]
    assert (states[0] == space_of(task, 4).grid.full).all() and not states[1].any()
    assert len(states) == 4
    again = problem()
    widths = space_of(again, 4)
    weights = starting_weights(again, "parent")
    (images, labels) = next(iter(batches()[0].epoch(0)))

    def logits(state: np.ndarray) -> Tensor:
        config = widths.config(state)
        values = again.supernet.sliced(config, weights)
        return again.supernet.forward(images, config, values, training=True)

    wide = logits(states[0])
    target = wide.detach().softmax(1)
    loss = F.cross_entropy(wide, labels)
    for state in states[1:]:
        loss = loss - (target * logits(state).log_softmax(1)).sum(1).mean()
    loss.backward()
    for name in ("conv1.weight", "layer3.0.conv2.weight"):
        gradient = weights[name].grad
        assert gradient is not None
        step = weights[name].detach() - 0.1 * (gradient + 5e-4 * weights[name].detach())
        assert torch.allclose(trained.weights[name], step, atol=TOLERANCE)


def slimmed(monkeypatch: pytest.MonkeyPatch, reevaluate: int | None) -> tuple[list[int], int]:
    """The state that slimming reaches where accuracy is a table, and how often it looked."""
    task = problem()
    widths = space_of(task, 4)
    losses = np.random.default_rng(0).uniform(0.1, 1, len(widths.grid.sizes))
    looked = 0

    def accuracy(_self: object, widths: RankedWidths, config: SubnetConfig, _: object) -> float:
        nonlocal looked
        looked += 1
        lost = 1 - config.widths(widths.problem.space) / widths.problem.space.sizes
        return float(1 - (losses * lost**2).sum())

    monkeypatch.setattr(AutoSlim, "accuracy", accuracy)
    state = slim(widths, {}, replace(AutoSlim(), reevaluate=reevaluate))
    return state.tolist(), looked


def test_slimming_takes_the_step_that_hurts_least_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, _ = slimmed(monkeypatch, None)
    task = problem()
    grid = space_of(task, 4).grid
    losses = np.random.default_rng(0).uniform(0.1, 1, len(grid.sizes))
    expected = grid.full.copy()
    while grid.costs(expected[None])[0] > task.budget.limit:
        options = []
        for group in np.flatnonzero(expected):
            narrower = expected.copy()
            narrower[group] -= 1
            lost = 1 - grid.widths_of(narrower[None])[0] / task.space.sizes
            options.append((-float((losses * lost**2).sum()), narrower))
        expected = max(options, key=lambda option: option[0])[1]
    assert state == expected.tolist()


def test_looking_again_at_few_groups_saves_most_of_the_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact, all_looks = slimmed(monkeypatch, None)
    lazy, few_looks = slimmed(monkeypatch, 2)
    assert few_looks < all_looks / 3
    assert lazy == exact  # losses add up here, so what a step costs stays the same


# BCNet


def test_left_and_right_keep_both_ends_in_order() -> None:
    task = problem()
    widths = space_of(task)
    left = widths.config(widths.grid.full - 2)
    right = right_side(widths, left)
    for group in task.space.groups:
        best = np.argsort(-widths.order[group.name], kind="stable")
        width = len(left.indices(group))
        assert set(left.indices(group)) == set(best[:width])
        assert set(right.indices(group)) == set(best[-width:])


def test_a_state_and_its_complement_use_every_channel_equally_often() -> None:
    task = problem()
    widths = space_of(task, 64)  # every width of every group
    rng = np.random.default_rng(0)
    state = rng.integers(widths.grid.sizes)
    used = {group.name: np.zeros(group.size, dtype=int) for group in task.space.groups}
    for each in (state, complement(widths.grid, state)):
        left = widths.config(each)
        for side in (left, right_side(widths, left)):
            for group in task.space.groups:
                used[group.name][list(side.indices(group))] += 1
    # Widths run from the minimum m to n, so a state and its complement add up to n + m channels.
    for group, lowest in zip(task.space.groups, task.narrowest.tolist(), strict=True):
        assert used[group.name].sum() == 2 * (group.size + lowest)
        assert used[group.name].max() - used[group.name].min() <= 2


def test_coupled_training_takes_the_mean_of_both_sides_and_alternates() -> None:
    task = problem()
    settings = replace(BCNet.tiny(), steps=2, lr=0.1)
    with task.meter.phase("supernet"):
        trained = train_coupled(space_of(task), settings)
    first, second = trained.records["states"]
    assert (second == complement(space_of(task).grid, first)).all()
    again = problem()
    widths = space_of(again)
    (images, labels) = next(iter(batches()[0].epoch(0)))
    left = widths.config(first)
    losses = []
    for side in (left, right_side(widths, left)):
        values = again.supernet.sliced(side)
        logits = again.supernet.forward(images, side, values, training=True)
        losses.append(float(F.cross_entropy(logits, labels).detach()))
    assert trained.records["losses"][0] == pytest.approx(np.mean(losses))
    assert rows(task, "train_coupled")["pairs"] == 2 * 2 * BATCH


def test_mean_losses_are_those_of_the_best_and_what_is_unseen_counts_as_worst() -> None:
    grid = space_of(problem(), 3).grid
    states = np.zeros((3, len(grid.sizes)), dtype=np.int64)
    states[1:, 0] = 1
    found = mean_losses(grid, LossRecords(states, np.array([0.5, 0.3, 9.0]), np.arange(3)), best=2)
    assert found[0].tolist() == [0.5, 0.3, 0.5] and found[1].tolist() == [0.4, 0.5, 0.5]


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_the_population_costs_the_target_on_average_and_prefers_low_losses(ratio: float) -> None:
    task = problem()
    grid = space_of(task, 6).grid
    losses = np.full((len(grid.sizes), 6), 1.0)
    losses[2, 4] = 0.7
    limit = int(ratio * task.cost.full_macs)
    prior = population_prior(grid, losses, limit, temperature=0.05)
    states = prior.draw(2000, np.random.default_rng(1))
    assert grid.costs(states).mean() == pytest.approx(limit, rel=0.05)
    assert prior.probabilities[2].argmax() == 4 and prior.probabilities[2, 4] > 0.9
