"""The baselines against exact oracles, and the budgets they meet."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines.bn_scale import BNScale, scale_names, scale_scores, sparse_training
from baselines.fpgm import distance_scores
from baselines.l1_norm import relative_magnitudes
from baselines.random_search import RandomSearch
from baselines.taylor import squared_gates
from baselines.uniform import Uniform
from tests.problems import problem as made_problem
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.contract.trial import NETWORKS, Trial
from zoo.core.method.discovery import get_pruner, list_pruners
from zoo.core.method.planted import planted_problem
from zoo.core.method.problem import Problem
from zoo.core.search.channel_scores import magnitude_scores
from zoo.core.search.widths_in_budget import random_widths


class Skip(nn.Module):
    """Two convolutions tied by an addition, filters given by hand."""

    def __init__(self, first: list[list[float]], second: list[list[float]]) -> None:
        super().__init__()
        size = len(first)
        self.first = nn.Conv2d(2, size, 1, bias=False)
        self.second = nn.Conv2d(2, size, 1, bias=False)
        self.fc = nn.Linear(size, 2)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor(first)[:, :, None, None])
            self.second.weight.copy_(torch.tensor(second)[:, :, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc((self.first(images) + self.second(images)).mean((2, 3)))


@pytest.fixture
def skip() -> tuple[nn.Module, ChannelSpace]:
    """Filters (1, -2), (0, 3), (4, 0) added to (0, 0), (0, 0), (-3, -4)."""
    model = Skip([[1, -2], [0, 3], [4, 0]], [[0, 0], [0, 0], [-3, -4]]).eval()
    space = ChannelSpace.trace(model, (2, 4, 4))
    assert [group.size for group in space.groups] == [3]
    return model, space


def test_l1_norm_adds_tied_filters_by_hand(skip: tuple[nn.Module, ChannelSpace]) -> None:
    (scores,) = magnitude_scores(*skip).values()
    assert scores.tolist() == [1 + 2, 3, 4 + 3 + 4]


def test_fpgm_equals_brute_force_distances() -> None:
    trial = Trial(get_pruner("fpgm"), "squeeze_excite")
    model = trial.first.problem.model
    scores = distance_scores(model, trial.space)
    tensors = model.state_dict()
    group = next(g for g in trial.space.groups if sum(m.role == "out" for m in g.members) == 1
                 and not any(m.role == "depthwise" for m in g.members))  # fmt: skip
    filters = tensors[group.members[0].tensor].double().flatten(1).numpy()
    by_hand = [sum(np.linalg.norm(f - other) for other in filters) for f in filters]
    np.testing.assert_allclose(scores[group.name], by_hand, rtol=1e-12)


def test_fpgm_by_hand(skip: tuple[nn.Module, ChannelSpace]) -> None:
    (scores,) = distance_scores(*skip).values()
    # First layer: the points (1, -2), (0, 3), (4, 0); second: twice the origin and (-3, -4).
    a, b, c = 26**0.5, 13**0.5, 5.0  # |p0 - p1|, |p0 - p2|, |p1 - p2|
    np.testing.assert_allclose(scores, [a + b + 5, a + c + 5, b + c + 10], rtol=1e-12)


def test_taylor_is_zero_exactly_for_dead_channels() -> None:
    live_a, live_b = (1, 3, 4, 6), (0, 2, 5, 7)
    problem = planted_problem(live_a, live_b, keep_ratio=0.5)
    with problem.meter.phase("scoring"):
        scores = squared_gates(problem, problem.data.train())
    alive = [np.flatnonzero(scores[g.name]).tolist() for g in problem.space.groups]
    assert sorted(alive) == sorted([list(live_a), list(live_b)])


@pytest.mark.parametrize("name", ["resnet20_cifar", "mobilenetv2_035", "test_efficientnet"])
def test_taylor_is_the_squared_slope_of_the_loss_in_gates_behind_the_norms(name: str) -> None:
    """Of all groups of a network: gates are put in, and their gradients taken by autograd."""
    problem = made_problem(name)
    with problem.meter.phase("scoring"):
        batches = list(problem.data.train(2))
        scores = squared_gates(problem, batches)
    for group in problem.space.groups:
        by_role = {role: [m.tensor.rpartition(".")[0] for m in group.members if m.role == role]
                   for role in ("norm_weight", "out")}  # fmt: skip
        layers = by_role["norm_weight"] or by_role["out"]  # a squeeze-excite gate has no norm
        slopes = [_slope(problem, batch, layer) for batch in batches for layer in layers]
        by_gates = torch.stack(slopes).square().sum(0) / len(batches)
        np.testing.assert_allclose(scores[group.name], by_gates, rtol=1e-9, atol=1e-25)


def test_a_slope_is_that_of_finite_differences() -> None:
    problem = made_problem("test_efficientnet")
    with problem.meter.phase("scoring"):
        (batch,) = problem.data.train(1)
    slope, step = _slope(problem, batch, "bn1"), 1e-6
    for channel in range(3):
        ends = []
        for change in (step, -step):
            gates = torch.ones(len(slope), dtype=torch.float64)
            gates[channel] += change
            ends.append(_loss_with_gates(problem, batch, "bn1", gates).item())
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope[channel].item(), rel=1e-4)


def _slope(problem: Problem, batch: tuple[Tensor, Tensor], layer: str) -> Tensor:
    """Gradient of the loss in the gates behind a layer, shape (C,)."""
    channels = problem.model.get_submodule(layer).weight.shape[0]
    gates = torch.ones(channels, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(_loss_with_gates(problem, batch, layer, gates), gates)
    return slope


def _loss_with_gates(
    problem: Problem, batch: tuple[Tensor, Tensor], layer: str, gates: Tensor
) -> Tensor:
    """Cross-entropy of the parent with each channel behind a layer times its gate.

    The gate stands before the activation, which some of timm's normalisations hold.
    """
    module = problem.model.get_submodule(layer)
    inner = getattr(module, "act", None)
    gate = gates.view(1, -1, 1, 1)
    if inner is None:
        handle = module.register_forward_hook(lambda _module, _inputs, output: output * gate)
    else:
        handle = inner.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * gate,))
    try:
        return nn.functional.cross_entropy(problem.model(batch[0]), batch[1])
    finally:
        handle.remove()


def test_uniform_keeps_the_largest_norms_or_the_leading_channels() -> None:
    trial = Trial(get_pruner("uniform"), "residual")
    problem, kept = trial.first.problem, trial.first.subnet.config
    first = Uniform(channels="first").search(Trial(get_pruner("uniform"), "residual").run().problem)
    norms = magnitude_scores(problem.model, problem.space)
    for group in problem.space.groups:
        width = len(kept.indices(group))
        largest = np.argsort(-norms[group.name], kind="stable")[:width]
        assert sorted(largest.tolist()) == list(kept.indices(group))
        assert list(first.config.indices(group)) == list(range(width))


def test_l1_norm_ranks_norms_relative_to_their_group_over_the_whole_network() -> None:
    problem = Trial(get_pruner("l1_norm"), "residual").first.problem
    relative = relative_magnitudes(problem.model, problem.space)
    norms = magnitude_scores(problem.model, problem.space)
    for name, each in relative.items():
        assert each.mean() == pytest.approx(1)
        np.testing.assert_array_equal(np.argsort(each), np.argsort(norms[name]))


def test_sparse_training_shrinks_the_scales() -> None:
    sums = {}
    for l1 in (0.0, 0.1):
        problem = Trial(BNScale, "residual").run().problem
        with problem.meter.phase("supernet"):
            model = sparse_training(problem, BNScale(epochs=3, lr=0.02, l1=l1))
        sums[l1] = sum(
            model.get_parameter(name).abs().sum().item() for name in scale_names(problem.space)
        )
    assert sums[0.1] < sums[0.0]


def test_bn_scale_hands_on_the_weights_it_trained() -> None:
    run = Trial(BNScale, "residual").first
    assert run.subnet.weights is not None
    parent = run.problem.model.state_dict()
    assert any(not torch.equal(tensor, parent[n]) for n, tensor in run.subnet.weights.items())
    assert run.problem.meter.spent["supernet"].macs_backward > 0


def test_groups_without_a_norm_borrow_scales_of_equal_rank() -> None:
    trial = Trial(BNScale, "squeeze_excite")
    model = trial.first.problem.model
    scores = scale_scores(model, trial.space)
    magnitudes = magnitude_scores(model, trial.space)
    bare = [g for g in trial.space.groups if all(m.role != "norm_weight" for m in g.members)]
    assert bare
    for group in bare:
        order = np.argsort(magnitudes[group.name])
        assert (np.diff(scores[group.name][order]) >= 0).all()


def test_random_search_returns_the_best_of_its_trace() -> None:
    problem = Trial(RandomSearch, "residual").run().problem
    problem.trace_rows.clear()
    subnet = RandomSearch(samples=6).search(problem)
    samples = [row for row in problem.trace_rows if row["step"] == "sample"]
    best = max(samples, key=lambda row: (row["top1"], -row["index"]))  # type: ignore[operator]
    assert len(samples) == 6
    assert subnet.config == SubnetConfig.from_json(best["config"])  # type: ignore[arg-type]


def test_random_widths_differ_and_all_fit_closely() -> None:
    problem = Trial(RandomSearch, "depthwise").run().problem
    rng = np.random.default_rng(0)
    widths = np.stack([random_widths(problem, rng) for _ in range(20)])
    macs = problem.cost.macs_of_widths(widths)
    assert len(np.unique(widths, axis=0)) == 20
    assert (macs <= problem.budget.limit).all() and (macs >= 0.98 * problem.budget.limit).all()


# The contract looks at half the MACs, and at the other networks.
CASES = [
    pytest.param(*case, marks=() if case == ("depthwise", 0.25) else pytest.mark.slow)
    for case in product(NETWORKS, (0.25, 0.5))
]


@pytest.mark.parametrize(("network", "keep_ratio"), CASES)
@pytest.mark.parametrize("name", list_pruners("baseline"))
def test_baseline_meets_the_budget_within_2_per_cent(
    name: str, network: str, keep_ratio: float
) -> None:
    run = Trial(get_pruner(name), network).run(keep_ratio)
    macs, limit = run.problem.cost.macs(run.subnet.config), run.problem.budget.limit
    assert 0.98 * limit <= macs <= limit
