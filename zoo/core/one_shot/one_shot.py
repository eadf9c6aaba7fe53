"""What one-shot methods share: candidate widths, a supernet trained once, the end of a search.

Each method's `search` lists its own steps and calls the functions here by name. Grid, order of
channels, store, recalibrated scores and the way to the final configuration are the same for all, so
that results differ by the idea alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field
from torch import Tensor

from zoo.core.channels.config import SubnetConfig
from zoo.core.method.effort import Efforts, share_of_budget
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude
from zoo.core.method.shared_search import shared_scores
from zoo.core.one_shot.effort import (
    affordable_evaluations,
    enough_steps,
    search_effort,
    training_effort,
)
from zoo.core.one_shot.supernet_training import (
    Engine,
    Execution,
    Norm,
    Start,
    starting_weights,
)
from zoo.core.one_shot.train_once import train_metered, train_once
from zoo.core.search.channel_scores import channel_order
from zoo.core.search.evolution import Candidates, Evaluated, evolve, random_candidates
from zoo.core.search.prior import Prior
from zoo.core.search.width_grid import StateSpace, WidthGrid
from zoo.core.search.widths_in_budget import keep_best
from zoo.core.supernet.supernet import CANDIDATE_BATCHES
from zoo.core.supernet.trained_store import Trained
from zoo.core.training.ranks import summoned

__all__ = [
    "OneShot",
    "RankedWidths",
    "conclude_trained",
    "evolve_widths",
    "list_widths",
    "on_device",
]


@dataclass(frozen=True, eq=False)
class RankedWidths:
    """The space of a one-shot method.

    Attributes:
        problem: what is asked.
        grid: candidate widths.
        order: scores that nest narrower configurations in wider ones, by group name, shape (size,).
    """

    problem: Problem
    grid: WidthGrid
    order: Mapping[str, np.ndarray]

    def config(self, state: Sequence[int] | np.ndarray) -> SubnetConfig:
        """The leading channels at a state's widths, for a state of shape (G,)."""
        return self.grid.config(np.asarray(state), self.order)

    def leading(self, chosen: np.ndarray) -> SubnetConfig:
        """The leading channels at chosen widths, shape (G,)."""
        return keep_best(self.problem.space, self.order, chosen)

    def widths_of(self, state: np.ndarray) -> np.ndarray:
        """The widths at a state, both of shape (G,)."""
        chosen: np.ndarray = self.grid.widths_of(state[None])[0]
        return chosen

    def narrowest_first(self, chosen: np.ndarray) -> np.ndarray:
        """Priority of each group for `fill_up`, shape (G,): narrowest keep ratio first."""
        wanted: np.ndarray = -chosen / self.problem.space.sizes
        return wanted

    def candidates(self, slack: float, space: StateSpace | None = None) -> Candidates:
        """States within the budget that leave at most a share of it unused.

        Args:
            slack: the share.
            space: what may be chosen; all groups of the grid if None.
        """
        space, limit = space or self.grid, self.problem.budget.limit
        return Candidates(space.sizes, space.costs, limit, int((1 - slack) * limit))


@dataclass(frozen=True)
class OneShot(Pruner):
    """A method that trains one supernet and searches widths on it.

    Attributes:
        steps: updates of the supernet; 0 scores slices of the parent.
        lr: highest learning rate of its cosine.
        start: weights of the supernet, "parent" or "scratch". With the parent's, leading channels
            are those of largest L1 norm in it; otherwise they are the first.
        ratios: candidate widths of each group.
        slack: share of the budget that a searched subnet may leave unused.
    """

    search_fields: ClassVar[frozenset[str]] = frozenset()
    """Settings that do not affect the training; variants that differ in these share a supernet."""

    serves_every_budget: ClassVar[bool] = True
    """Whether one training serves every budget; if not, each search trains its own supernet."""

    steps: Annotated[int, Field(ge=0)] = 1000
    lr: Annotated[float, Field(gt=0)] = 0.02
    start: Start = "parent"
    ratios: Annotated[int, Field(ge=2)] = 10
    slack: Annotated[float, Field(ge=0, lt=1)] = 0.02

    def effort(self, problem: Problem) -> Efforts:
        """What the supernet and the search will cost; nothing if the budget allows everything."""
        if problem.is_full:
            return {}
        training = training_effort(problem, self.steps, self.update_macs(problem))
        count, images = self.candidates(problem), self.candidate_images(problem)
        searching = search_effort(problem, count, images, self.candidate_share(problem))
        return {"supernet": training, "search": searching}

    def scaled(self, problem: Problem, given: Collection[str]) -> Self:
        """Fewer updates and evaluations where the data are few; never more than the defaults."""
        changed: dict[str, Any] = {}  # of settings, which have many types
        enough = enough_steps(problem, self.steps)
        if "steps" not in given:
            changed["steps"] = enough
        if hasattr(self, "evaluations") and "evaluations" not in given:
            training = training_effort(problem, enough, self.update_macs(problem))
            one = search_effort(
                problem, 1, self.candidate_images(problem), self.candidate_share(problem)
            )
            changed["evaluations"] = affordable_evaluations(one, training, self.evaluations)
        return replace(self, **changed)

    def update_macs(self, problem: Problem) -> int:
        """Multiply-adds of an update's forward passes for one image; of the whole network here."""
        return problem.cost.full_macs

    def candidates(self, problem: Problem) -> int:
        """Subnets that a search will score, about."""
        del problem
        return int(getattr(self, "evaluations", 0))

    def candidate_images(self, problem: Problem) -> int:
        """Images that one of them is scored with, those of its recalibration included."""
        return CANDIDATE_BATCHES * problem.data.batch_size + problem.data.num_search

    def candidate_share(self, problem: Problem) -> float:
        """Multiply-adds of one of them, as a share of the parent's."""
        return share_of_budget(problem)

    @property
    def training_settings(self) -> dict[str, object]:
        """All settings that decide what the supernet becomes, beside parent and data."""
        searching = {"slack", *self.search_fields}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in searching}
        return {"method": type(self).__name__, **own}

    def engine(
        self, problem: Problem, *, execution: Execution = "auto", norm: Norm = "separate"
    ) -> Engine:
        """What trains the supernet.

        Args:
            problem: gives network, groups, costs and meter.
            execution: how several subnets run at once, see `Engine`.
            norm: over which images batch statistics are taken, see `Engine`.
        """
        return Engine(
            problem,
            starting_weights(problem, self.start),
            steps=self.steps,
            lr=self.lr,
            execution=execution,
            norm=norm,
        )

    def train(self, widths: RankedWidths) -> Trained:
        """The trained supernet, once for all budgets: from the problem's store if it is there."""
        problem = widths.problem
        if not self.serves_every_budget:
            return train_metered(problem, lambda: self.train_anew(widths), self)
        return train_once(problem, self.training_settings, lambda: self.train_anew(widths), self)

    def train_along(self, problem: Problem) -> None:
        """Train the supernet with rank 0, which has come to it in its search; it keeps the weights.

        Args:
            problem: this rank's own, equal to that of rank 0.
        """
        widths = list_widths(problem, self)
        train_metered(problem, lambda: self.train_anew(widths))

    @abstractmethod
    def train_anew(self, widths: RankedWidths) -> Trained:
        """Train the supernet; `train` does without where the store holds it."""

    def accuracy(
        self, widths: RankedWidths, config: SubnetConfig, weights: Mapping[str, Tensor]
    ) -> float:
        """Score of a configuration: top-1 on the search split, BatchNorm recalibrated.

        Args:
            widths: candidate widths, and the problem.
            config: the channels kept.
            weights: of the supernet, full-size, by state-dict name.
        """
        return widths.problem.accuracy(config, weights)

    def accuracies(
        self,
        widths: RankedWidths,
        configs: Sequence[SubnetConfig],
        weights: Mapping[str, Tensor],
    ) -> list[float]:
        """Scores of several configurations, see `accuracy`; ranks that wait score some of them.

        Args:
            widths: candidate widths, and the problem.
            configs: the channels kept.
            weights: of the supernet, full-size, by state-dict name.
        """
        if len(configs) == 1:
            return [self.accuracy(widths, configs[0], weights)]
        with summoned(self, "score_along", configs, on=weights):
            return shared_scores(
                widths.problem, configs, lambda config: self.accuracy(widths, config, weights)
            )

    def score_along(
        self, problem: Problem, configs: Sequence[SubnetConfig], weights: Mapping[str, Tensor]
    ) -> None:
        """Score some of the configurations of rank 0, which has come to them in its search.

        Args:
            problem: this rank's own, equal to that of rank 0.
            configs: the channels kept.
            weights: of the supernet that rank 0 has, full-size, by state-dict name.
        """
        with problem.phase("search"):
            self.accuracies(list_widths(problem, self), configs, on_device(problem, weights))

    def scores(self, problem: Problem, configs: Sequence[SubnetConfig]) -> Sequence[float]:
        """The method's own score of each configuration's widths, on the trained supernet."""
        widths = list_widths(problem, self)
        weights = self.train(widths).weights
        ranked = [widths.leading(config.widths(problem.space)) for config in configs]
        with problem.phase("search"):
            return self.accuracies(widths, ranked, weights)


def list_widths(problem: Problem, settings: OneShot) -> RankedWidths:
    """The candidate widths of every group, and which of its channels lead."""
    grid = WidthGrid.make(problem, settings.ratios)
    order = channel_order(problem, by_magnitude=settings.start == "parent")
    return RankedWidths(problem, grid, order)


def on_device(problem: Problem, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights, by name, where the problem's networks run."""
    return {name: weight.to(problem.meter.device) for name, weight in weights.items()}


def evolve_widths(
    widths: RankedWidths,
    scores: Callable[[Sequence[SubnetConfig]], Sequence[float]],
    prior: Prior,
    *,
    evaluations: int,
    population: int,
    parents: int,
    slack: float,
) -> np.ndarray:
    """Evolve widths by mutation and crossover, within the budget; the scores are traced.

    Args:
        widths: candidate widths, and the problem.
        scores: of configurations, higher is better.
        prior: draws the first population and the mutated widths.
        evaluations: states scored.
        population: children of a generation, and size of the first one.
        parents: best states that have children.
        slack: share of the budget that a state may leave unused.

    Returns:
        The state of highest score, shape (G,).
    """
    problem = widths.problem
    evaluated = Evaluated(lambda states: scores(list(map(widths.config, states))))
    candidates, rng = widths.candidates(slack), problem.rng("search").spawn(2)[1]
    evolve(
        candidates,
        evaluated,
        rng,
        initial=random_candidates(candidates, prior, population, rng),
        redraw=prior,
        evaluations=evaluations,
        population=population,
        parents=parents,
    )
    problem.trace("evolve", scores=list(evaluated.scores.values()))
    return np.array(evaluated.best(1)[0])


def conclude_trained(widths: RankedWidths, chosen: np.ndarray, trained: Trained) -> Subnet:
    """End a search with leading channels and the supernet's weights.

    Args:
        widths: candidate widths, and the problem.
        chosen: the width of each group, shape (G,).
        trained: the supernet.
    """
    problem = widths.problem
    weights = {**problem.model.state_dict(), **trained.weights}
    return conclude(problem, widths.leading(chosen), weights)
