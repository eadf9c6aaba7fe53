"""Budget: an upper limit of MACs, parameters or latency."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from zoo.core.arguments import checked
from zoo.core.channels.config import SubnetConfig
from zoo.core.cost.cost_model import NS_PER_MS, CostModel, Metric

__all__ = ["Budget", "BudgetUnit"]


PER_CENT = 100

BudgetUnit = Literal["macs", "params", "latency", "latency_ms"]
"""What the number of a budget means: a metric, or milliseconds of latency."""


@dataclass(frozen=True)
class Budget:
    """An upper limit of a cost.

    Args:
        metric: what is limited: "macs", "params" or "latency".
        limit: the limit, in multiply-adds, parameters or nanoseconds.
        asked: the number that it was parsed from, for messages.
    """

    metric: Metric
    limit: int
    asked: float | None = field(default=None, repr=False, compare=False)

    @classmethod
    @checked()
    def parse(cls, value: float, cost: CostModel, metric: BudgetUnit = "macs") -> Budget:
        """Return the budget that a number means for a network.

        Args:
            value: at most 1, a keep ratio of the parent's cost; above 1, an absolute limit. For
                "latency" always a ratio, for "latency_ms" always milliseconds.
            cost: the parent's cost model.
            metric: what is limited.

        Raises:
            ValueError: if the value is not a positive number, or above the parent's cost.
        """
        limited: Metric = "latency" if metric == "latency_ms" else metric
        parent = cls(limited, cls(limited, 0).full(cost))
        if not math.isfinite(value) or value <= 0:
            raise ValueError(f"budget {value} is not a positive number; give {parent._choice()}")
        if metric == "latency" and value > 1:
            raise ValueError(f"budget {value} is no keep ratio; give {parent._choice()}")
        if metric == "latency_ms":
            limit = math.floor(value * NS_PER_MS)
        else:
            limit = math.floor(value * parent.limit) if value <= 1 else int(value)
        if limit > parent.limit:
            raise ValueError(
                f"budget {parent.format_cost(limit)} is above the parent's {parent}; "
                "nothing would be pruned"
            )
        return cls(limited, limit, value)

    def require_pruning(self, cost: CostModel) -> None:
        """Refuse a budget that the whole network meets, where a smaller one is asked for.

        Pruners and suites may be given it, and return the whole network.

        Args:
            cost: the parent's cost model.

        Raises:
            ValueError: if nothing would be pruned.
        """
        if self.limit >= self.full(cost):
            raise ValueError(
                f"budget {self if self.asked is None else self.asked} keeps all {self}; nothing "
                "would be pruned: give a lower one, or ratios below 1"
            )

    @property
    def hint(self) -> str:
        """What the number means, where one above 1 looks like a share or like per cent."""
        if self.metric == "latency" or self.asked is None or not 1 < self.asked <= PER_CENT:
            return ""
        told = f"{self.asked:g} is above 1, so it counts {self.metric}"
        share = self.asked / PER_CENT
        return f"; {told}: for {self.asked:g} % of them give {share:g}, for half of them 0.5"

    def _choice(self) -> str:
        """What a budget may be, for messages; the limit is the parent's cost here."""
        if self.metric == "latency":
            most = self.format_cost(self.limit)
            return f"a keep ratio up to 1, or up to {most} as latency_ms"
        return f"a keep ratio up to 1 or a number of {self.metric} up to {self.limit:,}"

    def __str__(self) -> str:
        return self.format_cost(self.limit)

    def format_cost(self, cost: int) -> str:
        """Return a cost with its unit, for messages."""
        if self.metric == "latency":
            return f"{cost / NS_PER_MS:.4g} ms"
        return f"{cost:,} {self.metric}"

    def cost(self, cost: CostModel, config: SubnetConfig) -> int:
        """Return the cost of ``config`` in the metric of the budget."""
        return int(self.cost_of_widths(cost, config.widths(cost.space)[None])[0])

    def cost_of_widths(self, cost: CostModel, widths: Any) -> np.ndarray:
        """Return the costs of many configurations, int64, shape (n,), for widths (n, G)."""
        if self.metric == "macs":
            return cost.macs_of_widths(widths)
        if self.metric == "params":
            return cost.params_of_widths(widths)
        return cost.latency_of_widths(widths)

    def full(self, cost: CostModel) -> int:
        """Return the parent's cost in the metric of the budget."""
        if self.metric == "macs":
            return cost.full_macs
        if self.metric == "params":
            return cost.full_params
        return self.cost(cost, SubnetConfig.full())
