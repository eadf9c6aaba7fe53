"""Measure a latency table on the device in use, and keep it in a file with its environment.

Every distinct operator call of the network is timed alone on a grid of sizes, layers of equal shape
once, in rounds that go over all of them; the lower quartile counts, since neighbours on the
machine can only add time. Two whole networks are timed in the same rounds, the full one and a
narrow one: a factor and a constant bring the sum over the operators to what these two take, Python
and the calls between the operators included. Denormal numbers are flushed, as they are when a
record is measured.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from filelock import FileLock
from pydantic import Field
from torch import nn

from zoo.core.arguments import checked, fields_checked
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.resize import resized_copy
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.latency_table import LatencyTable, Unit
from zoo.core.cost.operator_calls import (
    MEMORY_FORMATS,
    CaseGrid,
    MemoryFormat,
    grid_widths,
    list_cases,
)
from zoo.core.cost.timing_thread import in_quiet_thread
from zoo.core.sealed import read_sealed, set_aside, write_sealed
from zoo.core.settings import check_settings
from zoo.core.tracing.copies import copy_network
from zoo.core.tracing.entry import enter, laid_out, random_inputs

__all__ = [
    "DamagedTable",
    "Timing",
    "cpu_model",
    "measure_latency",
    "pass_ns",
    "pass_rounds",
    "quick_quarter",
    "tabulate",
]

_log = logging.getLogger(__name__)

RATIOS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
"""Keep ratios of the grid, common to all groups; the first stands for a single channel."""

NARROW = 2
"""Index of the ratio of the narrow network that is timed as a whole."""

_VERSION = 3
"""Version of the way to measure; tables of another version are measured anew."""
_NETWORKS = ("full network", "narrow network")
_NETWORK_BLOCKS = 10
_MOST_PASSES = 1000
_QUANTILE = 0.25

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class _Call:
    """Something to time: makes what is called, and is timed for a number of blocks."""

    prepare: Callable[[], Callable[[], object]]
    blocks: int = 1


class DamagedTable(ValueError):
    """A file of latencies that were measured in another environment."""


@fields_checked
@dataclass(frozen=True)
class Timing:
    """How latency is measured.

    Attributes:
        batch: images of a pass.
        threads: of the CPU.
        memory_format: of images and weights.
        rounds: over all operators; the lower quartile over them counts.
        block_ms: least time of a timed block of calls, ten times that for a whole network.
    """

    batch: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=1)] = 1
    memory_format: MemoryFormat = "channels_last"
    rounds: Annotated[int, Field(ge=1)] = 9
    block_ms: Annotated[float, Field(gt=0)] = 1.0

    def __post_init__(self) -> None:
        check_settings(self)


@checked()
def measure_latency(
    model: nn.Module,
    space: ChannelSpace,
    timing: Timing | None = None,
    *,
    divisor: int = 1,
    folder: Path | None = None,
    tell: Tell | None = None,
) -> LatencyTable:
    """The latency table of a network on its device, from a file if it was measured before.

    Args:
        model: the network that `space` was traced from, on the device to time; not touched.
        space: its channel groups; latency holds for its input size.
        timing: batch, threads, layout and rounds.
        divisor: of the widths that will occur, see `WidthRules`; decides where is measured.
        folder: where tables are kept, one file for each network, timing and environment; None for
            `default_folder()`.
        tell: called with rounds done and rounds in all.

    Raises:
        DamagedTable: if the file is whole, but was measured in another environment.
        UnsupportedModel: if the operators of a pass depend on the batch.
    """
    timing = timing or Timing()
    widths = grid_widths(space, RATIOS, divisor)
    grids = list_cases(
        model, space, batch=timing.batch, memory_format=timing.memory_format, widths=widths
    )
    facts = _facts(model, space, timing) | {"divisor": divisor}
    cases = {case.key for grid in grids for row in grid.cases for case in row}
    keys = sorted({*cases, *_NETWORKS})
    path = (folder or default_folder()) / f"{_digest(facts, keys)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # one process measures, others wait for it
        times = _load(path, facts, keys)
        if times is None:
            calls = _calls(model, space, grids, widths[NARROW], timing)
            _log.info("timing %d calls, %d rounds", len(calls), timing.rounds)
            times = _timed(calls, next(model.parameters()).device, timing, tell)
            write_sealed(path, json.dumps({**facts, "ns": times}, indent=1).encode())
    return tabulate(space, grids, times)


def default_folder() -> Path:
    """The folder of tables in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "pruning-zoo" / "latency"


def tabulate(
    space: ChannelSpace, grids: Sequence[CaseGrid], times: Mapping[str, float]
) -> LatencyTable:
    """The table that measured times make.

    The sum over the operators is corrected by a factor and a constant, so that the full network
    takes what it was measured to take, and the narrow one, too, where that needs no negative
    constant; otherwise by the factor alone.

    Args:
        space: the channel groups.
        grids: the operators, as `list_cases` returns them.
        times: nanoseconds of every operator call and of both networks, by key.
    """
    raw = [
        Unit(g.read, g.made, np.array([[times[c.key] for c in row] for row in g.cases]))
        for g in grids
    ]
    steady = LatencyTable(raw, 0, len(space.groups)).units
    sums = [sum(_at(unit.times, point) for unit in steady) for point in (len(RATIOS) - 1, NARROW)]
    factor = _factor([times[name] for name in _NETWORKS], sums)
    units = [Unit(unit.read, unit.made, unit.times * factor) for unit in raw]
    corrected = LatencyTable(units, 0, len(space.groups))
    rest = times[_NETWORKS[0]] - float(corrected.ns_of_widths(space.sizes[None])[0])
    return LatencyTable(units, round(rest), len(space.groups))


def _at(times: np.ndarray, point: int) -> float:
    """Time where all groups have the ratio of one grid point."""
    return float(times[point if len(times) > 1 else 0, point])


def _factor(measured: Sequence[float], summed: Sequence[float]) -> float:
    """The factor that operator times are multiplied by; a constant makes up for the rest.

    Args:
        measured: nanoseconds of the full and of the narrow network.
        summed: the same as sums over the operators.
    """
    if summed[0] > summed[1]:
        factor = (measured[0] - measured[1]) / (summed[0] - summed[1])
        if 0 < factor <= measured[0] / summed[0]:
            return factor
    return measured[0] / summed[0]


def pass_ns(networks: Sequence[nn.Module], space: ChannelSpace, timing: Timing) -> list[float]:
    """Nanoseconds of one pass over whole networks, timed in interleaved rounds.

    Args:
        networks: the parent of `space` or smaller ones, all on one device; copied.
        space: gives the image size.
        timing: as for a table.
    """
    return [quick_quarter(row) for row in pass_rounds(networks, space, timing)]


def pass_rounds(networks: Sequence[nn.Module], space: ChannelSpace, timing: Timing) -> np.ndarray:
    """The same in every round, shape (networks, rounds)."""
    device = next(networks[0].parameters()).device
    calls = {str(i): _network(network, space, timing) for i, network in enumerate(networks)}
    return np.array([*_samples(calls, device, timing, None).values()])


def quick_quarter(values: Sequence[float] | np.ndarray) -> float:
    """The lower quartile over rounds, since neighbours on the machine can only add time."""
    return float(np.quantile(values, _QUANTILE))


@cache
def cpu_model() -> str | None:
    """Name of the processor, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _calls(
    model: nn.Module,
    space: ChannelSpace,
    grids: Sequence[CaseGrid],
    narrow: np.ndarray,
    timing: Timing,
) -> dict[str, _Call]:
    """Every distinct operator call, and both networks, by key."""
    device = next(model.parameters()).device
    cases = {case.key: case for grid in grids for row in grid.cases for case in row}
    calls = {key: _Call(partial(case.prepared, device)) for key, case in cases.items()}
    names = [group.name for group in space.groups]
    config = SubnetConfig.from_widths(space, dict(zip(names, narrow.tolist(), strict=True)))
    small = resized_copy(model, space.table, config)
    for name, network in zip(_NETWORKS, (model, small), strict=True):
        calls[name] = _network(network, space, timing)
    return calls


def _network(network: nn.Module, space: ChannelSpace, timing: Timing) -> _Call:
    """A pass over a copy of a network, on random images."""
    layout: Any = MEMORY_FORMATS[timing.memory_format]
    still = copy_network(network).eval().to(memory_format=layout)
    inputs = laid_out(random_inputs(still, space.size, timing.batch), layout)
    return _Call(lambda: lambda: enter(still, space.size, inputs), _NETWORK_BLOCKS)


def _timed(
    calls: Mapping[str, _Call], device: torch.device, timing: Timing, tell: Tell | None
) -> dict[str, float]:
    """Nanoseconds of calls; see `_samples`."""
    samples = _samples(calls, device, timing, tell)
    return {key: quick_quarter(values) for key, values in samples.items()}


def _samples(
    calls: Mapping[str, _Call], device: torch.device, timing: Timing, tell: Tell | None
) -> dict[str, list[float]]:
    """Nanoseconds of calls in each round, one after the other, denormal numbers flushed."""
    samples: dict[str, list[float]] = {key: [] for key in calls}

    def measured(flushed: bool) -> None:
        if not flushed:
            _log.info("not every thread flushes denormal numbers; they count at full length")
        with torch.inference_mode():
            for done in range(timing.rounds):
                for key, call in calls.items():
                    least_ns = 1e6 * timing.block_ms * call.blocks
                    samples[key].append(_block_ns(call.prepare(), least_ns, device))
                if tell is not None:
                    tell(done + 1, timing.rounds)

    in_quiet_thread(measured, threads=timing.threads)
    return samples


def _block_ns(call: Callable[[], object], block_ns: float, device: torch.device) -> float:
    """Nanoseconds of one call, averaged over a block that takes at least a given time."""
    call()  # warms caches up, and compiles what is compiled at the first call
    passes = math.ceil(block_ns / max(1.0, _ns(call, 1, device)))
    return _ns(call, min(passes, _MOST_PASSES), device)


def _ns(call: Callable[[], object], passes: int, device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter_ns()
    for _ in range(passes):
        call()
    _synchronize(device)
    return (time.perf_counter_ns() - start) / passes


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _facts(model: nn.Module, space: ChannelSpace, timing: Timing) -> dict[str, Any]:
    """The conditions of a table as JSON values: device, software, and how it was timed."""
    anchor = next(model.parameters())
    is_cuda = anchor.device.type == "cuda"
    name = torch.cuda.get_device_name(anchor.device) if is_cuda else cpu_model()
    return {
        "version": _VERSION,
        "device": f"{anchor.device.type}: {name}",
        "capability": None if is_cuda else torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "dtype": str(anchor.dtype).removeprefix("torch."),
        "input_size": list(space.input_size),
        "timing": asdict(timing),
    } | ({"part": space.part, "inputs": space.entry.told} if space.entry else {})


def _digest(facts: Mapping[str, Any], keys: Sequence[str]) -> str:
    text = json.dumps([facts, keys], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _load(path: Path, facts: Mapping[str, Any], keys: Sequence[str]) -> dict[str, float] | None:
    """The times in a file; None if there is none, or it is damaged.

    Raises:
        DamagedTable: if it is of another environment.
    """
    content = read_sealed(path)
    if content is None:
        return None
    found = json.loads(content)
    times: dict[str, float] = found.pop("ns")
    differing = [name for name in facts if found.get(name) != facts[name]]
    if differing:
        raise DamagedTable(
            f"{path} was measured elsewhere ({differing[0]} {found.get(differing[0])!r}, here "
            f"{facts[differing[0]]!r}); delete it to have latencies measured anew"
        )
    if sorted(times) != list(keys) or not all(
        math.isfinite(ns) and ns > 0 for ns in times.values()
    ):
        set_aside(path, "it does not hold a positive time for every operator of this network")
        return None
    return times
