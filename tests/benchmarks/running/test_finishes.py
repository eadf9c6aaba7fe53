"""How decisions are finished, and the controls beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from benchmarks.records.cell import PARENT, Cell
from benchmarks.records.files import write_record
from benchmarks.records.record import PhaseCost, Record
from benchmarks.running import protocol
from benchmarks.running.network import seeded
from benchmarks.running.parent import (
    Places,
    laid_out,
    parent_for,
    recipe_of,
    splits_of,
    train_batches,
)
from benchmarks.running.plan import plan_suite
from benchmarks.running.protocol import Findings, run_cell
from benchmarks.running.suite import Suite
from tests.benchmarks.fabricate import TINY
from tests.benchmarks.fabricate import record as made_up_record
from tests.benchmarks.fabricate import tiny_cell as cell
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import CostModel
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet
from zoo.core.training.distill import BlockDistillation
from zoo.core.training.train import TrainingLoss, train


@dataclass(frozen=True)
class HandsOn(Pruner):
    """Half of every group; hands on weights, a loss, both or nothing."""

    weights: bool = False
    loss_of_its_own: bool = False

    def search(self, problem: Problem) -> Subnet:
        keep = {g.name: tuple(range(g.size // 2)) for g in problem.space.groups}
        state = problem.model.state_dict()
        noisy = {n: t + 0.01 if t.is_floating_point() else t for n, t in state.items()}
        return Subnet(SubnetConfig(keep=keep), noisy if self.weights else None)

    def loss(
        self, teacher: nn.Module, student: nn.Module, space: ChannelSpace, config: SubnetConfig
    ) -> TrainingLoss | None:
        if not self.loss_of_its_own:
            return None
        return BlockDistillation(teacher, (), macs=CostModel(space).full_macs, beta=0.0, kd=3.0)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def hands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, **settings: object) -> Pruner:
        is_ours = name == "hands_on"
        return HandsOn(**settings) if is_ours else zoo.create_pruner(name, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(protocol, "create_pruner", create)


def run(asked: Cell, places: Places) -> tuple[Record, Findings]:
    return run_cell(asked, suite="test", places=places)


def by_hand(asked: Cell, found: Findings, places: Places, *, own: bool) -> nn.Module:
    """The network that a finish should end with, made with the library alone."""
    parent, splits = parent_for(asked, places).model, splits_of(asked.data, asked.seed, places)
    space = ChannelSpace.trace(parent, splits.input_size)
    assert found.config is not None
    weights, loss = None, None
    if own:
        pruner = HandsOn(**asked.settings)  # type: ignore[arg-type]
        state = parent.state_dict()
        if pruner.weights:
            weights = {n: t + 0.01 if t.is_floating_point() else t for n, t in state.items()}
        loss = pruner.loss(parent, parent, space, found.config)
    elif asked.distill:
        macs = CostModel(space).full_macs
        loss = BlockDistillation(parent, (), macs=macs, beta=0.0, kd=asked.distill)
    student = laid_out(zoo.rebuild(parent, space, found.config, weights), asked.finetune)
    with seeded(asked):
        batches = train_batches(asked, asked.finetune, splits)
        train(student, batches, recipe_of(asked.finetune), loss=loss)
    return student


def same(one: nn.Module | None, other: nn.Module) -> bool:
    assert one is not None
    mine, its = one.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in its)


BOTH = {"weights": True, "loss_of_its_own": True}


@pytest.mark.parametrize("distill", [0.0, 2.0])
def test_the_common_finish_knows_nothing_of_what_a_method_hands_on(
    distill: float, places: Places
) -> None:
    asked = cell("hands_on", settings=BOTH, distill=distill)
    record, found = run(asked, places)
    assert record.status == "ok", record.reason
    assert same(found.network, by_hand(asked, found, places, own=False))
    plain, _ = run(cell("hands_on", distill=distill), places)
    assert plain.top1.finetuned == record.top1.finetuned
    assert plain.top1.pruned == record.top1.pruned


@pytest.mark.parametrize(
    ("settings", "handed_on"),
    [
        ({"weights": True}, ("weights",)),
        ({"loss_of_its_own": True}, ("loss",)),
        (BOTH, ("weights", "loss")),
    ],
)
def test_what_a_method_hands_on_makes_a_finish_of_its_own(
    settings: dict[str, object], handed_on: tuple[str, ...], places: Places
) -> None:
    record, _ = run(cell("hands_on", settings=settings), places)
    assert record.handed_on == handed_on
    assert record.top1.own is not None and record.top1.finetuned is not None
    alone, found = run(cell("hands_on", settings=settings, finishes=("own",)), places)
    assert same(
        found.network, by_hand(cell("hands_on", settings=settings), found, places, own=True)
    )
    assert alone.top1.own == record.top1.own and alone.top1.finetuned is None
    assert "finetune" not in alone.spent
    assert alone.spent["finetune_own"].macs == record.spent["finetune_own"].macs


def test_a_method_that_hands_on_nothing_is_finished_once(places: Places) -> None:
    record, _ = run(cell("hands_on"), places)
    assert record.handed_on == () and record.top1.own is None
    assert "finetune_own" not in record.spent
    alone, _ = run(cell("hands_on", finishes=("own",)), places)
    assert alone.top1.own == record.top1.finetuned


def test_a_teacher_s_passes_are_charged(places: Places) -> None:
    plain, taught = (run(cell("hands_on", distill=weight), places)[0] for weight in (0.0, 1.0))
    assert taught.size is not None
    more = taught.spent["finetune"].macs_forward - plain.spent["finetune"].macs_forward
    assert more == 64 * taught.size.full_macs


def test_the_parent_is_fine_tuned_as_a_control(places: Places) -> None:
    record, found = run(cell(PARENT, budget=1.0), places)
    assert record.size is not None and record.size.macs == record.size.full_macs
    assert record.top1.finetuned is not None and record.top1.own is None
    assert same(found.network, by_hand(cell(PARENT, budget=1.0), found, places, own=False))


def suite(**changes: object) -> Suite:
    fields: dict[str, object] = {
        "title": "test",
        "methods": ["fpgm", "bn_scale"],
        "budgets": [0.5, 0.25],
        "models": [{"name": "test_resnet"}],
        "datasets": [TINY.model_dump()],
        "parent": {"epochs": 1, "batch_size": 32},
        "finetune": {"epochs": 2, "batch_size": 32},
    }
    return Suite.model_validate({**fields, **changes})


def settle(asked: Cell, folder: Path, *, search: int, finetune: int, status: str = "ok") -> None:
    spent = {
        "search": PhaseCost(macs_forward=search),
        "finetune": PhaseCost(macs_forward=finetune),
        "finetune_own": PhaseCost(macs_forward=10**9),  # no cost of the common finish
        "baseline": PhaseCost(macs_forward=10**9),
    }
    reason = None if status == "ok" else "too small"
    made = made_up_record(cell=asked, status=status, reason=reason, spent=spent)
    write_record(folder, made)


def test_controls_stand_beside_the_methods_of_every_suite(tmp_path: Path) -> None:
    plan = plan_suite("test", suite(), tmp_path)
    asked = sorted((c.method, c.budget) for c in plan.cells)
    methods = [(m, b) for m in ("bn_scale", "fpgm", "uniform") for b in (0.25, 0.5)]
    assert asked == sorted([*methods, (PARENT, 1.0)])
    assert plan.waiting == 2
    bare = plan_suite("test", suite(controls=False), tmp_path)
    assert {c.method for c in bare.cells} == {"fpgm", "bn_scale"} and not bare.waiting


def test_uniform_is_fine_tuned_at_the_cost_of_the_dearest_method(tmp_path: Path) -> None:
    for asked in plan_suite("test", suite(), tmp_path).cells:
        dear = asked.method == "bn_scale"
        settle(asked, tmp_path, search=450 if dear else 7, finetune=100)
    plan = plan_suite("test", suite(), tmp_path)
    assert plan.waiting == 0
    # 450 + 100 are those of 11 epochs, at 100 for two.
    assert [(c.method, c.budget, c.longer) for c in plan.missing] == [
        ("uniform", 0.5, 11),
        ("uniform", 0.25, 11),
    ]
    assert {c.comparison for c in plan.cells if c.budget != 1} == {plan.cells[0].comparison}
    assert plan.controls.missing == plan.missing


def test_a_control_waits_for_all_methods_beside_it(tmp_path: Path) -> None:
    for asked in plan_suite("test", suite(), tmp_path).cells:
        if (asked.method, asked.budget) != ("fpgm", 0.5):
            infeasible = asked.method == "bn_scale"
            status = "infeasible" if infeasible else "ok"
            settle(asked, tmp_path, search=900, finetune=100, status=status)
    plan = plan_suite("test", suite(), tmp_path)
    assert plan.waiting == 1
    assert [(c.budget, c.longer) for c in plan.controls.missing] == [(0.25, 20)]


def test_methods_run_now_leave_the_others_planned(tmp_path: Path) -> None:
    whole = plan_suite("test", suite(), tmp_path)
    now = plan_suite("test", suite(), tmp_path, methods=["fpgm", PARENT])
    assert now.cells == whole.cells and now.waiting == whole.waiting == 2
    assert now.missing == tuple(c for c in whole.cells if c.method in ("fpgm", PARENT))
    assert (now.done, now.set_aside, whole.set_aside) == (0, 4, 0)
    assert now.summary.startswith("7 cells, 0 done, 3 to run, 4 of other methods, 2 longer")
    for asked in now.missing:
        settle(asked, tmp_path, search=900, finetune=100)
    now = plan_suite("test", suite(), tmp_path, methods=["fpgm", PARENT])
    assert (now.missing, now.done, now.waiting) == ((), 3, 2)
    with pytest.raises(ValueError, match=r"runs no method 'fpmg'; did you mean fpgm\?"):
        plan_suite("test", suite(), tmp_path, methods=["fpmg"])


def test_where_no_method_searches_no_control_is_longer(tmp_path: Path) -> None:
    for asked in plan_suite("test", suite(), tmp_path).cells:
        settle(asked, tmp_path, search=0, finetune=100)
    plan = plan_suite("test", suite(), tmp_path)
    assert (plan.missing, plan.waiting) == ((), 0)
