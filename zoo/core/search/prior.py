"""A prior over widths from supernet training: which widths the subnets of low loss had."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from zoo.core.search.width_grid import StateSpace

__all__ = ["LossRecords", "Prior", "SeenSubnets", "corrected_losses", "fit_prior", "uniform_prior"]

_PER_BEST = 4  # subnets of about the target's cost among which one counts as best


@dataclass(frozen=True, eq=False)
class LossRecords:
    """Subnets that were trained, in order of time.

    Attributes:
        states: shape (n, G), int64.
        losses: training loss of each, nats, shape (n,).
        steps: update at which it was taken, int64, shape (n,).
    """

    states: np.ndarray
    losses: np.ndarray
    steps: np.ndarray

    def since(self, share: float) -> LossRecords:
        """The records without those of a first share of the training."""
        later = self.steps >= share * (self.steps.max(initial=0) + 1)
        return LossRecords(self.states[later], self.losses[later], self.steps[later])


class SeenSubnets:
    """Collects what training sees.

    Args:
        groups: number of groups.
    """

    def __init__(self, groups: int) -> None:
        self._states = [np.empty((0, groups), np.int64)]
        self._losses = [np.empty(0)]
        self._steps = [np.empty(0, np.int64)]

    def add(self, states: np.ndarray, losses: Tensor) -> None:
        """Add the subnets of one update: states, shape (n, G), and losses in nats, shape (n,)."""
        step = len(self._steps) - 1
        self._states.append(states)
        self._losses.append(losses.detach().double().cpu().numpy())
        self._steps.append(np.full(len(states), step))

    def state_dict(self) -> dict[str, object]:
        """What was seen so far, for a checkpoint."""
        return {
            "states": list(self._states),
            "losses": list(self._losses),
            "steps": list(self._steps),
        }

    def load_state_dict(self, state_dict: dict[str, list[np.ndarray]]) -> None:
        """Put back what `state_dict` returned."""
        self._states, self._losses = state_dict["states"], state_dict["losses"]
        self._steps = state_dict["steps"]

    def means(self) -> list[float]:
        """Mean loss of each update, nats."""
        return [float(losses.mean()) for losses in self._losses[1:]]

    @property
    def records(self) -> dict[str, np.ndarray]:
        """The fields of `LossRecords` by name: states (n, G), losses and steps, shape (n,)."""
        return {
            "states": np.concatenate(self._states),
            "losses": np.concatenate(self._losses),
            "steps": np.concatenate(self._steps),
        }


@dataclass(frozen=True, eq=False)
class Prior:
    """A categorical distribution over the widths of each group.

    Attributes:
        probabilities: shape (G, most candidates); rows sum to one, zero beyond a group's own.
    """

    probabilities: np.ndarray

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Independent states, shape (count, G)."""
        return self.at(rng.random((count, len(self.probabilities), 1)))

    def at(self, quantiles: np.ndarray) -> np.ndarray:
        """The states at quantiles in [0, 1) of each group, shape (n, G), for (n, G, 1)."""
        edges = self.probabilities.cumsum(axis=1)
        edges[:, -1] = np.inf  # rounding must not lead beyond the last one
        last = self.probabilities.shape[1] - 1 - (self.probabilities > 0)[:, ::-1].argmax(axis=1)
        drawn: np.ndarray = np.minimum((quantiles >= edges).sum(axis=2), last)
        return drawn


def uniform_prior(sizes: np.ndarray) -> Prior:
    """Uniform prior over each group's candidates, for sizes of shape (G,)."""
    columns = np.arange(int(np.max(sizes)))
    return Prior((columns < sizes[:, None]) / sizes[:, None])


def fit_prior(
    grid: StateSpace,
    records: LossRecords,
    limit: int,
    *,
    bins: int = 20,
    best: int = 50,
    smoothing: float = 1.0,
    warm_up: float = 0.3,
) -> Prior:
    """Frequency of each width among the best subnets of about the target's cost.

    A raw loss ranks by time and cost before it ranks by quality. So each is compared with what its
    step and its cost lead to expect, from a smooth fit to all records; and only subnets in the bin
    of the target's cost count, with the neighbouring bins as far as it takes to have enough.

    Args:
        grid: gives sizes and costs.
        records: what training saw.
        limit: the target's cost.
        bins: equal ranges of cost between the narrowest and the full network.
        best: subnets that count, those of lowest corrected loss among four times as many.
        smoothing: what is added to each count; a width that was never seen has this and no more,
            so it is never more likely than one that was.
        warm_up: share of the training whose records are left out.
    """
    records = records.since(warm_up)
    if not len(records.losses):
        return uniform_prior(grid.sizes)
    costs = grid.costs(records.states).astype(np.float64)
    low, high = grid.costs(np.stack([np.zeros_like(grid.full), grid.full]))
    # Bins end below their upper edge; 1e-9 less puts the full network into the last one.
    place = np.clip((costs - low) / max(1.0, float(high - low)) * bins, 0, bins - 1e-9).astype(int)
    wanted = int(np.clip((limit - low) / max(1.0, float(high - low)) * bins, 0, bins - 1e-9))
    distance = np.abs(place - wanted)
    reach = np.sort(distance)[min(_PER_BEST * best, len(distance)) - 1]
    near = np.flatnonzero(distance <= reach)
    corrected = corrected_losses(records.losses, records.steps, costs)
    chosen = near[np.argsort(corrected[near], kind="stable")[:best]]
    counts = np.zeros((len(grid.sizes), int(grid.sizes.max())))
    for state in records.states[chosen]:
        counts[np.arange(len(state)), state] += 1
    counts += smoothing * (np.arange(counts.shape[1]) < grid.sizes[:, None])
    return Prior(counts / counts.sum(axis=1, keepdims=True))


def corrected_losses(losses: np.ndarray, steps: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Losses less what their time and cost lead to expect, shape (n,).

    The expectation is a least-squares fit of a quadratic in time and in the logarithm of cost.

    Args:
        losses: training loss of each subnet, shape (n,).
        steps: update at which it was taken, shape (n,).
        costs: of each subnet, above 0, shape (n,).
    """

    def scaled(values: np.ndarray) -> np.ndarray:
        spread = float(np.ptp(values))
        return (values - values.min()) / spread if spread else np.zeros(len(values))

    t, c = scaled(steps.astype(np.float64)), scaled(np.log(costs))
    design = np.stack([np.ones_like(t), t, t * t, c, c * c, t * c], axis=1)
    fitted = design @ np.linalg.lstsq(design, losses, rcond=None)[0]
    residual: np.ndarray = losses - fitted
    return residual
