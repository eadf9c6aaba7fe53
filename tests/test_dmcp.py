"""DMCP: the equations of the Markov process by hand, expectations by brute force, gradients."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.dmcp import (
    DMCP,
    Architecture,
    Chains,
    Gating,
    architecture_loss,
    budget_loss,
    equal_logits,
    expected_widths,
    train_markov,
)
from tests.killed import Killing, was_killed
from tests.latencies import fabricated
from tests.problems import BATCH, problem
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.contract.trial import NETWORKS, Trial
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel, Metric
from zoo.core.errors import Diverged
from zoo.core.method.planted import planted_problem
from zoo.core.method.problem import Problem
from zoo.core.one_shot.one_shot import RankedWidths, list_widths
from zoo.core.search.expected_cost import ExpectedCost
from zoo.core.search.width_grid import WidthGrid
from zoo.core.supernet.gates import gated_weights
from zoo.core.supernet.supernet import Supernet
from zoo.core.supernet.trained_store import SupernetStore
from zoo.core.training.checkpoint import Checkpoints

EXACT = 1e-12  # relative, of sums of some hundred terms in float64
HALF, QUARTER = 0.0, -math.log(3.0)  # whose sigmoids are 1/2 and 1/4


class Tiny(nn.Module):
    """A stream that a layer both reads and makes, with a depthwise layer and a gate beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.same = nn.Conv2d(4, 4, 3, padding=1)
        self.expand = nn.Conv2d(4, 5, 1)
        self.deep = nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.wide = nn.BatchNorm2d(5)
        self.reduce, self.gate = nn.Conv2d(5, 3, 1), nn.Conv2d(3, 5, 1)
        self.project = nn.Conv2d(5, 4, 1)
        self.head = nn.Linear(4 * 2 * 2, 10)

    def forward(self, images: Tensor) -> Tensor:
        stream = torch.relu(self.norm(self.stem(images)))
        stream = stream + self.same(stream)
        inner = torch.relu(self.wide(self.deep(self.expand(stream))))
        gate = self.gate(torch.relu(self.reduce(inner.mean((2, 3), keepdim=True)))).sigmoid()
        stream = stream + self.project(inner * gate)
        return self.head(F.adaptive_avg_pool2d(stream, 2).flatten(1))


@cache
def tiny_parent() -> tuple[nn.Module, ChannelSpace]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = Tiny().double()
        for parameter in model.parameters():
            nn.init.normal_(parameter, 0.0, 0.5)
        return model.eval(), ChannelSpace.trace(model, (3, 8, 8))


def tiny_problem(keep_ratio: float = 0.5, metric: Metric = "macs") -> Problem:
    model, space = tiny_parent()
    base = problem("resnet20_cifar")
    cost = CostModel(space, fabricated(model, space))
    budget = Budget.parse(keep_ratio, cost, metric)
    return Problem(model, space, cost, budget, base.data, base.rules, meter=base.meter)


def all_of(task: Problem) -> tuple[RankedWidths, Chains]:
    """Every width of every group is a candidate."""
    widths = list_widths(task, replace(DMCP.tiny(), ratios=int(task.space.sizes.max())))
    return widths, Chains.of(widths.grid)


def drawn_logits(chains: Chains, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(0.5, 1.5, chains.exists.shape))


# The equations


def test_a_channel_is_kept_with_the_product_of_the_transitions_up_to_it() -> None:
    widths = torch.tensor([[1.0, 2.0, 4.0, 8.0]] * 2).double()
    chains = Chains(widths, torch.ones(2, 3, dtype=torch.bool))
    alphas = [[HALF, -QUARTER, QUARTER], [QUARTER, QUARTER, HALF]]
    logits = torch.tensor(alphas, dtype=torch.float64)
    found = chains.marginals(logits)
    by_hand = [[1 / 2, 3 / 8, 3 / 32], [1 / 4, 1 / 16, 1 / 32]]
    torch.testing.assert_close(found, torch.tensor(by_hand).double(), rtol=EXACT, atol=0)
    # 1 + 1 * 1/2 + 2 * 3/8 + 4 * 3/32 and 1 + 1/4 + 2/16 + 4/32.
    assert chains.moments(found).tolist() == pytest.approx([2.625, 1.5], rel=EXACT)
    # 1 + 3 * 1/2 + 12 * 3/8 + 48 * 3/32.
    assert float(chains.moments(found, 2)[0]) == pytest.approx(11.5, rel=EXACT)
    stops = chains.prior(logits).probabilities[0]
    np.testing.assert_allclose(stops, [1 / 2, 1 / 8, 9 / 32, 3 / 32], rtol=EXACT)


def test_groups_of_fewer_candidates_have_no_more_transitions() -> None:
    task = tiny_problem()
    _, chains = all_of(task)
    assert sorted(chains.exists.sum(1).tolist()) == sorted((task.space.sizes - 1).tolist())
    prior = chains.prior(drawn_logits(chains))
    np.testing.assert_allclose(prior.probabilities.sum(1), 1.0, rtol=EXACT)
    for row, size in zip(prior.probabilities, task.space.sizes, strict=True):
        assert (row[:size] > 0).all() and (row[size:] == 0).all()


def test_networks_drawn_from_the_chains_have_their_marginals() -> None:
    _, chains = all_of(tiny_problem())
    logits = drawn_logits(chains)
    states = chains.prior(logits).draw(40_000, np.random.default_rng(1))
    levels = np.arange(1, chains.widths.shape[1])
    shares = (states[:, :, None] >= levels).mean(0)
    # Five standard deviations of a share of 40,000.
    np.testing.assert_allclose(shares, chains.marginals(logits).numpy(), atol=0.0125)


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_expected_costs_are_those_of_all_networks_weighted_by_their_probabilities(
    metric: Metric,
) -> None:
    task = tiny_problem(metric=metric)
    _, chains = all_of(task)
    marginals = chains.marginals(drawn_logits(chains))
    chances = chains.prior(drawn_logits(chains)).probabilities
    total = 0.0
    for widths in product(*(range(1, size + 1) for size in task.space.sizes)):
        chance = math.prod(row[width - 1] for row, width in zip(chances, widths, strict=True))
        total += chance * int(task.cost_of(np.array([widths]))[0])
    found = float(chains.cost(ExpectedCost(task), marginals))
    assert found == pytest.approx(total, rel=EXACT)
    # A layer reads what it makes: the square of a width is expected to be more than its mean's.
    means = chains.moments(marginals)
    plugged = float(ExpectedCost(task)(lambda power: means**power))
    assert plugged < found * (1 - 1e-3)


@pytest.mark.parametrize("name", [*NETWORKS, "tiny"])
def test_monomials_add_up_to_the_cost_of_any_widths(name: str) -> None:
    space = tiny_parent()[1] if name == "tiny" else Trial(DMCP, name).space
    cost, rng = CostModel(space), np.random.default_rng(0)
    widths = rng.integers(1, space.sizes + 1, (20, len(space.sizes)))
    for metric, counted in (("macs", cost.macs_of_widths), ("params", cost.params_of_widths)):
        found = [
            sum(
                factor * math.prod(int(row[group]) for group in key)
                for key, factor in cost.monomials(metric).items()  # type: ignore[arg-type]
            )
            for row in widths
        ]
        assert found == counted(widths).tolist()


def test_powers_and_products_of_three_widths_have_expectations_of_their_own() -> None:
    terms = {(): 7, (0,): 2, (0, 0, 1): 3, (0, 1, 2): 5}
    asked = SimpleNamespace(
        budget=SimpleNamespace(metric="macs"), cost=SimpleNamespace(monomials=lambda _: terms)
    )
    moments = [[1.0, 1.0, 1.0], [2.0, 3.0, 4.0], [6.0, 10.0, 20.0], [math.nan] * 3]
    found = ExpectedCost(asked)(lambda power: torch.tensor(moments[power]).double())  # type: ignore[arg-type]
    assert float(found) == 7 + 2 * 2 + 3 * 6 * 3 + 5 * 2 * 3 * 4


def test_where_times_add_up_the_expected_latency_is_that_of_all_networks() -> None:
    task = tiny_problem(metric="latency")
    _, chains = all_of(task)
    logits = drawn_logits(chains)
    chances = chains.prior(logits).probabilities
    sizes = [range(1, size + 1) for size in task.space.sizes]
    widths = np.array([*product(*sizes)])
    weights = [math.prod(r[w - 1] for r, w in zip(chances, each, strict=True)) for each in widths]
    total = float(np.dot(weights, task.cost_of(widths)))
    found = float(chains.cost(ExpectedCost(task), chains.marginals(logits)))
    assert found == pytest.approx(total, rel=0.05)  # linear around the means


@pytest.mark.parametrize(
    ("expected", "tolerance", "wanted"),
    [
        (130.0, 0.0, math.log(30.0)),
        (70.0, 0.0, math.log(30.0)),
        (94.0, 0.05, math.log(6.0)),
        (97.0, 0.05, 0.0),
        (100.0, 0.0, 0.0),
        (101.0, 0.05, math.log(6.0)),
    ],
)
def test_the_loss_of_the_budget_is_the_logarithm_of_the_distance(
    expected: float, tolerance: float, wanted: float
) -> None:
    cost = torch.tensor(expected, dtype=torch.float64, requires_grad=True)
    loss = budget_loss(cost, 100.0, tolerance)
    loss.backward()
    assert loss.item() == pytest.approx(wanted, rel=EXACT)
    assert cost.grad is not None
    # It falls towards the target, and rests where there is nothing to gain.
    assert np.sign(float(cost.grad)) == (0 if wanted == 0 else np.sign(expected - 100.0))


# The gated network


@pytest.mark.parametrize("network", [*NETWORKS, "tiny"])
def test_gates_of_0_and_1_make_the_subnet_itself(network: str) -> None:
    if network == "tiny":
        model, space = tiny_parent()
    else:
        trial = Trial(DMCP, network)
        model, space = copy.deepcopy(trial.first.problem.model).double(), trial.space
    supernet, rng, keep, gates = Supernet(model, space), np.random.default_rng(0), {}, {}
    for group in space.groups:
        kept = rng.permutation(group.size)[: rng.integers(1, group.size + 1)]
        keep[group.name] = tuple(sorted(kept.tolist()))
        gates[group.name] = torch.zeros(group.size, dtype=torch.float64)
        gates[group.name][kept] = 1.0
    config, full = SubnetConfig(keep), SubnetConfig.full()
    images = torch.from_numpy(rng.random((6, *space.input_size)))
    with torch.no_grad():
        for training in (True, False):
            values = gated_weights(space, supernet.sliced(full), gates)
            found = supernet.answer(images, full, values, training=training).outputs
            alone = supernet.sliced(config)
            wanted = supernet.answer(images, config, alone, training=training).outputs
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
        plain = supernet.answer(images, full, supernet.sliced(full), training=False).outputs
        assert float((plain - wanted).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("name", "metric"), [("tiny", "macs"), ("tiny", "latency"), ("resnet20_cifar", "macs")]
)
def test_gradients_of_alpha_are_finite_differences(name: str, metric: Metric) -> None:
    task = tiny_problem(0.4, metric) if name == "tiny" else problem(name, 0.4)
    settings = replace(DMCP.tiny(), ratios=5)
    widths = list_widths(task, settings)
    chains, cost, gating = Chains.of(widths.grid), ExpectedCost(task), Gating(widths)
    target, engine = float(task.budget.limit), settings.engine(task)
    with task.meter.phase("supernet"):
        ((images, labels),) = task.data.train(1)

        def parts(logits: Tensor) -> list[Tensor]:
            marginals = chains.marginals(logits)
            expected = chains.cost(cost, marginals)
            loss = architecture_loss(engine, gating, marginals, images, labels)
            return [loss, budget_loss(expected, target, 0.05)]

        start = drawn_logits(chains).requires_grad_()
        losses = parts(start)
        found = [torch.autograd.grad(loss, start, retain_graph=True)[0] for loss in losses]
        with torch.no_grad():
            # So small that few activations pass the kink of a ReLU; rounding leaves 1e-5.
            rng, step = np.random.default_rng(3), 1e-7
            for _ in range(4):
                way = torch.from_numpy(rng.normal(size=start.shape)) * chains.exists
                above, below = parts(start + step * way), parts(start - step * way)
                for gradient, high, low in zip(found, above, below, strict=True):
                    slope = float(high - low) / (2 * step)
                    assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-7)
    assert all(float(each.abs().max()) > 1e-6 for each in found)
    assert not any(each[~chains.exists].any() for each in found)
    assert all(weight.grad is None for weight in engine.weights.values())


def test_gates_follow_the_order_in_which_channels_lead() -> None:
    task = tiny_problem()
    widths, chains = all_of(task)
    marginals = chains.marginals(drawn_logits(chains))
    weights = {name: torch.ones_like(p) for name, p in task.model.named_parameters()}
    gated = Gating(widths)(weights, marginals)
    group = task.space.groups[0]
    order = np.argsort(-widths.order[group.name], kind="stable")
    gates = gated["expand.weight"][0, :, 0, 0]
    assert gates[order].tolist() == pytest.approx([1.0, *marginals[0][: group.size - 1].tolist()])
    changed = {name for name, weight in gated.items() if not torch.equal(weight, weights[name])}
    read = {"same", "expand", "reduce", "gate", "project", "head"}
    assert changed == {f"{layer}.weight" for layer in read}


def test_channels_that_bounds_exclude_are_closed() -> None:
    task = replace(tiny_problem(), rules=WidthRules(ratios={"*": (0.0, 0.6)}))
    widths, chains = all_of(task)
    marginals = chains.marginals(torch.full(chains.exists.shape, 3.0, dtype=torch.float64))
    weights = {name: torch.ones_like(p) for name, p in task.model.named_parameters()}
    gates = Gating(widths)(weights, marginals)["project.weight"][0, :, 0, 0]
    order = np.argsort(-widths.order["expand"], kind="stable")
    likely = torch.tensor(3.0).double().sigmoid().item()
    assert gates[order].tolist() == pytest.approx([1.0, likely, likely**2, 0.0, 0.0])


# Training and the decision


def trained(settings: DMCP, task: Problem | None = None):  # type: ignore[no-untyped-def]
    task = task or problem()
    widths = list_widths(task, settings)
    with task.meter.phase("supernet"):
        found = train_markov(widths, settings)
    (row,) = [row for row in task.trace_rows if row["step"] == "train_markov"]
    return task, Chains.of(widths.grid), torch.from_numpy(found.records["logits"]), row


@pytest.mark.parametrize("metric", ["macs", "params", "latency"])
def test_chains_start_at_the_target_with_equal_last_marginals(metric: Metric) -> None:
    task = tiny_problem(0.4, metric)
    _, chains = all_of(task)
    cost = ExpectedCost(task)
    marginals = chains.marginals(equal_logits(chains, cost, float(task.budget.limit)))
    assert float(chains.cost(cost, marginals)) == pytest.approx(task.budget.limit, rel=1e-6)
    lasts = [float(r[e][-1]) for r, e in zip(marginals, chains.exists, strict=True)]
    assert lasts == pytest.approx([lasts[0]] * len(lasts), rel=1e-9)


def test_alpha_rests_in_the_warm_up_and_moves_after_it() -> None:
    task, chains, logits, row = trained(replace(DMCP.tiny(), warm_up=1.0))
    start = equal_logits(chains, ExpectedCost(task), float(task.budget.limit))
    assert torch.equal(logits, start) and row["gated_losses"] == []
    _, _, moved, row = trained(replace(DMCP.tiny(), warm_up=0.5))
    assert len(row["losses"]) == 4 and len(row["gated_losses"]) == 2
    assert row["expected_costs"][0] == pytest.approx(task.budget.limit, rel=1e-6)
    assert (moved != start).any(1).all() and torch.equal(
        moved[~chains.exists], start[~chains.exists]
    )


def test_every_pass_is_charged() -> None:
    settings = replace(DMCP.tiny(), steps=4, warm_up=0.5, random_subnets=0)
    task, _, _, row = trained(settings)
    ends = [task.cost.full_macs, int(task.cost.macs_of_widths(task.narrowest[None])[0])]
    passes = 4 * BATCH * sum(ends) + 2 * BATCH * task.cost.full_macs
    spent = task.meter.spent["supernet"]
    assert (spent.macs_forward, spent.macs_backward) == (passes, 2 * passes)
    assert row["pairs"] == 4 * BATCH * 2 + 2 * BATCH and spent.images == 4 * BATCH
    told = settings.effort(task)["supernet"]
    assert told == pytest.approx(spent.macs, rel=0.01)
    middle = task.cost.macs_of_widths(((task.narrowest + task.widest) // 2)[None])
    more = replace(settings, random_subnets=2).effort(task)["supernet"] - told
    assert more == 3 * 4 * BATCH * 2 * int(middle[0])


def test_the_expected_cost_goes_to_the_target_from_both_sides() -> None:
    task = tiny_problem(0.5)
    _, chains = all_of(task)
    cost, target = ExpectedCost(task), float(task.budget.limit)
    for start in (0.2, 0.9):
        logits = equal_logits(chains, cost, start * task.full_cost)
        architecture = Architecture(logits, 0.5, 400)
        for _ in range(400):
            expected = chains.cost(cost, chains.marginals(architecture.logits))
            architecture.update(0.1 * budget_loss(expected, target, 0.05))
        found = float(chains.cost(cost, chains.marginals(architecture.logits.detach())))
        assert 0.9 * target <= found <= 1.05 * target


def test_expected_widths_fit_whatever_the_chains_expect() -> None:
    for keep_ratio, shift in product((0.2, 0.5, 0.8), (-3.0, 0.0, 3.0)):
        task = tiny_problem(keep_ratio)
        _, chains = all_of(task)
        logits = drawn_logits(chains)
        found = expected_widths(task, chains, logits + shift)
        assert task.cost_of(found[None])[0] <= task.budget.limit
        # They are expected under some common shift, which is the largest that fits.
        shifts = np.linspace(-20, 20, 2001)
        means = [chains.moments(chains.marginals(logits + shift + each)) for each in shifts]
        rounded = np.stack([np.rint(each.numpy()) for each in means]).astype(np.int64)
        assert (rounded == found).all(1).any()
        costs = task.cost_of(rounded)
        best = costs[costs <= task.budget.limit].max(initial=0)
        assert task.cost_of(found[None])[0] == max(best, task.smallest_cost())


def test_a_group_whose_chain_goes_on_is_wider() -> None:
    task = tiny_problem(0.6)
    _, chains = all_of(task)
    for favoured in range(len(task.space.groups)):
        logits = torch.full(chains.exists.shape, -2.0, dtype=torch.float64)
        logits[favoured] = 4.0
        shares = expected_widths(task, chains, logits) / task.space.sizes
        others = np.delete(shares, favoured)
        assert shares[favoured] > others.max()


def test_direct_sampling_takes_the_best_of_networks_drawn_from_the_chains() -> None:
    settings = replace(DMCP.tiny(), sampling="direct", evaluations=6)
    task = problem()
    config = settings.search(task).config
    (row,) = [row for row in task.trace_rows if row["step"] == "draw_only"]
    assert len(row["scores"]) == 6  # type: ignore[arg-type]
    assert task.cost_of_config(config) <= task.budget.limit
    assert settings.search(problem()).config == config
    assert task.meter.spent["search"].macs_forward
    assert "search" not in settings_spent(replace(settings, sampling="expected"))
    assert settings.effort(task)["search"] > 0
    assert replace(settings, sampling="expected").effort(task)["search"] == 0


def settings_spent(settings: DMCP) -> set[str]:
    task = problem()
    settings.search(task)
    return {phase for phase, spent in task.meter.spent.items() if spent.images}


def test_the_network_of_the_highest_score_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen = problem(), []
    group = task.space.groups[0]

    def score(self: DMCP, widths: RankedWidths, config: SubnetConfig, weights: object) -> float:
        seen.append(len(config.indices(group)))
        return float(seen[-1])

    monkeypatch.setattr(DMCP, "accuracy", score)
    config = replace(DMCP.tiny(), sampling="direct", evaluations=20).search(task).config
    assert len(set(seen)) > 1 and len(config.indices(group)) >= max(seen) > seen[0]


def test_random_networks_are_uniform_in_the_warm_up_and_come_from_the_chains_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, drawn = problem(keep_ratio=0.05), []

    def spied(grid: WidthGrid, between: np.ndarray) -> np.ndarray:
        drawn.append((between / np.maximum(grid.full, 1)).mean())
        return grid.full[None]

    monkeypatch.setattr("baselines.dmcp.sandwich_states", spied)
    settings = replace(DMCP.tiny(), steps=6, ratios=8, random_subnets=500, architecture_lr=1e-9)
    row = trained(replace(settings, uniform_share=0.0), task)[3]
    widths = list_widths(task, settings)
    means = np.array(row["expected_widths"])
    lasts = np.array([each[-1] for each in widths.grid.widths])
    firsts = np.array([each[0] for each in widths.grid.widths])
    of_chains = ((means - firsts) / (lasts - firsts)).mean()
    assert of_chains < 0.2
    assert drawn[:4] == pytest.approx([0.5] * 4, abs=0.02)  # of 500 networks of ten groups
    assert drawn[4:] == pytest.approx([of_chains] * 2, abs=0.05)
    drawn.clear()
    trained(replace(settings, uniform_share=0.25), problem(keep_ratio=0.05))
    shares = [(each - of_chains) / (0.5 - of_chains) for each in drawn[3:]]
    assert shares == pytest.approx([1.0, 0.25 ** (1 / 3), 0.25 ** (2 / 3)], abs=0.1)


def test_one_update_is_a_step_of_nesterov_and_the_rate_falls_to_a_fifth() -> None:
    start = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    architecture = Architecture(start.clone(), 0.5, 8)
    for step in range(8):
        architecture.update((architecture.logits * torch.tensor([[3.0, 0.0]])).sum())
        if step == 0:
            by_hand = start - 0.5 * torch.tensor([[3.0 + 0.9 * 3.0, 0.0]])
            torch.testing.assert_close(architecture.logits.detach(), by_hand)
    (group,) = architecture.state_dict()["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(0.1)


def test_the_golden_answer_is_learnt_and_not_where_the_chains_start() -> None:
    for steps, wanted in ((0, [4, 4]), (120, [6, 2])):
        golden = DMCP.golden()
        pruner = replace(DMCP.tiny(), **{**golden.settings, "steps": steps})  # type: ignore[arg-type]
        widths = pruner.search(golden.problem).config.widths(golden.problem.space)
        assert sorted(widths.tolist(), reverse=True) == wanted


def test_the_budget_holds_back_what_the_task_would_widen() -> None:
    found = {}
    for weight in (0.0, 0.1):
        task = planted_problem(live_a=range(8), live_b=(), keep_ratio=0.5)
        settings = replace(DMCP.tiny(), steps=60, ratios=8, warm_up=0.0, budget_weight=weight)
        row = trained(settings, task)[3]
        found[weight] = np.mean(row["expected_costs"][-10:]) / task.budget.limit
    assert found[0.0] > 1.2 and 0.95 < found[0.1] < 1.05


def test_a_supernet_serves_one_budget(tmp_path: Path) -> None:
    found = []
    for keep_ratio in (0.3, 0.7):
        task = problem(keep_ratio=keep_ratio)
        task.store = SupernetStore(tmp_path, "origin")
        DMCP.tiny().search(task)
        (row,) = [row for row in task.trace_rows if row["step"] == "train_markov"]
        found.append(row["expected_costs"])
        assert task.meter.spent["supernet"].macs_backward
    assert found[0] != found[1] and not [*tmp_path.iterdir()]


def test_a_checkpoint_of_another_budget_is_not_gone_on_with(tmp_path: Path) -> None:
    def asked(keep_ratio: float, at: int | None = None, folder: Path | None = tmp_path) -> Problem:
        task = problem(keep_ratio=keep_ratio)
        if folder is not None:
            task.checkpoints = Checkpoints(folder, "origin", seconds=0)
        if at is not None:
            task.data.training._source = Killing(task.data.training._source, at)
        return task

    assert was_killed(lambda: DMCP.tiny().search(asked(0.3, 3)))
    again, undisturbed = asked(0.7), asked(0.7, folder=None)
    assert DMCP.tiny().search(again).config == DMCP.tiny().search(undisturbed).config
    assert again.trace_rows == undisturbed.trace_rows


def test_a_loss_that_is_no_number_ends_the_search() -> None:
    architecture = Architecture(torch.zeros(1, 1, dtype=torch.float64), 0.1, 1)
    with pytest.raises(Diverged, match="lower lr or"):
        architecture.update(architecture.logits.sum() * math.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"warm_up": 1.5}, "warm_up is 1.5; it must be at least 0 and at most 1"),
        ({"tolerance": 0.0}, "tolerance is 0.0; it must be above 0 and below 1"),
        ({"architecture_lr": 0.0}, "architecture_lr is 0.0; it must be above 0"),
        ({"uniform_share": 2.0}, "uniform_share is 2.0; it must be at least 0 and at most 1"),
        ({"sampling": "random"}, "unknown sampling 'random'"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DMCP.tiny(), **change)  # type: ignore[arg-type]
