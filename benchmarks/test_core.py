"""What tracing, costs, solvers, surgery, training and a pruned network cost: ``tox -e bench``.

Bounds are on ratios within one run, or stand an order of magnitude from what was measured.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from benchmarks.measuring.measure import measure_pair
from benchmarks.records.runtime import Latency
from benchmarks.studies.pruning_speed import NETWORKS, measure_speed
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.data.batches import Batches, ImageTensors
from zoo.core.data.metered import MeteredData
from zoo.core.meter import Meter
from zoo.core.method.problem import Problem
from zoo.core.networks.rebuild import rebuild
from zoo.core.one_shot.one_shot import RankedWidths
from zoo.core.one_shot.supernet_training import Engine, Execution, starting_weights
from zoo.core.search.channel_knapsack import Items, exact_widths, greedy_widths
from zoo.core.search.channel_scores import channel_order
from zoo.core.search.choice_table import ChoiceTable
from zoo.core.search.evolution import Evaluated, one_by_one
from zoo.core.search.markov_chain import sample_chain
from zoo.core.search.prior import uniform_prior
from zoo.core.search.width_grid import WidthGrid, covering_states
from zoo.core.training import gradients as narrow_strided
from zoo.core.training.train import Recipe, train
from zoo.pse_net import PSENet, explore

RESULTS = Path(__file__).parents[1] / "results"
CONFIGS = 100_000
TORCH_PRUNING_FACTOR = 50
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def freed_memory_is_kept() -> None:
    """Let the C library hand freed memory out again, where it knows how to.

    By default it returns large blocks to the system, and the page faults of the next ones, a fifth
    of a small step, fall to whichever of two interleaved steps happens to find the heap trimmed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_MAX, 0)


def halved(space: ChannelSpace) -> SubnetConfig:
    return SubnetConfig.from_widths(space, {g.name: (g.size + 1) // 2 for g in space.groups})


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0"])
def test_macs_of_populations(benchmark: BenchmarkFixture, name: str) -> None:
    space = ChannelSpace.trace(timm.create_model(name))
    cost = CostModel(space)
    rng = np.random.default_rng(0)
    widths = rng.integers(1, space.sizes + 1, size=(CONFIGS, len(space.groups)))
    per_second = CONFIGS / _time(benchmark, lambda: cost.macs_of_widths(widths), rounds=20)
    benchmark.extra_info["configs_per_second"] = round(per_second)
    assert per_second >= 2_000_000


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0"])
def test_macs_one_at_a_time(benchmark: BenchmarkFixture, name: str) -> None:
    space = ChannelSpace.trace(timm.create_model(name))
    cost = CostModel(space)
    rows = np.random.default_rng(0).integers(1, space.sizes + 1, (1000, 1, len(space.groups)))
    seconds = []

    def one_by_one() -> None:
        started = time.process_time()
        for row in rows:
            cost.macs_of_widths(row)
        seconds.append(time.process_time() - started)

    _time(benchmark, one_by_one, rounds=20)
    per_second = len(rows) / min(seconds)  # other processes only add to it
    benchmark.extra_info["configs_per_second"] = round(per_second)
    assert per_second >= 100_000


@pytest.mark.parametrize("name", ["resnet50", "ecaresnet50d", "efficientnet_b0"])
def test_trace_and_rebuild(benchmark: BenchmarkFixture, name: str) -> None:
    model = timm.create_model(name).eval()

    def prune() -> nn.Module:
        space = ChannelSpace.trace(model, inexact=True)
        return rebuild(model, space, halved(space))

    assert _time(benchmark, prune, rounds=5) <= 1.0


@pytest.mark.parametrize("name", NETWORKS)
def test_pruning_against_torch_pruning(benchmark: BenchmarkFixture, name: str) -> None:
    """Trace, decision, rebuilding and proof take no longer than Torch-Pruning without a proof.

    By turns, in time of the processor; 0.15 is room for noise.
    """
    found = measure_speed(name, rounds=9)
    benchmark.extra_info["ours_over_torch_pruning"] = round(found.ratio, 2)
    benchmark.pedantic(lambda: measure_speed(name, rounds=1), rounds=1)  # type: ignore[no-untyped-call]
    assert found.ratio <= 1.15


def engine_problem(name: str = "resnet20_cifar", size: int = 32) -> Problem:
    """A search problem of ten classes on random images, by default of CIFAR's size."""
    generator = torch.Generator().manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    space = ChannelSpace.trace(model, (3, size, size))
    cost, meter = CostModel(space), Meter()
    parts = []
    for count in (512, 256):
        images = torch.randint(
            0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator
        )
        labels = torch.arange(count) % 10
        parts.append(Batches(ImageTensors(images, labels, (0.5,) * 3, (0.25,) * 3), 64, seed=0))
    data = MeteredData(parts[0], parts[1], meter)
    return Problem(model, space, cost, Budget.parse(0.5, cost), data, meter=meter)


@pytest.mark.parametrize(
    ("name", "size", "batch"), [("resnet20_cifar", 32, 128), ("mobilenetv2_050", 96, 32)]
)
@pytest.mark.usefixtures("freed_memory_is_kept")
def test_engine_step_against_a_hand_built_network(
    benchmark: BenchmarkFixture, name: str, size: int, batch: int
) -> None:
    """A training step at some widths costs at most 1.05 of that of a network built so.

    Both run one fused optimizer step; the engine's is over all weights, which moves those that the
    subnet does not use by momentum and decay: in a network of many weights and small batches, that
    comes on top. Times are of the processor, not of the clock.
    """
    task = engine_problem(name, size)
    config = halved(task.space)
    engine = Engine(task, starting_weights(task, "parent"), steps=10_000, lr=1e-4)
    small = rebuild(task.model, task.space, config).train()
    optimizer = torch.optim.SGD(
        small.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=True
    )
    source = task.data.training._source
    images, labels = (torch.cat(parts)[:batch] for parts in zip(*source.epoch(0), strict=True))

    def on_the_engine() -> None:
        engine.update(nn.functional.cross_entropy(engine.logits(images, config), labels))

    def by_hand() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(small(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    with task.meter.phase("supernet"):
        ratio = _ratio(on_the_engine, by_hand, rounds=61)
        _time(benchmark, on_the_engine, rounds=5)
    benchmark.extra_info["engine_over_hand_built"] = round(ratio, 3)
    assert ratio <= 1.05


@pytest.mark.parametrize("execution", ["masked", "sliced"])
def test_parallel_step(benchmark: BenchmarkFixture, execution: Execution) -> None:
    """One update of four subnets: compare the two by their medians, on the device at hand."""
    task = engine_problem()
    grid = WidthGrid.make(task, 10)
    order = channel_order(task, by_magnitude=True)
    rng = np.random.default_rng(0)
    weights = starting_weights(task, "parent")
    engine = Engine(task, weights, steps=10_000, lr=1e-4, execution=execution)
    images, labels = next(iter(task.data.training._source.epoch(0)))

    def step() -> None:
        configs = [grid.config(state, order) for state in covering_states(grid, 4, rng)]
        engine.update(nn.functional.cross_entropy(engine.parallel(images, configs), labels))

    with task.meter.phase("supernet"):
        _time(benchmark, step, rounds=15)


def test_search_outside_of_network_passes(benchmark: BenchmarkFixture) -> None:
    """Less than a twentieth of a search goes to anything but passes through networks."""
    task = engine_problem()
    settings = PSENet(evaluations=30, population=10)
    widths = RankedWidths(task, WidthGrid.make(task, 10), channel_order(task, by_magnitude=True))
    began, inside = 0.0, 0.0

    def enter(*_: object) -> None:
        nonlocal began
        began = time.perf_counter()

    def leave(*_: object) -> None:
        nonlocal inside
        inside += time.perf_counter() - began

    task.supernet._skeleton.register_forward_pre_hook(enter)
    task.supernet._skeleton.register_forward_hook(leave)

    def search() -> None:
        evaluated = Evaluated(
            one_by_one(lambda state: settings.accuracy(widths, widths.config(state), {}))
        )
        flat = uniform_prior(widths.grid.sizes)
        explore(widths, evaluated, flat, settings, np.random.default_rng(0))

    with task.meter.phase("search"):
        benchmark.pedantic(search, rounds=1)  # type: ignore[no-untyped-call]
    assert benchmark.stats is not None
    outside = 1 - inside / benchmark.stats.stats.total
    benchmark.extra_info["share_outside_of_passes"] = round(outside, 3)
    assert outside < 0.05


def test_training_loop_against_a_bare_loop(benchmark: BenchmarkFixture) -> None:
    """The harness may cost at most 3 % more than a loop without meter, schedule and checks.

    The start of a phase gives freed memory back to the system, which the first update takes anew;
    so the ratio within an open phase is told beside it.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8, generator=generator)
    data = ImageTensors(images, torch.arange(512) % 10, mean=(0.5,) * 3, std=(0.25,) * 3)
    batches = Batches(data, 128, seed=0, shuffle=True)
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10)
    meter = Meter()

    def loop() -> None:
        train(model, batches, Recipe(epochs=1, lr=1e-4), meter=meter, macs_per_image=1)

    def harness() -> None:
        with meter.phase("finetune"):
            loop()

    def bare() -> None:
        model.train()
        model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        for batch, labels in batches.epoch(0):
            batch = batch.to(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(model(batch), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    ratio = _ratio(harness, bare)
    with meter.phase("finetune"):
        within = _ratio(loop, bare)
    benchmark.extra_info["harness_over_bare"] = round(ratio, 3)
    benchmark.extra_info["within_a_phase_over_bare"] = round(within, 3)
    _time(benchmark, harness, rounds=3)
    assert within <= 1.03
    assert ratio <= 1.03


@pytest.mark.parametrize(
    ("channels", "size", "most"),
    [
        ((16, 32, 64), 32, 1.02),
        ((16, 32, 64), 16, 1.02),
        ((8, 16, 32), 32, 1.02),
        ((8, 16, 32), 16, 1.03),  # 0.3 ms of a step of 15 ms
    ],
)
def test_step_around_the_broken_kernel_against_torch_alone(
    benchmark: BenchmarkFixture, channels: tuple[int, int, int], size: int, most: float
) -> None:
    """Gradients of narrow strided layers by our own way may cost 2 % of a step."""
    torch.manual_seed(0)
    model = timm.create_model("resnet20_cifar", channels=channels).train()
    model.to(memory_format=torch.channels_last)
    images = torch.randn(32, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.arange(32) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step(back: Callable[[Tensor], None]) -> None:
        optimizer.zero_grad()
        back(nn.functional.cross_entropy(model(images), labels))
        optimizer.step()

    assert not narrow_strided.is_guarded(), "run this in a process without pruners from outside"
    ratio = _ratio(lambda: step(narrow_strided.backward), lambda: step(Tensor.backward), rounds=120)
    benchmark.extra_info["around_over_torch_alone"] = round(ratio, 4)
    _time(benchmark, lambda: step(narrow_strided.backward), rounds=3)
    assert ratio <= most


def test_pruned_against_parent(benchmark: BenchmarkFixture) -> None:
    """A pass of the pruned network, stored, and its speed-up as a cell measures it."""
    model = timm.create_model("resnet18", num_classes=10).eval()
    space = ChannelSpace.trace(model, (3, 64, 64))
    small = rebuild(model, space, halved(space)).eval()
    settings = Latency(batches=(1, 8), rounds=9)
    found = measure_pair(model, small, (3, 64, 64), latency=settings).latency
    for measured in found:
        told = f"batch_{measured.batch}"
        benchmark.extra_info[f"speedup_{told}"] = round(measured.speedup, 3)
        benchmark.extra_info[f"noise_floor_{told}"] = round(1 / measured.control.median, 3)
    images = torch.randn(8, 3, 64, 64)
    with torch.inference_mode():
        _time(benchmark, lambda: small(images), rounds=20)
    # Half of all widths is close to a quarter of the MACs: not to be twice as fast would be odd.
    assert found[-1].speedup >= 2.0


@pytest.mark.parametrize("solver", ["greedy", "exact"])
def test_knapsack_solver(benchmark: BenchmarkFixture, solver: str) -> None:
    """Half the cost of sixty groups of up to 512 channels; exact for capacities down to it."""
    rng = np.random.default_rng(0)
    sizes = rng.choice([64, 128, 256, 512], size=60)
    items = Items(
        tuple(np.sort(rng.random(size))[::-1] for size in sizes),
        rng.integers(1, 50, size=60) * 1_000,
        tuple(tuple(range(8, size + 1, 8)) for size in sizes.tolist()),
    )

    def recount(widths: np.ndarray) -> np.ndarray:
        return np.asarray((widths * np.roll(widths, 1, axis=1)).sum(axis=1))

    limit = int(recount(sizes[None])[0]) // 2

    def solve() -> np.ndarray:
        return greedy_widths(items) if solver == "greedy" else exact_widths(items, recount, limit)

    _time(benchmark, solve, rounds=3)
    assert (np.diff(items.cost(solve())) != 0).any()


def test_markov_chain_of_bnp(benchmark: BenchmarkFixture) -> None:
    """Steps a second on sixteen blocks of two coordinates with ten widths each."""
    rng = np.random.default_rng(0)
    energies = tuple(rng.random((10, 10)) for _ in range(16))
    costs = tuple(rng.integers(1, 1_000, size=(10, 10)) for _ in range(16))
    table = ChoiceTable(energies, costs, limit=16 * 1_000)
    steps = 5_000

    def sample() -> object:
        fresh = np.random.default_rng(0)
        return sample_chain(table, (0,) * 32, steps=steps, tau=0.1, rng=fresh)

    seconds = _time(benchmark, sample, rounds=3)
    benchmark.extra_info["steps_per_second"] = round(steps / seconds)
    assert steps / seconds >= 1_000


def test_ecaresnet50d_against_torch_pruning(benchmark: BenchmarkFixture) -> None:
    """Torch-Pruning gets fifty times our time to build its graph and prune; then it is stopped."""
    model = timm.create_model("ecaresnet50d").eval()

    def prune() -> nn.Module:
        space = ChannelSpace.trace(model, inexact=True)
        return rebuild(model, space, halved(space))

    ours = _time(benchmark, prune, rounds=3)
    context = get_context("spawn")
    ours_end, their_end = context.Pipe()
    process = context.Process(target=_torch_pruning, args=(their_end,))
    process.start()
    ours_end.recv()  # its imports are done and its model is made
    started = time.perf_counter()
    is_done = ours_end.poll(TORCH_PRUNING_FACTOR * ours)
    theirs = time.perf_counter() - started
    process.kill()
    process.join()
    benchmark.extra_info["torch_pruning_seconds"] = round(theirs, 1)
    benchmark.extra_info["torch_pruning_finished"] = is_done
    assert theirs >= TORCH_PRUNING_FACTOR * ours


def test_report_of_324_records(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Tables, figures and page of `results/earlier/clutter16`, with the start of the command.

    On a quiet machine; busy neighbours raise the processor's seconds by half.
    """
    shutil.copytree(RESULTS / "earlier" / "clutter16" / "records", tmp_path / "records")
    command = [sys.executable, "-m", "benchmarks.cli", "report", "--results", str(tmp_path)]

    def report() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    before = os.times()
    benchmark.pedantic(report, rounds=1)  # type: ignore[no-untyped-call]
    after = os.times()
    spent = sum(after[2:4]) - sum(before[2:4])  # user and system seconds of the command
    benchmark.extra_info["processor_seconds"] = round(spent, 2)
    assert (tmp_path / "page.html").is_file()
    assert spent <= 10


def _torch_pruning(connection: Connection) -> None:
    import torch_pruning as tp

    torch.set_num_threads(1)
    model = timm.create_model("ecaresnet50d").eval()
    images = torch.randn(1, 3, 224, 224)
    connection.send("ready")
    pruner = tp.pruner.MagnitudePruner(
        model, images, importance=tp.importance.MagnitudeImportance(), pruning_ratio=0.5,
        ignored_layers=[model.get_classifier()],
    )  # fmt: skip
    pruner.step()
    connection.send("done")


def _time(benchmark: BenchmarkFixture, call: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of a call after one warm-up."""
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=1)  # type: ignore[no-untyped-call]
    assert benchmark.stats is not None
    return float(benchmark.stats.stats.median)


def _ratio(first: Callable[[], object], second: Callable[[], object], rounds: int = 7) -> float:
    """Return the median over interleaved rounds of the time of one call over another."""
    ratios = []
    for _ in range(rounds + 1):
        times = []
        for call in (first, second):
            started = time.process_time()
            call()
            times.append(time.process_time() - started)
        ratios.append(times[0] / times[1])
    return statistics.median(ratios[1:])
