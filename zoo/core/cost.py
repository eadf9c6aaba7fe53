"""CostModel: multiply-adds, parameters and latency of any configuration, without building it.

One multiply-add counts one (torchvision's convention; papers' "FLOPs" are usually this). Counted
are convolutions and linear layers, as in the published figures; batch normalisation, activations,
biases, and products of two activations are not. Latency is predicted from a measured table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from zoo.core.config import SubnetConfig
from zoo.core.latency import LatencyTable
from zoo.core.space import ChannelSpace

__all__ = ["NS_PER_MS", "Budget", "BudgetUnit", "CostModel", "Metric"]

Metric = Literal["macs", "params", "latency"]
BudgetUnit = Literal["macs", "params", "latency", "latency_ms"]
"""What the number of a budget means: a metric, or milliseconds of latency."""

NS_PER_MS = 1_000_000
_EXACT = 2**53  # integers up to here are exact in float64
_CHUNK = 2048  # configurations at a time: their layer sizes fit a processor's cache


class CostModel:
    """Cost of configurations of one space.

    The size of every dimension is linear in the widths of the groups, and a layer's MACs are the
    product of a few of them: whole populations cost two matrix products.

    Args:
        space: the channel space.
        latency: measured operator times of the same network, where latency is to be known.

    Raises:
        ValueError: if the network is too large for exact arithmetic (above 9e15 MACs).
    """

    def __init__(self, space: ChannelSpace, latency: LatencyTable | None = None) -> None:
        self.space = space
        self._latency = latency
        table = space.table
        groups = len(space.groups)
        slopes = np.zeros((len(table.axes), groups), dtype=np.int64)
        fixed = np.zeros(len(table.axes), dtype=np.int64)
        for index, axis in enumerate(table.axes):
            slopes[index], fixed[index] = axis.slopes(space.sizes)
        self._macs = _Products(
            slopes, fixed, [(factor, axes) for _, factor, axes in table.products]
        )
        self._params = _Products(slopes, fixed, _parameter_products(space))
        self.full_macs = self.macs(SubnetConfig.full())
        self.full_params = self.params(SubnetConfig.full())
        if max(self.full_macs, self.full_params) >= _EXACT:
            raise ValueError(f"{self.full_macs} MACs are beyond exact arithmetic")

    def macs(self, config: SubnetConfig) -> int:
        """Return the multiply-adds of one image through the subnet."""
        return int(self.macs_of_widths(config.widths(self.space)[None])[0])

    def params(self, config: SubnetConfig) -> int:
        """Return the number of parameters of the rebuilt subnet."""
        return int(self.params_of_widths(config.widths(self.space)[None])[0])

    def macs_of_widths(self, widths: Any) -> np.ndarray:
        """Return the multiply-adds of many configurations, int64, shape (n,).

        Args:
            widths: kept counts, integers, shape (n, G), columns in the order of ``space.groups``.
        """
        return self._macs(self._checked(widths))

    def params_of_widths(self, widths: Any) -> np.ndarray:
        """Return the parameter counts of many configurations, int64, shape (n,)."""
        return self._params(self._checked(widths))

    def latency_of_widths(self, widths: Any) -> np.ndarray:
        """Return the predicted latencies of many configurations in nanoseconds, int64, shape (n,).

        They grow with every width.

        Raises:
            ValueError: if there is no latency table.
        """
        return self.latency.ns_of_widths(self._checked(widths))

    @property
    def latency(self) -> LatencyTable:
        """The measured operator times.

        Raises:
            ValueError: if there are none.
        """
        if self._latency is None:
            raise ValueError(
                "latency was not measured; use CostModel(space, zoo.measure_latency(model, space))"
            )
        return self._latency

    def _checked(self, widths: Any) -> np.ndarray:
        array = np.asarray(widths)
        if array.ndim != 2 or array.shape[1] != len(self.space.groups):
            raise ValueError(
                f"widths have shape {array.shape}; it must be (n, {len(self.space.groups)}), "
                "a column for each group"
            )
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"widths are {array.dtype}; they must be integers")
        if array.size and (array.min() < 1 or (array.max(axis=0) > self.space.sizes).any()):
            raise ValueError("a width is below 1 or above the size of its group")
        return array


class _Products:
    """Sums of products of dimensions that are linear in the widths."""

    def __init__(
        self, slopes: np.ndarray, fixed: np.ndarray, products: list[tuple[int, tuple[int, ...]]]
    ) -> None:
        # Products of equal dimensions are added up, and constant dimensions leave the sum.
        merged: dict[tuple[int, ...], int] = {}
        for factor, axes in products:
            moving = tuple(sorted(axis for axis in axes if slopes[axis].any()))
            factor *= math.prod(int(fixed[axis]) for axis in axes if not slopes[axis].any())
            merged[moving] = merged.get(moving, 0) + factor
        self._constant = merged.pop((), 0)
        order = max((len(axes) for axes in merged), default=0)
        one = len(fixed)  # an appended dimension of size 1 pads short products
        self._factors = np.array(list(merged.values()), dtype=np.float64)
        padded = [axes + (one,) * (order - len(axes)) for axes in merged]
        slope = np.pad(slopes, ((0, 1), (0, 0))).T.astype(np.float64)
        columns = [np.array(axes, dtype=np.int64) for axes in zip(*padded, strict=True)]
        self._slopes = [slope[:, axes] for axes in columns]  # for every factor (G, products)
        self._fixed = [np.append(fixed, 1).astype(np.float64)[axes] for axes in columns]

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        total = np.full(len(widths), self._constant, dtype=np.int64)
        for start in range(0, len(widths) if self._slopes else 0, _CHUNK):
            chunk = widths[start : start + _CHUNK].astype(np.float64)
            product = chunk @ self._slopes[0] + self._fixed[0]
            for slopes, fixed in zip(self._slopes[1:], self._fixed[1:], strict=True):
                size = chunk @ slopes
                size += fixed
                product *= size
            total[start : start + _CHUNK] += (product @ self._factors).astype(np.int64)
        return total


def _parameter_products(space: ChannelSpace) -> list[tuple[int, tuple[int, ...]]]:
    products = []
    for name in space.table.parameters:
        shape = space.table.shapes[name]
        axes = {d: space.table.tensors[name, d] for d in (0, 1) if (name, d) in space.table.tensors}
        rest = math.prod(size for dim, size in enumerate(shape) if dim not in axes)
        products.append((rest, tuple(axes.values())))
    return products


@dataclass(frozen=True)
class Budget:
    """An upper limit of a cost.

    Args:
        metric: what is limited: "macs", "params" or "latency".
        limit: the limit, in multiply-adds, parameters or nanoseconds.
    """

    metric: Metric
    limit: int

    @classmethod
    def parse(cls, value: float, cost: CostModel, metric: BudgetUnit = "macs") -> Budget:
        """Return the budget that a number means for a network.

        Args:
            value: at most 1, a keep ratio of the parent's cost; above 1, an absolute limit. Of
                "latency" always a ratio; of "latency_ms" always milliseconds.
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
                f"budget {parent.told(limit)} is above the parent's {parent.told(parent.limit)}; "
                "nothing would be pruned"
            )
        return cls(limited, limit)

    def require_pruning(self, value: float, cost: CostModel) -> None:
        """Refuse a budget that the whole network meets, where a smaller one is asked for.

        Pruners and suites may be given it, and return the whole network.

        Args:
            value: the number that the budget was parsed from, for the message.
            cost: the parent's cost model.

        Raises:
            ValueError: if nothing would be pruned.
        """
        if self.limit >= self.full(cost):
            raise ValueError(
                f"budget {value} keeps all {self.told(self.limit)}; nothing would be pruned: give "
                "a lower one"
            )

    def _choice(self) -> str:
        """The numbers that a budget can be, where the limit is the parent's cost."""
        if self.metric == "latency":
            most = self.told(self.limit)
            return f"a keep ratio up to 1, or up to {most} as latency_ms"
        return f"a keep ratio up to 1 or a number of {self.metric} up to {self.limit:,}"

    def told(self, cost: int) -> str:
        """Return a cost as a person reads it, with its unit."""
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
