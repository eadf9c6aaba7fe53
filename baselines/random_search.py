"""Random search: the best of n random feasible width configurations.

Paper: Li, Adamczewski, Li, Gu, Timofte, Van Gool: Revisiting Random Channel Pruning for Neural
    Network Compression, 2022, CVPR.

Idea: The configuration of widths is determined by random search. Many feasible configurations are
    drawn and judged without training. Any method that searches has to beat the best of them.

Steps:
    1. `magnitude_scores`: rank the channels within each group by L1 norm.
    2. `random_widths`: draw keep ratios and scale them until the recounted cost fits.
    3. `accuracy`: recalibrate BatchNorm and judge on the search split.

Deviations:
    - Draws are scaled to the budget instead of drawn until one fits. Expected effect: none but
      time; every draw is feasible and close below the budget.

Unknowns:
    - Only the paper's abstract was read. Its distribution of ratios, number of samples, criterion
      within a layer and way of judging are not known to us. Ours: ratios uniform in (0, 1) before
      scaling, 50 samples, L1 norm, top-1 after recalibration.

Cost: For each sample four training batches and one pass over the search split, forward only, with
    the subnet.

Names: None.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from pydantic import Field

from zoo.core.channels.config import SubnetConfig
from zoo.core.method.planted import BY_ACCURACY, Golden, planted_golden
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.method.shared_search import shared_scores
from zoo.core.search.channel_scores import magnitude_scores
from zoo.core.search.widths_in_budget import keep_best, random_widths
from zoo.core.training.ranks import summoned

__all__ = ["RandomSearch"]


@dataclass(frozen=True)
class RandomSearch(Pruner):
    """The best of random widths.

    Attributes:
        samples: configurations drawn.
    """

    samples: Annotated[int, Field(ge=1)] = 50

    def search(self, problem: Problem) -> Subnet:
        """Draw, judge, and keep the best; the first one among equals."""
        if whole := unpruned(problem):
            return whole
        rng = problem.rng("search")
        with problem.phase("search"):
            order = magnitude_scores(problem.model, problem.space)
            drawn = [
                keep_best(problem.space, order, random_widths(problem, rng))
                for _ in range(self.samples)
            ]
            with summoned(self, "score_along", drawn):
                scores = shared_scores(problem, drawn, problem.accuracy)
            for sample, (config, score) in enumerate(zip(drawn, scores, strict=True)):
                scored = {problem.task.score_name: score}
                problem.trace("sample", index=sample, **scored, config=config.to_json())
        best = drawn[int(np.argmax(scores))]
        return conclude(problem, best)

    def score_along(self, problem: Problem, configs: Sequence[SubnetConfig]) -> None:
        """Score some of the draws of rank 0.

        Args:
            problem: this rank's own, equal to that of rank 0.
            configs: the channels kept.
        """
        with problem.phase("search"):
            shared_scores(problem, configs, problem.accuracy)

    @classmethod
    def tiny(cls) -> Self:
        """Three samples."""
        return cls(samples=3)

    @classmethod
    def golden(cls) -> Golden:
        """The planted answer is the best of all feasible width pairs."""
        return planted_golden(BY_ACCURACY, samples=30)
