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


def test_taylor_predicts_the_loss_change_when_a_gate_behind_the_norm_closes_a_little() -> None:
    trial = Trial(get_pruner("taylor"), "residual")
    problem = trial.first.problem
    with problem.meter.phase("scoring"):
        (batch,) = problem.data.train(1)
        scores = squared_gates(problem, [batch])
        # A group that one layer makes, so that its score is that of one gate.
        group = next(g for g in problem.space.groups if len([m for m in g.members
                     if m.role == "out"]) == 1)  # fmt: skip
        (norm,) = {m.tensor.rpartition(".")[0] for m in group.members if m.role == "norm_weight"}
        losses = [_loss_with_gate(problem, batch, norm, open_by) for open_by in (1.0, 1 - 1e-3)]
    slope = (losses[0] - losses[1]) / 1e-3
    # Second-order terms and float32 rounding of a difference of 1e-3 stay below a few per cent.
    assert slope**2 == pytest.approx(scores[group.name][0], rel=0.1)


def _loss_with_gate(
    problem: Problem, batch: tuple[Tensor, Tensor], norm: str, open_by: float
) -> float:
    """Cross-entropy with the first channel behind a normalisation multiplied by a number."""

    def scale(module: nn.Module, args: object, output: Tensor) -> Tensor:
        factors = torch.ones(output.shape[1])
        factors[0] = open_by
        return output * factors.view(1, -1, 1, 1)

    handle = problem.model.get_submodule(norm).register_forward_hook(scale)
    try:
        return nn.functional.cross_entropy(problem.forward(batch[0]), batch[1]).item()
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
