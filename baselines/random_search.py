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

import math
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field

from zoo.core.channels.config import SubnetConfig
from zoo.core.method.planted import BY_ACCURACY, Golden, planted_golden
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet, conclude, unpruned
from zoo.core.search.channel_scores import magnitude_scores
from zoo.core.search.widths_in_budget import keep_best, random_widths

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
        best, best_score = SubnetConfig.full(), -math.inf
        with problem.meter.phase("search"):
            scores = magnitude_scores(problem.model, problem.space)
            for sample in range(self.samples):
                config = keep_best(problem.space, scores, random_widths(problem, rng))
                score = problem.accuracy(config)
                scored = {problem.task.score_name: score}
                problem.trace("sample", index=sample, **scored, config=config.to_json())
                if score > best_score:
                    best, best_score = config, score
        return conclude(problem, best)

    @classmethod
    def tiny(cls) -> Self:
        """Three samples."""
        return cls(samples=3)

    @classmethod
    def golden(cls) -> Golden:
        """The planted answer is the best of all feasible width pairs."""
        return planted_golden(BY_ACCURACY, samples=30)
