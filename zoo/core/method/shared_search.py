"""A search where several processes train: rank 0 searches, and all know what came of it.

Of several subnets to score each is scored by one rank, as one process would score it, so no score
depends on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeVar

import torch

from zoo.core.channels.config import SubnetConfig
from zoo.core.meter import Meter, Spent
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet
from zoo.core.training.ranks import decided, gathered, largest, mine_of, rank, world

__all__ = ["answered_by_rank_0", "largest_peaks", "searched", "shared_scores"]

T = TypeVar("T")


def searched(
    problem: Problem,
    pruner: Pruner,
    search: Callable[[], Subnet],
    working: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Subnet:
    """A search's decision in every rank, with what it spent and traced; see `answered_by_rank_0`.

    Args:
        problem: what is asked, the same in every rank.
        pruner: decides.
        search: calls its `search`.
        working: opened in the other ranks around each work that they are summoned for.
    """
    if world() == 1:
        return search()
    subnet = answered_by_rank_0(problem, pruner, lambda: _moved(search(), "cpu"), working)
    return _moved(subnet, problem.meter.device)


def answered_by_rank_0(
    problem: Problem,
    pruner: Pruner,
    ask: Callable[[], T],
    working: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> T:
    """What a method answers in rank 0, in every rank; what it spent and traced counts in all.

    A supernet is trained by all, and where a method has several subnets to score, each is scored by
    one of them.

    Args:
        problem: what is asked, the same in every rank.
        pruner: answers; the others call its methods that it summons them by, with their problem.
        ask: calls it; the answer is pickled.
        working: opened in the other ranks around each work that they are summoned for.
    """
    if world() == 1:
        return ask()

    def told() -> tuple[T, dict[str, Spent], list[dict[str, object]]]:
        return ask(), problem.meter.spent, problem.trace_rows

    def beside(name: str, *given: object) -> None:
        with working():
            getattr(pruner, name)(problem, *given)

    answer, problem.meter.spent, problem.trace_rows = decided(told, beside)
    return answer


def shared_scores(
    problem: Problem, configs: Sequence[SubnetConfig], score: Callable[[SubnetConfig], float]
) -> list[float]:
    """The score of each configuration, in every rank; charged as if one process had scored all.

    Args:
        problem: gives costs and meter.
        configs: the same in every rank.
        score: of one of them; charges the meter, and nothing else that others need to know.
    """
    if world() == 1:
        return [score(config) for config in configs]
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


def largest_peaks(meter: Meter) -> None:
    """Set the peak memory of every phase to the largest of all ranks."""
    for spent in meter.spent.values():
        spent.peak_bytes = largest(spent.peak_bytes)


def _moved(subnet: Subnet, device: torch.device | str) -> Subnet:
    """The subnet with its weights, if any, on a device."""
    weights = subnet.weights
    moved = None if weights is None else {n: w.detach().to(device) for n, w in weights.items()}
    return replace(subnet, weights=moved)
