import itertools

import numpy as np
import pytest
from scipy.stats import nct, t, ttest_rel

from benchmarks.analysis.uncertainty import bootstrap_interval, estimate, holm, paired


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
    assert bootstrap_interval(values) == (0.0, 5.0)  # one resample in 27 is the least one alone
    values = (0.0, 1.0, 5.0, 7.0, 8.5)
    means = sorted(np.mean(drawn) for drawn in itertools.product(values, repeat=5))
    # 78 of the 3125 means are fewer than 2.5 %.
    assert bootstrap_interval(values) == pytest.approx((means[78], means[-79]))


@pytest.mark.parametrize(("seeds", "missed"), [(2, 1 / 2), (3, 1 / 4)])
def test_the_interval_of_so_few_seeds_misses_as_often_as_their_range(seeds, missed):
    draws = np.random.default_rng(0).normal(size=(2000, seeds))
    ends = [bootstrap_interval(tuple(draw)) for draw in draws]
    # The deviation of the share is 0.011 at most.
    assert np.mean([low > 0 or high < 0 for low, high in ends]) == pytest.approx(missed, abs=0.035)


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


@pytest.mark.parametrize("last", [0.1, 0.1 + 1e-12])
def test_values_that_do_not_spread_have_neither_test_nor_sign(last):
    alike = estimate([0.1, 0.1, last])
    assert (alike.sign, alike.p_value, alike.detectable(0.05)) == (0, None, None)


def test_a_sign_is_rarely_wrong_where_there_is_no_difference():
    draws = np.random.default_rng(0).normal(size=(2000, 3))
    signs = [estimate(draw).sign for draw in draws]
    assert np.mean(np.abs(signs)) <= 0.06  # 5 % of Student's interval alone


def test_differences_are_paired_by_seed():
    found = paired({0: 0.6, 1: 1.0, 7: 0.0}, {1: 0.9, 0: 0.5, 3: 0.1})
    assert found.values == pytest.approx((0.1, 0.1))
    assert paired({0: 0.5}, {1: 0.5}) is None


def test_the_p_value_is_that_of_scipys_paired_test():
    new, base = np.random.default_rng(2).uniform(size=(2, 7))
    found = paired(dict(enumerate(new)), dict(enumerate(base)))
    assert found.p_value == pytest.approx(ttest_rel(new, base).pvalue, rel=1e-12)


@pytest.mark.parametrize("values", [[0.5], [0.1, 0.1, 0.1], [0.0, 0.0], [0.1, 0.1 + 1e-16]])
def test_one_seed_and_differences_without_spread_have_no_test(values):
    assert estimate(values).p_value is None and estimate(values).detectable(0.05) is None


def test_holm_corrects_as_in_a_worked_example_and_keeps_the_order():
    # By hand: 0.005 x 4, 0.01 x 3, max(0.03, 0.03 x 2), max(0.06, 0.04 x 1).
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
    # What could not be tested counts in the family.
    assert holm([0.02, None, None]) == pytest.approx([0.06, 1.0, 1.0])


def rejected(p_values, level):
    """Holm's method by its definition: the closed test of all intersections by Bonferroni."""
    places = range(len(p_values))
    subsets = [s for size in places for s in itertools.combinations(places, size + 1)]
    wins = {s: min(p_values[i] for i in s) <= level / len(s) for s in subsets}
    return [all(wins[s] for s in subsets if i in s) for i in places]


def test_holm_rejects_what_the_closed_test_rejects():
    rng = np.random.default_rng(4)
    for _ in range(200):
        p_values = list(rng.uniform(size=5) ** 3)
        for level in (0.01, 0.05, 0.2):
            assert [p <= level for p in holm(p_values)] == rejected(p_values, level)


@pytest.mark.parametrize("level", [0.05, 0.05 / 33])
@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_the_detectable_difference_has_80_percent_power_by_scipys_noncentral_t(count, level):
    found = estimate(np.random.default_rng(5).normal(size=count))
    noncentrality = found.detectable(level) / (found.sd / np.sqrt(count))
    limit = t.isf(level / 2, count - 1)
    assert nct.sf(limit, count - 1, noncentrality) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize(("count", "level"), [(3, 0.05), (5, 0.05), (5, 0.01)])
def test_a_detectable_difference_is_found_in_80_percent_of_simulated_runs(count, level):
    unit = estimate([-1.0, 1.0, *[0.0] * (count - 2)])
    true = unit.detectable(level) / unit.sd  # in standard deviations
    draws = np.random.default_rng(6).normal(loc=true, size=(20_000, count))
    scores = draws.mean(axis=1) / draws.std(axis=1, ddof=1) * np.sqrt(count)
    # 20,000 runs: a standard error of 0.003.
    assert np.mean(np.abs(scores) > t.isf(level / 2, count - 1)) == pytest.approx(0.8, abs=0.01)
