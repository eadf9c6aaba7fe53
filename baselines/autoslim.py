"""AutoSlim: a slimmable supernet trained by the sandwich rule, then greedy slimming.

Paper: Yu, Huang: AutoSlim: Towards One-Shot Architecture Search for Channel Numbers, 2019,
    arXiv 1903.11728.

Idea: One slimmable network tells what the accuracy of any width is. From the full network, the
    layer whose slimming costs least accuracy is slimmed, again and again, until the budget is met.

Steps:
    1. `list_widths`: list the candidate widths of every group.
    2. `train_sandwich`: full, smallest and two random networks on each batch; the full one learns
       from labels, the others from its detached softmax, or from its outputs where a task has
       another loss; gradients are summed.
    3. `slim`: take the candidate step of least loss of accuracy, over all groups, until it fits.
    4. `fill_closely`: add channels up to the budget, where groups are narrowest.

Deviations:
    - The supernet starts from the trained parent, and leading channels are those of largest L1
      norm in it; the paper trains from scratch. Expected effect: useful scores far sooner.
    - `reevaluate` looks again at the most promising groups only. Expected effect: other choices
      where two groups are close, for a fraction of the passes. None is the paper's rule.
    - Other losses than cross-entropy: the subnets learn the full network's outputs, by the mean
      over them of the squared error divided by their variance. The paper classifies only.

Unknowns:
    - Written from the published code's own documentation and from descriptions; schedule, batch and
      evaluation differ with the data at hand, see the attributes.
    - Among groups of equal accuracy the one that saves most is slimmed.

Cost: `steps` batches, each with forward and backward passes of the full, the smallest and
    `random_subnets` random subnets, once for all budgets. Greedy slimming passes
    `recalibration_batches` and `search_batches` batches, forward only, for each candidate: all
    groups at first, then all or `reevaluate` of them for each step.

Names: None.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import Field
from torch import Tensor

from zoo.core.channels.config import SubnetConfig
from zoo.core.method.effort import share_of_budget
from zoo.core.method.planted import Golden, planted_golden
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Subnet, unpruned
from zoo.core.one_shot.effort import enough_steps, search_effort, training_effort
from zoo.core.one_shot.one_shot import OneShot, RankedWidths, conclude_trained, list_widths
from zoo.core.one_shot.sandwich import sandwich_losses, sandwich_macs, sandwich_states
from zoo.core.search.prior import SeenSubnets
from zoo.core.search.width_grid import WidthGrid, independent_states
from zoo.core.search.widths_in_budget import fill_closely
from zoo.core.supernet.supernet import CANDIDATE_BATCHES
from zoo.core.supernet.trained_store import Trained
from zoo.core.training.checkpoint import Stateful
from zoo.core.training.course import GeneratorState

__all__ = ["AutoSlim", "slim", "train_sandwich"]


@dataclass(frozen=True)
class AutoSlim(OneShot):
    """Sandwich rule and greedy slimming.

    Attributes:
        random_subnets: random networks between the full and the smallest in each update.
        reevaluate: groups that are scored again in each greedy step; None for all.
        search_batches: batches of the search split on which candidates are scored; None for all.
        recalibration_batches: training batches for the batch-norm statistics of each candidate.
    """

    search_fields: ClassVar[frozenset[str]] = frozenset(
        {"reevaluate", "search_batches", "recalibration_batches"}
    )

    random_subnets: Annotated[int, Field(ge=0)] = 2
    reevaluate: Annotated[int, Field(ge=1)] | None = None
    search_batches: Annotated[int, Field(ge=1)] | None = None
    recalibration_batches: Annotated[int, Field(ge=0)] = CANDIDATE_BATCHES

    def search(self, problem: Problem) -> Subnet:
        """Train by the sandwich rule, then slim greedily from the full network."""
        if whole := unpruned(problem):
            return whole
        widths = list_widths(problem, self)
        trained = self.train(widths)
        with problem.phase("search"):
            state = slim(widths, trained.weights, self)
        chosen = fill_closely(
            problem, widths.widths_of(state), widths.narrowest_first, slack=self.slack
        )
        return conclude_trained(widths, chosen, trained)

    def scaled(self, problem: Problem, given: Collection[str]) -> Self:
        """Beside fewer updates, fewer groups that are scored again in each step."""
        fewer = super().scaled(problem, given)
        if "reevaluate" in given:
            return fewer
        training = training_effort(
            problem, enough_steps(problem, self.steps), self.update_macs(problem)
        )
        images, share = self.candidate_images(problem), self.candidate_share(problem)
        one = search_effort(problem, 1, images, share)
        groups = len(problem.space.groups)
        allowed = (training // max(1, one) - groups) // max(1, self._slimming_steps(problem))
        # Fewer than two leave no choice.
        return replace(fewer, reevaluate=None if allowed >= groups else max(2, allowed))

    def update_macs(self, problem: Problem) -> int:
        """The full, the smallest and the random networks on each image."""
        return sandwich_macs(problem, self.random_subnets)

    def candidates(self, problem: Problem) -> int:
        """The full network, and in each step the groups that are scored again."""
        groups = len(problem.space.groups)
        again = groups if self.reevaluate is None else min(self.reevaluate, groups)
        return 1 + groups + again * max(0, self._slimming_steps(problem) - 1)

    def candidate_images(self, problem: Problem) -> int:
        """As many batches as the settings say."""
        data = problem.data
        searched = data.num_search
        if self.search_batches is not None:
            searched = min(searched, self.search_batches * data.batch_size)
        return self.recalibration_batches * data.batch_size + searched

    def candidate_share(self, problem: Problem) -> float:
        """Slimming goes from the whole network down to the budget."""
        return (1 + share_of_budget(problem)) / 2

    def _slimming_steps(self, problem: Problem) -> int:
        """Steps from the full network to the budget, if all groups narrow alike."""
        grid = WidthGrid.make(problem, self.ratios)
        shares = np.linspace(0, 1, 65)
        states = np.rint((1 - shares)[:, None] * grid.full).astype(np.int64)
        fits = grid.costs(states) <= problem.budget.limit
        first = int(np.argmax(fits)) if fits.any() else len(shares) - 1
        return int((grid.full - states[first]).sum())

    def train_anew(self, widths: RankedWidths) -> Trained:
        """Train by the sandwich rule."""
        return train_sandwich(widths, self)

    def accuracy(
        self, widths: RankedWidths, config: SubnetConfig, weights: Mapping[str, Tensor]
    ) -> float:
        """Score on the batches that slimming looks at, BatchNorm recalibrated."""
        return widths.problem.accuracy(
            config,
            weights,
            recalibration_batches=self.recalibration_batches,
            search_batches=self.search_batches,
        )

    def comparing(self) -> str:
        """Subnets learn the full network's outputs."""
        return "take another method, such as bcnet"

    @classmethod
    def tiny(cls) -> Self:
        """A few careful updates and a coarse grid."""
        return cls(
            steps=2, lr=1e-4, ratios=3, reevaluate=1, search_batches=1, recalibration_batches=1
        )

    @classmethod
    def golden(cls) -> Golden:
        """The planted answer is where single steps of least loss lead; the parent's weights do."""
        story = "By hand: every step but those towards (4, 4) loses a class."
        return planted_golden(story, steps=0, ratios=8, reevaluate=None, search_batches=None)


def train_sandwich(widths: RankedWidths, settings: AutoSlim) -> Trained:
    """Train full, smallest and random networks on the same images, one update for all.

    Returns:
        The weights, and state, loss and step of every subnet trained.
    """
    problem, grid = widths.problem, widths.grid
    rng = problem.rng("search")
    engine = settings.engine(problem)
    seen = SeenSubnets(len(grid.sizes))
    parts: dict[str, Stateful] = {"rng": GeneratorState(rng), "seen": seen}
    for images, labels in engine.updates(settings.training_settings, parts):
        states = sandwich_states(grid, independent_states(grid, settings.random_subnets, rng))
        losses = sandwich_losses(engine, images, labels, [widths.config(each) for each in states])
        seen.add(states, engine.update(losses.sum(), losses))
    problem.trace("train_sandwich", pairs=engine.pairs, losses=seen.means())
    return Trained(engine.trained(), seen.records)


def slim(widths: RankedWidths, weights: Mapping[str, Tensor], settings: AutoSlim) -> np.ndarray:
    """Narrow one group at a time by one candidate, from the full network until it fits.

    Args:
        widths: candidate widths, and the problem.
        weights: of the trained supernet, full-size, by state-dict name.
        settings: how many groups each step scores again, and on how many batches.

    Returns:
        The state, shape (G,).
    """
    problem, grid, limit = widths.problem, widths.grid, widths.problem.budget.limit
    state = grid.full.copy()
    top1 = settings.accuracy(widths, widths.config(state), weights)
    # Last measured accuracy drop of each group's next step.
    drops = np.full(len(state), -np.inf)
    path: list[dict[str, object]] = []
    while int(grid.costs(state[None])[0]) > limit:
        steps = np.flatnonzero(state > 0)
        narrower = state - np.eye(len(state), dtype=np.int64)[steps]
        costs = grid.costs(narrower)
        count = len(steps) if settings.reevaluate is None else settings.reevaluate
        count = max(count, int(np.isinf(drops[steps]).sum()))
        looked_at = np.lexsort((costs, drops[steps]))[:count]
        found = settings.accuracies(
            widths, [widths.config(narrower[i]) for i in looked_at], weights
        )
        drops[steps[looked_at]] = top1 - np.array(found)
        best = int(np.lexsort((costs[looked_at], -np.array(found)))[0])
        state, top1 = narrower[looked_at[best]], found[best]
        group = int(steps[looked_at[best]])
        drops[group] = -np.inf  # unknown: its next step has not been measured
        path.append(
            {"group": group, "cost": int(costs[looked_at[best]]), problem.task.score_name: top1}
        )
    problem.trace("slim", path=path)
    return state
