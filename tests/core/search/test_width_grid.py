"""The grid of widths: legal, nested, and drawn over the whole range of costs."""

import numpy as np
import pytest

from tests.problems import problem
from zoo.core.channels.config import WidthRules
from zoo.core.search.channel_scores import channel_order
from zoo.core.search.width_grid import WidthGrid, covering_states, independent_states

BINS = 10


def test_candidates_are_legal_and_go_from_the_minimum_to_all() -> None:
    rules = WidthRules(min_keep=0.2, divisor=4)
    task = problem(rules=rules)
    grid = WidthGrid.make(task, 5)
    for legal, widths in zip(rules.legal(task.space), grid.widths, strict=True):
        assert set(widths) <= set(legal)
        assert (widths[0], widths[-1]) == (legal[0], legal[-1])
        assert (np.diff(widths) > 0).all() and len(widths) <= 5


def test_fewer_than_two_ratios_are_refused() -> None:
    with pytest.raises(ValueError, match="ratios is 1"):
        WidthGrid.make(problem(), 1)


def test_costs_of_states_are_those_of_their_configurations() -> None:
    task = problem("test_efficientnet")
    grid = WidthGrid.make(task, 6)
    order = channel_order(task, by_magnitude=True)
    states = independent_states(grid, 5, np.random.default_rng(0))
    wanted = [task.cost.macs(grid.config(state, order)) for state in states]
    assert grid.costs(states).tolist() == wanted
    assert grid.costs(grid.full[None])[0] == task.cost.full_macs


def test_narrower_configurations_are_nested_in_wider_ones() -> None:
    task = problem()
    grid = WidthGrid.make(task, 5)
    for by_magnitude in (True, False):
        order = channel_order(task, by_magnitude=by_magnitude)
        narrow, wide = (grid.config(grid.full - less, order) for less in (2, 1))
        assert all(set(narrow.indices(g)) < set(wide.indices(g)) for g in task.space.groups)
    assert all(narrow.indices(g) == tuple(range(len(narrow.indices(g)))) for g in task.space.groups)


def shares(grid: WidthGrid, states: np.ndarray) -> np.ndarray:
    """Share of the states in each of ten equal ranges of cost."""
    low, high = grid.costs(np.stack([np.zeros_like(grid.full), grid.full]))
    counts, _ = np.histogram(grid.costs(states), bins=BINS, range=(low, high))
    found: np.ndarray = counts / len(states)
    return found


def test_covering_draws_fill_the_range_of_costs_evenly_and_independent_ones_do_not() -> None:
    grid = WidthGrid.make(problem("test_efficientnet"), 10)
    rng = np.random.default_rng(0)
    covering = shares(grid, covering_states(grid, 1000, rng))
    independent = shares(grid, independent_states(grid, 1000, rng))
    assert covering.min() > 0.07 and covering.max() < 0.13
    assert (independent < 0.01).sum() >= 4 and independent.max() > 0.25


def test_covering_draws_vary_between_groups() -> None:
    grid = WidthGrid.make(problem(), 10)
    states = covering_states(grid, 200, np.random.default_rng(0))
    assert np.unique(states, axis=0).shape[0] > 190  # the two ends repeat
    middle = states[(states.mean(1) > 3) & (states.mean(1) < 6)]
    assert middle.std(axis=1).mean() > 1.5
