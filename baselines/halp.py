"""HALP: a knapsack of batch-norm Taylor values against the latency that each channel adds.

Paper: Shen, Yin, Molchanov, Mao, Liu, Alvarez: Structural Pruning via Latency-Saliency Knapsack,
    2022, arXiv 2210.06659, after HALP: Hardware-Aware Latency Pruning, 2021, arXiv 2110.10811.
    Read: the code and README of NVlabs/HALP [official code]; not the papers.

Idea: Latency falls in steps and unevenly as channels go, so what a channel adds to it is read off a
    table at the widths that there are. Channels are taken into a knapsack by value until the
    latency is used up, a less valuable channel of a layer only after the more valuable ones. The
    limit is lowered in steps, and costs are looked up anew after each.

Steps:
    1. `norm_values`: first-order change of the loss when a channel's norms close, batch by batch.
    2. `lowered_limits`: lower the limit from the whole network's cost to the budget, exponentially.
    3. `added_costs`: for each limit, look up what the channels of every group add at these widths.
    4. `knapsack_widths`: solve the knapsack, and take the best solution whose recounted cost fits.
    5. `fill_up`: spend what is left on the most valuable channels per cost, then `keep_best`.

Deviations:
    - Values are taken once, from a network that stands still; [official code] trains 40 steps
      between two of its 30 prunings and takes them from these. Expected effect: worse at strong
      pruning.
    - A channel's cost is what the whole network gains without it, layers that read it included;
      [official code] looks up the layers that make it, at the present widths of what they read.
      Sums of either overrate what several groups save together, so capacities are tried from the
      largest down until the recounted network fits. Expected effect: small.
    - The budget's metric is what costs are counted in: latency by this project's tables, or MACs or
      parameters where the budget limits these. A cost that falls as a group widens counts as flat.
    - A group keeps a minimum width; [official code] may remove whole layers.
    - Channels go one by one, unless the rules have a divisor; [official code] takes them in groups
      that a Titan V likes.

Unknowns:
    - The paper's own text on the knapsack: [official code] solves one in which an item needs the
      one before it, which is the same as choosing a width for each group.
    - Number of images for the values: ours is a share of the training images.

Cost: One forward and backward pass over a tenth of the training images; `rounds` knapsacks.

Names: importance score -> `values`; latency contribution -> `added_costs`; C -> capacity, in units;
    k_t, the target of step t -> `lowered_limits`.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field

from zoo.core.channels.channel_group import PRODUCERS, Role
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.search.channel_scores import channel_rows, weight_gradient_products, zero_scores
from zoo.core.search.knapsack_optima import fitting_optima
from zoo.core.search.widths_in_budget import fill_up, keep_best

__all__ = ["HALP", "added_costs", "knapsack_widths", "lowered_limits", "norm_values"]

NORM: tuple[Role, ...] = ("norm_weight", "norm_bias")


@dataclass(frozen=True)
class HALP(Pruner):
    """Knapsacks over channels under a limit that falls, costs looked up at the present widths.

    Attributes:
        rounds: knapsacks; 30 in [official code].
        calibration: share of the training images that values are averaged over.
        resolution: units in which a knapsack counts its limit; costs are rounded up to them.
    """

    rounds: Annotated[int, Field(ge=1)] = 30
    calibration: Annotated[float, Field(gt=0)] = 0.1
    resolution: Annotated[int, Field(ge=10)] = 2000

    def search(self, problem: Problem) -> Subnet:
        """Score once, then lower the limit and solve again."""
        if whole := unpruned(problem):
            return whole
        data = problem.data
        n_batches = max(1, math.ceil(self.calibration * data.num_train / data.batch_size))
        with problem.phase("scoring"):
            values = norm_values(problem, n_batches)
        with problem.phase("search"):
            gains = [np.append(np.sort(values[g.name])[::-1], 0.0) for g in problem.space.groups]
            widths = problem.widest
            for limit in lowered_limits(problem, self.rounds):
                widths = knapsack_widths(problem, gains, widths, limit, self.resolution)
                problem.trace("round", limit=limit, cost=int(problem.cost_of(widths[None])[0]))
            widths = fill_up(problem, widths, lambda at: _next_densities(problem, gains, at))
        return conclude(problem, keep_best(problem.space, values, widths))

    @classmethod
    def tiny(cls) -> Self:
        """Few knapsacks, one batch."""
        return cls(rounds=3, calibration=0.01, resolution=200)


def norm_values(problem: Problem, n_batches: int) -> dict[str, np.ndarray]:
    """Mean over batches of | sum over a channel's norms of scale and shift times gradients |.

    Without a norm, the weights that make the channel take their place [official code].

    Args:
        problem: the parent, used in eval mode, its groups and images; each pass is charged.
        n_batches: training batches.

    Returns:
        By group name, shape (size,), float64; unit: nats.
    """
    batches = problem.data.train(n_batches)
    totals = zero_scores(problem)
    for products in weight_gradient_products(problem, batches, (*NORM, *PRODUCERS)):
        for group in problem.space.groups:
            has_norm = any(member.role in NORM for member in group.members)
            roles = NORM if has_norm else PRODUCERS
            rows = [
                channel_rows(products[member.tensor].double(), member).sum(1)
                for member in group.members
                if member.role in roles
            ]
            if rows:
                totals[group.name] += torch.stack(rows).sum(0).abs()
    return {name: total.cpu().numpy() / n_batches for name, total in totals.items()}


def lowered_limits(problem: Problem, rounds: int) -> list[int]:
    """Limits from below the whole network's cost to the budget, each the same share of the last."""
    full, last = problem.widest_cost, problem.budget.limit
    shares = np.arange(1, rounds + 1) / rounds
    limits = np.exp((1 - shares) * math.log(full) + shares * math.log(last))
    return [max(int(limit), last) for limit in limits[:-1]] + [last]


def added_costs(problem: Problem, widths: np.ndarray) -> list[np.ndarray]:
    """What every legal width of a group adds to the cost of its narrowest, the others as they are.

    Args:
        problem: gives costs and rules.
        widths: of all groups, shape (G,).

    Returns:
        For each group int64, shape (legal widths up to its own,), ascending from 0.
    """
    costs = []
    for index, legal in enumerate(problem.legal):
        choices = legal[legal <= widths[index]]
        candidates = np.tile(widths, (len(choices), 1))
        candidates[:, index] = choices
        found = problem.cost_of(candidates)
        costs.append(np.maximum.accumulate(found - found[0]))
    return costs


def knapsack_widths(
    problem: Problem,
    gains: list[np.ndarray],
    widths: np.ndarray,
    limit: int,
    resolution: int,
) -> np.ndarray:
    """The most valuable widths, none above the present ones, whose recounted cost is in a limit.

    Args:
        problem: gives costs and rules.
        gains: values of each group's channels, the best first.
        widths: the present ones, shape (G,).
        limit: most that the network may cost, in the budget's unit.
        resolution: units of the largest capacity.

    Returns:
        Legal widths, shape (G,); the narrowest if nothing else fits.
    """
    if int(problem.cost_of(widths[None])[0]) <= limit:
        return widths
    added = added_costs(problem, widths)
    unit = max(1, -(-sum(int(cost[-1]) for cost in added) // resolution))
    values = []
    for gain, legal, cost in zip(gains, problem.legal, added, strict=True):
        values.append(np.append(0.0, np.cumsum(gain))[legal[: len(cost)]])

    def widths_of(entries: np.ndarray) -> np.ndarray:
        columns = zip(problem.legal, entries.T, strict=True)
        return np.stack([legal[column] for legal, column in columns], axis=1)

    def recount(entries: np.ndarray) -> np.ndarray:
        return problem.cost_of(widths_of(entries))

    units = [-(-cost // unit) for cost in added]
    entries = fitting_optima(units, values, recount, limit)
    fits = np.flatnonzero(recount(entries) <= limit)
    # The largest capacity that fits: value grows with capacity.
    return widths_of(entries[fits[-1:]])[0] if len(fits) else problem.narrowest


def _next_densities(problem: Problem, gains: list[np.ndarray], widths: np.ndarray) -> np.ndarray:
    """Value per cost of each group's next channel, shape (G,)."""
    wider = np.minimum(widths + 1, problem.space.sizes)
    candidates = np.where(np.eye(len(widths), dtype=bool), wider, widths)
    costs = problem.cost_of(candidates) - problem.cost_of(widths[None])
    following = np.array([gain[width] for gain, width in zip(gains, widths, strict=True)])
    return np.asarray(following / np.maximum(costs, 1))
