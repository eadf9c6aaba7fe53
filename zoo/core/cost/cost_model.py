"""CostModel: multiply-adds, parameters and latency of any configuration, without building it.

One multiply-add counts one (torchvision's convention; papers' "FLOPs" are usually this). Counted
are convolutions and linear layers, as in the published figures, and whatever else is such a layer
in another form: every convolution, and every product of which a factor does not depend on the
images (einsum, matmul, a weight computed from parameters). Batch normalisation, activations,
biases, and products of two activations are not. Latency is predicted from a measured table.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np

from zoo.core.arguments import checked
from zoo.core.channels.config import SubnetConfig
from zoo.core.channels.space import ChannelSpace
from zoo.core.cost.latency_table import LatencyTable

__all__ = ["NS_PER_MS", "CostModel", "Metric"]

Metric = Literal["macs", "params", "latency"]

NS_PER_MS = 1_000_000
_EXACT = 2**53  # integers up to here are exact in float64
_CHUNK = 2048  # configurations at a time: their layer sizes fit a processor's cache


class CostModel:
    """Cost of configurations of one space.

    The size of every dimension is linear in the widths of the groups, and a layer's MACs are the
    product of a few of them, hardly ever more than two: whole populations cost a matrix product.

    Args:
        space: the channel space.
        latency: measured operator times of the same network, where latency is to be known.

    Raises:
        ValueError: if the network is too large for exact arithmetic (above 9e15 MACs).
    """

    @checked()
    def __init__(self, space: ChannelSpace, latency: LatencyTable | None = None) -> None:
        self.space = space
        self._sizes = np.asarray(space.sizes)
        self._latency = latency
        table = space.table
        groups = len(space.groups)
        slopes = np.zeros((len(table.axes), groups), dtype=np.int64)
        fixed = np.zeros(len(table.axes), dtype=np.int64)
        for index, axis in enumerate(table.axes):
            slopes[index], fixed[index] = axis.slopes(space.sizes)
        layers = [(factor, axes) for _, factor, axes in table.products]
        self._macs = _sum_of_products(slopes, fixed, layers)
        self._params = _sum_of_products(slopes, fixed, _parameter_products(space))
        self._dimensions = slopes, fixed
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
        return self._macs(self.checked(widths))

    def params_of_widths(self, widths: Any) -> np.ndarray:
        """Return the parameter counts of many configurations, int64, shape (n,)."""
        return self._params(self.checked(widths))

    def latency_of_widths(self, widths: Any) -> np.ndarray:
        """Return the predicted latencies of many configurations in nanoseconds, int64, shape (n,).

        They grow with every width.

        Raises:
            ValueError: if there is no latency table.
        """
        return self.latency.ns_of_widths(self.checked(widths))

    def monomials(self, metric: Literal["macs", "params"]) -> dict[tuple[int, ...], int]:
        """Return a cost as a polynomial in the widths, exactly.

        Args:
            metric: which cost.

        Returns:
            Coefficients by the groups that are multiplied, ascending, each once for every power:
            ``(0, 2, 2)`` stands for the width of group 0 times that of group 2 squared, ``()`` for
            what no width changes.
        """
        if metric == "macs":
            products = [(factor, axes) for _, factor, axes in self.space.table.products]
        else:
            products = _parameter_products(self.space)
        return _expanded(*self._dimensions, products)

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

    def checked(self, widths: Any) -> np.ndarray:
        """Return widths as an array, shape (n, G), once they fit the groups.

        Raises:
            ValueError: for another shape, fractions, or a width that a group cannot have.
        """
        array = np.asarray(widths)
        if array.ndim != 2 or array.shape[1] != len(self.space.groups):
            raise ValueError(
                f"widths have shape {array.shape}; it must be (n, {len(self.space.groups)}), "
                "a column for each group"
            )
        if array.dtype.kind not in "iu":
            raise ValueError(f"widths are {array.dtype}; they must be integers")
        if ((array < 1) | (array > self._sizes)).any():
            raise ValueError("a width is below 1 or above the size of its group")
        return array


def _sum_of_products(
    slopes: np.ndarray, fixed: np.ndarray, products: list[tuple[int, tuple[int, ...]]]
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from widths, shape (n, G), to the summed products, int64, shape (n,).

    Args:
        slopes: of every dimension in every width, int64, shape (D, G).
        fixed: what dimensions have beside, int64, shape (D,).
        products: a factor and the dimensions that it multiplies, once for each layer.
    """
    # Products of equal dimensions are added up, and constant dimensions leave the product.
    merged: dict[tuple[int, ...], int] = {}
    for factor, axes in products:
        moving = tuple(sorted(axis for axis in axes if slopes[axis].any()))
        factor *= math.prod(int(fixed[axis]) for axis in axes if not slopes[axis].any())
        merged[moving] = merged.get(moving, 0) + factor
    one = len(fixed)  # an appended dimension of size 1 pads short products
    order = max([2, *map(len, merged)])
    padded = [axes + (one,) * (order - len(axes)) for axes in merged]
    columns = np.array(padded, dtype=np.int64).reshape(-1, order).T
    slopes, fixed = np.pad(slopes, ((0, 1), (0, 0))), np.append(fixed, 1)
    factors = np.array(list(merged.values()), dtype=np.int64)
    sides = [(slopes[axes], fixed[axes]) for axes in columns]
    # Without negative terms no partial sum of the quadratic form is above the sum of all.
    is_quadratic = order == 2 and slopes.min(initial=0) >= 0 and fixed.min(initial=0) >= 0
    return _Quadratic(factors, sides) if is_quadratic else _Products(factors, sides)


def _expanded(
    slopes: np.ndarray, fixed: np.ndarray, products: Iterable[tuple[int, tuple[int, ...]]]
) -> dict[tuple[int, ...], int]:
    """The summed products of `_sum_of_products`, multiplied out."""
    total: Counter[tuple[int, ...]] = Counter()
    for factor, axes in products:
        terms: Counter[tuple[int, ...]] = Counter({(): factor})
        for axis in axes:
            moving: list[int] = np.flatnonzero(slopes[axis]).tolist()
            parts: list[tuple[tuple[int, ...], int]] = [((), int(fixed[axis]))]
            parts += [((group,), int(slopes[axis, group])) for group in moving]
            grown: Counter[tuple[int, ...]] = Counter()
            for (key, value), (group, slope) in itertools.product(terms.items(), parts):
                grown[tuple(sorted(key + group))] += value * slope
            terms = grown
        total.update(terms)
    return {key: value for key, value in total.items() if value}


# By place in the products: slopes, int64, shape (products, G), and what is fixed, (products,).
_Sides = list[tuple[np.ndarray, np.ndarray]]


class _Quadratic:
    """Sums of products of two dimensions that are linear in the widths w: w Q w + l w + c.

    One small product of matrices in place of one for each side. In float64, since numpy has no
    fast product of integer matrices; exact up to _EXACT.
    """

    def __init__(self, factors: np.ndarray, sides: _Sides) -> None:
        (first, fixed_first), (second, fixed_second) = sides
        scaled = first * factors[:, None]
        self._square = (scaled.T @ second).astype(np.float64)
        linear = scaled.T @ fixed_second + (second * factors[:, None]).T @ fixed_first
        self._linear = linear.astype(np.float64)
        self._constant = int((factors * fixed_first * fixed_second).sum())

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        if len(widths) == 1:  # a search that asks for one at a time: half of the time is numpy's
            only = widths[0].astype(np.float64)
            slope = only @ self._square
            slope += self._linear
            return np.array([int(slope @ only) + self._constant], dtype=np.int64)
        total = np.empty(len(widths), dtype=np.int64)
        for start in range(0, len(widths), _CHUNK):
            chunk = widths[start : start + _CHUNK].astype(np.float64)
            slope = chunk @ self._square
            slope += self._linear
            total[start : start + _CHUNK] = np.einsum("ng,ng->n", slope, chunk)
        total += self._constant
        return total


class _Products:
    """Sums of products of any number of dimensions that are linear in the widths."""

    def __init__(self, factors: np.ndarray, sides: _Sides) -> None:
        self._factors = factors.astype(np.float64)
        self._sides = [(slopes.T.astype(np.float64), fixed.astype(np.float64))
                       for slopes, fixed in sides]  # fmt: skip

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        total = np.empty(len(widths), dtype=np.int64)
        for start in range(0, len(widths), _CHUNK):
            chunk = widths[start : start + _CHUNK].astype(np.float64)
            product = np.ones((len(chunk), len(self._factors)))
            for slopes, fixed in self._sides:
                size = chunk @ slopes
                size += fixed
                product *= size
            total[start : start + _CHUNK] = product @ self._factors
        return total


def _parameter_products(space: ChannelSpace) -> list[tuple[int, tuple[int, ...]]]:
    products = []
    for name in space.table.parameters:
        shape = space.table.shapes[name]
        axes = {d: space.table.tensors[name, d] for d in (0, 1) if (name, d) in space.table.tensors}
        rest = math.prod(size for dim, size in enumerate(shape) if dim not in axes)
        products.append((rest, tuple(axes.values())))
    return products
