"""The sample of configurations that methods are asked to rank, and zero-cost proxies to beat.

Every method and seed gets the same widths, drawn inside a narrow band of cost: in a wide one any
score that follows the cost looks good. Which channels stay is decided by the parent of the seed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.records.cell import Sample
from benchmarks.records.plain import counted
from zoo.core.channels.config import SubnetConfig
from zoo.core.cost.budget import Budget
from zoo.core.errors import InfeasibleBudget
from zoo.core.method.problem import Problem
from zoo.core.search.channel_scores import magnitude_scores
from zoo.core.search.widths_in_budget import keep_best, random_widths
from zoo.core.supernet.blocks import cut_blocks

__all__ = ["PROXIES", "draw_sample"]

_TRIES = 50  # draws for each configuration that is wanted


def draw_sample(problem: Problem, sample: Sample) -> list[SubnetConfig]:
    """The configurations of a sample, which keep the channels of largest L1 norm.

    Costs are spread evenly over the band.

    Args:
        problem: gives parent, cost, metric and rules; its budget and seed do not matter.
        sample: what to draw.

    Raises:
        InfeasibleBudget: if the band holds too few configurations.
    """
    rng = np.random.default_rng(sample.seed)
    full = problem.full_cost
    free = _inner(problem) if sample.inner else None
    found: dict[tuple[int, ...], None] = {}
    for _ in range(_TRIES * sample.count):
        limit = int(full * rng.uniform(sample.low, sample.high))
        draw = replace(problem, budget=Budget(problem.budget.metric, limit))
        widths = random_widths(draw, rng, free)
        cost = int(problem.cost_of(widths[None])[0])
        if sample.low * full <= cost <= sample.high * full:
            found[tuple(widths.tolist())] = None
        if len(found) == sample.count:
            scores = magnitude_scores(problem.model, problem.space)
            return [keep_best(problem.space, scores, np.array(each)) for each in found]
    raise InfeasibleBudget(
        f"found {len(found)} of {counted(sample.count, 'configuration')} between {sample.low:g} "
        f"and {sample.high:g} of the parent's {problem.budget.metric}; widen the band"
    )


def _inner(problem: Problem) -> np.ndarray:
    """Which groups lie inside a block, bool, shape (G,)."""
    blocks = cut_blocks(problem.model, problem.space)
    names = {name for block in blocks for name in block.groups}
    return np.array([group.name in names for group in problem.space.groups])


def _macs(problem: Problem, configs: Sequence[SubnetConfig]) -> list[float]:
    """More multiply-adds are better."""
    return [float(problem.cost.macs(config)) for config in configs]


def _params(problem: Problem, configs: Sequence[SubnetConfig]) -> list[float]:
    """More parameters are better."""
    return [float(problem.cost.params(config)) for config in configs]


def _magnitude(problem: Problem, configs: Sequence[SubnetConfig]) -> list[float]:
    """More of the parent's L1 norm is better, each group's kept norm as a share of its whole."""
    scores = magnitude_scores(problem.model, problem.space)
    shares = {name: values / max(values.sum(), 1e-12) for name, values in scores.items()}
    return [
        float(sum(shares[g.name][list(config.indices(g))].sum() for g in problem.space.groups))
        for config in configs
    ]


PROXIES: Mapping[str, Callable[[Problem, Sequence[SubnetConfig]], Sequence[float]]] = {
    "macs": _macs,
    "params": _params,
    "magnitude": _magnitude,
}
"""Scores that cost nothing, by name; higher is better."""
