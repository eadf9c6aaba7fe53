"""Selection rules: widths within a budget on the recounted cost."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from torch import Tensor, nn

from tests.problems import problem as float64_problem
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.contract.trial import NETWORKS, Trial
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.method.discovery import get_pruner
from zoo.core.method.planted import planted_problem
from zoo.core.method.problem import Problem
from zoo.core.search.widths_in_budget import (
    fill_closely,
    fill_up,
    global_widths,
    keep_best,
    largest_feasible,
    legal_widths,
    next_widths,
    random_widths,
    uniform_widths,
)


def tiny_problem(network: str, keep_ratio: float, rules: WidthRules | None = None) -> Problem:
    return Trial(get_pruner("uniform"), network).run(keep_ratio, rules).problem


@pytest.mark.parametrize("divisor", [1, 3, 8])
def test_legal_widths_round_as_the_rules_do(divisor: int) -> None:
    problem = tiny_problem("residual", 0.5, WidthRules(min_keep=0.2, divisor=divisor))
    sizes = problem.space.sizes
    shares = np.linspace(0, 1, 50)[:, None]
    widths = 1.1 * shares * sizes  # fractions, and more than there are
    expected = [
        [
            max((step for step in legal if step <= width), default=legal[0])
            for width, legal in zip(row, problem.rules.legal(problem.space), strict=True)
        ]
        for row in widths.tolist()
    ]
    assert legal_widths(problem, widths).tolist() == expected


def test_next_widths_are_the_next_legal_ones() -> None:
    problem = tiny_problem("residual", 0.5, WidthRules(divisor=8))
    widths = problem.rules.minimums(problem.space)
    every = problem.rules.legal(problem.space)
    for width, wider, legal in zip(widths, next_widths(problem, widths), every, strict=True):
        assert wider == legal[min(legal.index(width) + 1, len(legal) - 1)]


def test_largest_feasible_equals_brute_force() -> None:
    problem = planted_problem(range(8), (), keep_ratio=0.4)
    candidates = np.array(list(product(range(1, 9), repeat=2)))
    costs = [problem.cost.macs_of_widths(row[None])[0] for row in candidates]
    best = max(cost for cost in costs if cost <= problem.budget.limit)
    found = largest_feasible(problem, candidates)
    assert problem.cost.macs_of_widths(found[None])[0] == best


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("keep_ratio", [0.7, 0.4, 0.25])
@pytest.mark.parametrize("divisor", [1, 8])
def test_filled_widths_fit_and_no_single_step_more_does(
    network: str, keep_ratio: float, divisor: int
) -> None:
    problem = tiny_problem(network, keep_ratio, WidthRules(divisor=divisor))
    rng = np.random.default_rng(0)
    scores = {group.name: rng.random(group.size) for group in problem.space.groups}
    for widths in (uniform_widths(problem), global_widths(problem, scores)):
        assert problem.cost.macs_of_widths(widths[None])[0] <= problem.budget.limit
        for g, wider in enumerate(next_widths(problem, widths)):
            if wider > widths[g]:
                more = widths.copy()
                more[g] = wider
                assert problem.cost.macs_of_widths(more[None])[0] > problem.budget.limit


def test_uniform_widths_share_one_ratio() -> None:
    problem = tiny_problem("residual", 0.5)
    ratios = uniform_widths(problem) / problem.space.sizes
    one_channel = 1 / problem.space.sizes.min()
    assert ratios.max() - ratios.min() <= 2 * one_channel


def test_smaller_budget_never_widens_the_uniform_network() -> None:
    costs = []
    for keep_ratio in (0.2, 0.3, 0.5, 0.8):
        problem = tiny_problem("squeeze_excite", keep_ratio)
        costs.append(problem.cost.macs_of_widths(uniform_widths(problem)[None])[0])
    assert costs == sorted(costs)


def test_global_threshold_drops_the_lowest_scores_of_the_network() -> None:
    problem = planted_problem(range(8), (), keep_ratio=0.5)
    names = [group.name for group in problem.space.groups]
    scores = {names[0]: np.arange(8) + 0.5, names[1]: np.arange(8) * 1.0 + 3}
    # Of 0.5, ..., 7.5 and 3, ..., 10 the best eight are 7.5, 6.5 and 5.5 upwards against 6 to 10.
    widths = global_widths(problem, scores)
    ranked = sorted([(s, 0) for s in scores[names[0]]] + [(s, 1) for s in scores[names[1]]])
    expected = [sum(1 for _, g in ranked[-8:] if g == which) for which in (0, 1)]
    assert widths.tolist() == expected


def test_minimum_width_is_kept_however_low_a_group_scores() -> None:
    problem = planted_problem(range(8), (), keep_ratio=0.5)
    problem.rules = WidthRules(min_keep=0.25)
    names = [group.name for group in problem.space.groups]
    scores = {names[0]: np.zeros(8), names[1]: np.arange(8) + 1.0}
    assert global_widths(problem, scores).tolist() == [2, 6]


def test_fill_up_goes_by_priority() -> None:
    problem = planted_problem(range(8), (), keep_ratio=0.5)
    start = np.array([1, 1])
    assert fill_up(problem, start, lambda widths: np.array([1.0, 0.0])).tolist() == [7, 1]
    assert fill_up(problem, start, lambda widths: np.array([0.0, 1.0])).tolist() == [1, 7]


@pytest.mark.parametrize("name", ["global_widths", "keep_best"])
def test_a_score_that_is_nan_is_refused_and_infinity_is_not(name: str) -> None:
    """An order puts NaN last, so that channels would be kept by where they stand."""
    problem = planted_problem(range(8), (), keep_ratio=0.5)
    scores = {g.name: np.arange(g.size, dtype=float) for g in problem.space.groups}
    first = problem.space.groups[0].name

    def decide() -> object:
        if name == "global_widths":
            return global_widths(problem, scores)
        return keep_best(problem.space, scores, problem.space.sizes // 2)

    scores[first][-1] = np.inf
    decide()
    scores[first][0] = np.nan
    with pytest.raises(ValueError, match=f"1 of [0-9]+ scores of group '{first}' are NaN; give"):
        decide()


def test_keep_best_prefers_the_lower_index_among_equals() -> None:
    problem = planted_problem(range(8), (), keep_ratio=0.5)
    names = [group.name for group in problem.space.groups]
    scores = {names[0]: np.array([0.0, 5, 0, 5, 0, 0, 7, 0]), names[1]: np.zeros(8)}
    config = keep_best(problem.space, scores, np.array([4, 2]))
    assert config == SubnetConfig({names[0]: (0, 1, 3, 6), names[1]: (0, 1)})


def test_a_channel_is_given_up_where_every_single_step_is_too_large() -> None:
    problem = float64_problem("test_efficientnet", keep_ratio=0.5)
    sizes = problem.space.sizes
    names = [group.name for group in problem.space.groups]
    widths = np.where([name == names[0] for name in names], 4, sizes)
    wider = np.where([name == names[0] for name in names], 5, sizes)
    cost, next_cost = problem.cost.macs_of_widths(np.stack([widths, wider])).tolist()
    tight = replace(problem, budget=Budget("macs", cost + (9 * (next_cost - cost)) // 10))

    def share(found: np.ndarray) -> float:
        return float(problem.cost.macs_of_widths(found[None])[0] / tight.budget.limit)

    def priority(now: np.ndarray) -> np.ndarray:
        found: np.ndarray = -now / sizes
        return found

    assert np.array_equal(fill_up(tight, widths, priority), widths)
    slack = (1 - share(widths)) / 10
    found = fill_closely(tight, widths, priority, slack=slack)
    assert share(widths) < 1 - slack <= share(found) <= 1
    assert (found >= problem.rules.minimums(problem.space)).all() and (found <= sizes).all()


class Coarse(nn.Module):
    """Few legal widths at a divisor of 16, between which single steps are large."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 48, 3, padding=1)
        self.c, self.d = nn.Conv2d(48, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.a(images).relu()
        features = features + self.c(self.b(features).relu()).relu()
        return self.head(self.d(features).relu().mean((2, 3)))


def coarse_problem(ratio: float = 0.8) -> Problem:
    model = Coarse().eval()
    cost = CostModel(ChannelSpace.trace(model, (3, 8, 8)))
    data = float64_problem().data  # nothing of it is drawn
    budget, rules = Budget.parse(ratio, cost), WidthRules(min_keep=0.3, divisor=16)
    return Problem(model, cost.space, cost, budget, data, rules)


@pytest.mark.parametrize("ratio", [0.65, 0.7, 0.8])
def test_a_coarse_grid_is_filled_closely(ratio: float) -> None:
    problem = coarse_problem(ratio)
    every = np.array(list(product(*problem.legal)))
    costs = problem.cost_of(every)
    best = costs[costs <= problem.budget.limit].max()
    rng = np.random.default_rng(0)
    scores = {group.name: rng.random(group.size) for group in problem.space.groups}
    found = [uniform_widths(problem), global_widths(problem, scores)]
    found += [random_widths(problem, np.random.default_rng(seed)) for seed in range(5)]
    reached = problem.cost_of(np.stack(found))
    assert (reached == best).all()


def test_groups_that_are_not_free_stay_wide_on_a_coarse_grid() -> None:
    problem = coarse_problem()
    free = np.array([True, False, True])  # an exchange would narrow the second, for more cost
    for seed in range(5):
        widths = random_widths(problem, np.random.default_rng(seed), free)
        assert (widths[~free] == problem.widest[~free]).all()
        assert problem.cost_of(widths[None])[0] <= problem.budget.limit
