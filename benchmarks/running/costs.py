"""What the budget of a cell limits: exact counts, or latency predicted from measured operators."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import nn

from benchmarks.records.cell import Cell, Rules
from benchmarks.records.record import Size
from benchmarks.records.runtime import Measured, PredictedLatency
from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.cost_model import NS_PER_MS, CostModel
from zoo.core.cost.measure_latency import Timing, measure_latency
from zoo.core.method.problem import Problem
from zoo.core.training.ranks import decided

__all__ = ["cost_model", "predicted_latency", "rules_of", "size_of", "timing_of"]


def timing_of(cell: Cell) -> Timing:
    """How operators are timed: as the networks are, at the first of the cell's batches."""
    asked = cell.latency
    return Timing(batch=asked.batches[0], threads=asked.threads, memory_format=asked.memory_format)


def cost_model(cell: Cell, model: nn.Module, space: ChannelSpace, folder: Path | None) -> CostModel:
    """The cost model of a cell; where latency is limited, with operator times from a folder.

    Args:
        cell: says what is limited and how latency is timed.
        model: the parent, on the device to time.
        space: its channel groups.
        folder: where operator times are kept; the user's cache folder if None.
    """
    if not cell.limits_latency:
        return CostModel(space)
    divisor = cell.rules.divisor
    timing = timing_of(cell)
    measured = partial(measure_latency, model, space, timing, divisor=divisor, folder=folder)
    return CostModel(space, decided(measured))


def rules_of(rules: Rules) -> WidthRules:
    """The legal widths that a cell or a suite asks for.

    Raises:
        ValueError: if a ratio is none.
    """
    return WidthRules(**rules.model_dump())


def size_of(problem: Problem, config: SubnetConfig | None) -> Size:
    """The parent's cost and the limit, and what a configuration reaches."""
    cost = problem.cost
    return Size(
        full_macs=cost.full_macs,
        full_params=cost.full_params,
        limit=problem.budget.limit,
        macs=None if config is None else cost.macs(config),
        params=None if config is None else cost.params(config),
    )


def predicted_latency(
    cell: Cell, problem: Problem, config: SubnetConfig, measured: Sequence[Measured]
) -> PredictedLatency | None:
    """Latency as the search saw it, beside what was measured, if it was; else None.

    Args:
        cell: says whether latency is limited, and at which batch.
        problem: with the budget and the table of operator times.
        config: that the search decided on.
        measured: latency of the final network; nothing, if it was not timed yet.
    """
    if not cell.limits_latency:
        return None
    budget, cost, timing = problem.budget, problem.cost, timing_of(cell)
    found = next((each for each in measured if each.batch == timing.batch), None)
    return PredictedLatency(
        batch=timing.batch,
        limit_ms=budget.limit / NS_PER_MS,
        parent_ms=budget.full(cost) / NS_PER_MS,
        pruned_ms=budget.cost(cost, config) / NS_PER_MS,
        measured_parent_ms=None if found is None else found.parent_ms.median,
        measured_pruned_ms=None if found is None else found.pruned_ms.median,
    )
