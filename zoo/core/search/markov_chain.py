"""Sample one choice per block under a budget, where scores and costs add up.

A state is a position on the grid of every coordinate, one or several coordinates to a block. The
target of the chain is pi(state) ~ exp(-energy / tau) on the states within the budget; the exact
optimum of the same table is the yardstick of any chain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo.core.search.choice_table import ChoiceTable, State

__all__ = ["ChainRun", "Moves", "effective_sample_size", "sample_chain", "split_r_hat", "tuned_tau"]


_HOTTEST, _COLDEST = 10.0, 1e-4  # temperatures tried, in units of the table's energy range
_TUNING_ROUNDS, _TUNING_STEPS = 14, 400


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
    """The states that a chain visited, and its acceptance rates.

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
    spans = table.spans
    limit = math.inf if table.limit is None else table.limit
    total, spent = math.fsum(energies), sum(costs)
    visited = np.empty((steps, len(state)), dtype=np.int16)
    trace = np.empty(steps)
    n_accepted = n_feasible = 0
    # Energies and costs are kept block by block: a proposal touches two of them at most.
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
        cost_change = sum(new_costs[b] - costs[b] for b in touched)
        is_feasible = bool(change) and spent + cost_change <= limit
        n_feasible += is_feasible
        temperature = tau * cooling ** (-step / steps)
        # Accept with probability min(1, exp((E - E') / tau) * q(state|new) / q(new|state)).
        if is_feasible and math.log(1.0 - rng.random()) < log_ratio - rise / temperature:
            n_accepted += 1
            total, spent = total + rise, spent + cost_change
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

    Args:
        table: energies, costs and limit.
        start: a state within the limit.
        rng: all that the pilot chains draw comes from here.
        acceptance: the share.
        moves: how to propose.
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
        start = pilot.best(1)[0]  # where the chain will stay, not on the way there
    return math.exp((low + high) / 2)


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
    # Padded with as many zeros, so that the ends of a chain are not correlated with its beginning.
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
