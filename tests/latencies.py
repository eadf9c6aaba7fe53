"""Latency tables with times made up by rule, so that tests time nothing and know every answer."""

import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import nn

from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.latency_table import LatencyTable
from zoo.core.cost.measure_latency import NARROW, RATIOS, Timing, tabulate
from zoo.core.cost.operator_calls import grid_widths, list_cases

TICK = 1_000_000  # nanoseconds for an element
CONSTANT = 5_000_000  # nanoseconds that no operator accounts for


def shapes(key: str) -> list[int]:
    """Elements of each tensor that an operator call reads, from its key."""
    found = re.findall(r"\w+\[([\d, ]*)\]@", key)
    return [math.prod(int(n) for n in shape.split(",") if n.strip()) for shape in found]


def elements(key: str) -> int:
    """Elements of all tensors that an operator call reads."""
    return sum(shapes(key))


def conv_weights(key: str) -> int:
    """Weights of a convolution; 0 for other operators."""
    return shapes(key)[1] if key.startswith("aten.convolution") else 0


def fabricated(
    model: nn.Module, space: ChannelSpace, count: Callable[[str], int] = elements
) -> LatencyTable:
    """A table in which an operator takes `TICK` for each thing counted, and the rest `CONSTANT`."""
    widths = grid_widths(space, RATIOS)
    grids = list_cases(model, space, batch=1, memory_format="contiguous", widths=widths)
    cases = [case for grid in grids for row in grid.cases for case in row]
    times = {case.key: float(TICK * count(case.key)) for case in cases}
    for name, at in (("full network", len(RATIOS) - 1), ("narrow network", NARROW)):
        keys = [grid.cases[at if len(grid.cases) > 1 else 0] for grid in grids]
        passed = [row[at if len(row) > 1 else 0].key for row in keys]
        times[name] = CONSTANT + sum(times[key] for key in passed)
    return tabulate(space, grids, times)


def made_up_times(
    calls: Mapping[str, object], device: torch.device, timing: Timing, tell: object
) -> dict[str, list[float]]:
    """Stands in for the clock: operators take `TICK` for an element, whole networks 100 ms."""
    del device, tell
    times = {key: 1.0 + TICK * elements(key) if "aten" in key else 1e8 for key in calls}
    return {key: [ns] * timing.rounds for key, ns in times.items()}
