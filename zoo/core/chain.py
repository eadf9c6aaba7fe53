"""Sampling and solving one choice per block under a budget, where scores and costs add up.

A state is a position on the grid of every coordinate, one or several coordinates to a block. The
target of the chain is pi(state) ~ exp(-energy / tau) on the states within the budget; the exact
optimum of the same table is the yardstick of any chain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

__all__ = [
    "ChainRun",
    "ChoiceTable",
    "Moves",
    "State",
    "balanced_price",
    "effective_sample_size",
    "greedy_state",
    "optimal_state",
    "random_state",
    "sample_chain",
    "split_r_hat",
    "tuned_tau",
]

State = tuple[int, ...]

_HOTTEST, _COLDEST = 10.0, 1e-4  # temperatures tried, in units of the table's energy range
_TUNING_ROUNDS, _TUNING_STEPS = 14, 400


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

    def split(self, state: Sequence[int]) -> Iterator[State]:
        """The part of a state that belongs to each block."""
        ends = list(accumulate(energies.ndim for energies in self.energies))
        for start, end in zip([0, *ends], ends, strict=False):
            yield tuple(state[start:end])

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


class Moves:
    """Proposals: a grid step, a fresh value, or one coordinate up and another down.

    A step and a pair choose among the moves that stay on the grid, which are fewer at its edges:
    the ratio of the proposal probabilities corrects for that.

    Args:
        sizes: grid positions of every coordinate.
        pairs: probability of a paired move.
        fresh: probability that another move draws a fresh value instead of a step.
    """

    def __init__(self, sizes: Sequence[int], *, pairs: float = 0.3, fresh: float = 0.1) -> None:
        self.sizes = tuple(sizes)
        self.pairs = pairs
        self.fresh = fresh

    def propose(
        self, state: Sequence[int], rng: np.random.Generator
    ) -> tuple[dict[int, int], float]:
        """A move from a state.

        Returns:
            New position by coordinate, empty for a move that leads nowhere; and the logarithm of
            q(state | new) / q(new | state).
        """
        if rng.random() < self.pairs:
            return self._pair(state, rng)
        c = int(rng.random() * len(self.sizes))
        if rng.random() < self.fresh:
            return {c: int(rng.random() * self.sizes[c])}, 0.0
        return self._step(c, state[c], rng)

    def _step(self, c: int, at: int, rng: np.random.Generator) -> tuple[dict[int, int], float]:
        last = self.sizes[c] - 1
        if last == 0:
            return {}, 0.0
        ways = (at > 0) + (at < last)
        is_up = at == 0 or (at < last and rng.random() < 0.5)
        new = at + 1 if is_up else at - 1
        return {c: new}, math.log(ways / ((new > 0) + (new < last)))

    def _pair(self, state: Sequence[int], rng: np.random.Generator) -> tuple[dict[int, int], float]:
        ups = [c for c, at in enumerate(state) if at + 1 < self.sizes[c]]
        downs = [c for c, at in enumerate(state) if at > 0]
        if not ups:
            return {}, 0.0
        up = ups[int(rng.random() * len(ups))]
        n_downs = len(downs) - (state[up] > 0)
        if n_downs == 0:
            return {}, 0.0
        others = [c for c in downs if c != up]
        down = others[int(rng.random() * n_downs)]
        # Of all coordinates only these two change whether they can go up or down.
        n_back_ups = len(ups) - (state[up] + 2 == self.sizes[up])
        n_back_ups += state[down] + 1 == self.sizes[down]
        n_back_downs = len(downs) + (state[up] == 0) - 1  # without the one that goes up again
        ratio = len(ups) * n_downs / (n_back_ups * n_back_downs)
        return {up: state[up] + 1, down: state[down] - 1}, math.log(ratio)


@dataclass(frozen=True, eq=False)
class ChainRun:
    """What a chain did.

    Attributes:
        states: after every step, int16, shape (steps, coordinates).
        energies: of those states, shape (steps,).
        accepted: accepted proposals as a share of all.
        accepted_feasible: accepted proposals as a share of those within the limit.
    """

    states: np.ndarray
    energies: np.ndarray
    accepted: float
    accepted_feasible: float

    def after(self, burn_in: float) -> ChainRun:
        """The run without a first share of its steps; rates stay those of the whole."""
        first = int(burn_in * len(self.energies))
        return ChainRun(
            self.states[first:], self.energies[first:], self.accepted, self.accepted_feasible
        )

    def best(self, count: int) -> list[State]:
        """The distinct visited states of lowest energy, best first."""
        distinct, first = np.unique(self.states, axis=0, return_index=True)
        order = np.argsort(self.energies[first], kind="stable")[:count]
        return [tuple(int(at) for at in distinct[i]) for i in order]


def sample_chain(
    table: ChoiceTable,
    start: State,
    *,
    steps: int,
    tau: float,
    rng: np.random.Generator,
    moves: Moves | None = None,
    cooling: float = 1.0,
) -> ChainRun:
    """Metropolis-Hastings from a feasible state.

    Args:
        table: energies, costs and limit.
        start: a state within the limit.
        steps: proposals.
        tau: temperature, in units of energy.
        rng: all that the chain draws comes from here.
        moves: how to propose; the default mixture if None.
        cooling: the temperature falls geometrically to `tau / cooling`; 1 samples the posterior.

    Raises:
        ValueError: if the start is over the limit.
    """
    if not table.fits(start):
        raise ValueError(f"the start costs {table.cost(start):,}, over the limit of {table.limit}")
    moves = moves or Moves(table.sizes)
    state, owners = list(start), table.owners
    energies = [float(e[part]) for e, part in zip(table.energies, table.split(state), strict=True)]
    costs = [int(c[part]) for c, part in zip(table.costs, table.split(state), strict=True)]
    spans = _spans(table)
    limit = math.inf if table.limit is None else table.limit
    total, spent = math.fsum(energies), sum(costs)
    visited = np.empty((steps, len(state)), dtype=np.int16)
    trace = np.empty(steps)
    n_accepted = n_feasible = 0
    for step in range(steps):
        change, log_ratio = moves.propose(state, rng)
        old = {c: state[c] for c in change}
        for c, at in change.items():
            state[c] = at
        touched = {owners[c] for c in change}
        parts = {b: tuple(state[spans[b][0] : spans[b][1]]) for b in touched}
        new_energies = {b: float(table.energies[b][part]) for b, part in parts.items()}
        new_costs = {b: int(table.costs[b][part]) for b, part in parts.items()}
        rise = sum(new_energies[b] - energies[b] for b in touched)
        dearer = sum(new_costs[b] - costs[b] for b in touched)
        is_feasible = bool(change) and spent + dearer <= limit
        n_feasible += is_feasible
        heat = tau * cooling ** (-step / steps)
        # Accept with probability min(1, exp((E - E') / tau) * q(state|new) / q(new|state)).
        if is_feasible and math.log(1.0 - rng.random()) < log_ratio - rise / heat:
            n_accepted += 1
            total, spent = total + rise, spent + dearer
            for b in touched:
                energies[b], costs[b] = new_energies[b], new_costs[b]
        else:
            for c, at in old.items():
                state[c] = at
        visited[step] = state
        trace[step] = total
    return ChainRun(visited, trace, n_accepted / steps, n_accepted / max(1, n_feasible))


def tuned_tau(
    table: ChoiceTable, start: State, rng: np.random.Generator, *, acceptance: float, moves: Moves
) -> float:
    """The temperature at which about a share of the feasible proposals is accepted.

    Found by bisection of its logarithm over short pilot chains.
    """
    scale = sum(float(np.ptp(energies)) for energies in table.energies) or 1.0
    low, high = math.log(_COLDEST * scale), math.log(_HOTTEST * scale)
    for _ in range(_TUNING_ROUNDS):
        middle = (low + high) / 2
        pilot = sample_chain(
            table, start, steps=_TUNING_STEPS, tau=math.exp(middle), rng=rng, moves=moves
        )
        if pilot.accepted_feasible < acceptance:
            low = middle
        else:
            high = middle
        start = pilot.best(1)[0]
    return math.exp((low + high) / 2)


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
    """The feasible state of lowest energy, exact: dynamic programming over the blocks.

    After each block only those partial sums stay that no other beats in both cost and energy, and
    that the cheapest choices of the blocks to come leave within the limit.

    Raises:
        ValueError: if no state is within the limit.
    """
    limit = math.inf if table.limit is None else table.limit
    cheapest = [int(costs.min()) for costs in table.costs]
    costs, energies = np.zeros(1, dtype=np.int64), np.zeros(1)
    steps = []
    for b, (own_energies, own_costs) in enumerate(zip(table.energies, table.costs, strict=True)):
        sums = (costs[:, None] + own_costs.ravel()).ravel()
        totals = (energies[:, None] + own_energies.ravel()).ravel()
        reachable = np.flatnonzero(sums + sum(cheapest[b + 1 :]) <= limit)
        order = reachable[np.lexsort((totals[reachable], sums[reachable]))]
        lowest = np.minimum.accumulate(totals[order])
        is_better = np.concatenate([[True], lowest[1:] < lowest[:-1]])[: len(order)]
        kept = order[is_better]
        if not len(kept):
            raise ValueError(f"no state is within {table.limit}")
        costs, energies = sums[kept], totals[kept]
        steps.append((kept // own_costs.size, kept % own_costs.size))
    at, choices = len(energies) - 1, []  # the dearest that is left has the lowest energy
    for (before, choice), own in zip(reversed(steps), reversed(table.energies), strict=True):
        choices.append(tuple(int(i) for i in np.unravel_index(choice[at], own.shape)))
        at = int(before[at])
    return tuple(i for choice in reversed(choices) for i in choice)


def effective_sample_size(chains: np.ndarray) -> float:
    """Independent draws that a mean over the chains is worth.

    Args:
        chains: a number at every step, shape (chains, steps).

    Returns:
        At most the number of draws; equal to it for a constant.

    Source: Geyer 1992, initial positive sequence, on autocovariances averaged over the chains.
    """
    count, steps = chains.shape
    centred = chains - chains.mean(axis=1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(centred, n=2 * steps, axis=1)) ** 2
    covariance = np.fft.irfft(spectrum, axis=1)[:, :steps].mean(axis=0) / steps
    if covariance[0] <= 0:
        return float(count * steps)
    correlation = covariance / covariance[0]
    pairs = correlation[: steps // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    end = int(negative[0]) if len(negative) else len(pairs)
    time = max(1.0, 2 * float(pairs[:end].sum()) - 1)
    return float(count * steps / time)


def split_r_hat(chains: np.ndarray) -> float:
    """Spread of all chain halves over the spread within them: 1 where the chains agree.

    Args:
        chains: a number at every step, shape (chains, steps); at least 4 steps.

    Source: Gelman et al., Bayesian Data Analysis, 3rd edition, section 11.4.
    """
    half = chains.shape[1] // 2
    halves = np.concatenate([chains[:, :half], chains[:, -half:]])
    within = float(halves.var(axis=1, ddof=1).mean())
    between = half * float(halves.mean(axis=1).var(ddof=1))
    if within == 0:
        return 1.0 if between == 0 else math.inf
    return math.sqrt((half - 1) / half + between / half / within)


def _spans(table: ChoiceTable) -> list[tuple[int, int]]:
    """First coordinate of every block, and the one after its last."""
    ends = list(accumulate(energies.ndim for energies in table.energies))
    return list(zip([0, *ends[:-1]], ends, strict=True))
