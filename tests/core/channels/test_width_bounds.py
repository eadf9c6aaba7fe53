"""Bounds by pattern: which groups are meant, which widths are left, and what is said if none."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tests.problems import parent
from tests.problems import problem as made_problem
from tests.ready import OURS
from zoo.core.channels.channel_group import ChannelGroup
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.width_bounds import Ratio, found_groups, parse_ratio
from zoo.core.cost.budget import Budget
from zoo.core.errors import InfeasibleBudget
from zoo.core.method.discovery import create_pruner, get_pruner
from zoo.core.method.planted import planted_problem
from zoo.core.method.problem import Problem

SIZE = 8  # channels of both groups of the planted network


def meant(pattern: str) -> set[str]:
    groups = parent("resnet20_cifar")[1].groups
    return {groups[ordinal].name for ordinal in found_groups(pattern, groups)}


def planted(**rules: object) -> Problem:
    problem = planted_problem(range(4), range(4, 8), keep_ratio=0.5)
    return replace(problem, rules=WidthRules(**rules))  # type: ignore[arg-type]


def test_patterns_mean_groups_by_name_module_and_parent_module() -> None:
    by_name = {group.name: group for group in parent("resnet20_cifar")[1].groups}
    inner = {"layer2.0.conv1", "layer2.1.conv1", "layer2.2.conv1"}
    assert meant("layer2.*.conv1") == inner
    # conv2 of every block adds to the stream, which is named after the first layer that makes it.
    stream = meant("layer2.1.conv2")
    assert len(stream) == 1 and by_name[stream.copy().pop()].residual
    assert meant("layer2.?.conv2") == stream
    assert meant("layer2") == meant("layer2.*") == inner | stream
    assert meant("*") == set(by_name)
    assert meant("Layer2") == set()


def test_stem_and_skips_are_told_by_stage_and_addition() -> None:
    groups = parent("resnet20_cifar")[1].groups
    assert meant("stem") == {g.name for g in groups if g.stage == 0} != set()
    assert meant("skips") == {g.name for g in groups if g.residual} != set()


def test_a_module_called_stem_is_meant_before_the_word() -> None:
    group = parent("resnet20_cifar")[1].groups[-1]
    member = replace(group.members[0], tensor="stem.conv.weight", role="out")
    called: ChannelGroup = replace(group, name="stem.conv", stage=3, members=(member,))
    first = replace(called, name="conv1", stage=0, members=())
    assert found_groups("stem", [first, called]) == (1,)
    assert found_groups("stem", [first]) == (0,)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0.8, 0.8),
        (1, 1.0),
        ("0.8", 0.8),
        ((0.5, 0.9), (0.5, 0.9)),
        ([0.5, 1], (0.5, 1.0)),
        ("0.5:0.9", (0.5, 0.9)),
        ("0.5:", (0.5, 1.0)),
        (":0.9", (0.0, 0.9)),
        ((0.7, 0.7), 0.7),
    ],
)
def test_ratios_have_one_meaning_in_python_files_and_text(given: object, expected: Ratio) -> None:
    assert parse_ratio(given) == expected
    assert parse_ratio(parse_ratio(given)) == expected


@pytest.mark.parametrize(
    "given",
    [
        *(0, -0.1, 1.1, math.nan, True, None),
        *("", "a", "1:2", "0.9:0.5", "0.1:0.2:0.3"),
        *((0.9, 0.5), (0.5,), (0, 0), (0.1, math.nan), ("0.1", "0.5"), (True, True)),
        {"min": 0.5},
    ],
)
def test_what_is_no_ratio_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"no ratio of what is kept; give 0\.8"):
        parse_ratio(given)


BOUNDS: list[tuple[dict[str, object], str]] = [
    ({"keep": ["conv_a"]}, "a == 8"),
    ({"ratios": {"conv_a": 0.5}}, "a == 4"),
    ({"ratios": {"conv_a": 0.44}}, "a == 4"),  # 3.52 channels
    ({"ratios": {"conv_a": 0.4375}}, "a == 4"),  # 3.5 channels: of two as near, the wider
    ({"ratios": {"conv_?": (0.3, 0.7)}}, "3 <= a <= 5 and 3 <= b <= 5"),
    ({"ratios": {"*": (0.5, 1), "conv_b": (0, 0.75)}}, "a >= 4 and 4 <= b <= 6"),
    ({"ratios": {"conv_a": (0.25, 1)}, "divisor": 3}, "a in (3, 6, 8) and b in (3, 6, 8)"),
    ({"ratios": {"conv_a": 0.6}, "divisor": 4}, "a == 4 and b in (4, 8)"),  # 4.8 channels
    ({"ratios": {"*": 0.5}}, "a == 4 and b == 4"),
    ({"ratios": {"*": (0, 0.5)}, "min_keep": 0.5}, "a == 4 and b == 4"),
    ({"keep": ["conv_a"], "ratios": {"conv_b": (0, 0.5)}}, "a == 8 and b <= 4"),
]


def legal_by_hand(condition: str) -> set[tuple[int, int]]:
    """All pairs of widths of the planted network for which a condition on them holds."""
    pairs = product(range(1, SIZE + 1), repeat=2)
    return {(a, b) for a, b in pairs if eval(condition, {"a": a, "b": b})}


@pytest.mark.parametrize(("rules", "condition"), BOUNDS)
def test_legal_networks_are_all_those_within_the_bounds(
    rules: dict[str, object], condition: str
) -> None:
    problem = planted(**rules)
    assert set(product(*problem.rules.legal(problem.space))) == legal_by_hand(condition)
    legal = legal_by_hand(condition)
    for widths in product(range(1, SIZE + 1), repeat=2):
        named = dict(zip(("conv_a", "conv_b"), widths, strict=True))
        config = SubnetConfig.from_widths(problem.space, named)
        if widths in legal:
            problem.rules.check(problem.space, config)
        else:
            with pytest.raises(ValueError, match=r"keeps|multiple"):
                problem.rules.check(problem.space, config)


@pytest.mark.parametrize(("rules", "condition"), BOUNDS[::2])
@pytest.mark.parametrize("name", OURS)
def test_every_pruner_returns_one_of_the_legal_networks(
    name: str, rules: dict[str, object], condition: str
) -> None:
    problem = planted(**rules)
    legal = np.array(sorted(legal_by_hand(condition)))
    costs = sorted(set(problem.cost.macs_of_widths(legal).tolist()))
    # The tightest budget, one between, and one that no bounded network spends.
    for limit in dict.fromkeys((costs[0], costs[len(costs) // 2], problem.cost.full_macs)):
        within = replace(problem, budget=Budget("macs", limit), trace_rows=[])
        config = get_pruner(name).tiny().search(within).config
        widths = config.widths(problem.space)
        assert tuple(widths.tolist()) in legal_by_hand(condition)
        assert problem.cost.macs(config) <= limit
        wider = (legal >= widths).all(1) & (legal != widths).any(1)
        assert (problem.cost.macs_of_widths(legal[wider]) > limit).all(), "channels are left"


def test_junctions_that_stagewise_prunes_stay_within_bounds() -> None:
    _, space = parent("resnet20_cifar")
    rules = WidthRules(keep=("layer1",), ratios={"layer2": (0.5, 0.75)})
    task = made_problem("resnet20_cifar", 0.6, rules)
    pruner = replace(get_pruner("stagewise").tiny(), junctions="leading")
    config = pruner.search(task).config
    rules.check(space, config)
    assert task.cost.macs(config) <= task.budget.limit


def test_what_knapsack_protects_is_what_keep_names() -> None:
    words = ("stem", "skips")
    protecting = create_pruner("knapsack", calibration=0.01, solver="exact", protect=words)
    keeping = create_pruner("knapsack", calibration=0.01, solver="exact")
    configs = [
        protecting.search(made_problem("resnet20_cifar", 0.7)).config,
        keeping.search(made_problem("resnet20_cifar", 0.7, WidthRules(keep=words))).config,
    ]
    assert configs[0] == configs[1]


def test_a_pattern_that_matches_nothing_names_the_nearest() -> None:
    _, space = parent("resnet20_cifar")
    with pytest.raises(ValueError, match=r"module 'layr4\.\*'; did you mean 'layer"):
        WidthRules(keep=("layr4.*",)).legal(space)
    with pytest.raises(ValueError, match=r"'stemm'; did you mean 'stem'"):
        WidthRules(ratios={"stemm": 0.5}).legal(space)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"keep": ["conv_a"], "ratios": {"conv_*": (0, 0.5)}},
            r"keep 'conv_a' and ratio 'conv_\*' = 0:0\.5 leave group 'conv_a' of 8 .* no common",
        ),
        (
            {"ratios": {"*": (0.2, 1), "conv_b": 0.5, "c*": 0.9}},
            r"ratio 'conv_b' = 0\.5 and ratio 'c\*' = 0\.9 leave group 'conv_b'",
        ),
        (
            {"ratios": {"conv_b": (0.6, 0.7)}, "divisor": 4},
            r"'conv_b' = 0\.6:0\.7 leaves group 'conv_b' of 8 .* near it are 4 and 8: widen",
        ),
        ({"ratios": {"conv_b": 0.05}}, r"ratio 'conv_b' = 0\.05 is below min_keep, 0\.1; lower"),
        ({"keep": "conv_a"}, r"keep is 'conv_a'; it must be a list"),
        ({"ratios": 0.5}, r"ratios is 0\.5; give some by pattern"),
    ],
)
def test_bounds_that_leave_no_width_name_the_patterns(
    rules: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        problem = planted(**rules)
        problem.rules.legal(problem.space)


def least(problem: Problem, condition: str) -> int:
    legal = np.array(sorted(legal_by_hand(condition)))
    return int(problem.cost.macs_of_widths(legal).min())


def test_an_infeasible_budget_names_the_bound_in_the_way() -> None:
    problem = planted(keep=["conv_a"], ratios={"conv_b": (0.25, 1)})
    bounded, free = least(problem, "a == 8 and b >= 2"), least(problem, "a > 0")
    without = least(problem, "b >= 2")
    problem.budget = Budget("macs", bounded)
    problem.check_feasible()
    problem.budget = Budget("macs", bounded - 1)
    with pytest.raises(InfeasibleBudget) as raised:
        problem.check_feasible()
    assert str(raised.value) == (
        f"budget {bounded - 1:,} macs is below the smallest subnet within the bounds, "
        f"{bounded:,} macs; without them it is {free:,} macs; keep 'conv_a' is most in the way, "
        f"without it the smallest costs {without:,} macs: loosen it or raise the budget"
    )


def test_bounds_that_only_together_are_in_the_way_are_all_named() -> None:
    problem = planted(keep=["conv_a"], ratios={"conv_a": (0.5, 1), "*": 1.0})
    problem.budget = Budget("macs", problem.smallest_cost() - 1)
    with pytest.raises(InfeasibleBudget, match=r"without it the smallest costs"):
        problem.check_feasible()
    problem = planted(keep=["conv_*"], ratios={"*": 1.0})
    problem.budget = Budget("macs", problem.smallest_cost() - 1)
    told = r"no bound is in the way alone: loosen several of keep 'conv_\*', ratio '\*' = 1"
    with pytest.raises(InfeasibleBudget, match=told):
        problem.check_feasible()


def test_a_budget_below_the_network_without_bounds_says_so() -> None:
    problem = planted(keep=["conv_a"])
    problem.budget = Budget("macs", 1)
    with pytest.raises(InfeasibleBudget, match=r"that alone is not enough: raise it"):
        problem.check_feasible()
    problem = planted(keep=["conv_a"], min_keep=0.5)
    problem.budget = Budget("macs", 1)
    with pytest.raises(InfeasibleBudget, match=r"enough: raise it or lower min_keep \(0\.5\)"):
        problem.check_feasible()


def test_a_network_that_bounds_narrow_is_not_whole_at_any_budget() -> None:
    problem = planted(ratios={"conv_a": 0.5})
    problem.budget = Budget("macs", problem.cost.full_macs)
    assert not problem.is_full
    assert planted_problem(range(4), range(4, 8), keep_ratio=1.0).is_full
