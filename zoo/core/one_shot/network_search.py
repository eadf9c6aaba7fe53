"""Stages searched as one network, the control of stage-wise search: all widths evolve at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zoo.core.one_shot.one_shot import RankedWidths
from zoo.core.one_shot.stage_search import StageScorer, summed_errors
from zoo.core.search.choice_table import State
from zoo.core.search.evolution import Evaluated, evolve, random_candidates
from zoo.core.search.prior import uniform_prior
from zoo.core.search.width_grid import PartialGrid

__all__ = ["evolve_network"]


def evolve_network(
    widths: RankedWidths,
    part: PartialGrid,
    scorers: Sequence[StageScorer],
    *,
    evaluations: int,
    population: int,
    parents: int,
    mutation: float,
    slack: float,
    count: int,
) -> list[np.ndarray]:
    """Return the best states of the whole network, each of shape (G,), by summed stage errors.

    Args:
        widths: candidate widths, and what is asked.
        part: the groups that may be narrowed.
        scorers: one for each stage.
        evaluations: networks scored.
        population: children of a generation, and size of the first one.
        parents: best networks that have children.
        mutation: probability with which a group's width mutates.
        slack: share of the budget that a network may leave unused.
        count: how many states to return.
    """
    problem = widths.problem

    def scores(states: Sequence[State]) -> list[float]:
        configs = [widths.config(state) for state in part.whole(np.array(states))]
        return [-error for error in summed_errors(scorers, configs)]

    candidates = widths.candidates(slack, part)
    evaluated, flat = Evaluated(scores), uniform_prior(part.sizes)
    rng = problem.rng("search").spawn(2)[1]
    evolve(
        candidates,
        evaluated,
        rng,
        initial=random_candidates(candidates, flat, population, rng),
        redraw=flat,
        evaluations=evaluations,
        population=population,
        parents=parents,
        mutation=mutation,
    )
    tried = part.whole(np.array(list(evaluated.scores)))
    for scorer in scorers:
        scorer.charge(problem, widths.grid.widths_of(tried))
    problem.trace("evolve_network", scores=list(evaluated.scores.values()))
    return list(part.whole(np.array(evaluated.best(count))))
