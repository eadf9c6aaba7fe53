"""Latency as a budget: the operator times that predict it, and what the clock says in the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import BudgetUnit
from zoo.core.cost.cost_model import NS_PER_MS
from zoo.core.cost.latency_table import LatencyTable
from zoo.core.cost.measure_latency import Timing, measure_latency, pass_ns
from zoo.core.method.problem import Problem
from zoo.core.progress import Tell

__all__ = ["LatencyCheck", "check_latency", "latency_table"]


@dataclass(frozen=True)
class LatencyCheck:
    """Latency of a network and its pruned form, as predicted from the table and as measured whole.

    Attributes:
        predicted_ms, measured_ms: of the pruned network, in milliseconds a pass.
        parent_predicted_ms, parent_measured_ms: of the given network.
    """

    predicted_ms: float
    measured_ms: float
    parent_predicted_ms: float
    parent_measured_ms: float


def latency_table(
    parent: nn.Module,
    space: ChannelSpace,
    unit: BudgetUnit,
    timing: Timing,
    rules: WidthRules,
    cache: str | Path | None,
    tell: Tell,
) -> LatencyTable | None:
    """The operator times of the parent, where latency is what the budget limits."""
    if unit not in ("latency", "latency_ms"):
        return None
    return measure_latency(
        parent,
        space,
        timing,
        divisor=rules.divisor,
        folder=None if cache is None else Path(cache),
        tell=lambda done, total: tell("timing operators", done, total),
    )


def check_latency(
    problem: Problem, config: SubnetConfig, small: nn.Module, given: nn.Module, timing: Timing
) -> LatencyCheck | None:
    """Predicted against measured latency, both networks timed side by side."""
    if problem.budget.metric != "latency":
        return None
    predicted = problem.cost_of_config(config)
    measured, parent_measured = pass_ns([small, given], problem.space, timing)
    return LatencyCheck(
        predicted_ms=predicted / NS_PER_MS,
        measured_ms=measured / NS_PER_MS,
        parent_predicted_ms=problem.full_cost / NS_PER_MS,
        parent_measured_ms=parent_measured / NS_PER_MS,
    )
