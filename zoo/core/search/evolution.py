"""Evolutionary search over a grid of choices under a limit of cost.

It knows states, costs and scores and nothing of networks, so any table of accuracies can stand in
for a supernet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from zoo.core.search.choice_table import State
from zoo.core.search.prior import Prior

__all__ = [
    "Candidates",
    "Evaluated",
    "children",
    "draw_only",
    "evolve",
    "one_by_one",
    "random_candidates",
    "repaired",
]

_STALE = 5  # rounds without anything new after which a search ends


@dataclass(frozen=True, eq=False)
class Candidates:
    """The choices of a search, and the limits of their cost.

    Attributes:
        sizes: choices of each coordinate, int64, shape (G,); costs grow with each coordinate.
        costs: from states, shape (n, G), to their costs, shape (n,).
        limit: most that a state may cost.
        floor: least that it should cost, where single steps can reach it.
    """

    sizes: np.ndarray
    costs: Callable[[np.ndarray], np.ndarray]
    limit: int
    floor: int = 0


def one_by_one(
    score: Callable[[State], float],
) -> Callable[[Sequence[State]], Iterable[float]]:
    """What scores several states where a score of one is known."""
    return partial(map, score)


@dataclass
class Evaluated:
    """Scores of distinct states in the order of their evaluation; a state is scored once.

    Attributes:
        score: of states, in their order, higher is better; see `one_by_one`.
        scores: by state, in order.
    """

    score: Callable[[Sequence[State]], Iterable[float]]
    scores: dict[State, float] = field(default_factory=dict)

    def take(self, states: np.ndarray, most: int) -> None:
        """Score unseen states, shape (n, G), until ``most`` are scored in all."""
        distinct = dict.fromkeys(map(tuple, states.tolist()))
        unseen = [state for state in distinct if state not in self.scores]
        chosen = unseen[: max(0, most - len(self.scores))]
        if chosen:
            self.scores.update(zip(chosen, self.score(chosen), strict=True))

    def rounds(self, most: int) -> Iterator[None]:
        """Rounds of a search, until ``most`` states are scored or nothing new turns up."""
        stale = 0
        while len(self.scores) < most and stale < _STALE:
            before = len(self.scores)
            yield
            stale = stale + 1 if len(self.scores) == before else 0

    def best(self, count: int) -> list[State]:
        """The states of highest score, the earlier one first among equals."""
        ranked = sorted(self.scores, key=lambda state: -self.scores[state])
        return ranked[:count]


def repaired(candidates: Candidates, states: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bring states within the limit, and up to the floor where single steps lead there.

    Those over the limit lose single steps at random coordinates until they fit; those below the
    floor then gain steps while they fit.

    Args:
        candidates: gives sizes, costs and limit; the lowest state has to fit.
        states: shape (n, G); not changed.
        rng: all that is drawn comes from here.
    """
    states = states.copy()
    while (over := np.flatnonzero(candidates.costs(states) > candidates.limit)).size:
        # The highest of random keys is at a random coordinate among those that can go down.
        keys = np.where(states[over] > 0, rng.random(states[over].shape), -1.0)
        states[over, keys.argmax(axis=1)] -= 1
    growing = np.flatnonzero(candidates.costs(states) < candidates.floor)
    closed = np.zeros(states.shape, dtype=bool)
    while growing.size:
        free = (states[growing] < candidates.sizes - 1) & ~closed[growing]
        growing, free = growing[free.any(axis=1)], free[free.any(axis=1)]
        if not growing.size:
            break
        at = np.where(free, rng.random(free.shape), -1.0).argmax(axis=1)
        states[growing, at] += 1
        costs = candidates.costs(states[growing])
        back = costs > candidates.limit
        states[growing[back], at[back]] -= 1
        closed[growing[back], at[back]] = True
        growing = growing[back | (costs < candidates.floor)]
    return states


def random_candidates(
    candidates: Candidates, prior: Prior, count: int, rng: np.random.Generator
) -> np.ndarray:
    """States drawn from a prior and brought within the limit, shape (count, G).

    Args:
        candidates: gives sizes, costs and limit.
        prior: what is drawn from.
        count: number of states.
        rng: all that is drawn comes from here.
    """
    return repaired(candidates, prior.draw(count, rng), rng)


def draw_only(
    candidates: Candidates,
    evaluated: Evaluated,
    rng: np.random.Generator,
    *,
    prior: Prior,
    evaluations: int,
) -> None:
    """Score distinct states drawn from a prior: random search.

    Args:
        candidates: what may be chosen.
        evaluated: scores states and remembers them.
        rng: all that is drawn comes from here.
        prior: what is drawn from.
        evaluations: states scored in all; fewer if draws bring nothing new.
    """
    for _ in evaluated.rounds(evaluations):
        evaluated.take(random_candidates(candidates, prior, evaluations, rng), evaluations)


def evolve(
    candidates: Candidates,
    evaluated: Evaluated,
    rng: np.random.Generator,
    *,
    initial: np.ndarray,
    redraw: Prior,
    evaluations: int,
    population: int,
    parents: int,
    mutation: float = 0.1,
) -> None:
    """Evolve states by uniform crossover and by mutation, half of each.

    Args:
        candidates: what may be chosen.
        evaluated: scores states and remembers them.
        rng: all that is drawn comes from here.
        initial: states of the first generation, shape (n, G), within the limit.
        redraw: a mutated coordinate is drawn from it.
        evaluations: distinct states scored in all; fewer if nothing new turns up.
        population: children of a generation.
        parents: best states that have children.
        mutation: probability with which a coordinate mutates.
    """
    evaluated.take(initial, evaluations)
    for _ in evaluated.rounds(evaluations):
        born = children(evaluated.best(parents), population, redraw, mutation, rng)
        evaluated.take(repaired(candidates, born, rng), evaluations)


def children(
    parents: Sequence[State], count: int, redraw: Prior, mutation: float, rng: np.random.Generator
) -> np.ndarray:
    """Half mutants of a parent, half uniform crossings of two, shape (count, G).

    Args:
        parents: states that have children.
        count: number of children.
        redraw: a mutated coordinate is drawn from it.
        mutation: probability with which a coordinate mutates.
        rng: all that is drawn comes from here.
    """
    pool = np.array(parents, dtype=np.int64)
    first = pool[rng.integers(len(pool), size=count)]
    second = pool[rng.integers(len(pool), size=count)]
    crossed = np.where(rng.random(first.shape) < 0.5, first, second)
    mutated = np.where(rng.random(first.shape) < mutation, redraw.draw(count, rng), first)
    is_mutant = (np.arange(count) < count // 2)[:, None]
    return np.where(is_mutant, mutated, crossed)
