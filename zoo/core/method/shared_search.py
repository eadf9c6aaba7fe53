"""A search where several processes train: rank 0 searches, and all know what came of it.

Of several subnets to score each is scored by one rank, as one process would score it, so no score
depends on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch

from zoo.core.channels.config import SubnetConfig
from zoo.core.meter import Meter, Spent
from zoo.core.method.guard import left_alone
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner, Subnet
from zoo.core.randomness import fixed_random
from zoo.core.training.ranks import decided, each_of_all, largest, mine_of, rank, world

__all__ = ["answered_by_rank_0", "largest_peaks", "searched", "shared_out", "shared_scores"]

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

    Raises:
        ValueError: if the search changed its network.
        TypeError: if it returned no `Subnet`.
    """

    def checked() -> Subnet:
        subnet = search()
        if not isinstance(subnet, Subnet):
            raise TypeError(
                f"search of {type(pruner).__name__} returned {type(subnet).__name__}; return a "
                "Subnet, such as zoo.conclude gives"
            )
        return subnet

    if world() == 1:
        return answered_by_rank_0(problem, pruner, checked)
    subnet = answered_by_rank_0(problem, pruner, lambda: _moved(checked(), "cpu"), working)
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

    Raises:
        ValueError: if the method changed its network; see `left_alone`.
    """
    # Phases are seeded anyway; this is for foreign methods, and for what is outside of phases.
    seeded = partial(fixed_random, "search", problem.seed, device=problem.meter.device)

    def guarded() -> T:
        with left_alone(problem.model, pruner), seeded():
            return ask()

    if world() == 1:
        return guarded()

    def told() -> tuple[T, dict[str, Spent], list[dict[str, object]]]:
        return guarded(), problem.meter.spent, problem.trace_rows

    def beside(name: str, *given: object) -> None:
        with working(), seeded():
            getattr(pruner, name)(problem, *given)

    own = problem.meter.spent
    answer, problem.meter.spent, problem.trace_rows = decided(told, beside, pruner)
    for phase, spent in own.items():  # what this rank held, which `largest_peaks` compares
        if phase in problem.meter.spent:
            problem.meter.spent[phase].peak_bytes = spent.peak_bytes
    return answer


def shared_scores(
    problem: Problem, configs: Sequence[SubnetConfig], score: Callable[[SubnetConfig], float]
) -> list[float]:
    """The score of each configuration, in every rank; see `shared_out`.

    Args:
        problem: gives costs and meter.
        configs: the same in every rank.
        score: of one of them.
    """
    costs = [problem.cost.macs(config) for config in configs]
    return shared_out(problem, costs, lambda mine: [score(configs[place]) for place in mine])


def shared_out(
    problem: Problem, costs: Sequence[int], run: Callable[[Sequence[int]], Sequence[T]]
) -> list[T]:
    """What comes of pieces of work, in every rank; charged as if one process had done all.

    What one rank raises is raised in all.

    Args:
        problem: whose meter is charged.
        costs: of the pieces, in any unit.
        run: does the pieces of some numbers, and charges the meter; what comes of each is pickled.
    """
    if world() == 1:
        return list(run(range(len(costs))))
    meter = problem.meter
    before = meter.counts
    mine = [place for place, own in enumerate(mine_of(costs)) if own]

    def part() -> tuple[dict[int, T], list[int]]:
        done = dict(zip(mine, run(mine), strict=True))
        return done, [now - was for now, was in zip(meter.counts, before, strict=True)]

    every: dict[int, T] = {}
    for ordinal, (done, (images, forward, back)) in enumerate(each_of_all(part)):
        every |= done
        if ordinal != rank():
            meter.images(images)
            meter.add_macs(forward, back)
    return [every[place] for place in range(len(costs))]


def largest_peaks(meter: Meter) -> None:
    """Set the peak memory of every phase to the largest of all ranks."""
    for spent in meter.spent.values():
        spent.peak_bytes = largest(spent.peak_bytes)


def _moved(subnet: Subnet, device: torch.device | str) -> Subnet:
    """The subnet with its weights, if any, on a device."""
    weights = subnet.weights
    moved = None if weights is None else {n: w.detach().to(device) for n, w in weights.items()}
    return replace(subnet, weights=moved)
