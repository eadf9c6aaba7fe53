"""Several subnets to score, shared out among the processes that work together.

Each is scored by one rank, as one process would score it, so no score depends on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zoo.core.channels.config import SubnetConfig
from zoo.core.method.problem import Problem
from zoo.core.one_shot.shared_terms import mine_of
from zoo.core.training.ranks import gathered, rank

__all__ = ["shared_scores"]


def shared_scores(
    problem: Problem, configs: Sequence[SubnetConfig], score: Callable[[SubnetConfig], float]
) -> list[float]:
    """The score of each configuration, in every rank; charged as if one process had scored all.

    Args:
        problem: gives costs and meter.
        configs: the same in every rank.
        score: of one of them; charges the meter, and nothing else that others need to know.
    """
    meter = problem.meter
    before = meter.counts
    mine = mine_of([problem.cost.macs(config) for config in configs])
    found = {place: score(configs[place]) for place, own in enumerate(mine) if own}
    spent = [now - was for now, was in zip(meter.counts, before, strict=True)]
    every: dict[int, float] = {}
    for place, (scores, (images, forward, back)) in enumerate(gathered((found, spent))):
        every |= scores
        if place != rank():
            meter.images(images)
            meter.add_macs(forward, back)
    return [every[place] for place in range(len(configs))]
