"""The block-wise method: scores, budget, one pass for all blocks, loss."""

import copy
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zoo.core.networks.cifar_resnet  # noqa: F401  # registers resnet20_cifar
from tests.problems import BATCH, SIDE, batches, parent, problem
from zoo.bnp import BNP, _best_feasible, distil_blocks, finalists, prepare_blocks, score_blocks
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.errors import InfeasibleBudget
from zoo.core.method.problem import Problem
from zoo.core.networks.rebuild import rebuild
from zoo.core.search.block_grid import BlockGrid, filled_widths, make_block_grid
from zoo.core.search.choice_table import ChoiceTable
from zoo.core.search.markov_chain import ChainRun
from zoo.core.supernet.blocks import BlockRunner, cut_blocks
from zoo.core.training.distill import BlockDistillation, relative_feature_error, soft_cross_entropy

FLOAT_NOISE = 1e-9


def scored(task: Problem, settings: BNP) -> tuple[BlockGrid, ChoiceTable]:
    grid, runner = prepare_blocks(task, settings.candidates)
    with task.meter.phase("supernet"):
        weights = distil_blocks(task, grid, runner, settings)
    with task.meter.phase("scoring"):
        return grid, score_blocks(task, grid, runner, weights, settings)


def rows(task: Problem, step: str) -> dict[str, object]:
    (row,) = [row for row in task.trace_rows if row["step"] == step]
    return row


@pytest.mark.parametrize("name", ["resnet20_cifar", "test_efficientnet"])
def test_an_untrained_full_width_block_has_no_error_and_narrow_ones_have(name: str) -> None:
    _, table = scored(problem(name), replace(BNP.tiny(), steps=0))
    for energies in table.energies:
        assert energies.flat[-1] == pytest.approx(0, abs=FLOAT_NOISE)
        assert energies.flat[0] > 1e-4


def test_a_score_is_the_relative_error_of_that_block_alone() -> None:
    task = problem()
    settings = replace(BNP.tiny(), steps=0)
    grid, table = scored(task, settings)
    (images, _) = next(iter(batches()[0].epoch(0)))
    runner = BlockRunner(task.model, task.space, grid.blocks)
    inputs, targets = runner.features(images)
    for block in (0, 4, 8):
        for at, state in enumerate(grid.block_states(block)):
            config = grid.config(task.space, state)
            output = runner.run({block: inputs[block]}, config)[block]
            alone = float(relative_feature_error(output, targets[block]).detach())
            assert table.energies[block][at] == pytest.approx(alone, abs=FLOAT_NOISE)


def test_costs_of_a_state_are_those_of_its_network() -> None:
    task = problem("test_efficientnet")
    grid, table = scored(task, replace(BNP.tiny(), steps=0))
    rng = np.random.default_rng(0)
    for _ in range(20):
        state = [int(rng.integers(size)) for size in table.sizes]
        macs = task.cost.macs(grid.config(task.space, state))
        assert table.cost(state) == macs - task.cost.full_macs


def test_efficiency_weight_adds_the_share_of_the_whole_cost() -> None:
    task = problem()
    _, plain = scored(task, replace(BNP.tiny(), steps=0))
    _, weighed = scored(problem(), replace(BNP.tiny(), steps=0, lambda_cost=3.0))
    for b, costs in enumerate(plain.costs):
        wanted = plain.energies[b] + 3.0 * costs / task.cost.full_macs
        assert np.allclose(weighed.energies[b], wanted, rtol=0, atol=FLOAT_NOISE)


def test_block_training_lowers_the_errors_that_candidates_are_scored_by() -> None:
    _, before = scored(problem(), replace(BNP.tiny(), steps=0))
    _, after = scored(problem(), replace(BNP.tiny(), steps=12, lr=1e-3))
    narrow = [energies.flat[len(energies) // 2] for energies in before.energies]
    trained = [energies.flat[len(energies) // 2] for energies in after.energies]
    assert sum(trained) < 0.9 * sum(narrow)


def test_candidates_are_nested_and_legal() -> None:
    rules = WidthRules(min_keep=0.25, divisor=4)
    task = problem("test_efficientnet", rules=rules)
    grid = make_block_grid(task, cut_blocks(task.model, task.space), 100)
    for block in range(len(grid.blocks)):
        configs = [grid.config(task.space, state) for state in grid.block_states(block)]
        for config in configs:
            rules.check(task.space, config)
        for small, large in pairwise(configs):
            for name in grid.blocks[block].groups:
                assert set(small.keep[name]) <= set(large.keep[name])


@pytest.mark.parametrize(
    ("solver", "keep_ratio"),
    [("chain", 0.3), ("chain", 0.8), ("exact", 0.5), ("greedy", 0.3), ("random", 0.8)],
)
def test_budget_is_met_within_two_percent(solver: str, keep_ratio: float) -> None:
    task = problem("resnet20_cifar", keep_ratio)
    config = replace(BNP.tiny(), solver=solver, steps=1).search(task).config
    task.rules.check(task.space, config)
    assert 0.98 * task.budget.limit <= task.cost.macs(config) <= task.budget.limit
    json.dumps(task.trace_rows, allow_nan=False)


@pytest.mark.parametrize(
    "change", [{"posterior": "soft"}, {"feed": "student"}, {"error": "raw"}, {"cooling": 100.0}]
)
def test_every_variant_meets_the_budget(change: dict[str, object]) -> None:
    task = problem()
    config = replace(BNP.tiny(), **change).search(task).config  # type: ignore[arg-type]
    assert 0.98 * task.budget.limit <= task.cost.macs(config) <= task.budget.limit


def test_interfaces_keep_their_widths() -> None:
    task = problem()
    subnet = BNP.tiny().search(task)
    inner = {g for block in cut_blocks(task.model, task.space) for g in block.groups}
    for group in task.space.groups:
        if group.name not in inner:
            assert len(subnet.config.indices(group)) == group.size


def test_a_budget_that_only_narrower_interfaces_meet_is_refused() -> None:
    task = problem("resnet20_cifar", 0.1)
    task.check_feasible()
    with pytest.raises(InfeasibleBudget, match="interfaces"):
        BNP.tiny().search(task)


def test_exact_solver_has_no_gap_and_no_other_is_below_it() -> None:
    table = scored(problem(), BNP.tiny())[1]
    gaps = {}
    for solver in ("exact", "chain", "greedy", "random"):
        task = problem()
        finalists(task, table, replace(BNP.tiny(), solver=solver))  # type: ignore[arg-type]
        gaps[solver] = rows(task, "solve")["gap"]
    assert gaps["exact"] == 0
    assert min(gaps.values()) == 0  # type: ignore[type-var]


def test_long_chains_agree_and_say_what_they_did() -> None:
    rng = np.random.default_rng(0)
    errors = tuple(float(scale) * np.linspace(1, 0, 10) ** 2 for scale in rng.uniform(1, 2, 9))
    table = ChoiceTable(errors, tuple(np.arange(10) for _ in errors), 45)
    task = problem()
    finalists(task, table, replace(BNP.tiny(), chains=4, chain_steps=8_000))
    said = rows(task, "chains")
    assert said["split_r_hat"] == pytest.approx(1.0, abs=0.1)  # type: ignore[operator]
    assert 100 < said["effective_samples"] < 32_000  # type: ignore[operator]
    assert all(0.15 < rate < 0.45 for rate in said["accepted_feasible"])  # type: ignore[attr-defined]


def test_all_blocks_are_charged_for_one_teacher_pass_and_the_trace_says_what_it_saves() -> None:
    task = problem()
    blocks = cut_blocks(task.model, task.space)
    grid = make_block_grid(task, blocks, 100)
    runner = BlockRunner(task.model, task.space, blocks)
    with task.meter.phase("supernet"):
        distil_blocks(task, grid, runner, replace(BNP.tiny(), steps=3))
    spent, said = task.meter.spent["supernet"], rows(task, "distil_blocks")
    teacher = 3 * BATCH * task.cost.full_macs
    assert spent.images == said["images_one_pass"] == 3 * BATCH
    assert said["images_pass_per_block"] == len(blocks) * 3 * BATCH
    assert spent.macs == said["macs_one_pass"]
    assert said["macs_pass_per_block"] - spent.macs == (len(blocks) - 1) * teacher  # type: ignore[operator]
    assert teacher < spent.macs_forward < 2 * teacher
    assert spent.macs_backward == 2 * (spent.macs_forward - teacher)


def test_joint_training_trains_every_block_as_if_alone() -> None:
    settings = replace(BNP.tiny(), steps=3, lr=1e-3)
    task = problem()
    blocks = cut_blocks(task.model, task.space)
    grid = make_block_grid(task, blocks, 100)
    with task.meter.phase("supernet"):
        joint = distil_blocks(task, grid, BlockRunner(task.model, task.space, blocks), settings)
    changed = dict(task.model.named_parameters())
    moved = [name for name, weight in joint.items() if not torch.equal(weight, changed[name])]
    assert {name.rsplit(".", 2)[0] for name in moved} >= {block.output for block in blocks}
    rng = task.rng("search")
    draws = [[int(rng.integers(len(each))) for each in grid.rates] for _ in range(3)]
    path = blocks[2].output
    alone = {n: w.detach().clone().requires_grad_() for n, w in changed.items() if path in n}
    runner = BlockRunner(task.model, task.space, blocks)
    optimizer = torch.optim.Adam(alone.values(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    for draw, (images, _) in zip(draws, batches()[0].epoch(0), strict=False):
        inputs, targets = runner.features(images)
        output = runner.run({2: inputs[2]}, grid.config(task.space, draw), alone)[2]
        optimizer.zero_grad()
        relative_feature_error(output, targets[2]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    for name, weight in alone.items():
        assert torch.allclose(weight, joint[name], rtol=0, atol=FLOAT_NOISE)


def test_trained_block_weights_are_handed_on() -> None:
    task = problem()
    weights = BNP.tiny().search(task).weights
    assert weights is not None
    own = task.model.state_dict()
    assert weights.keys() == own.keys()
    changed = {name for name in own if not torch.equal(weights[name], own[name])}
    assert "layer1.0.conv1.weight" in changed
    assert not {"conv1.weight", "fc.weight"} & changed


def test_filling_up_adds_where_it_helps_most_per_cost() -> None:
    task = problem()
    grid, table = scored(task, replace(BNP.tiny(), steps=0))
    lowest = (0,) * len(table.sizes)
    widths = filled_widths(task, grid, table, lowest)
    before = grid.widths(task.space, lowest)
    assert task.cost.macs_of_widths(widths[None])[0] <= task.budget.limit
    gains = [
        float((e[0] - e[1]) / max(1, c[1] - c[0]))
        for e, c in zip(table.energies, table.costs, strict=True)
    ]
    best = grid.blocks[int(np.argmax(gains))].groups[0]
    names = [group.name for group in task.space.groups]
    assert widths[names.index(best)] == task.space.group(best).size > before[names.index(best)]


def network_pair() -> tuple[nn.Module, nn.Module, ChannelSpace]:
    model, space = parent("resnet20_cifar")
    config = SubnetConfig.from_widths(space, {"layer1.0.conv1": 4, "layer3.2.conv1": 9})
    return copy.deepcopy(model), rebuild(model, space, config).eval(), space


@torch.no_grad()
def test_loss_is_cross_entropy_plus_block_terms_plus_logits() -> None:
    teacher, student, space = network_pair()
    images = torch.randn(4, 3, SIDE, SIDE, dtype=torch.float64)
    labels = torch.arange(4)
    wide, narrow = teacher(images), student(images)
    entropy = float(F.cross_entropy(narrow, labels))
    logits = float(soft_cross_entropy(narrow, wide, 4.0))
    values = {}
    for beta, kd in ((2.0, 0.0), (0.0, 0.5), (2.0, 0.5)):
        loss = BNP(beta=beta, kd=kd).loss(teacher, student, space, SubnetConfig.full())
        assert isinstance(loss, BlockDistillation)
        values[beta, kd] = float(loss(student, images, labels)) - entropy
    assert values[0.0, 0.5] == pytest.approx(0.5 * logits)
    assert values[2.0, 0.5] == pytest.approx(values[2.0, 0.0] + 0.5 * logits)
    assert values[2.0, 0.0] > 0
    assert BNP(beta=0.0, kd=0.0).loss(teacher, student, space, SubnetConfig.full()) is None


@torch.no_grad()
def test_block_terms_vanish_for_the_teacher_itself() -> None:
    teacher, _, space = network_pair()
    loss = BNP(beta=5.0, kd=0.0).loss(teacher, teacher, space, SubnetConfig.full())
    images = torch.randn(4, 3, SIDE, SIDE, dtype=torch.float64)
    labels = torch.arange(4)
    assert loss is not None
    entropy = float(F.cross_entropy(teacher(images), labels))
    assert float(loss(copy.deepcopy(teacher), images, labels)) == pytest.approx(entropy)


@pytest.mark.parametrize("name", ["error", "feed", "posterior", "solver"])
def test_unknown_variants_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown {name}"):
        replace(BNP.tiny(), **{name: "other"}).search(problem())  # type: ignore[arg-type]


def test_scores_of_configurations_are_minus_the_summed_energies() -> None:
    settings = BNP(steps=2, candidates=16, lambda_cost=0.5)
    task = problem()
    grid, table = scored(task, settings)
    rng = np.random.default_rng(0)
    states = [tuple(int(rng.integers(size)) for size in table.sizes) for _ in range(5)]
    configs = [grid.config(task.space, state) for state in states]
    found = settings.scores(problem(), configs)
    wanted = [-table.energy(state) for state in states]
    assert found == pytest.approx(wanted, abs=FLOAT_NOISE)


def test_solvers_are_compared_at_the_same_score_table() -> None:
    digests = {}
    for solver in ("chain", "exact", "greedy", "random"):
        task = problem()
        replace(BNP.tiny(), solver=solver).search(task)  # type: ignore[arg-type]
        digests[solver] = rows(task, "solve")["table"]
    other = problem()
    replace(BNP.tiny(), steps=3).search(other)
    assert len(set(digests.values())) == 1
    assert rows(other, "solve")["table"] not in digests.values()


def test_states_of_a_soft_posterior_that_miss_the_budget_are_no_finalists() -> None:
    table = ChoiceTable((np.array([3.0, 2.0, 0.0]),), (np.array([-3, -2, 0]),), -2)
    energies = np.array([0.0, 0.0, 2.0, 3.0])  # the widest is best, and over the limit
    states = np.array([[2], [2], [1], [0]], dtype=np.int16)
    run = ChainRun(states, energies, 1.0, 1.0)
    assert _best_feasible(table, [run], 3) == [(1,), (0,)]
