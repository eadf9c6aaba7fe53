"""The prior from training losses: what is good is likely, what is early, large or unseen is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.problems import problem
from zoo.core.search.prior import (
    LossRecords,
    Prior,
    SeenSubnets,
    corrected_losses,
    fit_prior,
    uniform_prior,
)
from zoo.core.search.width_grid import WidthGrid, covering_states

SETTINGS = {"bins": 10, "best": 30, "smoothing": 1.0, "warm_up": 0.0}
SEEN = 1200


@pytest.fixture(scope="module")
def grid() -> WidthGrid:
    return WidthGrid.make(problem(), 6)


def fit(grid: WidthGrid, records: LossRecords, ratio: float, **changes: float) -> Prior:
    limit = int(ratio * int(grid.costs(grid.full[None])[0]))
    return fit_prior(grid, records, limit, **{**SETTINGS, **changes})  # type: ignore[arg-type]


def records(grid: WidthGrid, seed: int = 0) -> LossRecords:
    """Losses that fall with cost and with time; at equal cost and time, group 3 wants width 1."""
    rng = np.random.default_rng(seed)
    states = covering_states(grid, SEEN, rng)
    share = grid.costs(states) / int(grid.costs(grid.full[None])[0])
    steps = np.arange(SEEN)
    losses = 3 - share - steps / SEEN + 0.3 * (states[:, 3] != 1) + rng.normal(0, 0.02, SEEN)
    return LossRecords(states, losses, steps)


@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.6])
def test_the_width_that_does_well_becomes_much_likelier_than_training_drew_it(
    grid: WidthGrid, ratio: float
) -> None:
    found = records(grid)
    noise = LossRecords(found.states, np.random.default_rng(1).random(SEEN), found.steps)
    drawn = fit(grid, noise, ratio).probabilities
    chances = fit(grid, found, ratio).probabilities
    assert chances[3, 1] > 2 * drawn[3, 1]
    others = np.delete(np.arange(len(chances)), 3)
    assert np.abs(chances[others] - drawn[others]).mean() < 0.08


def test_late_subnets_are_not_better_for_being_late(grid: WidthGrid) -> None:
    found = records(grid)
    states = found.states.copy()
    states[:, 5] = np.where(found.steps < SEEN / 2, 0, 4)  # wide late, when all losses are low
    late = LossRecords(states, found.losses, found.steps)
    share = fit(grid, late, 0.5).probabilities[5]
    assert 1 / 3 < share[4] / share[0] < 3


def test_only_subnets_of_about_the_targets_cost_count(grid: WidthGrid) -> None:
    found = records(grid)
    small, large = (fit(grid, found, ratio).probabilities for ratio in (0.15, 0.85))
    places = np.arange(6)
    assert ((large * places).sum(1) > (small * places).sum(1) + 1).mean() > 0.8


def test_a_width_that_was_never_seen_is_never_likelier_than_one_that_was(grid: WidthGrid) -> None:
    found = records(grid)
    states = found.states.copy()
    states[states[:, 7] == 2, 7] = 3
    chances = fit(grid, LossRecords(states, found.losses, found.steps), 0.5).probabilities[7]
    assert 0 < chances[2] == chances.min()


def test_without_records_every_width_is_as_likely(grid: WidthGrid) -> None:
    none = LossRecords(np.empty((0, len(grid.sizes)), int), np.empty(0), np.empty(0, int))
    assert np.array_equal(
        fit(grid, none, 0.5).probabilities, uniform_prior(grid.sizes).probabilities
    )


def test_the_first_share_of_the_training_is_left_out(grid: WidthGrid) -> None:
    found = records(grid)
    half = found.since(0.5)
    assert half.steps.min() == SEEN // 2 and len(half.losses) == SEEN // 2
    assert len(found.since(0.0).losses) == SEEN


def test_corrected_losses_do_not_follow_time_or_cost() -> None:
    rng = np.random.default_rng(0)
    steps, costs = np.arange(500), rng.uniform(1e6, 1e7, 500)
    noise = rng.normal(0, 0.1, 500)
    smooth = 2 - 0.5 * np.log(costs) / 10 + 1e-6 * (500 - steps) ** 2
    found = corrected_losses(smooth + noise, steps, costs)
    for cause in (steps, np.log(costs)):
        assert abs(np.corrcoef(found, cause)[0, 1]) < 1e-6
    assert np.corrcoef(found, noise)[0, 1] > 0.99


def test_draws_follow_the_probabilities() -> None:
    prior = Prior(np.array([[0.5, 0.25, 0.25, 0.0], [0.0, 0.1, 0.0, 0.9], [1.0, 0.0, 0.0, 0.0]]))
    drawn = prior.draw(20_000, np.random.default_rng(0))
    for group, chances in enumerate(prior.probabilities):
        shares = np.bincount(drawn[:, group], minlength=4) / len(drawn)
        assert np.allclose(shares, chances, atol=0.015)
        assert not shares[chances == 0].any()


def test_a_uniform_prior_stays_within_each_groups_own_candidates() -> None:
    sizes = np.array([3, 1, 5])
    drawn = uniform_prior(sizes).draw(2000, np.random.default_rng(0))
    assert (drawn.max(0) == sizes - 1).all() and (drawn.min(0) == 0).all()


def test_what_training_sees_is_kept_in_order() -> None:
    seen = SeenSubnets(2)
    seen.add(np.array([[0, 1], [2, 3]]), torch.tensor([1.0, 3.0], requires_grad=True))
    seen.add(np.array([[4, 5]]), torch.tensor([0.5]))
    found = seen.records
    assert found["states"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found["losses"].tolist() == [1.0, 3.0, 0.5] and found["steps"].tolist() == [0, 0, 1]
    assert seen.means() == [2.0, 0.5]
