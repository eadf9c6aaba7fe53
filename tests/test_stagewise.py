"""Stage-wise pruning: what trains on what, and what the search makes of it."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.latencies import fabricated
from tests.problems import BATCH, SIDE, batches, problem
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel, Metric
from zoo.core.errors import InfeasibleBudget
from zoo.core.method.problem import Problem
from zoo.core.one_shot.fullnet import fullnet_pass
from zoo.core.one_shot.one_shot import RankedWidths
from zoo.core.one_shot.stage_search import StagedGrid, run_searches, stage_error, stage_scorers
from zoo.core.one_shot.supernet_training import Engine, starting_weights
from zoo.core.search.channel_scores import channel_order
from zoo.core.search.width_grid import WidthGrid
from zoo.core.search.widths_in_budget import fill_closely
from zoo.core.supernet.stages import StageRunner, cut_stages, stage_costs
from zoo.pse_net import PSENet, train_parallel
from zoo.stagewise import (
    JUNCTION_WIDTHS,
    Stagewise,
    best_assembled,
    combine,
    search_stages,
    stage_losses,
    train_stagewise,
)

TOLERANCE = 1e-10


def widths_of(task: Problem, ratios: int = 5) -> RankedWidths:
    grid = WidthGrid.make(task, ratios)
    return RankedWidths(task, grid, channel_order(task, by_magnitude=True))


def limited(task: Problem, metric: Metric, keep_ratio: float = 0.5) -> Problem:
    """The same with a budget of another cost; operators take made-up times."""
    if metric == "latency":
        drawn = np.random.default_rng(0)
        table = fabricated(task.model, task.space, lambda _: int(drawn.integers(1, 1000)))
        task.cost = CostModel(task.space, table)
    task.budget = Budget.parse(keep_ratio, task.cost, metric)
    return task


def staged_of(widths: RankedWidths, count: int = 3, is_junction_free: bool = False) -> StagedGrid:
    problem = widths.problem
    stages = cut_stages(problem.model, problem.space, count)
    return StagedGrid(widths.grid, stages, is_junction_free)


def engine_of(task: Problem, lr: float = 0.1) -> Engine:
    return Engine(task, starting_weights(task, "parent"), steps=2, lr=lr)


def images_of() -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, SIDE, SIDE, dtype=torch.float64, generator=drawn)
    return images, torch.randint(10, (BATCH,), generator=drawn)


def narrow(staged: StagedGrid, widths: RankedWidths, state: int = 1) -> SubnetConfig:
    """Every free group at the same place of the grid."""
    free = staged.free
    whole = free.whole(np.minimum(state, free.full)[None])[0]
    return widths.config(whole)


def gradients(engine: Engine, loss: Tensor) -> Mapping[str, Tensor | None]:
    """What an update by a loss hands to the optimizer, by name of the full weight."""
    found: dict[str, Tensor | None] = {}

    def look(*_: object) -> None:
        for name, weight in engine.weights.items():
            found[name] = None if weight.grad is None else weight.grad.clone()

    handle = register_optimizer_step_pre_hook(look)
    try:
        Engine.update(engine, loss)
    finally:
        handle.remove()
    return found


def passed(
    task: Problem, *, is_junction_free: bool = False
) -> tuple[Engine, StageRunner, StagedGrid, RankedWidths, list[Tensor]]:
    """An engine that has run the full network; its updates change no weight."""
    widths = widths_of(task)
    staged = staged_of(widths, is_junction_free=is_junction_free)
    engine, runner = engine_of(task, lr=0.0), StageRunner(task.supernet, staged.stages)
    features, _ = fullnet_pass(engine, runner, *images_of(), is_trained=True)
    return engine, runner, staged, widths, features


# Training


@pytest.mark.parametrize("name", ["resnet20_cifar", "test_efficientnet"])
def test_stages_at_full_width_have_no_error_at_all(name: str) -> None:
    task = problem(name)
    with task.meter.phase("supernet"):
        engine, runner, _, _, features = passed(task)
        losses = stage_losses(engine, runner, features, SubnetConfig.full())
    assert [float(loss.detach()) for loss in losses] == [0.0] * 3


@pytest.mark.parametrize("is_junction_free", [False, True])
def test_a_stage_loss_reaches_the_weights_of_its_stage_and_no_others(
    is_junction_free: bool,
) -> None:
    task, found = problem(), []
    with task.meter.phase("supernet"):
        engine, runner, staged, widths, features = passed(task, is_junction_free=is_junction_free)
        for k in range(len(staged.stages)):
            losses = stage_losses(engine, runner, features, narrow(staged, widths))
            found.append(gradients(engine, losses[k]))
    assert not any(feature.requires_grad for feature in features)
    for by_name, stage in zip(found, staged.stages, strict=True):
        for name, gradient in by_name.items():
            is_inside = any(name.startswith(f"{path}.") for path in stage.modules)
            has_gradient = gradient is not None and bool(gradient.any())
            assert has_gradient == is_inside, name


def test_the_target_of_a_stage_is_a_constant() -> None:
    """The gradient is that towards numbers, though the same weights made them."""
    task = problem()
    with task.meter.phase("supernet"):
        engine, runner, staged, widths, features = passed(task)
        config = narrow(staged, widths)
        numbers = [torch.tensor(feature.numpy()) for feature in features]
        for k in range(len(staged.stages)):
            student = runner.output(k, numbers[k], config, engine.sliced(config), training=True)
            wanted = gradients(engine, stage_error(student, numbers[k + 1]))
            found = gradients(engine, stage_losses(engine, runner, features, config)[k])
            assert any(gradient is not None for gradient in wanted.values())
            for name, gradient in wanted.items():
                if gradient is not None:
                    assert torch.equal(found[name], gradient)  # type: ignore[arg-type]


def test_a_gradient_would_reach_the_fullnet_without_the_detach() -> None:
    """What the tests above guard against can happen: the graph of the fullnet is there."""
    task = problem()
    with task.meter.phase("supernet"):
        engine, runner, staged, widths, _ = passed(task)
        values = engine.sliced(SubnetConfig.full())
        attached = runner.features(images_of()[0], values, training=True)
        losses = stage_losses(engine, runner, attached, narrow(staged, widths))
        assert gradients(engine, losses[2])["conv1.weight"] is not None


@pytest.mark.parametrize("name", ["resnet20_cifar", "test_efficientnet"])
def test_every_channel_gets_a_gradient_in_every_iteration(name: str) -> None:
    task = problem(name)
    settings = replace(Stagewise(), steps=1, ratios=5)
    seen: list[dict[str, Tensor]] = []

    class Watched(Engine):
        def update(self, loss: Tensor, terms: Tensor | None = None) -> Tensor:
            found = gradients(self, loss)
            seen.append({name: grad for name, grad in found.items() if grad is not None})
            return torch.empty(0)

    with pytest.MonkeyPatch.context() as patch, task.meter.phase("supernet"):
        patch.setattr("zoo.core.one_shot.one_shot.Engine", Watched)
        widths = widths_of(task)
        train_stagewise(widths, staged_of(widths), settings)
    for group in task.space.groups:
        for member in group.members:
            if member.role in ("out", "depthwise"):
                rows = seen[0][member.tensor].movedim(member.dim, 0)[member.index.ravel()]
                assert bool(rows.flatten(1).any(1).all()), (group.name, member.tensor)


def test_one_stage_on_labels_without_fullnet_and_tinynet_is_single_path_training() -> None:
    settings = Stagewise(
        steps=3, lr=0.1, ratios=5, stages=1, fullnet=False, tinynet=False, supervision="labels"
    )
    task, again = problem(), problem()
    with task.meter.phase("supernet"):
        widths = widths_of(task)
        trained = train_stagewise(widths, staged_of(widths, 1), settings)
    single = PSENet(steps=3, lr=0.1, ratios=5, subnets=1, sampling="independent")
    with again.meter.phase("supernet"):
        wanted = train_parallel(widths_of(again), replace(single, execution="sliced"))
    for name, weight in wanted.weights.items():
        assert torch.equal(trained.weights[name], weight)
    mine, other = task.meter.spent["supernet"], again.meter.spent["supernet"]
    assert (mine.images, mine.macs) == (other.images, other.macs)


def test_an_iteration_by_hand() -> None:
    """Fullnet on labels, tinynet and a random subnet on the fullnet's features, one summed step."""
    settings = Stagewise(steps=1, lr=0.1, ratios=5, stages=2)
    task, again = problem(), problem()
    with task.meter.phase("supernet"):
        widths = widths_of(task)
        staged = staged_of(widths, 2)
        trained = train_stagewise(widths, staged, settings)
    (images, labels) = next(iter(batches()[0].epoch(0)))
    engine = engine_of(again)
    supernet, runner = again.supernet, StageRunner(again.supernet, staged.stages)
    whole = supernet.sliced(SubnetConfig.full(), engine.weights)
    middle = supernet.through(
        staged.stages[0].modules, images, SubnetConfig.full(), whole, training=True
    )
    logits = supernet.through(
        staged.stages[1].modules, middle, SubnetConfig.full(), whole, training=True
    )
    drawn = task.rng("search").spawn(2)[0].integers(staged.free.sizes)
    total = F.cross_entropy(logits, labels)
    for state in (np.zeros_like(drawn), drawn):
        config = widths.config(staged.free.whole(state[None])[0])
        values = supernet.sliced(config, engine.weights)
        first = runner.output(0, images, config, values, training=True)
        variance = middle.detach().var(dim=(0, 2, 3), correction=0).mean()
        total = total + (first - middle.detach()).square().mean() / (variance + 1e-6)
        second = runner.output(1, middle.detach(), config, values, training=True)
        target = logits.detach().log_softmax(1)
        divergence = target.exp() * (target - second.log_softmax(1))
        total = total + divergence.sum(1).mean()
    with again.meter.phase("supernet"):
        engine.update(total)
    for name, weight in engine.trained().items():
        assert float((weight - trained.weights[name]).abs().max()) < TOLERANCE
    macs = sum(
        task.cost.macs(widths.config(staged.free.whole(state[None])[0]))
        for state in (staged.free.full, np.zeros_like(drawn), drawn)
    )
    assert task.meter.spent["supernet"].macs == 3 * BATCH * macs


@pytest.mark.parametrize("count", [2, 3])
def test_labels_train_a_stage_within_the_fullnet(count: int) -> None:
    settings = Stagewise(
        steps=1, lr=0.1, ratios=5, fullnet=False, tinynet=False, supervision="labels"
    )
    task, again = problem(), problem()
    with task.meter.phase("supernet"):
        widths = widths_of(task)
        staged = staged_of(widths, count)
        trained = train_stagewise(widths, staged, settings)
    (images, labels) = next(iter(batches()[0].epoch(0)))
    engine, supernet = engine_of(again), again.supernet
    drawn = task.rng("search").spawn(2)[0].integers(staged.free.sizes)
    config = widths.config(staged.free.whole(drawn[None])[0])
    full, features, behind = supernet.sliced(SubnetConfig.full(), engine.weights), images, 0
    losses, passes = [], task.cost.full_macs
    for k, stage in enumerate(staged.stages):
        alone = SubnetConfig({n: kept for n, kept in config.keep.items() if n in stage.inner})
        values = supernet.sliced(alone, engine.weights)
        modules = [path for later in staged.stages[k:] for path in later.modules]
        logits = supernet.through(modules, features.detach(), alone, values, training=True)
        losses.append(F.cross_entropy(logits, labels))
        passes += 3 * (task.cost.macs(alone) - behind)
        features = supernet.through(
            stage.modules, features, SubnetConfig.full(), full, training=True
        )
        behind += stage_costs(task.space, stage).full_macs
    assert behind == task.cost.full_macs
    with again.meter.phase("supernet"):
        engine.update(torch.stack(losses).sum())
    assert task.meter.spent["supernet"].macs == BATCH * passes
    for name, weight in engine.trained().items():
        assert float((weight - trained.weights[name]).abs().max()) < TOLERANCE


# Searching


class Probe:
    """A task that tells of its process, or goes on for ever."""

    is_streamed = False

    def __init__(self, end: str = "") -> None:
        self.end = end

    def run(self) -> object:
        if self.end == "hang":
            threading.Event().wait(600)
        return os.getpid(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()


def run_probes(*ends: str) -> list[object]:
    return list(run_searches([Probe(end) for end in ends], 2))  # type: ignore[list-item]


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Settings that no fresh process has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(True)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("three_threads")
def test_any_number_of_processes_calculates_alike_and_finds_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[object] = []

    def run_with_probe(tasks: list[Probe], workers: int) -> list[object]:
        *archives, probe = run_searches([*tasks, Probe()], workers)  # type: ignore[list-item]
        told.append(probe)
        return archives

    monkeypatch.setattr("zoo.core.one_shot.stage_search.run_searches", run_with_probe)
    found = []
    for count in (1, 2):
        task = problem()
        subnet = replace(Stagewise.tiny(), workers=count).search(task)
        macs = {name: spent.macs for name, spent in task.meter.spent.items()}
        found.append((subnet.config, task.trace_rows, macs))
    assert found[0] == found[1]
    (own, *flags), (other, *same_flags) = told  # type: ignore[misc]
    assert own == os.getpid() != other
    assert flags == same_flags == [3, True]
    assert not multiprocessing.active_children()


def test_an_interrupted_search_leaves_no_process_behind() -> None:
    def interrupt_when_started() -> None:
        while len(multiprocessing.active_children()) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell starts what runs in its background with this signal ignored, and Python keeps that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt_when_started).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_probes("hang", "hang")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not multiprocessing.active_children()


def test_a_search_whose_process_is_killed_ends_at_once_and_names_the_signal() -> None:
    def kill_one_when_started() -> None:
        while len(multiprocessing.active_children()) < 2:
            time.sleep(0.05)
        multiprocessing.active_children()[0].kill()

    threading.Thread(target=kill_one_when_started).start()
    message = (
        r"ended without an answer: killed by signal 9 \(SIGKILL\); .*memory.*"
        r"guard `if __name__ == \"__main__\"`.*fewer workers, or 1"
    )
    with pytest.raises(RuntimeError, match=message):
        run_probes("hang", "hang")
    assert not multiprocessing.active_children()


ORPHANING = """
import multiprocessing, os, threading, time
from tests.test_stagewise import run_probes

def kill_when_started():
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.05)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os._exit(0)

if __name__ == "__main__":
    threading.Thread(target=kill_when_started).start()
    run_probes("hang", "hang")
"""

UNGUARDED = """
print("begins", flush=True)
from dataclasses import replace
from tests.problems import problem
from zoo.stagewise import Stagewise
replace(Stagewise.tiny(), steps=0, evaluations=3, workers=2).search(problem())
"""


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(text, "utf-8")
    return subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )


@pytest.mark.slow
def test_no_process_outlives_the_one_that_asked(tmp_path: Path) -> None:
    """Else the pipes that it still holds would keep `run_script` waiting."""
    assert len(run_script(tmp_path, ORPHANING).stdout.split()) == 2


def test_a_script_without_the_guard_is_refused_before_it_trains_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What multiprocessing notes in a process that still reads the script it was started from."""
    process = multiprocessing.current_process()
    monkeypatch.setattr(process, "_inheriting", True, raising=False)
    task = problem()
    with pytest.raises(RuntimeError, match=r"if __name__ == .__main__."):
        replace(Stagewise.tiny(), workers=2).search(task)
    assert not task.meter.spent


@pytest.mark.slow
def test_a_whole_script_without_the_guard_is_told_of_it(tmp_path: Path) -> None:
    ended = run_script(tmp_path, UNGUARDED)
    assert ended.returncode == 1
    assert "in check_processes" in ended.stderr
    assert re.match(
        r"RuntimeError: a process .* ended without an answer.*guard.*use fewer workers, or 1",
        ended.stderr.splitlines()[-1],
    )


def test_a_daemon_process_is_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    task = problem()
    with pytest.raises(RuntimeError, match="workers is 2, but a daemon process starts no others"):
        replace(Stagewise.tiny(), workers=2).search(task)
    assert not task.meter.spent


@pytest.mark.parametrize(
    ("is_junction_free", "metric"), [(False, "macs"), (True, "params"), (True, "latency")]
)
def test_what_stages_add_to_the_cost_is_the_cost_of_the_whole(
    is_junction_free: bool, metric: Metric
) -> None:
    task = limited(problem("test_efficientnet"), metric)
    widths = widths_of(task)
    staged = staged_of(widths, is_junction_free=is_junction_free)
    settings = replace(Stagewise.tiny(), evaluations=5)
    with task.meter.phase("search"):
        scorers = stage_scorers(task, staged.stages, {})
        choices = search_stages(widths, staged, scorers, settings)
    assert len(choices) == (JUNCTION_WIDTHS**2 if is_junction_free else 1)
    for found in choices:
        base = int(widths.grid.costs(found.base[None])[0])
        for picked in product(range(2), repeat=3):
            state = found.base.copy()
            for part, archive, at in zip(found.parts, found.archives, picked, strict=True):
                state[part.free] = archive.states[at]
            pairs = zip(found.added_costs(), picked, strict=True)
            assert (found.assembled(picked) == state).all()
            added = sum(int(costs[at]) for costs, at in pairs)
            assert base + added == int(widths.grid.costs(state[None])[0])


@pytest.mark.parametrize(("count", "choices"), [(1, 1), (3, 3), (5, 5), (9, 5)])
def test_no_junction_width_is_tried_twice(count: int, choices: int) -> None:
    staged = staged_of(widths_of(problem(), ratios=5), is_junction_free=True)
    bases = list(staged.junction_choices(count).values())
    assert len(bases) == choices**2
    assert len(np.unique(np.stack(bases), axis=0)) == len(bases)


def test_combinations_are_the_best_of_everything_found() -> None:
    task = problem(keep_ratio=0.5)
    widths = widths_of(task)
    staged = staged_of(widths)
    settings = replace(Stagewise.tiny(), evaluations=6, population=6, pool=3)
    with task.meter.phase("search"):
        scorers = stage_scorers(task, staged.stages, {})
        (found,) = search_stages(widths, staged, scorers, settings)
    states = combine(widths, [found], settings)
    tried = {}
    for picked in product(*(range(len(archive.losses)) for archive in found.archives)):
        state = found.base.copy()
        for part, archive, at in zip(found.parts, found.archives, picked, strict=True):
            state[part.free] = archive.states[at]
        if int(widths.grid.costs(state[None])[0]) <= task.budget.limit:
            chosen = zip(found.archives, picked, strict=True)
            tried[tuple(state)] = sum(float(a.losses[at]) for a, at in chosen)
    assert len(tried) > 3
    assert [tuple(state) for state in states] == sorted(tried, key=tried.__getitem__)[:3]


def test_the_most_accurate_assembled_network_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    task = problem()
    widths = widths_of(task)
    free = staged_of(widths).free
    states = list(free.whole(np.stack([np.full_like(free.full, at) for at in range(3)])))
    known = [0.2, 0.7, 0.7]
    drawn = iter(known)
    monkeypatch.setattr(task, "accuracy", lambda config, weights: next(drawn))
    assert best_assembled(widths, states, {}, Stagewise()) is states[1]


def test_scores_are_minus_the_summed_errors_of_the_stages_run_alone() -> None:
    task = problem()
    pruner = replace(Stagewise.tiny(), stages=3, steps=0, ratios=5)
    widths = widths_of(task)
    staged = staged_of(widths)
    config = narrow(staged, widths, state=2)
    (score, best) = pruner.scores(task, [config, SubnetConfig.full()])
    again = problem()
    supernet, runner = again.supernet, StageRunner(again.supernet, staged.stages)
    train = [images for images, _ in batches()[0].epoch(0)]
    (first, second) = (images for images, _ in batches()[1].epoch(0))
    everything = SubnetConfig.full()
    total, parts = 0.0, [first, second]
    with torch.no_grad():
        for k, stage in enumerate(staged.stages):
            modules = stage.modules
            full = supernet.recalibrated(everything, train, modules=modules)
            values = supernet.recalibrated(config, train, modules=modules)
            teacher = [supernet.through(modules, x, everything, full) for x in parts]
            student = [runner.output(k, x, config, values, training=False) for x in parts]
            pairs = zip(student, teacher, strict=True)
            total += float(np.mean([float(stage_error(*pair)) for pair in pairs]))
            train = [supernet.through(modules, x, everything, full) for x in train]
            parts = teacher
    assert score == pytest.approx(-total, rel=1e-12)
    assert best == 0.0


@pytest.mark.parametrize(
    "change",
    [{"stages": 1}, {"stages": 4}, {"junctions": "leading"}, {"supervision": "labels"},
     {"fullnet": False}, {"tinynet": False}, {"random_subnets": 0}, {"random_subnets": 2},
     {"evolution": "network"}, {"start": "scratch"}],
    ids=str,
)  # fmt: skip
def test_every_ingredient_can_be_switched_and_the_budget_is_met(change: dict[str, object]) -> None:
    task = problem()
    subnet = replace(Stagewise.tiny(), **change).search(task)  # type: ignore[arg-type]
    assert 0.98 < task.cost.macs(subnet.config) / task.budget.limit <= 1
    (row,) = [row for row in task.trace_rows if row["step"] == "best_assembled"]
    assert len(row["scores"]) >= 1  # type: ignore[arg-type]


@pytest.mark.parametrize(("metric", "junctions"), [("latency", "full"), ("params", "leading")])
def test_budgets_of_other_costs_are_met(metric: Metric, junctions: str) -> None:
    task = limited(problem(), metric, 0.9)
    settings = replace(Stagewise.tiny(), junctions=junctions, evaluations=6)  # type: ignore[arg-type]
    subnet = settings.search(task)
    assert 0.9 < task.budget.cost(task.cost, subnet.config) / task.budget.limit <= 1


def test_filling_the_budget_narrows_no_junction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other one-shot methods give channels up for it, at junctions as well."""
    task = problem(keep_ratio=0.7, rules=WidthRules(divisor=8))
    settings = Stagewise(steps=0, ratios=4, stages=3, slack=0.0)
    widths = widths_of(task, ratios=4)
    staged = staged_of(widths)
    is_held = np.ones(len(task.space.groups), dtype=bool)
    is_held[staged.free.free] = False
    for name in ("stage_scorers", "search_stages", "combine"):
        monkeypatch.setattr(f"zoo.stagewise.{name}", lambda *_: [])
    rng = np.random.default_rng(0)
    is_narrowed = []
    for _ in range(30):
        state = staged.free.whole(rng.integers(staged.free.sizes)[None])[0]
        chosen = widths.widths_of(state)
        if int(task.cost_of(chosen[None])[0]) <= task.budget.limit:
            monkeypatch.setattr("zoo.stagewise.best_assembled", lambda *_, found=state: found)
            assert (settings.search(task).config.widths(task.space) >= chosen).all()
            filled = fill_closely(task, chosen, widths.narrowest_first, slack=0.0)
            is_narrowed.append(bool((filled < chosen)[is_held].any()))
    assert any(is_narrowed)


def test_junctions_that_are_kept_stay_whole() -> None:
    task = problem()
    subnet = Stagewise.tiny().search(task)
    stages = cut_stages(task.model, task.space)
    inner = {name for stage in stages for name in stage.inner}
    for group in task.space.groups:
        if group.name not in inner:
            assert len(subnet.config.indices(group)) == group.size


def test_only_pruned_junctions_reach_a_small_budget() -> None:
    with pytest.raises(InfeasibleBudget, match="fewer stages or junctions 'leading'"):
        Stagewise.tiny().search(problem(keep_ratio=0.1))
    task = problem(keep_ratio=0.1)
    subnet = replace(Stagewise.tiny(), junctions="leading").search(task)
    assert task.cost.macs(subnet.config) <= task.budget.limit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"junctions": "none"}, "unknown junctions 'none'.*full"),
        ({"supervision": "label"}, "unknown supervision 'label'.*labels"),
        ({"evolution": "stage"}, "unknown evolution 'stage'.*stages"),
        ({"score": "x"}, "unknown score 'x'"),
        ({"workers": 0}, "workers is 0; it must be at least 1"),
        ({"stages": 0}, "stages is 0; it must be at least 1"),
        ({"mutation": 1.5}, "mutation is 1.5; it must be at least 0 and at most 1"),
        ({"supervision": "labels", "junctions": "leading"}, "use junctions 'full'"),
        ({"fullnet": False, "tinynet": False, "random_subnets": 0}, "no network is trained"),
    ],
)
def test_settings_that_do_not_exist_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Stagewise.tiny(), **change).search(problem())  # type: ignore[arg-type]


def test_a_configuration_that_narrows_a_kept_junction_has_no_score() -> None:
    task = problem()
    config = SubnetConfig({"layer2.0.conv2": (0, 1)})
    with pytest.raises(ValueError, match=r"'layer2.0.conv2' is an interface"):
        Stagewise.tiny().scores(task, [config])
    (score,) = replace(Stagewise.tiny(), junctions="leading").scores(task, [config])
    assert score < 0
