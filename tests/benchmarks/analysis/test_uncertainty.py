import itertools

import numpy as np
import pytest

from benchmarks.analysis.uncertainty import bootstrap_interval, estimate, paired


def test_deviation_is_the_samples_and_students_interval_matches_a_printed_table():
    found = estimate([0.7, 0.8, 0.9])
    assert found.mean == pytest.approx(0.8)
    assert found.sd == pytest.approx(0.1)
    # 4.3027 is the 97.5 % point of Student's t with two degrees of freedom.
    assert found.half_width == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)


def test_one_seed_has_neither_deviation_nor_interval_nor_sign():
    one = estimate([0.5])
    assert (one.sd, one.interval, one.half_width, one.sign) == (None, None, None, 0)
    assert one.with_interval(".1f", 100) == "50.0"


def test_few_values_are_resampled_exhaustively():
    values = (0.0, 1.0, 5.0)
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=3)]
    assert bootstrap_interval(values) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_many_values_give_the_normal_interval_and_the_same_one_in_every_call():
    values = tuple(np.random.default_rng(1).normal(size=200))
    low, high = bootstrap_interval(values)
    half = 1.96 * np.std(values, ddof=1) / np.sqrt(200)
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    bootstrap_interval.cache_clear()
    assert bootstrap_interval(values) == (low, high)


def test_a_sign_needs_both_intervals():
    # Three positive differences: the bootstrap leaves zero out, Student's interval does not.
    few = estimate([0.1, 0.5, 0.9])
    assert few.interval[0] > 0 and few.mean - few.half_width < 0
    assert few.sign == 0
    assert estimate([0.10, 0.11, 0.12]).sign == 1
    assert estimate([-0.10, -0.11, -0.12]).sign == -1


def test_a_sign_is_rarely_wrong_where_there_is_no_difference():
    draws = np.random.default_rng(0).normal(size=(2000, 3))
    signs = [estimate(draw).sign for draw in draws]
    assert np.mean(np.abs(signs)) <= 0.06  # 5 % of Student's interval alone


def test_differences_are_paired_by_seed():
    found = paired({0: 0.6, 1: 1.0, 7: 0.0}, {1: 0.9, 0: 0.5, 3: 0.1})
    assert found.values == pytest.approx((0.1, 0.1))
    assert paired({0: 0.5}, {1: 0.5}) is None
