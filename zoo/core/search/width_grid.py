"""A grid of candidate widths for every group, on which supernets are trained and searched.

A state is a position on the grid for each group, 0 for its narrowest candidate. Whole populations
are arrays of states, shape (n, G), int64, so that their costs take one call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from zoo.core.channels.config import SubnetConfig, WidthRules
from zoo.core.channels.space import ChannelSpace
from zoo.core.method.problem import Problem
from zoo.core.search.widths_in_budget import keep_best

__all__ = ["PartialGrid", "StateSpace", "WidthGrid", "covering_states", "independent_states"]

_SHIFTS = 65  # common shifts tried for one covering draw


class StateSpace(Protocol):
    """Sizes and costs of states, all that drawing and searching need."""

    @property
    def sizes(self) -> np.ndarray:
        """Candidates of each group, int64, shape (G,)."""

    @property
    def full(self) -> np.ndarray:
        """The state of the whole network, shape (G,)."""

    def costs(self, states: np.ndarray) -> np.ndarray:
        """Costs of some states, shape (n,), for (n, G); they grow with every coordinate."""


@dataclass(frozen=True, eq=False)
class WidthGrid:
    """Candidate widths of every group, and what they cost.

    Attributes:
        space: the groups.
        cost_of_widths: from widths, shape (n, G), to costs, shape (n,).
        widths: for each group its candidates, ascending, the last one its widest.
    """

    space: ChannelSpace
    cost_of_widths: Callable[[np.ndarray], np.ndarray]
    widths: tuple[np.ndarray, ...]

    @classmethod
    def make(cls, problem: Problem, ratios: int) -> WidthGrid:
        """The grid of a problem, with costs in its budget's metric; see `over`."""
        return cls.over(problem.space, problem.cost_of, problem.rules, ratios)

    @classmethod
    def over(
        cls,
        space: ChannelSpace,
        cost_of_widths: Callable[[np.ndarray], np.ndarray],
        rules: WidthRules,
        ratios: int,
    ) -> WidthGrid:
        """Legal widths at or next below equally spaced widths from the narrowest to the widest.

        Args:
            space: the groups.
            cost_of_widths: from widths, shape (n, G), to costs, shape (n,).
            rules: legal widths.
            ratios: candidates of a group; fewer where legal widths coincide.

        Raises:
            ValueError: for fewer than two ratios.
        """
        if ratios < 2:
            raise ValueError(f"ratios is {ratios}; it must be at least 2")
        columns = []
        for widths in rules.legal(space):
            legal = np.array(widths, dtype=np.int64)
            wanted = np.floor(np.linspace(legal[0], legal[-1], ratios) + 1e-9)
            columns.append(np.unique(legal[np.searchsorted(legal, wanted, side="right") - 1]))
        return cls(space, cost_of_widths, tuple(columns))

    @cached_property
    def sizes(self) -> np.ndarray:
        """Candidates of each group, int64, shape (G,)."""
        return np.array([len(column) for column in self.widths], dtype=np.int64)

    @cached_property
    def _padded(self) -> np.ndarray:
        most = int(self.sizes.max(initial=1))
        rows = [np.pad(column, (0, most - len(column)), mode="edge") for column in self.widths]
        return np.stack(rows)

    @property
    def full(self) -> np.ndarray:
        """The state of the widest network, shape (G,)."""
        return self.sizes - 1

    def widths_of(self, states: np.ndarray) -> np.ndarray:
        """Widths of some states, int64, shape (n, G)."""
        widths: np.ndarray = self._padded[np.arange(len(self.widths)), states]
        return widths

    def costs(self, states: np.ndarray) -> np.ndarray:
        """Costs of some states in the budget's metric, int64, shape (n,)."""
        return self.cost_of_widths(self.widths_of(states))

    def config(self, state: np.ndarray, scores: Mapping[str, np.ndarray]) -> SubnetConfig:
        """The channels of highest score at a state's widths, so that narrower is nested in wider.

        Args:
            state: shape (G,).
            scores: by group name, shape (size,).
        """
        return keep_best(self.space, scores, self.widths_of(state[None])[0])


@dataclass(frozen=True, eq=False)
class PartialGrid:
    """Some groups of a grid, while the others are held; it is a `StateSpace` of its own.

    Attributes:
        grid: of all groups.
        held: a state of the whole grid, shape (G,); the free groups' entries do not matter.
        free: ordinals of the groups that vary, int64, shape (F,).
    """

    grid: WidthGrid
    held: np.ndarray
    free: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Candidates of each free group, int64, shape (F,)."""
        sizes: np.ndarray = self.grid.sizes[self.free]
        return sizes

    @property
    def full(self) -> np.ndarray:
        """All free groups at full width, shape (F,)."""
        return self.sizes - 1

    def whole(self, states: np.ndarray) -> np.ndarray:
        """States of the whole grid, shape (n, G), for states of the free groups, shape (n, F)."""
        whole = np.tile(self.held, (len(states), 1))
        whole[:, self.free] = states
        return whole

    def costs(self, states: np.ndarray) -> np.ndarray:
        """Costs of whole networks, int64, shape (n,), for states (n, F)."""
        return self.grid.costs(self.whole(states))


def independent_states(grid: StateSpace, count: int, rng: np.random.Generator) -> np.ndarray:
    """States whose groups are drawn independently and uniformly, shape (count, G).

    Their costs crowd in a narrow middle: the sum of many independent draws.

    Args:
        grid: gives the sizes.
        count: number of states.
        rng: all that is drawn comes from here.
    """
    return rng.integers(grid.sizes, size=(count, len(grid.sizes)))


def covering_states(grid: StateSpace, count: int, rng: np.random.Generator) -> np.ndarray:
    """States whose costs are spread evenly from the narrowest network to the full one.

    Each draw has a target cost. Its groups are drawn independently and then shifted together, by
    the shift that comes nearest to the target.

    Args:
        grid: gives sizes and costs.
        count: number of states.
        rng: all that is drawn comes from here.

    Returns:
        Shape (count, G).
    """
    low, high = grid.costs(np.stack([np.zeros_like(grid.full), grid.full]))
    shifts = np.linspace(-1.0, 1.0, _SHIFTS)[:, None]
    states = np.empty((count, len(grid.sizes)), dtype=np.int64)
    for row in states:
        target = rng.uniform(low, high)
        places = np.clip(rng.random(len(grid.sizes)) + shifts, 0.0, 1.0 - 1e-9)
        candidates = (places * grid.sizes).astype(np.int64)
        row[:] = candidates[np.argmin(np.abs(grid.costs(candidates) - target))]
    return states
