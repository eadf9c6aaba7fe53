"""The methods that the field expects: their papers' own equations, by hand."""

import copy
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines.depgraph import DepGraph, GroupSparsity, sparse_training, strengths
from baselines.halp import added_costs, knapsack_widths, lowered_limits, norm_values
from baselines.obd_c import fisher_scores, relative_scores
from zoo.core.channels.space import ChannelSpace
from zoo.core.contract.trial import Trial
from zoo.core.method.discovery import get_pruner
from zoo.core.method.planted import planted_problem
from zoo.core.search.channel_scores import coupled_norms, coupled_squares, ranks_in_topology
from zoo.core.training.gradients import backward


class Chain(nn.Module):
    """A convolution, its norm and the layer that reads it, weights given by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 1, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1))
            self.bn.weight.copy_(torch.tensor([1.0, 0.0, 2.0]))
            self.fc.weight.copy_(torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0]]))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.bn(self.conv(images)).mean((2, 3)))


def test_the_norm_of_a_group_takes_what_makes_scales_and_reads_a_channel() -> None:
    model = Chain().eval()
    space = ChannelSpace.trace(model, (1, 2, 2))
    (squares,) = coupled_squares(space, dict(model.named_parameters())).values()
    by_hand = [1 + 1 + 1, 4 + 0 + 4 + 1, 9 + 4 + 0]
    assert squares.tolist() == by_hand
    (norms,) = coupled_norms(model, space).values()
    np.testing.assert_allclose(norms, np.array(by_hand) * 3 / sum(by_hand), rtol=1e-12)


def test_the_least_important_channel_is_drawn_to_zero_sixteen_times_as_strongly() -> None:
    # Roots 1, 2 and 3: shares 1, 1/2 and 0 of the exponent 4.
    assert strengths(torch.tensor([1.0, 4.0, 9.0]), 4.0).tolist() == [16, 4, 1]
    assert strengths(torch.tensor([4.0, 4.0]), 4.0).tolist() == [1, 1]


def test_the_penalty_adds_reg_gamma_w_to_the_gradient_once_for_each_group_of_a_weight() -> None:
    trial = Trial(DepGraph, "residual")
    model = copy.deepcopy(trial.first.problem.model).double().eval()
    images, labels = torch.randn(2, 3, 32, 32).double(), torch.tensor([1, 2])
    found = []
    for reg in (0.0, 0.01):
        model.zero_grad()
        backward(GroupSparsity(trial.space, reg, 4.0)(model, images, labels))
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    by_hand = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    squares = coupled_squares(trial.space, dict(model.named_parameters()))
    for group in trial.space.groups:
        gamma = strengths(squares[group.name].detach(), 4.0)
        for member in group.members:
            if member.role in ("out", "in", "depthwise", "norm_weight"):
                weight = model.get_parameter(member.tensor).detach().movedim(member.dim, 0)
                added = by_hand[member.tensor].movedim(member.dim, 0)
                for channel, places in enumerate(member.index):
                    added[places] += 0.01 * gamma[channel] * weight[places]
    for name, expected in by_hand.items():
        torch.testing.assert_close(found[1][name] - found[0][name], expected, rtol=1e-9, atol=1e-12)


def test_sparse_learning_shrinks_weak_channels_and_hands_its_weights_on() -> None:
    shares = []
    for reg in (0.0, 0.05):
        problem = Trial(DepGraph, "residual").run().problem
        with problem.meter.phase("supernet"):
            model = sparse_training(problem, DepGraph(epochs=3, lr=0.02, reg=reg))
        norms = coupled_squares(problem.space, model.state_dict())
        shares.append(np.mean([float(each.min() / each.mean()) for each in norms.values()]))
    assert shares[1] < shares[0]
    run = Trial(DepGraph, "residual").first
    assert run.subnet.weights is not None and run.problem.meter.spent["supernet"].macs_backward
    plain = DepGraph(epochs=0).search(Trial(DepGraph, "residual").run().problem)
    assert plain.weights is None


def test_every_class_of_topologies_loses_the_same_share() -> None:
    trial = Trial(get_pruner("isomorphic"), "squeeze_excite")
    scores = coupled_norms(trial.first.problem.model, trial.space)
    ranks = ranks_in_topology(trial.space, scores)
    together = np.sort(np.concatenate([*ranks.values()]))
    assert together[0] > 0 and together[-1] == 1
    for group in trial.space.groups:  # the order within a group stays
        np.testing.assert_array_equal(
            np.argsort(ranks[group.name], kind="stable"), np.argsort(scores[group.name])
        )
    classes: dict[object, list[str]] = {}
    for group in trial.space.groups:
        kinds = {(m.role, trial.space.table.shapes[m.tensor][2:]) for m in group.members}
        classes.setdefault((group.residual, frozenset(kinds)), []).append(group.name)
    assert 1 < len(classes) < len(trial.space.groups)
    for names in classes.values():
        found = np.sort(np.concatenate([ranks[name] for name in names]))
        np.testing.assert_allclose(found, np.arange(1, len(found) + 1) / len(found))


def test_a_fisher_score_is_the_sum_of_squared_weights_times_squared_gradients() -> None:
    trial = Trial(get_pruner("obd_c"), "residual")
    problem = trial.first.problem
    with problem.meter.phase("scoring"):
        scores = fisher_scores(problem, 1)
    model = copy.deepcopy(problem.model)
    images, labels = _batch(problem)
    group = next(g for g in trial.space.groups if sum(m.role == "out" for m in g.members) == 1)
    weight = model.get_parameter(group.members[0].tensor)
    fisher = torch.zeros_like(weight)
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(image), label).backward()
        fisher += weight.grad.square() / len(images)
    by_hand = (weight.detach().square() * fisher).flatten(1).sum(1)
    np.testing.assert_allclose(scores[group.name], by_hand.numpy(), rtol=1e-4)
    relative = relative_scores(scores)
    assert relative[group.name].mean() == pytest.approx(1)


def _batch(problem) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    with problem.meter.phase("scoring"):
        (batch,) = problem.data.train(1)
    return batch


def test_a_value_of_halp_is_the_product_of_scale_and_shift_with_their_gradients() -> None:
    trial = Trial(get_pruner("halp"), "residual")
    problem = trial.run().problem
    with problem.meter.phase("scoring"):
        values = norm_values(problem, 1)
    images, labels = _batch(problem)
    model = copy.deepcopy(problem.model)
    nn.functional.cross_entropy(model(images), labels).backward()
    for group in trial.space.groups:
        total = torch.zeros(group.size)
        for member in group.members:
            if member.role in ("norm_weight", "norm_bias"):
                parameter = model.get_parameter(member.tensor)
                total += (parameter * parameter.grad).detach()[member.index[:, 0]]
        np.testing.assert_allclose(values[group.name], total.abs().numpy(), rtol=1e-3, atol=1e-7)


def test_limits_fall_by_the_same_share_to_the_budget() -> None:
    problem = Trial(get_pruner("halp"), "residual").run(0.25).problem
    limits = lowered_limits(problem, 4)
    ratios = np.array([*limits]) / np.array([problem.full_cost, *limits[:-1]])
    np.testing.assert_allclose(ratios, 0.25**0.25, rtol=1e-6)
    assert limits[-1] == problem.budget.limit


def test_the_knapsack_of_halp_is_the_best_of_all_widths_that_its_costs_allow() -> None:
    """Brute force over all pairs of two groups whose costs add up exactly, the others as narrow."""
    problem = planted_problem(live_a=range(8), live_b=(), keep_ratio=0.5)
    rng = np.random.default_rng(0)
    gains = [np.append(np.sort(rng.random(8))[::-1], 0.0) for _ in range(2)]
    widest = problem.widest
    for cost in added_costs(problem, widest):
        assert cost[0] == 0 and (np.diff(cost) > 0).all()
    pairs = np.array([*product(range(1, 9), repeat=2)])
    costs = problem.cost_of(pairs)
    worth = np.array([sum(g[:w].sum() for g, w in zip(gains, p, strict=True)) for p in pairs])
    for share in (0.3, 0.5, 0.8):
        limit = int(share * problem.full_cost)
        found = knapsack_widths(problem, gains, widest, limit, 10**6)
        assert problem.cost_of(found[None])[0] <= limit
        value = sum(g[:w].sum() for g, w in zip(gains, found, strict=True))
        assert value == pytest.approx(worth[costs <= limit].max())
