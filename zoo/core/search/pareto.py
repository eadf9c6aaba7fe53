"""Archives of trade-offs between loss and cost, filled by evolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.core.search.choice_table import State
from zoo.core.search.evolution import Evaluated, children
from zoo.core.search.multiple_choice import skyband
from zoo.core.search.prior import uniform_prior
from zoo.core.search.width_grid import StateSpace, covering_states

__all__ = ["Archive", "evolve_archive"]


@dataclass(frozen=True, eq=False)
class Archive:
    """The states that a search evaluated, with losses and costs.

    Attributes:
        states: distinct, in order of evaluation, int64, shape (n, F).
        losses: lower is better, shape (n,).
        costs: shape (n,), int64.
    """

    states: np.ndarray
    losses: np.ndarray
    costs: np.ndarray


def evolve_archive(
    space: StateSpace,
    losses: Callable[[Sequence[State]], Iterable[float]],
    rng: np.random.Generator,
    *,
    evaluations: int,
    population: int,
    mutation: float,
) -> Archive:
    """Evolve all trade-offs between loss and cost at once.

    The first generation are the widest and the narrowest state and draws that cover the costs.
    Later parents are the states that none beats in both, so every cost has descendants.

    Args:
        space: what may be chosen, and what it costs.
        losses: of states, in their order; each state is handed in once.
        rng: all that is drawn comes from here.
        evaluations: distinct states scored in all; fewer if nothing new turns up.
        population: children of a generation, and size of the first one.
        mutation: probability with which a coordinate mutates.
    """
    evaluated = Evaluated(lambda states: (-loss for loss in losses(states)))
    flat = uniform_prior(space.sizes)
    ends = np.stack([space.full, np.zeros_like(space.full)])
    drawn = covering_states(space, max(0, population - len(ends)), rng)
    evaluated.take(np.concatenate([ends, drawn]), evaluations)
    for _ in evaluated.rounds(evaluations):
        found = _archived(space, evaluated)
        best = [tuple(found.states[i].tolist()) for i in skyband(found.losses, found.costs)]
        evaluated.take(children(best, population, flat, mutation, rng), evaluations)
    return _archived(space, evaluated)


def _archived(space: StateSpace, evaluated: Evaluated) -> Archive:
    states = np.array(list(evaluated.scores), dtype=np.int64)
    return Archive(states, -np.array(list(evaluated.scores.values())), space.costs(states))
