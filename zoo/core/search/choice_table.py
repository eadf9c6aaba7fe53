"""Choices with values and costs, and the best ones within a budget."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np

from zoo.core.search.multiple_choice import best_combinations

__all__ = [
    "ChoiceTable",
    "State",
    "balanced_price",
    "greedy_state",
    "optimal_state",
    "random_state",
]


State = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ChoiceTable:
    """Energy and cost of every choice of every block.

    Attributes:
        energies: for each block, float64, one dimension for each of its coordinates.
        costs: the same shapes, int64; may be negative, as savings.
        limit: most that the costs of a state may add up to; None for no limit.
    """

    energies: tuple[np.ndarray, ...]
    costs: tuple[np.ndarray, ...]
    limit: int | None

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Grid positions of every coordinate, block after block."""
        return tuple(size for energies in self.energies for size in energies.shape)

    @cached_property
    def owners(self) -> tuple[int, ...]:
        """Block of every coordinate."""
        return tuple(b for b, energies in enumerate(self.energies) for _ in energies.shape)

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """First coordinate of every block, and the one after its last."""
        return tuple(pairwise(accumulate((e.ndim for e in self.energies), initial=0)))

    def split(self, state: Sequence[int]) -> Iterator[State]:
        """The part of a state that belongs to each block."""
        return (tuple(state[start:end]) for start, end in self.spans)

    def energy(self, state: Sequence[int]) -> float:
        """Sum over the blocks."""
        parts = zip(self.energies, self.split(state), strict=True)
        return math.fsum(float(energies[part]) for energies, part in parts)

    def cost(self, state: Sequence[int]) -> int:
        """Sum over the blocks."""
        parts = zip(self.costs, self.split(state), strict=True)
        return sum(int(costs[part]) for costs, part in parts)

    def fits(self, state: Sequence[int]) -> bool:
        """Whether a state is within the limit."""
        return self.limit is None or self.cost(state) <= self.limit

    def digest(self) -> str:
        """Eight hexadecimal digits that name the energies, so that equal tables are known as such.

        Energies are rounded to eight digits, which one machine repeats.
        """
        rows = [np.char.mod("%.8e", energies).ravel() for energies in self.energies]
        text = ",".join(text for row in rows for text in row.tolist())
        return f"{zlib.crc32(text.encode()):08x}"

    def priced(self, price: float) -> ChoiceTable:
        """The table without a limit, where each unit of cost adds `price` to the energy."""
        energies = zip(self.energies, self.costs, strict=True)
        return ChoiceTable(tuple(e + price * c for e, c in energies), self.costs, None)

    def mean_cost(self, tau: float) -> float:
        """Exact expected cost under exp(-energy / tau) without the limit, block by block."""
        total = 0.0
        for energies, costs in zip(self.energies, self.costs, strict=True):
            weights = np.exp(-(energies - energies.min()) / tau)
            total += float((weights * costs).sum() / weights.sum())
        return total


def balanced_price(table: ChoiceTable, tau: float) -> float:
    """The price per unit of cost at which the expected cost meets the limit, by bisection.

    Returns:
        0 where the limit is met for nothing.
    """
    limit = math.inf if table.limit is None else table.limit
    if table.mean_cost(tau) <= limit:
        return 0.0
    low, high = 0.0, tau / max(1, max(int(np.abs(costs).max()) for costs in table.costs))
    for _ in range(60):
        if table.priced(high).mean_cost(tau) <= limit:
            break
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if table.priced(middle).mean_cost(tau) <= limit:
            high = middle
        else:
            low = middle
    return high


def random_state(table: ChoiceTable, rng: np.random.Generator) -> State:
    """A random state, lowered coordinate by coordinate until it fits.

    Raises:
        ValueError: if the lowest state is over the limit.
    """
    state = [int(rng.integers(size)) for size in table.sizes]
    while not table.fits(state):
        movable = [c for c, at in enumerate(state) if at > 0]
        if not movable:
            raise ValueError(f"the lowest state costs {table.cost(state):,}, over {table.limit}")
        state[movable[int(rng.integers(len(movable)))]] -= 1
    return tuple(state)


def greedy_state(table: ChoiceTable) -> State:
    """From the lowest state, the step of most energy per cost first, while any fits.

    Raises:
        ValueError: if the lowest state is over the limit.
    """
    state = [0] * len(table.sizes)
    if not table.fits(state):
        raise ValueError(f"the lowest state costs {table.cost(state):,}, over {table.limit}")
    while True:
        energy, cost = table.energy(state), table.cost(state)
        found: list[tuple[float, int]] = []
        for c, size in enumerate(table.sizes):
            wider = [at + (c == other) for other, at in enumerate(state)]
            if wider[c] < size and table.fits(wider):
                density = (energy - table.energy(wider)) / max(1, table.cost(wider) - cost)
                found.append((density, -c))
        if not found or max(found)[0] <= 0:
            return tuple(state)
        state[-max(found)[1]] += 1


def optimal_state(table: ChoiceTable) -> State:
    """The feasible state of lowest energy, exact.

    Raises:
        ValueError: if no state is within the limit.
    """
    energies = [energies.ravel() for energies in table.energies]
    costs = [costs.ravel() for costs in table.costs]
    dearest = sum(int(cost.max()) for cost in costs)
    limit = dearest if table.limit is None else table.limit
    found = best_combinations(energies, costs, limit, 1)
    if not found:
        raise ValueError(f"no state is within {table.limit}")
    places = zip(found[0], table.energies, strict=True)
    return tuple(int(i) for at, own in places for i in np.unravel_index(at, own.shape))
