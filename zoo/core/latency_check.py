"""Latency as a budget: the operator times that predict it, and what the clock says in the end."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.budget import BudgetUnit
from zoo.core.cost.cost_model import NS_PER_MS
from zoo.core.cost.latency_table import LatencyTable
from zoo.core.cost.measure_latency import Timing, measure_latency, pass_rounds, quick_quarter
from zoo.core.method.problem import Problem
from zoo.core.progress import Tell

__all__ = ["LatencyCheck", "check_latency", "latency_table"]

_LOGGER = logging.getLogger(__name__)

TOLERATED = 0.02
"""Relative difference that is never told: a budget is rarely given with more digits."""

MOST_NOISE = 0.1
"""Noise, as a share of what was predicted, above which nothing is known of the prediction."""

MIDDLE = (0.1, 0.9)
"""Quantiles of rounds that count as noise; of nine rounds they hold the median at 96 %."""


@dataclass(frozen=True)
class LatencyCheck:
    """Latency of a network and its pruned form, as predicted from the table and as measured whole.

    Attributes:
        predicted_ms, measured_ms: of the pruned network, in milliseconds a pass.
        parent_predicted_ms, parent_measured_ms: of the given network.
        unit: of the budget: "latency", a share of the given network's, or "latency_ms".
        noise: by how much `measured` may be off by chance, in the same unit: how far the rounds
            lay apart, or the given network from its own copy in them.
    """

    predicted_ms: float
    measured_ms: float
    parent_predicted_ms: float
    parent_measured_ms: float
    unit: BudgetUnit
    noise: float

    @property
    def predicted(self) -> float:
        """Predicted latency in the unit of the budget."""
        whole = 1.0 if self.unit == "latency_ms" else self.parent_predicted_ms
        return self.predicted_ms / whole

    @property
    def measured(self) -> float:
        """Measured latency in the unit of the budget."""
        whole = 1.0 if self.unit == "latency_ms" else self.parent_measured_ms
        return self.measured_ms / whole

    @property
    def is_off(self) -> bool:
        """Whether the two differ by more than the noise, and by more than 2 %."""
        differs = abs(self.measured - self.predicted)
        return differs > max(self.noise, TOLERATED * self.predicted)

    @property
    def is_noisy(self) -> bool:
        """Whether noise above 10 % may hide that they differ."""
        return not self.is_off and self.noise > MOST_NOISE * self.predicted

    @property
    def told(self) -> str:
        """Both figures, the likely causes and the way out, in a line."""
        unit = " ms" if self.unit == "latency_ms" else " of the parent's"
        return (
            f"latency was predicted as {self.predicted:.2f}{unit} and measured as "
            f"{self.measured:.2f}{unit}, noise {self.noise:.2f}: "
            + ("too much noise to tell whether they agree" if self.is_noisy else "they disagree")
            + ". The machine was busier while operators were timed, or now (parent predicted "
            f"{self.parent_predicted_ms:.3g} ms, measured {self.parent_measured_ms:.3g} ms), or "
            "small operators take no less time with fewer channels; on a quiet machine, "
            "timing=Timing(rounds=27) times the operators anew"
        )


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
    problem: Problem,
    config: SubnetConfig,
    small: nn.Module,
    given: nn.Module,
    timing: Timing,
    unit: BudgetUnit,
) -> LatencyCheck | None:
    """Predicted against measured latency; a warning is logged if they disagree, or noise hides it.

    Args:
        problem: with the table that predicts; None is returned if its budget is no latency.
        config: of the smaller network.
        small: it.
        given: the network it comes from; both are timed side by side with a copy of this one.
        timing: as for the table.
        unit: of the budget.
    """
    if problem.budget.metric != "latency":
        return None
    rounds = pass_rounds([small, given, given], problem.space, timing)
    measured, parent_measured, _ = (quick_quarter(row) / NS_PER_MS for row in rounds)
    found = LatencyCheck(
        predicted_ms=problem.cost_of_config(config) / NS_PER_MS,
        measured_ms=measured,
        parent_predicted_ms=problem.full_cost / NS_PER_MS,
        parent_measured_ms=parent_measured,
        unit=unit,
        noise=_noise(rounds, unit),
    )
    if found.is_off or found.is_noisy:
        _LOGGER.warning("%s", found.told)
    return found


def _noise(rounds: np.ndarray, unit: BudgetUnit) -> float:
    """By how much a measured latency may be off by chance, in the unit of the budget.

    Args:
        rounds: nanoseconds of the smaller network, the given one and its copy, shape (3, rounds).
        unit: of the budget.
    """
    small, given, again = rounds
    whole = np.full_like(given, NS_PER_MS) if unit == "latency_ms" else given
    values, found = small / whole, quick_quarter(small) / quick_quarter(whole)
    drift = abs(quick_quarter(again) / quick_quarter(given) - 1) * found
    return max(drift, *(abs(float(end) - found) for end in np.quantile(values, MIDDLE)))
