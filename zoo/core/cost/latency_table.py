"""LatencyTable: measured operator times that add up to the latency of any configuration.

The time of a unit, one operator or several that depend on the same widths, is known at a grid of
sizes: of what it reads and of what it makes. In between it is interpolated linearly in both. Times
are whole nanoseconds and every unit rounds down by itself, so that latencies add up exactly.

Measured times are staircases with noise, and searches need costs that grow with every width. So
each unit is made monotone: the mean of its running maximum from below and its running minimum from
above, which is the identity where the measurement was monotone, plus one nanosecond a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Coordinate", "LatencyTable", "Unit", "monotone"]


@dataclass(frozen=True, eq=False)
class Coordinate:
    """A size that an operator's time depends on, linear in the widths of the groups.

    Attributes:
        slopes: positions for each channel of a group, int64, shape (G,).
        fixed: positions that are always there.
        grid: sizes at which times were measured, int64, ascending, shape (K,).
    """

    slopes: np.ndarray
    fixed: int
    grid: np.ndarray

    @property
    def key(self) -> bytes:
        """Equal for coordinates of equal sizes, measured at the same points."""
        return self.slopes.tobytes() + self.fixed.to_bytes(8, "big") + self.grid.tobytes()


@dataclass(frozen=True, eq=False)
class Unit:
    """Operators whose time depends on the same two sizes.

    Attributes:
        read: size of what goes in; without slopes where the time does not depend on it.
        made: size of what comes out.
        times: nanoseconds, shape (K of `read`, K of `made`).
    """

    read: Coordinate
    made: Coordinate
    times: np.ndarray


class LatencyTable:
    """Predicts the latency of whole populations of configurations.

    Args:
        units: what was measured; units of equal coordinates are added up.
        constant_ns: time that no width changes.
        groups: number of channel groups.
    """

    def __init__(self, units: Sequence[Unit], constant_ns: int, groups: int) -> None:
        self.constant_ns = int(constant_ns)
        self.groups = groups
        merged: dict[bytes, Unit] = {}
        for unit in units:
            key = unit.read.key + unit.made.key
            times = unit.times + (merged[key].times if key in merged else 0)
            merged[key] = Unit(unit.read, unit.made, times)
        self.units = tuple(
            Unit(u.read, u.made, monotone(u.times, u.read.grid, u.made.grid))
            for u in merged.values()
        )
        self._read = _Stacked.of([unit.read for unit in self.units], groups)
        self._made = _Stacked.of([unit.made for unit in self.units], groups)
        points = max((max(u.times.shape) for u in self.units), default=1)
        self._times = np.zeros((len(self.units), points, points), dtype=np.int64)
        for stacked, unit in zip(self._times, self.units, strict=True):
            rows, columns = unit.times.shape
            stacked[:] = np.pad(
                unit.times, ((0, points - rows), (0, points - columns)), mode="edge"
            )

    def ns_of_widths(self, widths: np.ndarray) -> np.ndarray:
        """Latencies in nanoseconds, int64, shape (n,), for widths of shape (n, G)."""
        return self._total(self._read.sizes(widths), self._made.sizes(widths))

    def making_costs(self, sizes: np.ndarray, narrow: np.ndarray) -> np.ndarray:
        """Nanoseconds that making one channel of each group costs at full input width.

        The mean over the channels between two widths of the group, while whatever reads the group
        goes on as if it were whole.

        Args:
            sizes: full widths, shape (G,).
            narrow: widths that the means begin at, shape (G,).

        Returns:
            Shape (G,), int64, at least 1; 0 for a group that cannot be narrower.
        """
        at = np.where(np.eye(self.groups, dtype=bool), narrow, sizes)
        read = np.repeat(self._read.sizes(sizes[None]), self.groups, axis=0)
        full = self._total(self._read.sizes(sizes[None]), self._made.sizes(sizes[None]))
        saved = full - self._total(read, self._made.sizes(at))
        dropped = sizes - narrow
        return np.where(dropped > 0, np.maximum(saved // np.maximum(dropped, 1), 1), 0)

    def _total(self, read: np.ndarray, made: np.ndarray) -> np.ndarray:
        """Sums over the units, shape (n,), for sizes of shape (n, U)."""
        row, low_row, high_row, position = self._read.cells(read)
        column, low_column, high_column, at = self._made.cells(made)
        units = np.arange(len(self.units))
        edges = [
            _between(
                self._times[units, rows, column],
                self._times[units, rows, np.minimum(column + 1, self._times.shape[2] - 1)],
                at - low_column,
                high_column - low_column,
            )
            for rows in (row, np.minimum(row + 1, self._times.shape[1] - 1))
        ]
        times = _between(edges[0], edges[1], position - low_row, high_row - low_row)
        return np.asarray(times.sum(axis=1) + self.constant_ns)


@dataclass(frozen=True, eq=False)
class _Stacked:
    """Coordinates of all units: slopes (G, U), fixed (U,) and grids (U, K), padded at the end."""

    slopes: np.ndarray
    fixed: np.ndarray
    grid: np.ndarray

    @classmethod
    def of(cls, coordinates: Sequence[Coordinate], groups: int) -> _Stacked:
        points = max((len(c.grid) for c in coordinates), default=1)
        grids = [np.pad(c.grid, (0, points - len(c.grid)), mode="edge") for c in coordinates]
        slopes = np.array([c.slopes for c in coordinates], dtype=np.int64)
        return cls(
            slopes.reshape(len(coordinates), groups).T,
            np.array([c.fixed for c in coordinates], dtype=np.int64),
            np.array(grids, dtype=np.int64).reshape(len(coordinates), points),
        )

    def sizes(self, widths: np.ndarray) -> np.ndarray:
        """Sizes at some widths, shape (n, U), for (n, G)."""
        return np.asarray(widths.astype(np.int64) @ self.slopes + self.fixed)

    def cells(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Lower grid point of the cell of each size, both its ends, and the size held inside."""
        last = self.grid.shape[1] - 1
        cell = np.zeros(sizes.shape, dtype=np.int64)
        for point in range(
            1, last
        ):  # a few; np.searchsorted takes one grid, and units have their own
            cell += sizes >= self.grid[:, point]
        units = np.arange(len(self.grid))
        low, high = self.grid[units, cell], self.grid[units, np.minimum(cell + 1, last)]
        return cell, low, high, np.clip(sizes, self.grid[:, 0], self.grid[:, -1])


def _between(low: np.ndarray, high: np.ndarray, part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Linear interpolation in integers, rounded down; grows wherever one of its ends does."""
    return np.asarray(low + (high - low) * part // np.maximum(whole, 1))


def monotone(times: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Times that grow by at least 1 with every unit of size along both axes.

    Args:
        times: nanoseconds, shape (R, C).
        rows: sizes that the first axis stands for, ascending, shape (R,).
        columns: the same for the second, shape (C,).

    Returns:
        Int64, same shape.
    """
    from_below = np.maximum.accumulate(np.maximum.accumulate(times, axis=0), axis=1)
    reverse = times[::-1, ::-1]
    from_above = np.minimum.accumulate(np.minimum.accumulate(reverse, axis=0), axis=1)[::-1, ::-1]
    steady = np.floor((from_below + from_above) / 2).astype(np.int64)
    return np.asarray(steady + (rows - rows[0])[:, None] + (columns - columns[0])[None, :])
