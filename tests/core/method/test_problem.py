"""What a search sees: random streams, trace, passes that are charged, feasibility."""

import json
from itertools import islice

import numpy as np
import pytest
import torch

from tests.problems import batches
from tests.problems import problem as float64_problem
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.cost.budget import Budget
from zoo.core.errors import InfeasibleBudget
from zoo.core.method.planted import planted_problem
from zoo.core.method.problem import Problem
from zoo.core.networks.rebuild import rebuild
from zoo.core.randomness import stream_seed
from zoo.core.supernet.supernet import CANDIDATE_BATCHES, recalibrate


@pytest.fixture
def problem() -> Problem:
    """All eight classes in branch a, half the budget."""
    return planted_problem(range(8), (), keep_ratio=0.5)


def branch_a(problem: Problem) -> str:
    """Name of the group of the live branch."""
    return next(g.name for g in problem.space.groups if g.members[0].tensor == "conv_a.weight")


def test_streams_repeat_and_differ_by_name_and_seed(problem: Problem) -> None:
    first = problem.rng("data").random(4)
    assert np.array_equal(first, problem.rng("data").random(4))
    assert not np.array_equal(first, problem.rng("train").random(4))
    problem.seed = 1
    assert not np.array_equal(first, problem.rng("data").random(4))


def test_streams_are_those_of_published_records(problem: Problem) -> None:
    """Drawn when the records were written."""
    problem.seed, problem.method = 3, "bnp"
    drawn = [int(problem.rng(name).integers(10**9)) for name in ("search", "train")]
    assert drawn == [667700264, 934663524]
    assert problem.generator("search").initial_seed() == 2364316210236905653
    assert stream_seed("order", 3, 0) == 1763831524496732558  # of `Batches`


def test_only_the_search_stream_depends_on_the_method(problem: Problem) -> None:
    before = {name: problem.rng(name).random() for name in ("data", "train", "search")}
    problem.method = "another"
    same = {name for name in before if problem.rng(name).random() == before[name]}
    assert same == {"data", "train"}


def test_torch_streams_repeat_and_leave_the_global_one_alone(problem: Problem) -> None:
    state = torch.get_rng_state()
    draws = [torch.rand(3, generator=problem.generator("data")) for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(state, torch.get_rng_state())


def test_trace_rows_are_plain_json(problem: Problem) -> None:
    problem.trace("step", score=np.float64(0.5), widths=np.arange(2), loss=torch.tensor(1.0))
    assert problem.trace_rows == [{"step": "step", "score": 0.5, "widths": [0, 1], "loss": 1.0}]
    assert json.loads(json.dumps(problem.trace_rows)) == problem.trace_rows


def test_trace_refuses_what_json_does_not_have(problem: Problem) -> None:
    with pytest.raises(TypeError, match="Problem"):
        problem.trace("step", problem=problem)


def test_passes_are_charged_at_the_cost_of_what_runs(problem: Problem) -> None:
    config = SubnetConfig({branch_a(problem): (0, 1)})
    images = torch.zeros(3, 8, 4, 4)
    with problem.meter.phase("scoring"), torch.no_grad():
        problem.forward(images)
        problem.forward(images, config)
    expected = 3 * (problem.cost.full_macs + problem.cost.macs(config))
    assert problem.meter.total().macs_forward == expected
    assert problem.meter.total().macs_backward == 0


def test_gradients_are_charged_and_reach_the_given_weights(problem: Problem) -> None:
    config = SubnetConfig({branch_a(problem): (0, 1)})
    weight = problem.model.conv_a.weight.detach().clone().requires_grad_()
    with problem.meter.phase("scoring"):
        logits = problem.forward(torch.ones(3, 8, 4, 4), config, {"conv_a.weight": weight})
        logits.sum().backward()
    assert weight.grad is not None and weight.grad[:2].any() and not weight.grad[2:].any()
    assert problem.model.conv_a.weight.grad is None
    assert problem.meter.total().macs_backward == 2 * 3 * problem.cost.macs(config)


def test_subnet_forward_equals_the_rebuilt_network(problem: Problem) -> None:
    config = SubnetConfig({branch_a(problem): (0, 5)})
    images = torch.rand(3, 8, 4, 4, generator=problem.generator("data"))
    with problem.meter.phase("scoring"), torch.no_grad():
        logits = problem.forward(images, config)
        rebuilt = rebuild(problem.model, problem.space, config)(images)
    torch.testing.assert_close(logits, rebuilt)


@pytest.mark.parametrize("recalibrate", [True, False])
def test_accuracy_counts_the_classes_that_are_left(problem: Problem, recalibrate: bool) -> None:
    name = branch_a(problem)
    with problem.meter.phase("search"):
        for kept in ((0,), (0, 3, 5), tuple(range(8))):
            config = SubnetConfig({name: kept})
            assert problem.accuracy(config, recalibration_batches=4 * recalibrate) == len(kept) / 8


def test_accuracy_draws_fixed_batches_and_charges_them(problem: Problem) -> None:
    config = SubnetConfig.full()
    with problem.meter.phase("search"):
        problem.accuracy(config)
    images = CANDIDATE_BATCHES * problem.data.batch_size + problem.data.num_search
    assert problem.meter.total().images == images
    assert problem.meter.total().macs_forward == images * problem.cost.full_macs


def test_accuracy_takes_given_weights(problem: Problem) -> None:
    weights = {"conv_a.weight": torch.zeros(8, 8, 1, 1)}
    with problem.meter.phase("search"):
        assert problem.accuracy(SubnetConfig.full(), weights) == 0.0


def test_smallest_legal_network_is_feasible_and_one_mac_less_is_not(problem: Problem) -> None:
    problem.budget = Budget("macs", problem.smallest_cost())
    problem.check_feasible()
    problem.budget = Budget("macs", problem.smallest_cost() - 1)
    with pytest.raises(InfeasibleBudget, match=r"of all; raise it$"):
        problem.check_feasible()


@pytest.mark.parametrize(
    ("min_keep", "divisor", "remedy"),
    [
        (0.1, 1, "raise it"),  # one channel of eight is left already
        (0.5, 1, "raise it or lower min_keep (0.5)"),
        (0.1, 8, "raise it or lower divisor (8)"),
        (0.4, 3, "raise it or lower min_keep (0.4) or divisor (3)"),  # 6 channels; 3 or 4 without
        (0.9, 8, "raise it or lower min_keep (0.9) and divisor (8)"),
    ],
)
def test_an_infeasible_budget_names_the_rules_that_hold_it_up(
    problem: Problem, min_keep: float, divisor: int, remedy: str
) -> None:
    problem.rules = WidthRules(min_keep=min_keep, divisor=divisor)
    problem.budget = Budget("macs", problem.smallest_cost() - 1)
    with pytest.raises(InfeasibleBudget) as raised:
        problem.check_feasible()
    assert str(raised.value).endswith(f"of all; {remedy}")


def test_feasibility_follows_the_rules(problem: Problem) -> None:
    problem.rules = WidthRules(min_keep=0.75)
    with pytest.raises(InfeasibleBudget):
        problem.check_feasible()


def test_full_budget_is_recognised_in_both_metrics(problem: Problem) -> None:
    assert not problem.is_full
    problem.budget = Budget("params", problem.cost.full_params)
    assert problem.is_full


@pytest.mark.parametrize("recalibration_batches", [0, 3])
def test_accuracy_is_that_of_the_rebuilt_network_in_eval_mode(recalibration_batches: int) -> None:
    task = float64_problem()
    config = SubnetConfig({g.name: tuple(range(g.size // 2)) for g in task.space.groups})
    small = rebuild(task.model, task.space, config)
    images = [images for images, _ in islice(batches()[0].epoch(0), 3)]
    if recalibration_batches:
        recalibrate(small, images)
    hits = [small(x).argmax(1) == labels for x, labels in batches()[1].epoch(0)]
    wanted = float(torch.cat(hits).double().mean())
    task.supernet.forward(images[0], config, training=True)  # leaves another mode behind
    with task.meter.phase("search"):
        found = task.accuracy(config, recalibration_batches=recalibration_batches)
    assert found == wanted
    assert 0 < wanted < 1
