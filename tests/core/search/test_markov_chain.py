"""Chains against posteriors that were enumerated, and solvers against brute force."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from zoo.core.search.choice_table import (
    ChoiceTable,
    State,
    balanced_price,
    greedy_state,
    optimal_state,
    random_state,
)
from zoo.core.search.markov_chain import (
    Moves,
    effective_sample_size,
    sample_chain,
    split_r_hat,
    tuned_tau,
)

FLOAT_NOISE = 1e-12  # sums of at most six energies below 1, in another order
STEPS = 100_000
# Right chains of that length were seen at 0.018 to 0.027, wrong ones at 0.06 and 0.16.
MOST_DISTANCE = 0.04


def random_table(seed: int, *, is_limited: bool = True) -> ChoiceTable:
    """A few blocks of one or two coordinates, with a limit that some states meet."""
    rng = np.random.default_rng(seed)
    shapes = [tuple(rng.integers(1, 5, rng.integers(1, 3))) for _ in range(rng.integers(2, 5))]
    costs = [rng.integers(-20, 20, shape) for shape in shapes]
    least, most = (sum(int(reach(c)) for c in costs) for reach in (np.min, np.max))
    limit = int(rng.integers(least, most + 1)) if is_limited else None
    return ChoiceTable(tuple(rng.random(shape) for shape in shapes), tuple(costs), limit)


def small_table() -> ChoiceTable:
    """Three blocks with 4, 3 x 3 and 3 choices; the limit rules out a third of the 108 states."""
    rng = np.random.default_rng(0)
    shapes = [(4,), (3, 3), (3,)]
    costs = [np.indices(shape).sum(axis=0) for shape in shapes]
    energies = [rng.random(shape) - 0.2 * cost for shape, cost in zip(shapes, costs, strict=True)]
    return ChoiceTable(tuple(energies), tuple(costs), 5)


def feasible_states(table: ChoiceTable) -> list[State]:
    return [s for s in product(*(range(size) for size in table.sizes)) if table.fits(s)]


def distance_to_posterior(table: ChoiceTable, moves: Moves, tau: float = 0.3) -> float:
    """Total variation between the states that a chain visits and the exact posterior."""
    rng = np.random.default_rng(1)
    start = (0,) * len(table.sizes)
    run = sample_chain(table, start, steps=STEPS, tau=tau, rng=rng, moves=moves)
    states = feasible_states(table)
    exact = np.array([math.exp(-table.energy(state) / tau) for state in states])
    visits = dict.fromkeys(states, 0)
    for state, count in zip(*np.unique(run.states, axis=0, return_counts=True), strict=True):
        visits[tuple(state.tolist())] += int(count)
    seen = np.array([visits[state] for state in states])
    return float(np.abs(seen / STEPS - exact / exact.sum()).sum() / 2)


class WithoutRatio(Moves):
    """Moves that take a grid step, and a pair, for symmetric, which they are not at the edges."""

    def propose(
        self, state: Sequence[int], rng: np.random.Generator
    ) -> tuple[dict[int, int], float]:
        return super().propose(state, rng)[0], 0.0


@pytest.mark.parametrize(("pairs", "fresh"), [(0.0, 0.0), (0.3, 0.1), (0.8, 0.0)])
def test_chain_visits_states_as_often_as_the_posterior_says(pairs: float, fresh: float) -> None:
    table = small_table()
    moves = Moves(table.sizes, pairs=pairs, fresh=fresh)
    assert distance_to_posterior(table, moves) < MOST_DISTANCE


@pytest.mark.parametrize("pairs", [0.0, 0.8])
def test_a_wrong_proposal_ratio_does_not_pass_for_the_posterior(pairs: float) -> None:
    table = small_table()
    moves = WithoutRatio(table.sizes, pairs=pairs, fresh=0.0)
    assert distance_to_posterior(table, moves) > MOST_DISTANCE


def test_proposal_ratio_is_that_of_the_counted_proposals() -> None:
    for seed in range(8):
        table = random_table(seed)
        rng = np.random.default_rng(seed)
        state = list(random_state(ChoiceTable(table.energies, table.costs, None), rng))
        draws = 20_000
        moves = Moves(table.sizes, pairs=1.0)
        change, log_ratio = moves.propose(state, rng)
        if not change:
            continue
        new = [change.get(c, at) for c, at in enumerate(state)]
        back = {c: state[c] for c in change}
        there = sum(moves.propose(state, rng)[0] == change for _ in range(draws)) / draws
        again = sum(moves.propose(new, rng)[0] == back for _ in range(draws)) / draws
        # Five standard errors of two counts that are at least a twentieth of the draws.
        assert math.log(again / there) == pytest.approx(log_ratio, abs=5 * math.sqrt(40 / draws))


def test_dynamic_programming_equals_brute_force() -> None:
    for seed in range(150):
        table = random_table(seed, is_limited=seed % 5 > 0)
        best = min(table.energy(state) for state in feasible_states(table))
        found = optimal_state(table)
        assert table.fits(found)
        assert table.energy(found) == pytest.approx(best, abs=FLOAT_NOISE)


def test_a_limit_below_every_state_is_refused_by_all_solvers() -> None:
    table = ChoiceTable((np.zeros(3),), (np.arange(3),), -1)
    for solve in (optimal_state, greedy_state, lambda t: random_state(t, np.random.default_rng(0))):
        with pytest.raises(ValueError, match=r"within|over"):
            solve(table)
    with pytest.raises(ValueError, match="over the limit"):
        sample_chain(table, (0,), steps=1, tau=1.0, rng=np.random.default_rng(0))


def test_no_state_of_a_chain_is_over_the_limit() -> None:
    for seed in range(20):
        table = small_table()
        start = random_state(table, np.random.default_rng(seed))
        run = sample_chain(table, start, steps=300, tau=1.0, rng=np.random.default_rng(seed))
        assert all(table.fits(state) for state in run.states)
        assert run.energies[-1] == pytest.approx(
            table.energy(run.states[-1]), abs=300 * FLOAT_NOISE
        )


def test_chains_repeat_from_their_seed_and_differ_between_seeds() -> None:
    table = small_table()
    states = [
        sample_chain(
            table, (0, 0, 0, 0), steps=500, tau=0.3, rng=np.random.default_rng(seed)
        ).states
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(states[0], states[1])
    assert not np.array_equal(states[0], states[2])


def test_a_cooled_chain_ends_in_the_optimum() -> None:
    table = small_table()
    rng = np.random.default_rng(0)
    run = sample_chain(table, (0, 0, 0, 0), steps=5_000, tau=0.5, rng=rng, cooling=100)
    assert run.best(1)[0] == optimal_state(table)


def test_best_states_are_distinct_and_ascend_in_energy() -> None:
    table = small_table()
    rng = np.random.default_rng(0)
    best = sample_chain(table, (0, 0, 0, 0), steps=2_000, tau=0.3, rng=rng).best(10)
    energies = [table.energy(state) for state in best]
    assert len(set(best)) == 10
    assert energies == sorted(energies)


def test_tuned_temperature_accepts_the_share_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    energies = tuple(rng.random(10) for _ in range(12))
    table = ChoiceTable(energies, tuple(np.arange(10) for _ in range(12)), 60)
    moves = Moves(table.sizes)
    tau = tuned_tau(table, greedy_state(table), rng, acceptance=0.3, moves=moves)
    run = sample_chain(table, greedy_state(table), steps=20_000, tau=tau, rng=rng, moves=moves)
    assert run.accepted_feasible == pytest.approx(0.3, abs=0.1)  # pilots have 400 steps


def test_balanced_price_meets_the_limit_on_average() -> None:
    for seed in range(10):
        table = random_table(seed)
        assert table.limit is not None
        price = balanced_price(table, tau=0.3)
        states = list(product(*(range(size) for size in table.sizes)))
        priced = table.priced(price)
        weights = np.array([math.exp(-priced.energy(state) / 0.3) for state in states])
        mean = float(weights @ [table.cost(state) for state in states] / weights.sum())
        if price > 0 and table.limit > sum(int(costs.min()) for costs in table.costs):
            assert mean == pytest.approx(table.limit, abs=1e-6)  # bisection to double precision
        else:
            assert mean <= table.limit + 1e-6


def test_independent_draws_are_worth_as_many_samples() -> None:
    draws = np.random.default_rng(0).standard_normal((4, 5_000))
    assert effective_sample_size(draws) == pytest.approx(20_000, rel=0.1)
    assert split_r_hat(draws) == pytest.approx(1.0, abs=0.005)


def test_correlated_draws_are_worth_what_their_autocorrelation_leaves() -> None:
    rho, steps = 0.9, 20_000
    noise = np.random.default_rng(0).standard_normal((4, steps))
    draws = np.zeros_like(noise)
    for t in range(1, steps):
        draws[:, t] = rho * draws[:, t - 1] + noise[:, t]
    exact = 4 * steps * (1 - rho) / (1 + rho)  # of an autoregression of the first order
    assert effective_sample_size(draws) == pytest.approx(exact, rel=0.15)


def test_chains_at_different_places_or_on_the_move_are_told() -> None:
    draws = np.random.default_rng(0).standard_normal((4, 1_000))
    assert split_r_hat(draws + np.arange(4)[:, None]) > 1.3
    assert split_r_hat(draws + np.linspace(0, 4, 1_000)) > 1.3
