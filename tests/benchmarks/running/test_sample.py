"""The sample of a ranking, its members trained alone, and the scores of methods and proxies."""

from dataclasses import replace

import pytest
import timm
import torch

from baselines.uniform import Uniform
from benchmarks.records.cell import Sample
from benchmarks.running import finetune
from benchmarks.running.parent import Places
from benchmarks.running.protocol import run_cell
from benchmarks.running.sample import PROXIES, draw_sample
from benchmarks.running.suite import STANDALONE
from tests.benchmarks.running.test_protocol import FEW, cell
from zoo.core.channels.config import SubnetConfig
from zoo.core.contract.trial import Trial
from zoo.core.errors import InfeasibleBudget
from zoo.core.networks.rebuild import rebuild
from zoo.core.supernet.blocks import cut_blocks

BAND = Sample(count=6, low=0.45, high=0.5)


@pytest.fixture(scope="module")
def problem():
    return Trial(Uniform, "residual").run().problem


def test_a_sample_has_distinct_members_inside_the_band(problem):
    configs = draw_sample(problem, BAND)
    shares = [problem.cost.macs(config) / problem.cost.full_macs for config in configs]
    assert len(set(configs)) == 6
    assert min(shares) >= 0.45 and max(shares) <= 0.5
    assert max(shares) - min(shares) > 0.01


def test_a_sample_does_not_depend_on_budget_or_seed_of_the_problem(problem):
    other = replace(problem, seed=99, budget=replace(problem.budget, limit=1))
    assert draw_sample(problem, BAND) == draw_sample(other, BAND)
    assert draw_sample(problem, BAND) != draw_sample(problem, BAND.model_copy(update={"seed": 1}))


def test_an_inner_sample_leaves_interfaces_whole(problem):
    inner = {n for b in cut_blocks(problem.model, problem.space) for n in b.groups}
    free = set()
    for config in draw_sample(problem, BAND.model_copy(update={"inner": True})):
        for group in problem.space.groups:
            is_whole = len(config.indices(group)) == group.size
            assert is_whole or group.name in inner
            free |= set() if is_whole else {group.name}
    assert free == inner < {group.name for group in problem.space.groups}


def test_a_band_that_holds_too_few_is_refused_with_the_count(problem):
    with pytest.raises(InfeasibleBudget, match=r"found \d of 6 .* widen the band"):
        draw_sample(problem, Sample(count=6, low=1, high=1))


def test_proxies_grow_with_the_network(problem):
    widths = problem.space.sizes // 2
    names = [group.name for group in problem.space.groups]
    narrow = SubnetConfig.from_widths(problem.space, dict(zip(names, widths, strict=True)))
    for proxy in PROXIES.values():
        small, large = proxy(problem, [narrow, SubnetConfig.full()])
        assert 0 < small < large
    assert PROXIES["params"](problem, [narrow])[0] == problem.cost.params(narrow)
    assert PROXIES["magnitude"](problem, [SubnetConfig.full()])[0] == pytest.approx(len(names))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return Places(cache=tmp_path_factory.mktemp("cache"))


def ranked(method, **changes):
    return cell(
        method, sample=Sample(count=2, low=0.3, high=0.6, inner=True), budget=0.6, **changes
    )


@pytest.mark.parametrize("method", [*PROXIES, "bnp"])
def test_a_scoring_cell_records_a_score_for_every_member(places, method):
    settings = {"steps": 1, "candidates": 4} if method == "bnp" else {}
    record, _ = run_cell(ranked(method, settings=settings), suite="test", places=places)
    assert record.status == "ok", record.reason
    assert len(record.scores) == 2 and record.top1.finetuned is None
    assert ("supernet" in record.spent) == (method == "bnp")


def test_bnp_refuses_a_sample_that_narrows_interfaces(places):
    asked = cell("bnp", sample=Sample(count=2, low=0.3, high=0.6), settings={"steps": 1})
    record, _ = run_cell(asked, suite="test", places=places)
    assert record.status == "failed" and "is an interface between parts" in record.reason


def test_a_member_is_trained_alone_and_tested(places):
    record, found = run_cell(ranked(STANDALONE, member=1), suite="test", places=places)
    assert record.status == "ok", record.reason
    sampled = draw_sample(found.problem, record.cell.sample)[1]
    assert SubnetConfig.from_json(record.config) == sampled
    assert set(record.spent) == {"baseline", "finetune"} and record.top1.finetuned is not None
    assert record.size.params == sum(p.numel() for p in found.network.parameters())


@pytest.mark.parametrize("start", ["inherited", "scratch"])
def test_training_starts_from_the_weights_that_the_cell_names(places, monkeypatch, start):
    seen = {}
    monkeypatch.setattr(
        finetune, "train", lambda model, *_, **__: seen.update(model=model.state_dict())
    )
    asked = ranked(STANDALONE, member=0, start=start, parent=FEW.model_copy(update={"epochs": 0}))
    _, found = run_cell(asked, suite="test", places=places)
    config = found.config
    if start == "inherited":
        wide = found.problem.model
    else:
        torch.manual_seed(asked.seed)
        wide = timm.create_model(asked.model.name, num_classes=10)
    expected = rebuild(wide, found.problem.space, config).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in seen["model"].items())
