"""Evolution on tables: repair, memory, and the optimum of a space small enough to enumerate."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from zoo.core.search.evolution import (
    Candidates,
    Evaluated,
    evolve,
    one_by_one,
    random_candidates,
    repaired,
)
from zoo.core.search.prior import Prior, uniform_prior

SIZES = np.array([4, 3, 5, 4, 2, 4])
PRICES = np.array([7, 3, 2, 5, 11, 1])
LIMIT, FLOOR = 45, 41


def costs(states: np.ndarray) -> np.ndarray:
    found: np.ndarray = 10 + states @ PRICES
    return found


def task(floor: int = FLOOR) -> Candidates:
    return Candidates(SIZES, costs, LIMIT, floor)


def table(seed: int) -> dict[tuple[int, ...], float]:
    """A score for every state: main effects and pairs, all random."""
    rng = np.random.default_rng(seed)
    mains = [np.sort(rng.random(size)) for size in SIZES]
    pairs = rng.normal(scale=0.1, size=(len(SIZES), len(SIZES)))
    states = product(*map(range, SIZES))
    return {
        s: sum(m[at] for m, at in zip(mains, s, strict=True)) + float(np.array(s) @ pairs @ s) / 9
        for s in states
    }


def test_repaired_states_are_within_the_limit_and_reach_the_floor() -> None:
    rng = np.random.default_rng(0)
    states = uniform_prior(SIZES).draw(500, rng)
    before = states.copy()
    found = repaired(task(), states, rng)
    assert np.array_equal(states, before)
    assert (costs(found) <= LIMIT).all() and (costs(found) >= FLOOR).all()
    assert (found >= 0).all() and (found < SIZES).all()


def test_states_that_fit_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    states = uniform_prior(SIZES).draw(500, rng)
    fits = (costs(states) <= LIMIT) & (costs(states) >= FLOOR)
    assert fits.any() and np.array_equal(repaired(task(), states, rng)[fits], states[fits])


def test_a_floor_that_no_step_reaches_ends_the_repair() -> None:
    lumpy = Candidates(np.array([2, 2]), lambda states: 10 + 100 * states.sum(1), 50, 49)
    found = repaired(lumpy, np.zeros((3, 2), dtype=np.int64), np.random.default_rng(0))
    assert not found.any()


def test_a_state_is_scored_once_and_never_more_than_asked_for() -> None:
    calls: list[tuple[int, ...]] = []
    evaluated = Evaluated(one_by_one(lambda state: calls.append(state) or float(sum(state))))  # type: ignore[func-returns-value]
    evaluated.take(np.array([[0, 1], [0, 1], [1, 1], [1, 0]]), 3)
    evaluated.take(np.array([[1, 1], [0, 0]]), 3)
    assert calls == [(0, 1), (1, 1), (1, 0)]
    assert evaluated.best(2) == [(1, 1), (0, 1)]


def searched(scores: dict[tuple[int, ...], float], seed: int, evaluations: int) -> Evaluated:
    rng = np.random.default_rng(seed)
    evaluated, flat = Evaluated(one_by_one(scores.__getitem__)), uniform_prior(SIZES)
    evolve(
        task(0), evaluated, rng, initial=random_candidates(task(0), flat, 10, rng), redraw=flat,
        evaluations=evaluations, population=12, parents=5, mutation=0.2,
    )  # fmt: skip
    return evaluated


def drawn(scores: dict[tuple[int, ...], float], seed: int, evaluations: int) -> Evaluated:
    rng = np.random.default_rng(seed)
    evaluated = Evaluated(one_by_one(scores.__getitem__))
    states = random_candidates(task(0), uniform_prior(SIZES), 20 * evaluations, rng)
    evaluated.take(states, evaluations)
    return evaluated


def test_evolution_comes_nearer_to_the_optimum_than_drawing_and_stays_within_the_limit() -> None:
    regrets = {"evolved": [], "drawn": []}  # type: ignore[var-annotated]
    for seed in range(20):
        scores = table(seed)
        best = max(v for s, v in scores.items() if costs(np.array([s]))[0] <= LIMIT)
        for name, run in (("evolved", searched), ("drawn", drawn)):
            found = run(scores, seed, 80)
            assert len(found.scores) == 80
            assert (costs(np.array(list(found.scores))) <= LIMIT).all()
            regrets[name].append(best - max(found.scores.values()))
    assert np.mean(regrets["evolved"]) < 0.7 * np.mean(regrets["drawn"])


def test_evolution_repeats_with_its_seed() -> None:
    assert list(searched(table(0), 3, 40).scores) == list(searched(table(0), 3, 40).scores)
    assert list(searched(table(0), 3, 40).scores) != list(searched(table(0), 4, 40).scores)


def test_evolution_ends_when_nothing_new_is_left() -> None:
    tiny = Candidates(np.array([2, 2]), lambda states: states.sum(1), 1)
    evaluated = Evaluated(one_by_one(lambda state: float(sum(state))))
    flat = uniform_prior(np.array([2, 2]))
    evolve(
        tiny, evaluated, np.random.default_rng(0), initial=np.zeros((1, 2), dtype=np.int64),
        redraw=flat, evaluations=100, population=20, parents=2, mutation=0.5,
    )  # fmt: skip
    assert set(evaluated.scores) == {(0, 0), (0, 1), (1, 0)}


def test_mutants_are_drawn_from_the_prior() -> None:
    certain = Prior(np.eye(5)[[3, 2, 4, 3, 1, 3]][:, :5])
    evaluated = Evaluated(one_by_one(lambda state: 0.0))
    free = Candidates(SIZES, costs, 10_000)
    evolve(
        free, evaluated, np.random.default_rng(0), initial=np.zeros((1, 6), dtype=np.int64),
        redraw=certain, evaluations=30, population=10, parents=1, mutation=1.0,
    )  # fmt: skip
    assert set(evaluated.scores) == {(0,) * 6, (3, 2, 4, 3, 1, 3)}


@pytest.mark.parametrize("count", [1, 7])
def test_random_candidates_come_from_the_prior_and_fit(count: int) -> None:
    certain = Prior(np.eye(5)[[0, 2, 4, 3, 0, 3]][:, :5])
    found = random_candidates(task(0), certain, count, np.random.default_rng(0))
    assert found.shape == (count, 6) and (costs(found) <= LIMIT).all()
    assert np.array_equal(found, np.tile([0, 2, 4, 3, 0, 3], (count, 1)))
