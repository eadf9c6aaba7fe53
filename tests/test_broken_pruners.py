"""Pruners that are broken on purpose: each names the check that must catch it.

Paper: None.

Idea: A contract is worth what it catches. `Good` keeps it; every other class differs from `Good` in
    one way.

Steps:
    1. `uniform_widths`: the widths.
    2. `choose`: the channels.

Deviations:
    - None.

Unknowns:
    - None.

Cost: No data.

Names: None.
"""

import random
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.width_bounds import Ratio
from zoo.core.contract.checks import CHECKS, ContractViolation, check_pruner, contract, run_check
from zoo.core.contract.trial import Trial
from zoo.core.data.metered import TestSplit
from zoo.core.method.planted import Golden, planted_problem
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude
from zoo.core.search.widths_in_budget import uniform_widths
from zoo.core.training.train import TrainingLoss


@dataclass(frozen=True)
class Good(Pruner):
    """Keeps the contract."""

    setting: float = 0.5

    def search(self, problem: Problem) -> Subnet:
        problem.check_feasible()
        if problem.is_full:
            return conclude(problem, SubnetConfig.full())
        return conclude(problem, self.choose(problem))

    def choose(self, problem: Problem) -> SubnetConfig:
        names = [group.name for group in problem.space.groups]
        widths = uniform_widths(problem).tolist()
        return SubnetConfig.from_widths(problem.space, dict(zip(names, widths, strict=True)))

    @classmethod
    def golden(cls) -> Golden:
        problem = planted_problem((0, 1, 2, 3), (4, 5, 6, 7), keep_ratio=0.5)
        expected = SubnetConfig({group.name: (0, 1, 2, 3) for group in problem.space.groups})
        return Golden(problem, expected, "By hand: the cost is linear in 2 x 8 equal channels.")


BROKEN: list[tuple[int, type[Pruner]]] = []


def caught_by(number: int) -> object:
    def add(cls: type[Pruner]) -> type[Pruner]:
        BROKEN.append((number, cls))
        return cls

    return add


@caught_by(1)
@dataclass(frozen=True)
class ComputesInConstructor(Good):
    def __post_init__(self) -> None:
        object.__setattr__(self, "table", np.arange(3).tolist())


@caught_by(1)
@dataclass(frozen=True)
class ChangesItsArguments(Good):
    def __post_init__(self) -> None:
        object.__setattr__(self, "setting", self.setting / 2)


@caught_by(1)
@dataclass
class Mutable(Pruner):
    setting: float = 0.5

    def search(self, problem: Problem) -> Subnet:
        return Good().search(problem)


@caught_by(2)
class Unsorted(Good):
    def choose(self, problem: Problem) -> SubnetConfig:
        config = super().choose(problem)
        keep = {name: kept[::-1] for name, kept in config.keep.items()}
        object.__setattr__(config, "keep", keep)  # past the config's own refusal
        return config


@caught_by(2)
class OutOfRange(Good):
    def choose(self, problem: Problem) -> SubnetConfig:
        config = super().choose(problem)
        group = problem.space.groups[0]
        return SubnetConfig({**config.keep, group.name: (0, group.size)})


@caught_by(2)
class TooNarrow(Good):
    def choose(self, problem: Problem) -> SubnetConfig:
        config = super().choose(problem)
        widest = max(problem.space.groups, key=lambda group: group.size)
        return SubnetConfig({**config.keep, widest.name: (0,)})


@caught_by(2)
class IgnoresDivisor(Good):
    def choose(self, problem: Problem) -> SubnetConfig:
        group = max(problem.space.groups, key=lambda group: group.size)
        keep = dict(super().choose(problem).keep)
        keep[group.name] = tuple(range(len(keep[group.name]) // 4 * 4 - 1))
        return SubnetConfig(keep)


@caught_by(3)
class OverBudget(Good):
    def choose(self, problem: Problem) -> SubnetConfig:
        return SubnetConfig.full()


@caught_by(3)
class OneChannelTooMany(Good):
    def choose(self, problem: Problem) -> SubnetConfig:
        config = super().choose(problem)
        for group in problem.space.groups:
            width = len(config.indices(group))
            if width < group.size:
                return SubnetConfig({**config.keep, group.name: tuple(range(width + 1))})
        return config


@caught_by(3)
class AbsurdlySmall(Good):
    def choose(self, problem: Problem) -> SubnetConfig:
        names = [group.name for group in problem.space.groups]
        widths = problem.rules.minimums(problem.space).tolist()
        return SubnetConfig.from_widths(problem.space, dict(zip(names, widths, strict=True)))


@caught_by(4)
class IgnoresImpossibleBudget(Good):
    def search(self, problem: Problem) -> Subnet:
        return conclude(problem, AbsurdlySmall().choose(problem))


@caught_by(4)
class SearchesForever(Good):
    def search(self, problem: Problem) -> Subnet:
        while problem.smallest_cost() > problem.budget.limit:
            continue
        return super().search(problem)


@caught_by(4)
class DrawsForever(Good):
    def search(self, problem: Problem) -> Subnet:
        with problem.meter.phase("search"):
            while problem.smallest_cost() > problem.budget.limit:
                for _ in problem.data.search():
                    continue
        return super().search(problem)


@caught_by(4)
class RaisesAnotherError(Good):
    def search(self, problem: Problem) -> Subnet:
        if problem.smallest_cost() > problem.budget.limit:
            raise RuntimeError("no")
        return super().search(problem)


@caught_by(5)
class AlwaysPrunes(Good):
    def search(self, problem: Problem) -> Subnet:
        problem.check_feasible()
        return conclude(problem, AbsurdlySmall().choose(problem))


class _Touches(Good):
    """Does something to the model on the way."""

    def search(self, problem: Problem) -> Subnet:
        self.touch(problem.model)
        return super().search(problem)

    def touch(self, model: nn.Module) -> None:
        raise NotImplementedError


@caught_by(6)
class ChangesWeights(_Touches):
    def touch(self, model: nn.Module) -> None:
        with torch.no_grad():
            next(model.parameters()).mul_(2)


@caught_by(6)
class ChangesStatistics(_Touches):
    def touch(self, model: nn.Module) -> None:
        next(model.buffers()).add_(1)


@caught_by(6)
class ChangesMode(_Touches):
    def touch(self, model: nn.Module) -> None:
        model.train()


@caught_by(6)
class LeavesHook(_Touches):
    def touch(self, model: nn.Module) -> None:
        model.register_forward_hook(lambda module, inputs, output: None)


@caught_by(6)
class LeavesGradient(_Touches):
    def touch(self, model: nn.Module) -> None:
        next(model.parameters()).sum().backward()


@caught_by(6)
class Freezes(_Touches):
    def touch(self, model: nn.Module) -> None:
        model.requires_grad_(False)


@caught_by(7)
class SeedsGlobally(_Touches):
    def touch(self, model: nn.Module) -> None:
        torch.manual_seed(0)
        random.seed(0)


@caught_by(7)
class DrawsGlobally(_Touches):
    def touch(self, model: nn.Module) -> None:
        torch.rand(1)


@caught_by(7)
class Unseeded(Good):
    def choose(self, problem: Problem) -> SubnetConfig:
        rng = np.random.default_rng()
        widths = {name: len(kept) for name, kept in super().choose(problem).keep.items()}
        groups = problem.space.groups
        draws = {g.name: rng.choice(g.size, widths[g.name], replace=False) for g in groups}
        return SubnetConfig({name: tuple(sorted(draw.tolist())) for name, draw in draws.items()})


@caught_by(7)
class Remembers(Good):
    calls: ClassVar[list[int]] = []

    def choose(self, problem: Problem) -> SubnetConfig:
        self.calls.append(0)
        config = super().choose(problem)
        shift = len(self.calls) % 3
        return SubnetConfig(
            {
                group.name: tuple(i + shift for i in kept) if kept[-1] + 1 < group.size else kept
                for group, kept in ((g, config.indices(g)) for g in problem.space.groups)
            }
        )


@caught_by(8)
class HandsOnSmallWeights(Good):
    def search(self, problem: Problem) -> Subnet:
        subnet = super().search(problem)
        weights = {name: tensor[:1] for name, tensor in problem.model.state_dict().items()
                   if tensor.ndim == 4}  # fmt: skip
        return Subnet(subnet.config, weights)


@caught_by(9)
class OffByOneCost(Good):
    def search(self, problem: Problem) -> Subnet:
        subnet = super().search(problem)
        exact = problem.cost.macs
        problem.cost.macs = lambda config: exact(config) - 1  # type: ignore[method-assign]
        return subnet


@caught_by(10)
class HandsOnNaN(Good):
    def search(self, problem: Problem) -> Subnet:
        weights = {
            name: torch.full_like(tensor, torch.nan)
            for name, tensor in problem.model.state_dict().items()
            if tensor.is_floating_point()
        }
        return Subnet(super().search(problem).config, weights)


class _Constant(TrainingLoss):
    def forward(self, student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return torch.ones((), requires_grad=True)


class _Infinite(TrainingLoss):
    def forward(self, student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return student(images).sum() / 0.0


class _TrainsTeacher(TrainingLoss):
    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, student: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return (student(images) - self.teacher(images)).square().mean()


@caught_by(11)
class LossIgnoresStudent(Good):
    def loss(self, teacher: nn.Module, student: nn.Module, *rest: object) -> TrainingLoss:
        return _Constant()


@caught_by(11)
class LossIsInfinite(Good):
    def loss(self, teacher: nn.Module, student: nn.Module, *rest: object) -> TrainingLoss:
        return _Infinite()


@caught_by(11)
class LossTrainsTeacher(Good):
    def loss(self, teacher: nn.Module, student: nn.Module, *rest: object) -> TrainingLoss:
        return _TrainsTeacher(teacher)


TEST_SPLIT = TestSplit(None)


@caught_by(12)
class PeeksAtTest(Good):
    def search(self, problem: Problem) -> Subnet:
        TEST_SPLIT.dataset_once = problem  # type: ignore[assignment]
        TEST_SPLIT.open()
        return super().search(problem)


@caught_by(12)
class DrawsUncharged(Good):
    def search(self, problem: Problem) -> Subnet:
        for _ in problem.data.training._source.epoch(0):
            continue
        return super().search(problem)


@caught_by(13)
class TracesNaN(Good):
    def search(self, problem: Problem) -> Subnet:
        problem.trace("step", loss=float("nan"))
        return super().search(problem)


@caught_by(13)
class TracesNoEnd(Good):
    def search(self, problem: Problem) -> Subnet:
        subnet = super().search(problem)
        problem.trace("afterthought")
        return subnet


@caught_by(13)
class TracesAnotherConfig(Good):
    def search(self, problem: Problem) -> Subnet:
        super().search(problem)
        return Subnet(AbsurdlySmall().choose(problem))


@caught_by(14)
class HasNoCard(Good):
    __module__ = "json"


@caught_by(15)
class WrongAnswer(Good):
    def choose(self, problem: Problem) -> SubnetConfig:
        config = super().choose(problem)
        groups = problem.space.groups
        kept = {g.name: range(g.size - len(config.indices(g)), g.size) for g in groups}
        return SubnetConfig({name: tuple(channels) for name, channels in kept.items()})


@caught_by(16)
class NoBetterThanUniform(Good):
    __module__ = "zoo.knapsack"


def less(problem: Problem, *, keep: bool, ratio: Ratio | None = None) -> Problem:
    """The problem without what is kept whole, or without the bounds of one kind."""
    rules = problem.rules
    ratios = {pattern: found for pattern, found in rules.ratios.items() if found != ratio}
    return replace(problem, rules=replace(rules, keep=rules.keep if keep else (), ratios=ratios))


@caught_by(18)
class PrunesWhatIsKept(Good):
    def choose(self, problem: Problem) -> SubnetConfig:
        return super().choose(less(problem, keep=False))


@caught_by(18)
class KeepsMoreThanMay(Good):
    def choose(self, problem: Problem) -> SubnetConfig:
        return super().choose(less(problem, keep=True, ratio=(0.0, 0.75)))


@caught_by(18)
class KeepsNotExactlySo(Good):
    def choose(self, problem: Problem) -> SubnetConfig:
        return super().choose(less(problem, keep=True, ratio=0.5))


@caught_by(18)
class KeepsLessThanMay(AbsurdlySmall):
    def choose(self, problem: Problem) -> SubnetConfig:
        return super().choose(less(problem, keep=True, ratio=(0.25, 1.0)))


@pytest.mark.parametrize(("number", "cls"), BROKEN, ids=[cls.__name__ for _, cls in BROKEN])
def test_contract_catches(number: int, cls: type[Pruner]) -> None:
    check = next(check for check in CHECKS if check.number == number)
    with pytest.raises(ContractViolation, match=rf"check {number} \({check.name}\)"):
        run_check(check, Trial(cls, "residual"))


def test_every_check_has_a_pruner_that_it_catches() -> None:
    assert {number for number, _ in BROKEN} == {check.number for check in CHECKS} - {17}


def test_what_the_broken_ones_differ_from_keeps_the_contract() -> None:
    check_pruner(Good, networks=["residual"])


def test_first_violation_is_raised() -> None:
    with pytest.raises(ContractViolation) as caught:
        check_pruner(OverBudget, networks=["residual"])
    assert caught.value.number == 3


class _Excused(WrongAnswer):
    known_exceptions: ClassVar[dict[str, str]] = {"golden_answer_comes_out": "keeps the last ones"}


class _ExcusedForNothing(Good):
    known_exceptions: ClassVar[dict[str, str]] = {"golden_answer_comes_out": "out of date"}


class _ExcusedFromNothing(Good):
    known_exceptions: ClassVar[dict[str, str]] = {"golden": "no such check"}


def golden_outcome(cls: type[Pruner]) -> str:
    return next(o.status for o in contract(cls, ["residual"]) if o.number == 15)


def test_known_exception_has_to_fail() -> None:
    assert golden_outcome(_Excused) == "expected"
    assert golden_outcome(_ExcusedForNothing) == "failed"


def test_known_exception_names_a_check() -> None:
    with pytest.raises(ValueError, match="names no check"):
        next(contract(_ExcusedFromNothing, ["residual"]))
