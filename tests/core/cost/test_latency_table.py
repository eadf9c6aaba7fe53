"""Latencies that add up: exact on made-up times, monotone on any, kept with their environment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import zoo
from tests.latencies import TICK, conv_weights, fabricated, made_up_times
from tests.problems import problem
from tests.ready import OURS, ready
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost import measure_latency as timing_module
from zoo.core.cost.budget import Budget
from zoo.core.cost.cost_model import CostModel
from zoo.core.cost.latency_table import Coordinate, LatencyTable, Unit, monotone
from zoo.core.cost.measure_latency import DamagedTable, Timing, measure_latency
from zoo.core.cost.operator_calls import grid_widths, list_cases
from zoo.core.cost.timing_thread import flushing_share
from zoo.core.method.discovery import get_pruner
from zoo.core.method.problem import Problem
from zoo.core.sealed import read_sealed, write_sealed
from zoo.knapsack import channel_costs

SIDE = 16


class Joined(nn.Module):
    """Two branches whose channels are joined, a depthwise layer, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 12, 3, padding=1)
        self.right = nn.Conv2d(3, 20, 1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.norm = nn.BatchNorm2d(32)
        self.last = nn.Conv2d(32, 24, 1)
        self.head = nn.Linear(24, 4)

    def forward(self, images: Tensor) -> Tensor:
        joined = torch.cat([self.left(images), self.right(images)], dim=1)
        features = torch.relu_(self.norm(self.depthwise(joined)))
        features = self.last(features)
        features = features * torch.sigmoid(features.mean((2, 3), keepdim=True))
        return self.head(features.mean((2, 3)))


NETWORKS = {
    "joined": Joined,
    "residual": lambda: timm.create_model("resnet20_cifar", num_classes=4),
    "squeeze_excite": lambda: timm.create_model("test_efficientnet", num_classes=4),
    "depthwise": lambda: timm.create_model("mobilenetv2_035", num_classes=4),
}
LARGE = "depthwise"


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[pytest.mark.slow] if n == LARGE else []) for n in NETWORKS],
)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, ChannelSpace]:
    model = NETWORKS[request.param]().eval()
    return model, ChannelSpace.trace(model, (3, SIDE, SIDE))


def joined() -> tuple[nn.Module, ChannelSpace]:
    model = Joined().eval()
    return model, ChannelSpace.trace(model, (3, SIDE, SIDE))


def random_widths(space: ChannelSpace, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(1, space.sizes + 1, size=(count, len(space.groups)))


class _Counter(TorchDispatchMode):
    """Counts elements that operators read when a real network runs; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if not func.is_view:
            tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            self.elements += sum(t.numel() for t in tensors)
        return func(*args, **(kwargs or {}))


def counted(model: nn.Module, space: ChannelSpace, widths: np.ndarray) -> int:
    names = [group.name for group in space.groups]
    config = zoo.SubnetConfig.from_widths(space, dict(zip(names, widths.tolist(), strict=True)))
    small = zoo.rebuild(model, space, config)
    images = torch.zeros(1, 3, SIDE, SIDE)
    with torch.no_grad(), _Counter() as counter:
        small(images)
    return counter.elements


def test_prediction_is_the_sum_over_the_operators_of_the_rebuilt_network(
    network: tuple[nn.Module, ChannelSpace],
) -> None:
    # Elements are linear in each size, so interpolation between grid points has to be exact; what
    # is left are the constant of each unit and a nanosecond for each channel.
    model, space = network
    table = fabricated(model, space)
    widths = np.vstack([space.sizes, np.ones_like(space.sizes), random_widths(space, 6)])
    predicted = table.ns_of_widths(widths)
    exact = TICK * np.array([counted(model, space, row) for row in widths])
    slack = 2 * sum(u.read.grid[-1] + u.made.grid[-1] for u in table.units)
    assert np.abs((predicted - predicted[0]) - (exact - exact[0])).max() <= slack < TICK


def test_full_network_takes_what_it_was_measured_to_take() -> None:
    model, space = joined()
    table = fabricated(model, space)
    exact = TICK * counted(model, space, space.sizes) + 5_000_000
    assert abs(int(table.ns_of_widths(space.sizes[None])[0]) - exact) <= 1


def test_latency_grows_with_every_width_however_noisy_the_times(
    network: tuple[nn.Module, ChannelSpace],
) -> None:
    model, space = network
    rng = np.random.default_rng(1)
    table = fabricated(model, space, count=lambda key: int(rng.integers(1, 1000)))
    widths = np.minimum(random_widths(space, 30), np.maximum(space.sizes - 1, 1))
    for row in widths:
        wider = np.where(np.eye(len(row), dtype=bool), row + 1, row)
        assert (table.ns_of_widths(wider) > table.ns_of_widths(row[None])).all()


def test_latencies_of_groups_without_a_common_operator_add_up_exactly() -> None:
    # What BNP's table of choices relies on: blocks save independently of each other.
    model = timm.create_model("resnet20_cifar", num_classes=4).eval()
    space = ChannelSpace.trace(model, (3, SIDE, SIDE))
    rng = np.random.default_rng(2)
    table = fabricated(model, space, count=lambda key: int(rng.integers(1, 1000)))
    inner = [i for i, group in enumerate(space.groups) if not group.residual]
    assert len(inner) == 9
    widths = np.repeat(space.sizes[None], 1 + len(inner), axis=0)
    widths[0, inner] = random_widths(space, 1)[0, inner]
    for row, group in zip(widths[1:], inner, strict=True):
        row[group] = widths[0, group]
    full = table.ns_of_widths(space.sizes[None])[0]
    together, *alone = table.ns_of_widths(widths) - full
    assert together == sum(alone)


def test_table_of_two_units_matches_a_sum_by_hand() -> None:
    grid = np.array([1, 5, 9])
    a, b = np.array([1, 0]), np.array([0, 2])
    still = Coordinate(np.zeros(2, dtype=np.int64), 0, np.zeros(1, dtype=np.int64))
    steps = np.array([[100, 200, 300], [200, 400, 600], [300, 600, 900]])
    conv = Unit(Coordinate(a, 0, grid), Coordinate(b, 1, grid), steps)
    norm = Unit(still, Coordinate(b, 1, grid), np.array([[10, 50, 90]]))
    table = LatencyTable([conv, norm], 1000, 2)
    # Widths (3, 1): reads 3, makes 3. Half way in both: 225, and 2 + 2 for the channels beyond
    # the first grid point; the norm takes 30 + 2.
    assert table.ns_of_widths(np.array([[3, 1]])).tolist() == [1000 + 229 + 32]
    # At the last grid point (9, 4): 900 + 8 + 8 and 90 + 8; above and below it is held.
    assert table.ns_of_widths(np.array([[9, 4], [30, 40]])).tolist() == [2014, 2014]


def test_equal_operators_are_measured_once_and_added_up() -> None:
    model = timm.create_model("resnet20_cifar", num_classes=4).eval()
    space = ChannelSpace.trace(model, (3, SIDE, SIDE))
    widths = grid_widths(space, (0.25, 1.0))
    grids = list_cases(model, space, batch=2, memory_format="channels_last", widths=widths)
    convs = [grid for grid in grids if "convolution" in grid.cases[0][0].key]
    assert len(convs) == 21  # 19 and two shortcuts
    keys = {case.key for grid in convs for row in grid.cases for case in row}
    # By hand: stem 1 x 2 sizes; three stages of 3 x 3 layers with 2 x 2 each; at the entry of the
    # second and the third stage a 3 x 3 with stride and a shortcut, 2 x 2 each.
    assert len(keys) == 2 + 3 * 4 + 2 * (4 + 4)
    assert all(key.startswith("aten.convolution.default(float32[2, ") for key in keys)


def test_grid_is_made_of_odd_widths_or_multiples_of_the_divisor_and_the_whole() -> None:
    _, space = joined()
    odd = grid_widths(space, (0.05, 0.5, 1.0))
    assert (odd[:-1] % 2 == 1).all() and (odd[-1] == space.sizes).all()
    even = grid_widths(space, (0.05, 0.5, 1.0), divisor=4)
    assert (even % 4 == 0).all() and (even[0] == 4).all() and (np.diff(even, axis=0) >= 0).all()


def test_monotone_leaves_growing_times_and_meets_noise_half_way() -> None:
    sizes = np.array([0, 1, 2])
    growing = np.array([[10, 20, 30], [20, 30, 50], [40, 50, 60]])
    ramp = sizes[:, None] + sizes[None, :]
    assert (monotone(growing, sizes, sizes) - ramp == growing).all()
    bumpy = np.array([[10, 40, 20]])
    assert (monotone(bumpy, np.zeros(1), sizes) - sizes).tolist() == [[10, 30, 30]]


@cache
def timed() -> tuple[Problem, CostModel]:
    """A problem, and what its network costs, with made-up times."""
    base = problem("resnet20_cifar")
    return base, CostModel(base.space, fabricated(base.model, base.space))


@pytest.mark.parametrize("name", ready((*OURS, "torch_pruning")))
def test_every_pruner_meets_a_budget_of_latency_or_parameters(name: str) -> None:
    base, cost = timed()
    for metric in ("latency", "params"):
        budget = Budget.parse(0.7, cost, metric)  # type: ignore[arg-type]
        asked = replace(base, cost=cost, budget=budget, method=name)
        config = get_pruner(name).tiny().search(asked).config
        reached = budget.cost(cost, config)
        assert 0.9 * budget.limit <= reached <= budget.limit == int(0.7 * budget.full(cost))


def test_knapsack_items_weigh_the_time_that_making_a_channel_takes() -> None:
    # Where only the weights of convolutions take time, an item costs its filters' weights.
    base = problem("resnet20_cifar")
    table = fabricated(base.model, base.space, count=conv_weights)
    cost = CostModel(base.space, table)
    by_time = replace(base, cost=cost, budget=Budget.parse(0.7, cost, "latency"))
    by_weights = replace(base, cost=cost, budget=Budget.parse(0.7, cost, "params"))
    assert (np.rint(channel_costs(by_time) / TICK) == channel_costs(by_weights)).all()


def test_budget_of_latency_is_a_ratio_or_milliseconds() -> None:
    model, space = joined()
    cost = CostModel(space, fabricated(model, space))
    full = int(cost.latency_of_widths(space.sizes[None])[0])
    assert Budget.parse(0.5, cost, "latency").limit == full // 2
    assert Budget.parse(0.8, cost, "latency_ms") == Budget("latency", 800_000)
    with pytest.raises(ValueError, match=r"budget 2 is no keep ratio; .* as latency_ms"):
        Budget.parse(2, cost, "latency")
    with pytest.raises(ValueError, match=r"1e\+09 ms is above the parent's"):
        Budget.parse(1e9, cost, "latency_ms")
    with pytest.raises(ValueError, match="not a positive number"):
        Budget.parse(0, cost, "latency_ms")
    with pytest.raises(ValueError, match="latency was not measured"):
        Budget.parse(0.5, CostModel(space), "latency")


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts measurements, which take made-up times."""
    measured: list[int] = []

    def timed(calls, device, timing, tell):  # type: ignore[no-untyped-def]
        measured.append(len(calls))
        return made_up_times(calls, device, timing, tell)

    monkeypatch.setattr(timing_module, "_samples", timed)
    return measured


def test_table_is_read_back_as_it_was_measured(tmp_path: Path, no_clock: list[int]) -> None:
    model, space = joined()
    widths = random_widths(space, 20)
    first = measure_latency(model, space, folder=tmp_path).ns_of_widths(widths)
    again = measure_latency(model, space, folder=tmp_path).ns_of_widths(widths)
    assert (first == again).all() and len(no_clock) == 1
    (path,) = tmp_path.glob("[!.]*.json")
    written = json.loads(read_sealed(path) or b"")
    assert written["torch"] == torch.__version__ and written["timing"]["batch"] == 1
    assert written["dtype"] == "float32" and written["device"].startswith("cpu")
    measure_latency(model, space, Timing(batch=2), folder=tmp_path)
    measure_latency(model, space, folder=tmp_path, divisor=4)
    assert len(no_clock) == 3 and len(list(tmp_path.glob("*.json"))) == 3


def test_table_of_another_environment_is_not_used(
    tmp_path: Path, no_clock: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, space = joined()
    measure_latency(model, space, folder=tmp_path)
    (first,) = tmp_path.glob("*.json")
    monkeypatch.setattr(timing_module, "cpu_model", lambda: "Abacus 3000")
    measure_latency(model, space, folder=tmp_path)
    assert len(no_clock) == 2
    (second,) = set(tmp_path.glob("*.json")) - {first}
    second.write_bytes(first.read_bytes())  # as if it had been carried here
    with pytest.raises(DamagedTable, match=r"measured elsewhere .*here 'cpu: Abacus 3000'"):
        measure_latency(model, space, folder=tmp_path)


def test_damaged_table_is_set_aside_and_measured_anew(tmp_path: Path, no_clock: list[int]) -> None:
    model, space = joined()
    measure_latency(model, space, folder=tmp_path)
    (path,) = tmp_path.glob("*.json")
    sealed = path.read_bytes()
    content = read_sealed(path)
    assert content is not None
    whole = json.loads(content)
    key = next(iter(whole["ns"]))
    times = [{}, {**whole["ns"], key: -1.0}, {**whole["ns"], key: float("nan")}]
    damages = [sealed[:-40], bytes(len(sealed)), b"[]", *({**whole, "ns": ns} for ns in times)]
    for measured, damage in enumerate(damages, start=2):
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            write_sealed(path, json.dumps(damage).encode())
        with pytest.warns(UserWarning, match=r"set aside as .*\.json\.damaged and is made anew"):
            measure_latency(model, space, folder=tmp_path)
        assert len(no_clock) == measured and path.read_bytes() == sealed
        measure_latency(model, space, folder=tmp_path)
        assert len(no_clock) == measured


def test_clock_gives_times_that_can_be_used(tmp_path: Path) -> None:
    model, space = joined()
    quick = Timing(batch=2, rounds=2, block_ms=0.01)
    threads, told = torch.get_num_threads(), []
    table = measure_latency(
        model, space, quick, folder=tmp_path, tell=lambda done, total: told.append((done, total))
    )
    found = table.ns_of_widths(random_widths(space, 20))
    assert (found > 0).all() and (found < 1e10).all()
    assert told == [(1, 2), (2, 2)] and torch.get_num_threads() == threads
    times = timing_module.pass_ns([model, model], space, quick)
    assert len(times) == 2 and all(0 < ns < 1e10 for ns in times)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize("threads", [1, 2])
def test_every_thread_flushes_denormal_numbers_while_it_is_timed(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    flushing_share(2)  # starts the second thread, which a switch in this one no longer reaches
    seen: list[tuple[float, int]] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, images: Tensor) -> Tensor:
            seen.append((flushing_share(threads), torch.get_num_threads()))
            return images * self.weight

    _, space = joined()
    timing_module.pass_ns([Watching()], space, Timing(threads=threads, rounds=1, block_ms=0.001))
    assert set(seen) == {(1.0, threads)}
    assert torch.get_num_threads() == 2 and flushing_share(2) == 0.0
    torch.set_num_threads(before)


@pytest.mark.parametrize("setting", [{"batch": 0}, {"rounds": 0}, {"memory_format": "nhwc"}])
def test_timing_that_makes_no_sense_is_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|unknown memory_format"):
        Timing(**setting)  # type: ignore[arg-type]
