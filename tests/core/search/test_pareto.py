from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.core.search.evolution import one_by_one
from zoo.core.search.multiple_choice import best_combinations, skyband
from zoo.core.search.pareto import evolve_archive

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(-9, 20)), min_size=1, max_size=6)


@given(st.lists(POINTS, min_size=1, max_size=4), st.integers(-30, 60), st.integers(1, 5))
def test_combinations_are_the_best_of_all_by_brute_force(
    archives: list[list[tuple[int, int]]], limit: int, count: int
) -> None:
    losses = [np.array([p[0] / 8 for p in points]) for points in archives]
    costs = [np.array([p[1] for p in points]) for points in archives]

    def loss(picked: tuple[int, ...]) -> float:
        return sum(float(losses[k][i]) for k, i in enumerate(picked))

    fitting = [
        picked
        for picked in product(*(range(len(points)) for points in archives))
        if sum(int(costs[k][i]) for k, i in enumerate(picked)) <= limit
    ]
    found = best_combinations(losses, costs, limit, count)
    assert set(found) <= set(fitting) and len(set(found)) == len(found)
    assert [loss(picked) for picked in found] == sorted(map(loss, fitting))[:count]


@given(POINTS, st.integers(1, 3))
def test_a_point_stays_if_few_others_match_or_beat_it(
    points: list[tuple[int, int]], count: int
) -> None:
    losses, costs = (np.array(each, dtype=float) for each in zip(*points, strict=True))
    kept = skyband(losses, costs, count)

    def beaten(at: int) -> int:
        """Others that match or beat it; of equal ones the earlier."""
        return sum(
            losses[i] <= losses[at]
            and costs[i] <= costs[at]
            and ((losses[i], costs[i]) != (losses[at], costs[at]) or i < at)
            for i in range(len(points))
        )

    assert set(kept.tolist()) == {i for i in range(len(points)) if beaten(i) < count}
    assert (np.diff(costs[kept]) >= 0).all()


class Line:
    """Four coordinates of five choices; the cost is their sum."""

    sizes = np.full(4, 5)
    full = np.full(4, 4)

    def costs(self, states: np.ndarray) -> np.ndarray:
        total: np.ndarray = np.asarray(states).sum(axis=1)
        return total


def test_evolution_finds_the_trade_offs_between_loss_and_cost() -> None:
    weights = np.array([8.0, 4.0, 2.0, 1.0])

    def loss(state: tuple[int, ...]) -> float:
        return float(weights @ (4 - np.array(state)))

    losses, rng = one_by_one(loss), np.random.default_rng(0)
    archive = evolve_archive(Line(), losses, rng, evaluations=300, population=20, mutation=0.3)
    front = skyband(archive.losses, archive.costs)
    # By hand: the heaviest coordinate is widened first, so every cost from 0 to 16 has a best loss.
    best = []
    state = np.zeros(4)
    for at in np.repeat(np.arange(4), 4):
        best.append(float(weights @ (4 - state)))
        state[at] += 1
    assert archive.costs[front].tolist() == list(range(17))
    assert archive.losses[front].tolist() == [*best, 0.0]


@pytest.mark.parametrize("evaluations", [1, 2, 7, 20])
def test_no_state_is_scored_twice_and_no_more_than_asked(evaluations: int) -> None:
    scored: list[tuple[int, ...]] = []

    def loss(state: tuple[int, ...]) -> float:
        scored.append(state)
        return float(sum(state))

    losses, rng = one_by_one(loss), np.random.default_rng(1)
    archive = evolve_archive(
        Line(), losses, rng, evaluations=evaluations, population=6, mutation=0.2
    )
    assert len(scored) == len(set(scored)) == len(archive.losses) == evaluations
    assert archive.costs.tolist() == [sum(state) for state in scored]
    assert archive.losses.tolist() == [float(sum(state)) for state in scored]


def test_a_space_with_one_state_ends() -> None:
    class Point(Line):
        sizes = np.ones(2, dtype=np.int64)
        full = np.zeros(2, dtype=np.int64)

    losses, rng = one_by_one(lambda _: 0.5), np.random.default_rng(0)
    archive = evolve_archive(Point(), losses, rng, evaluations=9, population=4, mutation=0.5)
    assert archive.states.tolist() == [[0, 0]]
