"""What one-shot methods have in common: a supernet trained once, widths searched on it per budget.

A method says how its supernet is trained and how widths are chosen; grid, order of channels, store,
recalibrated scores and the way to the final configuration are the same for all, so that results
differ by the idea alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from zoo.core.channels.config import SubnetConfig
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude
from zoo.core.one_shot.supernet_training import Start, train_once
from zoo.core.search.channel_scores import channel_order
from zoo.core.search.evolution import Candidates
from zoo.core.search.width_grid import StateSpace, WidthGrid
from zoo.core.search.widths_in_budget import fill_closely, keep_best
from zoo.core.supernet.trained_store import Trained

__all__ = ["OneShot", "RankedWidths"]


@dataclass(frozen=True, eq=False)
class RankedWidths:
    """The space of a one-shot method.

    Attributes:
        problem: what is asked.
        grid: candidate widths.
        order: scores that nest narrower configurations in wider ones, by group name.
    """

    problem: Problem
    grid: WidthGrid
    order: Mapping[str, np.ndarray]

    def config(self, state: Sequence[int] | np.ndarray) -> SubnetConfig:
        """The leading channels at a state's widths."""
        return self.grid.config(np.asarray(state), self.order)

    def candidates(self, slack: float, space: StateSpace | None = None) -> Candidates:
        """States within the budget, and at most a share of it below.

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
    """Settings that do not touch the training, whose supernets are therefore the same."""
    steps: Annotated[int, Field(ge=0)] = 1000
    lr: Annotated[float, Field(gt=0)] = 0.02
    start: Start = "parent"
    ratios: Annotated[int, Field(ge=2)] = 10
    slack: Annotated[float, Field(ge=0, lt=1)] = 0.02

    @abstractmethod
    def train(self, widths: RankedWidths) -> Trained:
        """Train the supernet, inside its phase."""

    @abstractmethod
    def choose(self, widths: RankedWidths, trained: Trained) -> np.ndarray:
        """The best state within the budget, shape (G,), inside the phase of the search."""

    def accuracy(
        self, widths: RankedWidths, config: SubnetConfig, weights: Mapping[str, Tensor]
    ) -> float:
        """Score of a configuration: top-1 on the search split, BatchNorm recalibrated."""
        return widths.problem.accuracy(config, weights)

    def filled(self, widths: RankedWidths, chosen: np.ndarray) -> np.ndarray:
        """Chosen widths, shape (G,), with channels added up to the budget."""
        problem, sizes = widths.problem, widths.problem.space.sizes
        return fill_closely(problem, chosen, lambda now: -now / sizes, slack=self.slack)

    def search(self, problem: Problem) -> Subnet:
        """Train the supernet, or take it from the store, and choose widths on it."""
        problem.check_feasible()
        if problem.is_full:
            return conclude(problem, SubnetConfig.full())
        widths, trained = self._prepare(problem)
        with problem.meter.phase("search"):
            state = self.choose(widths, trained)
        filled = self.filled(widths, widths.grid.widths_of(state[None])[0])
        weights = {**problem.model.state_dict(), **trained.weights}
        return conclude(problem, keep_best(problem.space, widths.order, filled), weights)

    def scores(self, problem: Problem, configs: Sequence[SubnetConfig]) -> Sequence[float]:
        """The method's own score of each configuration's widths, on the trained supernet."""
        widths, trained = self._prepare(problem)
        with problem.meter.phase("search"):
            return [
                self.accuracy(
                    widths,
                    keep_best(problem.space, widths.order, config.widths(problem.space)),
                    trained.weights,
                )
                for config in configs
            ]

    def _prepare(self, problem: Problem) -> tuple[RankedWidths, Trained]:
        grid = WidthGrid.make(problem, self.ratios)
        order = channel_order(problem, by_magnitude=self.start == "parent")
        widths = RankedWidths(problem, grid, order)
        names = [f.name for f in fields(self) if f.name not in {"slack", *self.search_fields}]
        settings = {name: getattr(self, name) for name in names}
        method = {"method": type(self).__name__}
        return widths, train_once(problem, {**method, **settings}, lambda: self.train(widths))
