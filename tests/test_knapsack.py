"""The knapsack method: values, solvers, budget and inner distillation."""

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from tests.problems import problem as a_problem
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.contract.trial import NETWORKS, Trial, images_and_labels
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.batches import Batches, ImageTensors
from zoo.core.data.metered import MeteredData
from zoo.core.errors import InfeasibleBudget
from zoo.core.meter import Meter
from zoo.core.method.planted import planted_problem
from zoo.core.method.problem import Problem
from zoo.core.networks.rebuild import rebuild
from zoo.core.search.channel_knapsack import Items, exact_widths, greedy_widths, lp_bound
from zoo.core.search.channel_scores import channel_costs
from zoo.core.training.distill import feature_error, relative_feature_error
from zoo.knapsack import (
    InnerDistillation,
    Knapsack,
    embeddings,
    isomorphic_values,
    make_items,
    taylor_values,
    top_modules,
)

FLOAT_NOISE = 1e-9  # sums of at most 30 values below 1, in another order


def random_items(seed: int) -> tuple[Items, int]:
    """A small random knapsack with integer costs, and a capacity that something fits."""
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(2, 6))
    sizes = rng.integers(1, 7, groups)
    smallest = rng.integers(0, 2, groups)
    items = Items(
        tuple(np.sort(rng.random(size))[::-1] for size in sizes),
        rng.integers(1, 20, groups),
        tuple(tuple(range(low, size + 1)) for low, size in zip(smallest, sizes, strict=True)),
    )
    return items, int(rng.integers(items.cost(smallest), items.cost(sizes) + 1))


def in_halves(items: Items) -> Items:
    """The same with values of 0, 1/2, ..., 4, which tie and add up without rounding."""
    return replace(items, values=tuple((8 * v).round() / 2 for v in items.values))


def milp_value(items: Items, capacity: int) -> float:
    """The best value within the capacity, by scipy's mixed-integer solver over single items."""
    values = np.concatenate(items.values)
    costs = np.repeat(items.weights, [len(v) for v in items.values])
    forced = np.concatenate(
        [np.arange(len(v)) < legal[0] for v, legal in zip(items.values, items.legal, strict=True)]
    )
    result = milp(
        -values,
        constraints=LinearConstraint(costs[None], -np.inf, capacity),
        integrality=np.ones(len(values)),
        bounds=Bounds(forced.astype(float), 1),
    )
    return float(-result.fun)


def best_value(items: Items, candidates: np.ndarray, capacity: int) -> float:
    """The best value among candidate widths, shape (n, G), within the capacity."""
    return float(items.value(candidates[items.cost(candidates) <= capacity]).max())


@pytest.mark.parametrize("are_halves", [False, True])
def test_the_exact_solver_is_optimal_within_a_capacity(are_halves: bool) -> None:
    for seed in range(120):
        items, capacity = random_items(seed)
        items = in_halves(items) if are_halves else items
        found = best_value(items, exact_widths(items, items.cost, capacity), capacity)
        assert found == pytest.approx(milp_value(items, capacity), abs=FLOAT_NOISE)


def bilinear(items: Items, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """A recount that grows with every width, as MACs do: products of neighbouring widths."""
    factors = np.random.default_rng(seed).integers(0, 30, len(items.legal))
    return lambda widths: (factors * (widths + 1) * np.roll(widths + 1, 1, axis=1)).sum(axis=1)


def all_optima(items: Items) -> np.ndarray:
    """All widths that no cheaper or equally cheap ones surpass, the best last, shape (n, G).

    From a list of every combination there is. Of equal values the cheapest is the best, then the
    narrowest.
    """
    widths = np.array(list(itertools.product(*items.legal)))
    values, costs = items.value(widths), items.cost(widths)
    order = np.lexsort((-values, costs))
    most = np.maximum.accumulate(values[order])
    widths = widths[order[values[order] == most]]
    spans = [items.weights[g] * (legal[-1] - legal[0]) for g, legal in enumerate(items.legal)]
    keys = [-widths[:, g] for g in np.argsort(spans, kind="stable")]
    return widths[np.lexsort((*keys, -items.cost(widths), items.value(widths)))]


@pytest.mark.parametrize(
    ("kind", "seeds", "pieces"),
    [
        ("reals", 60, 16),
        ("halves", 400, 16),
        ("halves", 100, 2),  # many stretches of capacities
        ("large costs", 60, 16),
        ("steps", 60, 16),
        ("zeros", 60, 16),
    ],
)
def test_the_exact_solver_takes_the_best_optimum_whose_recount_fits(
    kind: str, seeds: int, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("knapsack_optima", "knapsack_relaxation"):
        monkeypatch.setattr(f"zoo.core.search.{module}.PIECES", pieces)
    for seed in range(seeds):
        items, _ = random_items(seed)
        if kind in ("halves", "steps"):
            items = in_halves(items)
        if kind == "large costs":
            items = replace(items, weights=items.weights * 987_654_321 + seed)
        if kind == "steps":
            items = replace(items, legal=tuple((*w[:-1:3], w[-1]) for w in items.legal))
        if kind == "zeros":
            items = replace(
                items,
                values=tuple(np.where(v < 0.4, 0.0, v) for v in items.values),
                weights=items.weights * (np.arange(len(items.weights)) > 0),
            )
        recount, optima = bilinear(items, seed), all_optima(items)
        costs = recount(optima)
        for limit in np.quantile(costs, (0, 0.3, 0.5, 0.8, 1)).astype(int).tolist():
            found = exact_widths(items, recount, limit)
            fitting = found[recount(found) <= limit]
            assert fitting[-1].tolist() == optima[costs <= limit][-1].tolist()


def test_values_that_tie_but_for_rounding_tie() -> None:
    """Tenths are found as good as the integers that they are ten times."""
    for seed in range(150):
        whole = in_halves(random_items(seed)[0])
        whole = replace(whole, values=tuple(2 * v for v in whole.values))
        tenths = replace(whole, values=tuple(v / 10 for v in whole.values))
        recount, optima = bilinear(whole, seed), all_optima(whole)
        costs = recount(optima)
        limit = int(np.quantile(costs, 0.5))
        found = exact_widths(tenths, recount, limit)
        fitting = found[recount(found) <= limit]
        assert whole.value(fitting).max() == whole.value(optima[costs <= limit]).max()


def test_too_many_ties_are_followed_where_they_cost_the_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zoo.core.search.knapsack_ties.MOST_TIED", 8)
    monkeypatch.setattr("zoo.core.search.knapsack_ties.MOST_READS", 3)
    as_good = 0
    for seed in range(100):
        items = in_halves(random_items(seed)[0])
        recount, optima = bilinear(items, seed), all_optima(items)
        limit = int(np.quantile(recount(optima), 0.5))
        found = exact_widths(items, recount, limit)
        value = items.value(found[recount(found) <= limit]).max()
        fitting = optima[recount(optima) <= limit]
        assert value in items.value(fitting)
        as_good += value == items.value(fitting).max()
    assert as_good > 90  # 78 without any


def test_the_exact_solver_finds_nothing_below_the_smallest_recount() -> None:
    items, _ = random_items(3)
    recount = bilinear(items, 3)
    least = int(recount(all_optima(items)).min())
    assert (recount(exact_widths(items, recount, least - 1)) >= least).all()


def every_width_tried(items: Items) -> np.ndarray:
    """The plain dynamic program: largest value within each capacity, from the smallest network."""
    best = np.zeros(1)
    for values, legal, w in zip(items.values, items.legal, items.weights, strict=True):
        costs = ((np.array(legal) - legal[0]) * int(w)).tolist()
        totals = np.append(0.0, np.cumsum(values))[list(legal)]
        after = np.full(len(best) + costs[-1], -np.inf)
        for cost, total in zip(costs, totals, strict=True):
            after[cost : cost + len(best)] = np.maximum(
                after[cost : cost + len(best)], best + total
            )
        best = np.maximum.accumulate(after)
    return best


@pytest.mark.parametrize("seed", range(12))
def test_the_exact_solver_equals_trying_every_width_at_every_capacity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 40, size=6)
    items = Items(
        tuple(np.sort(rng.exponential(size=n))[::-1].round(seed % 3) for n in sizes),  # with ties
        rng.integers(1, 30, size=6),
        tuple((*range(1 + seed % 2, n, 1 + seed % 4), int(n)) for n in sizes),
    )
    best = every_width_tried(items)
    smallest = int(items.cost(np.array([legal[0] for legal in items.legal])))
    for capacity in range(0, len(best), 23):
        found = exact_widths(items, items.cost, smallest + capacity)
        value = best_value(items, found, smallest + capacity)
        assert value == pytest.approx(best[capacity], abs=FLOAT_NOISE)


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_too_many_sums_leave_a_gap_that_is_told(
    noise: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Values in proportion to costs, where each choice is an optimum, and values close to it."""
    monkeypatch.setattr("zoo.core.search.knapsack_optima.MOST_SUMS", 60)
    monkeypatch.setattr("zoo.core.search.knapsack_optima.SOME_SUMS", 60)
    n_told = 0
    for seed in range(40):
        items, _ = random_items(seed + 100)
        rng, sizes = np.random.default_rng(seed), [len(v) for v in items.values]
        near = [1 + noise * np.sort(rng.random(size))[::-1] for size in sizes]
        items = replace(
            items, values=tuple(w * v for w, v in zip(items.weights, near, strict=True))
        )
        recount, optima = bilinear(items, seed), all_optima(items)
        limit = int(np.quantile(recount(optima), 0.5))
        caplog.clear()
        found = exact_widths(items, recount, limit)
        best = found[recount(found) <= limit][-1]
        told = re.search(r"more than 60 sums: the choice found may lose (\S+) of", caplog.text)
        gap = float(told[1]) if told else 0.0
        value, cost = float(items.value(best)), int(items.cost(best))
        optimum = best_value(items, optima, cost)
        # Told to one digit, of what is gained above the smallest network.
        assert value >= (1 - 1.5 * gap) * optimum - FLOAT_NOISE
        n_told += told is not None
        if told is None:
            assert best.tolist() == optima[recount(optima) <= limit][-1].tolist()
    assert 0 < n_told < 40


def test_splitting_a_range_of_capacities_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    items = Items(
        tuple(np.sort(np.random.default_rng(g).random(60))[::-1] for g in range(6)),
        np.array([1_013, 1_999, 3_001, 4_001, 5_003, 6_007]),
        tuple(tuple(range(61)) for _ in range(6)),
    )
    limit = 700_000
    whole = exact_widths(items, items.cost, limit)
    monkeypatch.setattr("zoo.core.search.knapsack_optima.MOST_SUMS", 2_000)
    halves = exact_widths(items, items.cost, limit)
    assert len(halves) < len(whole)
    assert halves[items.cost(halves) <= limit][-1].tolist() == (
        whole[items.cost(whole) <= limit][-1].tolist()
    )


def test_greedy_is_within_one_item_of_the_bound() -> None:
    for seed in range(120):
        items, capacity = random_items(seed)
        bound = lp_bound(items, capacity)
        greedy = best_value(items, greedy_widths(items), capacity)
        assert greedy <= milp_value(items, capacity) + FLOAT_NOISE <= bound + 2 * FLOAT_NOISE
        assert bound - greedy <= np.concatenate(items.values).max() + FLOAT_NOISE


def test_divisor_steps_are_taken_whole() -> None:
    items = Items((np.array([5.0, 4, 3, 2, 1]), np.array([1.5, 1.5, 1.5])), np.array([3, 1]),
                  ((2, 4, 5), (1, 2, 3)))  # fmt: skip
    for candidates in (greedy_widths(items), exact_widths(items, items.cost, 10)):
        assert all(w in (2, 4, 5) for w in candidates[:, 0])
        assert all(w in (1, 2, 3) for w in candidates[:, 1])


def test_channels_weigh_what_making_them_costs() -> None:
    problem = planted_problem(range(8), (), keep_ratio=0.5)
    assert channel_costs(problem).tolist() == [8 * 16, 8 * 16]  # 8 inputs at 4 x 4 positions
    problem.budget = Budget("params", 100)
    assert channel_costs(problem).tolist() == [8, 8]


def test_depthwise_weights_count_for_the_group_they_belong_to() -> None:
    trial = Trial(Knapsack, "depthwise")
    costs = dict(
        zip([g.name for g in trial.space.groups], channel_costs(_half(trial)), strict=True)
    )
    # Expansion from 8 channels at 16 x 16, then 3 x 3 depthwise with stride 2 at 8 x 8.
    assert costs["blocks.1.0.conv_pw"] == 8 * 256 + 9 * 64


FILTERS = [[3.0, -1.0], [-2.0, 1.0]]  # sums 2 and -1


class TwoFilters(nn.Module):
    """Two 1 x 1 filters, pooled: on an image of ones the logits are the sums of their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor(FILTERS).view(2, 2, 1, 1))
            self.fc.weight.copy_(torch.eye(2))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.conv(images).mean((2, 3)))


def _half(trial: Trial) -> Problem:
    return trial.run().problem


def two_filters() -> Problem:
    model = TwoFilters().eval()
    space = ChannelSpace.trace(model, (2, 2, 2))
    cost, meter = CostModel(space), Meter()
    ones = ImageTensors(
        torch.full((1, 2, 2, 2), 255, dtype=torch.uint8),
        torch.zeros(1, dtype=torch.long),
        (0, 0),
        (1, 1),
    )
    data = MeteredData(Batches(ones, 1), Batches(ones, 1), meter)
    return Problem(model, space, cost, Budget.parse(0.8, cost), data, meter=meter)


def test_values_by_hand() -> None:
    problem = two_filters()
    ones = torch.ones(1, 2, 2, 2)
    batches = [(ones, torch.tensor([0])), (ones, torch.tensor([1]))]
    # dL/dlogits = softmax - one-hot, and dL/dw = dL/dlogit for both weights of its filter.
    p = math.exp(2) / (math.exp(2) + math.exp(-1))
    gradients = np.array([[p - 1, 1 - p], [p, -p]])
    filters = np.array(FILTERS)
    with problem.meter.phase("scoring"):
        per_weight = taylor_values(problem, batches, "per_weight")["conv"]
        per_filter = taylor_values(problem, batches, "per_filter")["conv"]
    single = 1e-6  # the network computes in float32
    np.testing.assert_allclose(
        per_weight, abs(filters).sum(1) * abs(gradients.mean(0)), rtol=single
    )
    np.testing.assert_allclose(per_filter, abs(filters.sum(1) * gradients).sum(0), rtol=single)


def test_values_charge_one_forward_and_backward_pass() -> None:
    problem = two_filters()
    with problem.meter.phase("scoring"):
        taylor_values(problem, problem.data.train(), "per_weight")
    spent = problem.meter.total()
    assert spent.images == 1
    assert (spent.macs_forward, spent.macs_backward) == (problem.cost.full_macs,) * 1 + (
        2 * problem.cost.full_macs,
    )


def signed_sums(is_training: bool) -> Tensor:
    """|sum of W * G| over |W| * |G| of each filter in front of a BatchNorm, shape (4,)."""
    generator = torch.Generator().manual_seed(0)
    conv, bn, fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-12), nn.Linear(4, 5)
    model = nn.Sequential(conv, bn, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    model.train(is_training)
    images = torch.randn(8, 3, 6, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (8,), generator=generator)
    F.cross_entropy(model(images), labels).backward()
    weight, gradient = conv.weight.detach().flatten(1), conv.weight.grad.flatten(1)
    return (weight * gradient).sum(1).abs() / (weight.norm(dim=1) * gradient.norm(dim=1))


def test_signed_value_vanishes_in_train_mode_by_scale_invariance() -> None:
    assert signed_sums(is_training=True).max() < 1e-9  # what is left is eps
    assert signed_sums(is_training=False).min() > 1e-3


# The contract looks at half the MACs, and at the other networks.
@pytest.mark.parametrize(
    "network",
    [n if n == "depthwise" else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS],
)
@pytest.mark.parametrize("solver", ["greedy", "exact"])
@pytest.mark.parametrize("keep_ratio", [0.25, pytest.param(0.5, marks=pytest.mark.slow)])
def test_budget_is_met_on_the_recounted_network(
    network: str, solver: str, keep_ratio: float
) -> None:
    trial = Trial(Knapsack, network)
    trial.pruner = Knapsack(calibration=0.01, solver=solver)  # type: ignore[arg-type]
    run = trial.run(keep_ratio)
    macs, limit = run.problem.cost.macs(run.subnet.config), run.problem.budget.limit
    assert 0.98 * limit <= macs <= limit


@pytest.mark.parametrize("solver", ["greedy", "exact"])
def test_trace_reports_the_gap_to_the_bound(solver: str) -> None:
    trial = Trial(Knapsack, "residual")
    trial.pruner = Knapsack(calibration=0.01, solver=solver)  # type: ignore[arg-type]
    (row,) = [row for row in trial.run().problem.trace_rows if row["step"] == "solve"]
    assert 0 <= row["gap"] < 0.01  # type: ignore[operator]
    expected = 1 - row["value"] / row["bound"]  # type: ignore[operator]
    assert row["gap"] == pytest.approx(expected, abs=FLOAT_NOISE)


@pytest.mark.parametrize("setting", ["solver", "importance", "normalisation"])
def test_unknown_variant_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"unknown {setting} 'gready'"):
        Knapsack(**{setting: "gready"})  # type: ignore[arg-type]


def distillation(teacher: nn.Module, student: nn.Module, gamma: float = 1.0) -> InnerDistillation:
    space = Trial(Knapsack, "residual").space
    return InnerDistillation(
        teacher,
        student,
        space,
        positions=(*space.stages, "logits"),
        gamma=gamma,
        error=relative_feature_error,
    )


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[nn.Module, nn.Module]]:
    """A parent, and the network that is left at half its MACs."""
    trial = Trial(Knapsack, "residual")
    yield trial.first.problem.model, trial.rebuilt()


def test_distillation_is_zero_when_student_equals_teacher(
    pair: tuple[nn.Module, nn.Module],
) -> None:
    teacher = pair[0]
    student = copy.deepcopy(teacher)
    loss = distillation(teacher, student)
    images, labels = images_and_labels(4)
    assert not list(loss.parameters())
    assert loss(student, images, labels) == F.cross_entropy(student(images), labels)


def test_distillation_grows_linearly_with_gamma(pair: tuple[nn.Module, nn.Module]) -> None:
    teacher, student = pair
    batch = images_and_labels(4)
    losses = [distillation(teacher, student, gamma=g)(student, *batch).item() for g in (0, 1, 3)]
    assert losses[1] > losses[0]
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-4)


def test_maps_stand_where_widths_differ_and_are_learned() -> None:
    problem = planted_problem(range(8), (), keep_ratio=0.5)
    names = [group.name for group in problem.space.groups]
    config = SubnetConfig({names[0]: (0, 1, 2)})
    student = rebuild(problem.model, problem.space, config)
    loss = InnerDistillation(
        problem.model,
        student,
        problem.space,
        positions=("conv_a", "conv_b", "logits"),
        gamma=1.0,
        error=feature_error,
    )
    assert {name: tuple(map_.shape) for name, map_ in loss.maps.items()} == {"conv_a": (8, 3)}
    images = torch.ones(2, 8, 4, 4)
    loss(student, images, torch.tensor([0, 1])).backward()
    assert loss.maps["conv_a"].grad is not None and loss.maps["conv_a"].grad.any()


def test_unnormalised_term_is_the_mean_squared_error() -> None:
    problem = planted_problem(range(8), (), keep_ratio=0.5)
    student = copy.deepcopy(problem.model)
    with torch.no_grad():
        student.fc.bias += 2.0  # every logit off by 2, so the mean square is 4
    images, labels = torch.ones(2, 8, 4, 4), torch.tensor([0, 1])
    loss = InnerDistillation(
        problem.model,
        student,
        problem.space,
        positions=("logits",),
        gamma=0.5,
        error=feature_error,
    )
    expected = F.cross_entropy(student(images), labels) + 0.5 * 4.0
    assert loss(student, images, labels).item() == pytest.approx(expected.item())


def test_student_keeps_its_mode(pair: tuple[nn.Module, nn.Module]) -> None:
    teacher, student = pair
    student.train()
    distillation(teacher, student)
    assert all(module.training for module in student.modules())


def stem_and_skips(space: ChannelSpace) -> list[str]:
    return [g.name for g in space.groups if g.residual or g.stage == 0]


def test_protected_groups_stay_whole_and_the_budget_is_met() -> None:
    problem = a_problem("resnet20_cifar", 0.7)
    whole = stem_and_skips(problem.space)
    assert whole and len(whole) < len(problem.space.groups)
    pruner = replace(Knapsack.tiny(), protect=("stem", "skips"))
    config = pruner.search(problem).config
    for group in problem.space.groups:
        assert group.name not in whole or len(config.indices(group)) == group.size
    assert problem.cost.macs(config) <= problem.budget.limit
    assert any(len(config.indices(g)) < g.size for g in problem.space.groups)


def test_protecting_what_a_network_does_not_have_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    problem = a_problem("test_efficientnet", 0.5)  # one block in each stage, so no skips
    both, stem = (
        replace(Knapsack.tiny(), protect=words).search(a_problem("test_efficientnet", 0.5)).config
        for words in (("stem", "skips"), ("stem",))
    )
    assert both == stem and not any(group.residual for group in problem.space.groups)
    (told,) = caplog.messages
    assert told == "protect 'skips' changes nothing: the network has no such groups"


def test_a_budget_below_what_is_protected_says_so() -> None:
    problem = a_problem("resnet20_cifar", 0.1)
    with pytest.raises(InfeasibleBudget, match=r"protected groups whole costs .* protect less"):
        replace(Knapsack.tiny(), protect=("stem", "skips")).search(problem)


def test_isomorphic_groups_lose_the_same_share_of_their_channels() -> None:
    problem = a_problem("resnet20_cifar", 0.5)
    rng = np.random.default_rng(0)
    # A class whose values are a thousand times another's: over the whole network it would go last.
    values = {g.name: rng.random(g.size) * (1000.0 if g.residual else 1.0)
              for g in problem.space.groups}  # fmt: skip
    items = make_items(problem, isomorphic_values(problem, values))
    (middle,) = [w for w in greedy_widths(items) if w.sum() == problem.space.sizes.sum() // 2][:1]
    classes: dict[bool, list[int]] = {}
    for place, group in enumerate(problem.space.groups):
        classes.setdefault(group.residual, []).append(place)
    shares = [middle[p].sum() / problem.space.sizes[p].sum() for p in classes.values()]
    assert len(shares) == 2 and abs(shares[0] - shares[1]) < 0.15
    plain = make_items(problem, values)
    (middle,) = [w for w in greedy_widths(plain) if w.sum() == problem.space.sizes.sum() // 2][:1]
    shares = [middle[p].sum() / problem.space.sizes[p].sum() for p in classes.values()]
    assert abs(shares[0] - shares[1]) > 0.3


def test_maps_start_at_the_embedding_of_the_kept_channels() -> None:
    """A student that only lost channels makes features that the maps put where they were."""
    problem = a_problem("resnet20_cifar", 0.5)
    keep = {g.name: tuple(range(1, g.size, 2)) for g in problem.space.groups}
    config = SubnetConfig(keep)
    student = rebuild(problem.model, problem.space, config)
    loss = Knapsack(maps="kept").loss(problem.model, student, problem.space, config)
    stages = problem.space.stages
    starts = embeddings(problem.space, config, stages)
    assert set(starts) == set(stages) == {"act1", "layer1", "layer2", "layer3"}
    for stage in stages:
        start = loss.maps[stage.replace(".", "/")]
        wide, narrow = start.shape
        features = torch.randn(2, narrow, 3, 3, dtype=start.dtype)
        placed = torch.einsum("tc,nchw->nthw", start, features)
        assert torch.equal(placed[:, range(1, wide, 2)], features)
        assert not placed[:, range(0, wide, 2)].any()
    random = Knapsack(maps="random").loss(problem.model, student, problem.space, config)
    assert not torch.equal(random.maps[_first(random)], loss.maps[_first(loss)])


def _first(loss: InnerDistillation) -> str:
    return next(iter(loss.maps))


@pytest.mark.parametrize(
    ("name", "expected", "dropped"),
    [
        # The pooled features lose channels here, and [official code] then drops their term.
        ("resnet20_cifar", "conv1 act1 layer1 layer2 layer3 global_pool logits", {"global_pool"}),
        (
            "test_efficientnet",
            "conv_stem bn1 blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 conv_head bn2 global_pool "
            "logits",
            set(),
        ),
    ],
)
def test_official_positions_are_the_modules_at_the_top(
    name: str, expected: str, dropped: set[str]
) -> None:
    problem = a_problem(name, 0.5)
    assert top_modules(problem.model, problem.space) == tuple(expected.split())
    pruner = replace(Knapsack.tiny(), positions=("modules",))
    config = pruner.search(problem).config
    student = rebuild(problem.model, problem.space, config)
    loss = pruner.loss(problem.model, student, problem.space, config)
    assert set(expected.split()) - set(loss.positions) == dropped
    images = torch.randn(2, *problem.space.input_size).double()
    value = loss(student, images, torch.tensor([0, 1]))
    assert value > F.cross_entropy(student(images), torch.tensor([0, 1]))
