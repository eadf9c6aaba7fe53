"""BCNet: every width seen from both ends of a layer, so that all channels are trained alike.

Paper: Su, You, Wang, Qian, Zhang, Xu: BCNet: Searching for Network Width with Bilaterally Coupled
    Network, 2021, arXiv 2105.10533.

Idea: With leading channels alone, the first channels serve in every width and the last in one.
    Each width is evaluated with its leftmost and with its rightmost channels, and each sampled
    network is followed by its complement, so that every channel is trained equally often. Losses
    of training give the first population of an evolutionary search.

Steps:
    1. `list_widths`: list the candidate widths of every group.
    2. `train_coupled`: leftmost and rightmost network of each state on the same batch, one update;
       after each sampled state comes its complement.
    3. `population_prior`: width probabilities of least expected loss whose expected cost is the
       target's.
    4. `evolve_widths`: search widths, each scored as the mean of its two networks.
    5. `fill_closely`: add channels up to the budget, where groups are narrowest.

Deviations:
    - The supernet starts from the trained parent; "left" is the side of largest L1 norm in it. The
      paper trains from scratch. Expected effect: useful scores far sooner. Channels that died in
      the parent gather on the right, and narrow right networks of them can make the gradient
      overflow in a few updates, which ends the run as `Diverged`; `start` = "scratch" has none.
    - Probabilities fall exponentially with a width's mean loss, and a price on its cost is found by
      bisection; the published code learns logits by gradient steps on a penalised expectation.
      Expected effect: small, the same trade in closed form.
    - A width that was never seen counts like the worst seen; the published code gives it a loss of
      almost zero.

Unknowns:
    - Written from the abstract and notes on the published code; schedule and search settings differ
      with the data at hand, see the attributes and the defaults of the functions below.

Cost: `steps` batches, each with forward and backward passes of two subnets, once for all budgets.
    For each evaluation twice four training batches and one pass over the search split, forward
    only.

Names: E -> `mean_losses`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field
from torch import Tensor

from zoo.core.channels.config import SubnetConfig
from zoo.core.data.inputs import Inputs
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Subnet, unpruned
from zoo.core.one_shot.effort import middle_macs
from zoo.core.one_shot.one_shot import (
    OneShot,
    RankedWidths,
    conclude_trained,
    evolve_widths,
    list_widths,
)
from zoo.core.one_shot.shared_terms import Term
from zoo.core.one_shot.supernet_training import Engine
from zoo.core.search.prior import LossRecords, Prior, SeenSubnets
from zoo.core.search.width_grid import StateSpace, independent_states
from zoo.core.search.widths_in_budget import fill_closely, keep_best
from zoo.core.supernet.trained_store import Trained
from zoo.core.training.checkpoint import Stateful
from zoo.core.training.course import GeneratorState, Values

__all__ = [
    "BCNet",
    "complement",
    "mean_losses",
    "population_prior",
    "right_side",
    "train_coupled",
]

_DRAWS = 200  # states behind an expected cost
_BISECTIONS = 40


@dataclass(frozen=True)
class BCNet(OneShot):
    """Bilaterally coupled training, and evolution from a loss-based first population.

    Attributes:
        evaluations: states scored, two networks each.
        population: children of a generation, and size of the first one.
        parents: best states that have children.
    """

    known_exceptions: ClassVar[Mapping[str, str]] = {
        "golden_answer_comes_out": "a score is the mean over both sides of a layer, and in the "
        "planted network the trailing channels are dead"
    }
    search_fields: ClassVar[frozenset[str]] = frozenset({"evaluations", "population", "parents"})

    evaluations: Annotated[int, Field(ge=1)] = 200
    population: Annotated[int, Field(ge=1)] = 40
    parents: Annotated[int, Field(ge=1)] = 10

    def search(self, problem: Problem) -> Subnet:
        """Train left and right networks, then evolve widths from a loss-based population."""
        if whole := unpruned(problem):
            return whole
        widths = list_widths(problem, self)
        trained = self.train(widths)
        with problem.phase("search"):
            losses = mean_losses(widths.grid, LossRecords(**trained.records))
            prior = population_prior(widths.grid, losses, problem.budget.limit)
            state = evolve_widths(
                widths,
                lambda configs: self.accuracies(widths, configs, trained.weights),
                prior,
                evaluations=self.evaluations,
                population=self.population,
                parents=self.parents,
                slack=self.slack,
            )
        chosen = fill_closely(
            problem, widths.widths_of(state), widths.narrowest_first, slack=self.slack
        )
        return conclude_trained(widths, chosen, trained)

    def update_macs(self, problem: Problem) -> int:
        """The left and the right network on each image."""
        return 2 * middle_macs(problem)[1]

    def candidate_images(self, problem: Problem) -> int:
        """Both networks are scored."""
        return 2 * super().candidate_images(problem)

    def train_anew(self, widths: RankedWidths) -> Trained:
        """Train left and right networks."""
        return train_coupled(widths, self)

    def accuracy(
        self, widths: RankedWidths, config: SubnetConfig, weights: Mapping[str, Tensor]
    ) -> float:
        """Mean score of the left and the right network of a width."""
        right = right_side(widths, config)
        sides = (config,) if right == config else (config, right)
        return float(np.mean([widths.problem.accuracy(side, weights) for side in sides]))

    @classmethod
    def tiny(cls) -> Self:
        """A few careful updates and a small population."""
        return cls(steps=2, lr=1e-4, ratios=5, evaluations=6, population=4, parents=2)


def train_coupled(widths: RankedWidths, settings: BCNet) -> Trained:
    """Train the left and the right network of each state on the same images, one update for both.

    Returns:
        The weights, and state, mean loss and step of every update.
    """
    problem, grid = widths.problem, widths.grid
    rng = problem.rng("search").spawn(2)[0]
    engine = settings.engine(problem)
    seen = SeenSubnets(len(grid.sizes))
    last = Values(state=grid.full)
    parts: dict[str, Stateful] = {"rng": GeneratorState(rng), "seen": seen, "last": last}
    updates = engine.updates(settings.training_settings, parts)
    for images, labels in updates:
        is_answer = updates.done % 2
        last["state"] = state = (
            complement(grid, last["state"]) if is_answer else independent_states(grid, 1, rng)[0]
        )
        left = widths.config(state)
        sides = [left, right_side(widths, left)]
        terms = [
            Term(problem.cost.macs(side), partial(_loss, engine, images, labels, side))
            for side in sides
        ]
        loss = engine.losses(terms).mean()
        seen.add(state[None], engine.update(loss, loss[None]))
    problem.trace("train_coupled", pairs=engine.pairs, losses=seen.means())
    return Trained(engine.trained(), seen.records)


def _loss(engine: Engine, images: Inputs, labels: Any, side: SubnetConfig) -> list[Tensor]:
    """The task's loss of one network, one scalar; charged."""
    return [engine.problem.task.loss_of(engine.logits(images, side), labels)]


def complement(grid: StateSpace, state: np.ndarray) -> np.ndarray:
    """The state that is wide where a state is narrow, and narrow where it is wide, shape (G,)."""
    other: np.ndarray = grid.full - state
    return other


def right_side(widths: RankedWidths, left: SubnetConfig) -> SubnetConfig:
    """The configuration of the same widths that keeps the trailing channels."""
    space = widths.problem.space
    reversed_order = {name: -scores for name, scores in widths.order.items()}
    return keep_best(space, reversed_order, left.widths(space))


def mean_losses(grid: StateSpace, records: LossRecords, best: int = 100) -> np.ndarray:
    """Mean loss of the best subnets that had a width, for each width of each group.

    Args:
        grid: gives sizes.
        records: what training saw.
        best: subnets of lowest training loss that count.

    Returns:
        Shape (G, most candidates), nats; a width that none had counts like the worst, and infinity
        stands beyond a group's own candidates.
    """
    shape = (len(grid.sizes), int(grid.sizes.max()))
    sums, counts = np.zeros(shape), np.zeros(shape)
    for at in np.argsort(records.losses, kind="stable")[:best]:
        place = (np.arange(shape[0]), records.states[at])
        sums[place] += records.losses[at]
        counts[place] += 1
    seen = counts > 0
    found = np.where(seen, sums / np.maximum(counts, 1), -np.inf)
    worst = found.max(initial=0.0)
    found = np.where(seen, found, worst)
    return np.where(np.arange(shape[1]) < grid.sizes[:, None], found, np.inf)


def population_prior(
    grid: StateSpace, losses: np.ndarray, limit: int, temperature: float = 0.05
) -> Prior:
    """Width probabilities exp(-loss / temperature - price * width), the price set by the target.

    Args:
        grid: gives sizes and costs.
        losses: as `mean_losses` returns them, shape (G, most candidates).
        limit: what a drawn state is to cost on average.
        temperature: nats; lower concentrates on the best widths.
    """
    # The same quantiles for every price: the expected cost then falls steadily, as bisection needs.
    rng = np.random.default_rng(0)
    places = rng.random((_DRAWS, len(grid.sizes), 1))
    share = np.arange(losses.shape[1]) / np.maximum(grid.sizes - 1, 1)[:, None]

    def priced(price: float) -> Prior:
        logits = np.where(np.isinf(losses), -np.inf, -losses / temperature - price * share)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return Prior(weights / weights.sum(axis=1, keepdims=True))

    def mean_cost(prior: Prior) -> float:
        return float(grid.costs(prior.at(places)).mean())

    low, high = -50.0, 50.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if mean_cost(priced(middle)) > limit:
            low = middle
        else:
            high = middle
    return priced((low + high) / 2)
