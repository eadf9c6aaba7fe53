"""MetaPruning: the weights that are generated, their gradients, and what comes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.metapruning import MetaPruning, PruningNet, train_pruning_net
from tests.problems import BATCH, SIDE, batches, parent, problem
from zoo.core.channels.config import SubnetConfig
from zoo.core.contract.trial import NETWORKS
from zoo.core.method.problem import Problem
from zoo.core.networks.rebuild import rebuild
from zoo.core.one_shot.one_shot import evolve_widths, list_widths
from zoo.core.one_shot.supernet_training import Engine, starting_weights
from zoo.core.search.prior import uniform_prior
from zoo.core.supernet.trained_store import SupernetStore

TINY = replace(MetaPruning.tiny(), start="scratch", hidden=16)
DECAY = 5e-4  # of tensors of more than one dimension, as in all supernets here


def some_config(task: Problem, seed: int = 0) -> SubnetConfig:
    """Scattered channels of random widths, so that parts are gathered and not only narrowed."""
    rng = np.random.default_rng(seed)
    keep = {}
    for group in task.space.groups:
        width = int(rng.integers(max(1, group.size // 4), group.size + 1))
        keep[group.name] = tuple(sorted(rng.choice(group.size, width, replace=False).tolist()))
    return SubnetConfig(keep)


def generated(
    task: Problem, net: PruningNet, trained: Mapping[str, Tensor], config: SubnetConfig
) -> dict[str, Tensor]:
    with task.meter.phase("search"), torch.no_grad():
        return net.weights(trained, config)


@pytest.mark.parametrize("encoding", ["network", "layer"])
@pytest.mark.parametrize("name", NETWORKS.values())
def test_weights_are_two_layers_of_the_widths(name: str, encoding: str) -> None:
    task, settings = problem(name), replace(TINY, encoding=encoding)  # type: ignore[arg-type]
    net, config = PruningNet.of(task, settings), some_config(task)
    leaves = {leaf: tensor.detach() for leaf, tensor in net.drawn("scratch").items()}
    found = generated(task, net, leaves, config)
    assert found.keys() == dict(task.model.named_parameters()).keys()
    table, sizes = task.space.table, [group.size for group in task.space.groups]
    cropped = 0
    for weight, made in found.items():
        axes = [table.tensors.get((weight, dim)) for dim in range(made.ndim)]
        along = {g for axis in axes if axis is not None for g in table.axes[axis].groups}
        if made.ndim < 2 or not along:
            assert made is leaves[weight]
            continue
        cropped += 1
        read = range(len(sizes)) if encoding == "network" else sorted(along)
        shares = [len(config.keep[task.space.groups[g].name]) / sizes[g] for g in read]
        first, bias = (leaves[f"{weight}/fc1.{part}"].numpy() for part in ("weight", "bias"))
        units = [
            max(0.0, b + sum(a * s for a, s in zip(row, shares, strict=True)))
            for row, b in zip(first, bias, strict=True)
        ]
        second = leaves[f"{weight}/fc2.weight"].numpy()
        by_hand = leaves[weight].flatten().numpy() + sum(
            second[:, j] * unit for j, unit in enumerate(units)
        )
        assert any(units)
        np.testing.assert_allclose(made.flatten().numpy(), by_hand, rtol=1e-12, atol=1e-15)
    layers = [m for m in task.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert cropped == len(layers)  # depthwise layers, gates and the classifier, too


@pytest.mark.parametrize("name", NETWORKS.values())
def test_a_generated_subnet_is_the_rebuilt_network_with_cropped_weights(name: str) -> None:
    task = problem(name)
    net, config = PruningNet.of(task, TINY), some_config(task, 1)
    leaves = net.drawn("scratch")
    full = generated(task, net, leaves, config)
    images = torch.randn(4, 3, SIDE, SIDE, dtype=torch.float64)
    engine = Engine(task, leaves, steps=1, lr=0.1, execution="sliced", generate=net.weights)
    small = rebuild(task.model, task.space, config, full).train()
    with task.meter.phase("supernet"), torch.no_grad():
        ours = engine.logits(images, config)
        theirs = small(images)
    bound = 1e-9 * max(1.0, float(theirs.abs().max()))
    assert float((ours - theirs).abs().max()) < bound
    by_parent = rebuild(task.model, task.space, config).train()
    with torch.no_grad():
        assert float((by_parent(images) - theirs).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["resnet20_cifar", "test_efficientnet"])
def test_an_update_goes_down_the_gradient_that_finite_differences_find(name: str) -> None:
    task, lr = problem(name), 0.01
    net, config = PruningNet.of(task, TINY), some_config(task, 2)
    leaves = net.drawn("scratch")
    before = {leaf: tensor.detach().clone() for leaf, tensor in leaves.items()}
    images, labels = next(iter(batches()[0].epoch(0)))

    def loss(values: Mapping[str, Tensor]) -> float:
        with task.meter.phase("search"), torch.no_grad():
            full = net.weights(values, config)
            parts = task.supernet.sliced(config, full)
            logits = task.supernet.forward(images, config, parts, training=True)
        return float(F.cross_entropy(logits, labels))

    engine = Engine(task, leaves, steps=2, lr=lr, execution="sliced", generate=net.weights)
    with task.meter.phase("supernet"):
        engine.update(F.cross_entropy(engine.logits(images, config), labels))
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for leaf, value in before.items():
        moved = (value - engine.trained()[leaf]) / lr - DECAY * value * (value.ndim > 1)
        step = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        step *= 1e-5 / step.norm()
        up, down = (loss({**before, leaf: value + sign * step}) for sign in (1, -1))
        by_differences = (up - down) / 2
        assert float((moved * step).sum()) == pytest.approx(by_differences, rel=1e-3, abs=1e-11)
        largest = max(largest, abs(by_differences))
    assert largest > 1e-7  # else nothing was compared


def test_it_starts_as_the_parent_at_all_widths_and_learns_to_tell_them_apart() -> None:
    task = problem()
    settings = replace(MetaPruning.tiny(), steps=4, lr=0.02, hidden=16)
    net = PruningNet.of(task, settings)
    configs = [some_config(task, seed) for seed in (3, 4)]
    own = dict(task.model.named_parameters())
    for config in configs:
        made = generated(task, net, net.drawn("parent"), config)
        assert all(torch.equal(made[name], own[name]) for name in own)
    with task.meter.phase("supernet"):
        trained = train_pruning_net(list_widths(task, settings), settings).weights
    one, other = (generated(task, net, trained, config) for config in configs)
    for name in own:
        apart = float((one[name] - other[name]).abs().max())
        assert (apart > 1e-8) == (name in net.read), name
        assert not torch.equal(one[name], own[name]), name


def test_a_step_moves_generated_weights_about_three_times_as_far_as_trained_ones() -> None:
    """By hand: bias plus matrix times units, so a gradient g moves the weight by (1 + |u|^2) g."""
    task, settings = problem(), MetaPruning()
    net = PruningNet.of(task, settings)
    half = SubnetConfig.from_widths(
        task.space, {group.name: group.size // 2 for group in task.space.groups}
    )
    leaves = net.drawn("parent")
    with task.meter.phase("search"):
        before = net.weights(leaves, half)
        ratios = []
        for name in net.read:
            gradient = torch.ones_like(before[name])
            tensors = [leaves[name], leaves[f"{name}/fc2.weight"]]
            moves = torch.autograd.grad(before[name], tensors, gradient, retain_graph=True)
            with torch.no_grad():
                moved = dict(zip((name, f"{name}/fc2.weight"), tensors, strict=True))
                moved = {leaf: t + m for (leaf, t), m in zip(moved.items(), moves, strict=True)}
                after = net.weights({**leaves, **moved}, half)[name]
            ratios.append(float((after - before[name].detach()).mean()))
    assert 2 < np.mean(ratios) < 4 and settings.lr == pytest.approx(0.02 / 3, rel=0.2)


def test_from_scratch_nothing_of_the_parent_is_left() -> None:
    task = problem()
    leaves = PruningNet.of(task, TINY).drawn("scratch")
    again = PruningNet.of(task, TINY).drawn("scratch")
    own = dict(task.model.named_parameters())
    for name in PruningNet.of(task, TINY).read:
        assert not torch.equal(leaves[name], own[name])
        scale = float(leaves[name].detach().square().mean().sqrt())
        spread = float(leaves[f"{name}/fc2.weight"].detach().std())
        assert spread == pytest.approx(scale / TINY.hidden**0.5, rel=0.2)
    assert all(torch.equal(leaves[leaf], again[leaf]) for leaf in leaves)


def test_hidden_layers_narrow_until_the_matrices_are_small_enough() -> None:
    task = problem()
    size = sum(task.model.get_parameter(name).numel() for name in PruningNet.of(task, TINY).read)
    for most, hidden in ((32 * size, 32), (32 * size - 1, 31), (3 * size, 3), (1, 1)):
        net = PruningNet.of(task, MetaPruning(most_parameters=most))
        leaves = net.drawn("parent")
        matrices = sum(t.numel() for leaf, t in leaves.items() if leaf.endswith("/fc2.weight"))
        assert net.hidden == hidden and matrices == hidden * size


def test_every_pass_and_every_generation_is_charged() -> None:
    task = problem()
    settings = replace(MetaPruning.tiny(), steps=3)
    widths, net = list_widths(task, settings), PruningNet.of(task, settings)
    by_hand = sum(
        4 * len(task.space.groups) + 4 * task.model.get_parameter(name).numel() for name in net.read
    )
    assert net.macs == by_hand
    with task.meter.phase("supernet"):
        states = train_pruning_net(widths, settings).records["states"]
    costs = [task.cost.macs(widths.config(state)) for state in states]
    spent = task.meter.spent["supernet"]
    assert spent.macs_forward == BATCH * sum(costs) + 3 * net.macs
    assert spent.macs_backward == 2 * spent.macs_forward and spent.images == 3 * BATCH


def test_structures_are_drawn_at_random_one_for_each_batch() -> None:
    task = problem()
    settings = replace(MetaPruning.tiny(), steps=40, ratios=4)
    widths = list_widths(task, settings)
    with task.meter.phase("supernet"):
        states = train_pruning_net(widths, settings).records["states"]
    assert states.shape == (40, len(task.space.groups))
    assert len(np.unique(states, axis=0)) == 40
    shares = [(states == choice).mean() for choice in range(4)]
    assert shares == pytest.approx([0.25] * 4, abs=0.06)  # 3 sigma of 360 draws is 0.07


def test_the_widths_of_highest_score_come_out_filled_up_and_without_weights() -> None:
    task = problem()
    settings = replace(MetaPruning.tiny(), evaluations=12)
    subnet = settings.search(task)
    assert subnet.weights is None and task.cost_of_config(subnet.config) <= task.budget.limit
    (row,) = [row for row in task.trace_rows if row["step"] == "evolve"]
    scores = row["scores"]
    assert isinstance(scores, list) and len(scores) == 12 and len(set(scores)) > 1
    again = problem()
    widths = list_widths(again, settings)
    trained = settings.train(widths).weights
    seen: list[SubnetConfig] = []
    with again.meter.phase("search"):
        state = evolve_widths(
            widths,
            lambda configs: (
                seen.extend(configs),
                settings.accuracies(widths, configs, trained),
            )[1],
            uniform_prior(widths.grid.sizes),
            evaluations=12,
            population=4,
            parents=2,
            slack=settings.slack,
        )
    assert widths.config(state) == seen[int(np.argmax(scores))]
    assert all(again.cost_of_config(config) <= again.budget.limit for config in seen)
    wanted = widths.widths_of(state)
    assert (subnet.config.widths(task.space) != wanted).sum() <= 2  # what filling up has changed


def test_a_candidate_is_scored_with_its_own_generated_weights() -> None:
    task = problem()
    widths, config = list_widths(task, TINY), some_config(task, 5)
    net = PruningNet.of(task, TINY)
    trained = {leaf: tensor.detach() for leaf, tensor in net.drawn("scratch").items()}
    full = generated(task, net, trained, config)
    small = rebuild(task.model, task.space, config, full)
    images = [images for images, _ in batches()[0].epoch(0)]
    task.supernet  # noqa: B018  # made of the parent before anything
    with task.meter.phase("search"):
        score = TINY.accuracy(widths, config, trained)
    small.train()
    for module in small.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        for batch in images:
            small(batch)
        small.eval()
        hits = [small(x).argmax(1) == y for x, y in batches()[1].epoch(0)]
    assert score == float(torch.cat(hits).double().mean())


def test_one_pruning_net_serves_two_budgets(tmp_path) -> None:  # type: ignore[no-untyped-def]
    settings, found = replace(MetaPruning.tiny(), lr=0.02), {}
    for keep_ratio in (0.5, 0.3):
        for store in (None, SupernetStore(tmp_path, "origin")):
            task = problem(keep_ratio=keep_ratio)
            task.store = store
            found[keep_ratio, store is None] = settings.search(task).config
            if store is not None:
                (row,) = [row for row in task.trace_rows if row["step"] == "supernet"]
                assert row["reused"] == (keep_ratio == 0.3)
        assert found[keep_ratio, True] == found[keep_ratio, False]


def test_subnets_of_different_weights_never_run_at_once() -> None:
    task = problem()
    weights = starting_weights(task, "parent")
    with pytest.raises(ValueError, match="each subnet has weights of its own"):
        Engine(task, weights, steps=1, lr=0.1, generate=lambda trained, config: trained)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "hidden is 0; it must be at least 1"),
        ({"most_parameters": 0}, "most_parameters is 0"),
        ({"encoding": "block"}, "unknown encoding 'block'"),
        ({"ratios": 1}, "ratios is 1; it must be at least 2"),
        ({"evaluations": 0}, "evaluations is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MetaPruning(), **change)  # type: ignore[arg-type]


def test_the_parent_is_never_touched() -> None:
    task = problem()
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    replace(MetaPruning.tiny(), lr=0.02).search(task)
    assert all(
        torch.equal(before[n], t) for n, t in parent("resnet20_cifar")[0].state_dict().items()
    )
