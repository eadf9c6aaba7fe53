"""Peers decide with their own code, and what they decide is what is rebuilt here."""

import sys
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

import zoo
from baselines.peers.fastnas import FastNAS, search_copy
from baselines.peers.torch_pruning import (
    TorchPruning,
    _importance,
    prune_copy,
    take_gradients,
)
from baselines.uniform import Uniform
from benchmarks.running.plan import plan_suite
from benchmarks.running.suite import Suite
from tests.benchmarks.fabricate import cell
from tests.problems import problem as small_problem
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.read_back import read_config, tagged_copy
from zoo.core.contract.checks import CHECKS, ContractViolation, run_check
from zoo.core.contract.trial import NETWORKS, Trial
from zoo.core.errors import InfeasibleBudget, UnsupportedModel
from zoo.core.method.discovery import create_pruner, get_pruner, kind_of, list_pruners
from zoo.core.method.pruner import missing_packages
from zoo.core.networks.rebuild import rebuild
from zoo.core.search.foreign_budget import fewest_removed

IMPORTANCES = ("magnitude", "taylor", "bn_scale", "lamp", "fpgm", "hessian")


@pytest.mark.skipif(bool(missing_packages(TorchPruning)), reason="torch-pruning is not installed")
@pytest.mark.parametrize(("network", "scope"), [*product(NETWORKS, ("global", "isomorphic"))])
def test_the_rebuilt_network_is_the_one_that_torch_pruning_made(network: str, scope: str) -> None:
    problem = Trial(TorchPruning, network).run().problem
    images = torch.randn(4, *problem.space.input_size, dtype=torch.float64)
    widths = []
    for importance in IMPORTANCES:
        settings = replace(TorchPruning.tiny(), importance=importance, scope=scope)
        tagged, scores = tagged_copy(problem.model), _importance(importance)
        with problem.meter.phase("scoring"):
            take_gradients(problem, settings, tagged, scores)
        theirs = prune_copy(problem, settings, tagged, scores, 0.4)
        config = read_config(tagged, theirs, problem.space)
        widths.append(tuple(config.widths(problem.space)))
        with torch.no_grad():
            ours = rebuild(tagged, problem.space, config)(images)
            torch.testing.assert_close(ours, theirs(images), rtol=1e-12, atol=1e-12)
    assert len(set(widths)) >= 5  # importances differ, and all of them prune
    assert all(sum(each) < problem.space.sizes.sum() for each in widths)


@pytest.mark.skipif(bool(missing_packages(FastNAS)), reason="nvidia-modelopt is not installed")
def test_the_rebuilt_network_is_the_one_that_fastnas_made() -> None:
    """It sorts channels; without batch-norm statistics of its own the function is the same."""
    problem = Trial(FastNAS, "residual").run().problem
    # As parents of suites are; the library itself refuses that memory format.
    model = problem.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tagged, settings = tagged_copy(model), FastNAS(search_batches=1, calibration_batches=0)
    with problem.meter.phase("search"):
        theirs = search_copy(problem, settings, tagged, 0.5).eval()
    config = read_config(tagged, theirs, problem.space)
    assert 0 < problem.cost.macs(config) < problem.cost.full_macs
    images = torch.randn(4, *problem.space.input_size, dtype=torch.float64)
    with torch.no_grad():
        ours = rebuild(tagged, problem.space, config)(images)
        torch.testing.assert_close(ours, theirs(images), rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(bool(missing_packages(FastNAS)), reason="nvidia-modelopt is not installed")
def test_fastnas_says_which_networks_it_does_not_take() -> None:
    with pytest.raises(UnsupportedModel, match="takes no channel of it: The model does not"):
        _ = Trial(FastNAS, "depthwise").first
    with pytest.raises(InfeasibleBudget, match="says that 50 % of its flops cannot be reached"):
        _ = Trial(FastNAS, "squeeze_excite").first


def test_a_refusal_excuses_a_peer_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, problem: object) -> None:
        raise UnsupportedModel("no such network")

    check = next(check for check in CHECKS if check.name == "config_fits_the_space")
    monkeypatch.setattr(TorchPruning, "search", refuse)
    outcome = run_check(check, Trial(TorchPruning, "residual"))
    assert (outcome.status, outcome.reason) == ("skipped", "no such network")
    monkeypatch.setattr(Uniform, "search", refuse)
    with pytest.raises(ContractViolation, match="UnsupportedModel: no such network"):
        run_check(check, Trial(Uniform, "residual"))


@pytest.mark.skipif(bool(missing_packages(TorchPruning)), reason="torch-pruning is not installed")
def test_torch_pruning_leaves_every_group_what_the_rules_protect() -> None:
    problem = Trial(TorchPruning, "squeeze_excite").run(rules=WidthRules(min_keep=0.3)).problem
    tagged = tagged_copy(problem.model)
    theirs = prune_copy(problem, TorchPruning(), tagged, _importance("magnitude"), 0.65)
    widths = read_config(tagged, theirs, problem.space).widths(problem.space)
    assert (widths >= problem.narrowest).all() and (widths == problem.narrowest).any()


@pytest.mark.skipif(bool(missing_packages(TorchPruning)), reason="torch-pruning is not installed")
def test_what_an_importance_has_gathered_serves_every_pruning_alike() -> None:
    """The library's Hessian scores turn what they gathered into gradients when first asked."""
    problem = Trial(TorchPruning, "residual").run().problem
    settings = replace(TorchPruning.tiny(), importance="hessian")
    tagged, scores = tagged_copy(problem.model), _importance("hessian")
    with problem.meter.phase("scoring"):
        take_gradients(problem, settings, tagged, scores)
    found = [
        read_config(tagged, prune_copy(problem, settings, tagged, scores, 0.4), problem.space)
        for _ in range(2)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("name", list_pruners("peer"))
def test_a_peer_is_listed_last_and_says_what_it_needs(name: str) -> None:
    cls = get_pruner(name)
    assert kind_of(cls) == "peer" and cls.requires
    assert list_pruners()[-len(list_pruners("peer")) :] == list_pruners("peer")


def test_a_peer_that_is_not_installed_is_refused_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TorchPruning, "requires", {"no_such_package": "no-such-package"})
    with pytest.raises(ValueError, match=r"torch_pruning needs no-such-package.*\.\[peers\]"):
        create_pruner("torch_pruning").search(small_problem())
    with pytest.raises(ValueError, match=r"torch_pruning needs no-such-package"):
        zoo.prune(nn.Linear(1, 1), (), (), method="torch_pruning", macs=0.5)  # before any work


def test_a_suite_leaves_out_what_is_not_installed_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite = Suite(
        title="t",
        methods=("uniform", "torch_pruning"),
        budgets=(0.5,),
        models=(cell().model,),
        datasets=(cell().data,),
        parent=cell().parent,
        finetune=cell().finetune,
        controls=False,
    ).model_copy(update={"models": (cell().model.model_copy(update={"name": "test_resnet"}),)})
    monkeypatch.setattr(TorchPruning, "requires", {"no_such_package": "no-such-package"})
    plan = plan_suite("t", suite)
    assert [each.method for each in plan.cells] == ["uniform"]
    assert "torch_pruning is left out: it needs no-such-package" in plan.summary


def test_the_library_imports_no_peer() -> None:
    from zoo.core.child_process import Workers

    pool = Workers(1)
    try:
        loaded = pool.submit(_loaded_by_listing).result()
    finally:
        pool.shutdown()
    assert not loaded


def _loaded_by_listing() -> list[str]:
    zoo.list_pruners()
    peers = {name for each in list_pruners("peer") for name in get_pruner(each).requires}
    return sorted(peers & set(sys.modules))


def narrowed(problem: object, removed: int) -> SubnetConfig:
    """The first group without its last channels."""
    group = problem.space.groups[0]  # type: ignore[attr-defined]
    return SubnetConfig({group.name: tuple(range(group.size - removed))})


def test_the_least_that_meets_the_budget_is_removed() -> None:
    problem = small_problem(rules=WidthRules(min_keep=0.01))
    group = problem.space.groups[0]
    for width in range(1, group.size):
        wanted = SubnetConfig({group.name: tuple(range(width))})
        problem.budget = replace(problem.budget, limit=problem.cost.macs(wanted))
        found = fewest_removed(problem, lambda n: narrowed(problem, n), group.size - 1)
        assert found == wanted


def test_a_budget_that_is_missed_is_told_with_what_was_reached() -> None:
    problem = small_problem(keep_ratio=0.1)
    size = problem.space.groups[0].size
    reached = f"{problem.cost.macs(narrowed(problem, size - 1)):,} macs"
    with pytest.raises(InfeasibleBudget, match=f"was missed: .* reached {reached}"):
        fewest_removed(problem, lambda n: narrowed(problem, n), size - 1)


def test_a_width_below_the_rules_is_told() -> None:
    problem = small_problem(rules=WidthRules(min_keep=0.5))
    group = problem.space.groups[0]
    least = SubnetConfig({group.name: (0,)})
    problem.budget = replace(problem.budget, limit=problem.cost.macs(least))
    with pytest.raises(InfeasibleBudget, match=r"met only against the rules: .*below"):
        fewest_removed(problem, lambda n: narrowed(problem, n), group.size - 1)


@pytest.mark.skipif(bool(missing_packages(TorchPruning)), reason="torch-pruning is not installed")
def test_hessian_scores_of_the_library_are_those_of_the_last_image() -> None:
    """What the card says of its release; once it is mended, the card has to say so."""
    found = []
    for start in (0, 3):
        torch.manual_seed(0)
        model, scores = nn.Linear(3, 2).double(), _importance("hessian")
        for seed in range(start, 4):
            model.zero_grad()
            generator = torch.Generator().manual_seed(seed)
            model(torch.randn(1, 3, generator=generator).double()).sum().backward()
            scores.accumulate_grad(model)
        (squares,) = [s for p, s in scores._accu_grad.items() if p is model.weight]
        found.append(squares)
    assert torch.equal(*found)
