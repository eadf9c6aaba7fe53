"""Effects over networks against counting by hand, and their intervals against all resamples."""

import itertools
from collections import Counter

import numpy as np
import pytest

from benchmarks.analysis.comparison import compare
from benchmarks.analysis.effects import cluster_interval, overall_effects
from benchmarks.analysis.standing import average_ranks
from benchmarks.records.cell import Data, Model
from benchmarks.tables.standing_table import standing_table
from tests.benchmarks.analysis.test_standing import results
from tests.benchmarks.fabricate import ENVIRONMENT, cell, record

# Gains of x in points: 2 and 4 of the first seed of a, 6 and 8 of its second; 1 of b.
GAINS = {
    ("a", 0.5): {"x": [0.52, 0.86], "uniform": [0.50, 0.80]},
    ("a", 0.25): {"x": [0.34, 0.68], "uniform": [0.30, 0.60]},
    ("b", 0.5): {"x": [0.91], "uniform": [0.90]},
}


def quantile(clusters, share):
    """Of the means of all resamples: all draws of clusters, then all draws of values in each."""
    chances = Counter()
    for drawn in itertools.product(clusters, repeat=len(clusters)):
        parts = [[*itertools.product(values, repeat=len(values))] for values in drawn]
        for values in itertools.product(*parts):
            mean = round(float(np.mean([np.mean(each) for each in values])), 9)
            chances[mean] += 1 / len(clusters) ** len(clusters) / np.prod([*map(len, parts)])
    means = sorted(chances)
    below = np.cumsum([chances[mean] for mean in means])
    return means[int(np.searchsorted(below, share))]


@pytest.mark.parametrize(
    "clusters", [([0.0, 1.0], [3.0, 5.0]), ([0.0, 1.0, 5.0], [2.0]), ([1.0], [2.0], [7.0])]
)
def test_the_interval_is_that_of_all_resamples_of_clusters_and_of_values_in_them(clusters):
    # There are few different means, so the quantiles of 10,000 draws are those of all.
    exact = (quantile(clusters, 0.025), quantile(clusters, 0.975))
    assert cluster_interval(clusters) == pytest.approx(exact)


def test_an_effect_is_paired_by_network_budget_and_seed_and_each_network_counts_once():
    (effect,) = overall_effects(compare(results(GAINS)))
    # a: seeds of 3 and 7 points; b: 1.
    assert effect.mean == pytest.approx((0.05 + 0.01) / 2)
    assert (effect.networks, effect.tasks, effect.left_out) == (2, 3, 0)
    assert effect.interval == pytest.approx(cluster_interval([[0.03, 0.07], [0.01]]))


def test_seeds_of_two_processors_are_seeds_of_one_network_and_never_averaged():
    here = results({("a", 0.5): {"x": [0.6, 0.8], "uniform": [0.5, 0.5]}})
    gpu = ENVIRONMENT.model_copy(update={"gpu": "GPU 9"})
    on_gpu = results({("a", 0.5): {"x": [0.9], "uniform": [0.5]}}, device="cuda")
    there = [each.model_copy(update={"environment": gpu}) for each in on_gpu]
    other = results({("b", 0.5): {"x": [0.5], "uniform": [0.5]}})
    (effect,) = overall_effects(compare([*here, *there, *other]))
    # a: gains of 0.1 and 0.3 here, of 0.4 there; b: none.
    clusters = [[0.1, 0.3, 0.4], [0.0]]
    assert effect.mean == pytest.approx((0.8 / 3 + 0.0) / 2)
    assert (effect.networks, effect.tasks) == (2, 3)
    assert effect.interval == pytest.approx(cluster_interval(clusters))


def test_a_seed_that_lacks_a_budget_counts_nowhere():
    # A gain of 10 points at a half, of 30 at a quarter, in every seed that is there.
    tasks = {
        ("a", 0.5): {"x": [0.6, 0.6, 0.6], "uniform": [0.5, 0.5, 0.5]},
        ("a", 0.25): {"x": [0.4, 0.4], "uniform": [0.1, 0.1]},
    }
    (effect,) = overall_effects(compare(results(tasks)))
    assert effect.mean == pytest.approx(0.2) and (effect.tasks, effect.left_out) == (2, 0)
    # Of another processor that has one budget alone, no seed counts.
    gpu = ENVIRONMENT.model_copy(update={"gpu": "GPU 9"})
    more = results({("a", 0.5): {"x": [0.9], "uniform": [0.5]}}, device="cuda")
    there = [each.model_copy(update={"environment": gpu}) for each in more]
    (effect,) = overall_effects(compare([*results(tasks), *there]))
    assert effect.mean == pytest.approx(0.2) and (effect.tasks, effect.left_out) == (2, 1)


def test_a_lost_budget_is_told_beside_one_of_the_same_network_that_counts():
    # Of the quarter a seed of x failed, so it has no gain there; the half counts.
    tasks = {
        ("a", 0.5): {"x": [0.6, 0.6], "uniform": [0.5, 0.5]},
        ("a", 0.25): {"x": [0.4], "uniform": [0.1, 0.1]},
    }
    lost = record(status="failed", reason="x", cell=cell("x", 0.25, 1, model=Model(name="a")))
    (effect,) = overall_effects(compare([*results(tasks), lost]))
    assert effect.mean == pytest.approx(0.1) and (effect.tasks, effect.left_out) == (1, 1)


def test_no_seed_with_all_budgets_is_no_effect():
    tasks = {
        ("a", 0.5): {"x": [0.6, 0.6], "uniform": [0.5, 0.5]},
        ("a", 0.25): {"x": [0.4, 0.4], "uniform": [0.1, 0.1]},
    }
    found = [
        each
        for each in results(tasks)
        if each.cell.method == "uniform" or each.cell.seed == (each.cell.budget == 0.5)
    ]
    assert len(found) == 6 and overall_effects(compare(found)) == []


def test_two_devices_that_timed_other_seeds_share_the_seeds_of_their_network():
    here = results({("a", 0.5): {"x": [0.6, 0.8, 0.7], "uniform": [0.5, 0.5, 0.5]}})
    by_two = [
        each.model_copy(update={"fingerprint": name})
        for name, seeds in (("cpu-1", (0, 1)), ("cpu-2", (1, 2)))
        for each in here
        if each.cell.seed in seeds
    ]
    other = results({("b", 0.5): {"x": [0.5], "uniform": [0.5]}})
    comparisons = compare([*by_two, *other])
    assert len(comparisons) == 3
    (effect,) = overall_effects(comparisons)
    assert effect.mean == pytest.approx((0.2 + 0.0) / 2) and effect.tasks == 2
    assert effect.interval == pytest.approx(cluster_interval([[0.1, 0.3, 0.2], [0.0]]))


def test_one_network_has_no_interval_over_networks_and_the_text_says_so():
    effects = overall_effects(compare(results({k: v for k, v in GAINS.items() if k[0] == "a"})))
    assert effects[0].interval is None and effects[0].mean == pytest.approx(0.05)
    text = standing_table(effects, None, [])
    assert "One network says nothing of others" in text
    assert "| x | +5.0 | – | 1 | 2 | 0 | – |" in text


def test_a_task_with_a_lost_seed_is_left_out_told_and_last():
    lost = record(status="failed", reason="x", cell=cell("x", 0.5, 1, model=Model(name="b")))
    worse = {task: {"y": [0.1] * len(row["x"])} for task, row in GAINS.items()}
    effects = overall_effects(compare([*results(GAINS), *results(worse), lost]))
    assert [(effect.method, effect.left_out) for effect in effects] == [("y", 0), ("x", 1)]
    assert effects[1].networks == 1 and effects[1].mean == pytest.approx(0.05)
    assert "a seed has no result there: x 1;" in standing_table(effects, None, [])


def test_a_method_of_fewer_tasks_stands_last_however_easy_they_were():
    easy = {("a", 0.5): {"y": [0.99, 0.99], "z": [0.51, 0.81]}, ("a", 0.25): {"z": [0.31, 0.61]},
            ("b", 0.5): {"z": [0.5]}}  # fmt: skip
    effects = overall_effects(compare([*results(GAINS), *results(easy)]))
    assert [effect.method for effect in effects] == ["x", "z", "y"]
    assert effects[2].mean > effects[0].mean


def test_a_teacher_makes_no_second_network():
    taught = results({("a", 0.5): {"x": [0.9], "uniform": [0.8]}}, distill=1.0)
    (effect,) = overall_effects(compare([*results({("a", 0.5): GAINS["a", 0.5]}), *taught]))
    assert (effect.networks, effect.tasks, effect.interval) == (1, 2, None)
    assert effect.mean == pytest.approx((0.02 + 0.06 + 0.1) / 3)


def test_two_folders_of_images_are_two_networks_with_data_and_told_apart():
    folders = [Data(name="imagefolder", digest=digit * 16) for digit in "ab"]
    found = compare([r for d in folders for r in results({("a", 0.5): GAINS["a", 0.5]}, data=d)])
    assert overall_effects(found)[0].networks == 2
    assert [each.heading for each in found] == [f"a on imagefolder {d * 16}" for d in "ab"]


def test_what_an_earlier_protocol_gave_is_in_no_effect_and_its_tables_name_it():
    earlier = results({("a", 0.5): {"x": [0.9], "uniform": [0.1]}}, protocol=1)
    now = results(GAINS, protocol=2)
    found = compare([*earlier, *now])
    assert overall_effects(found) == overall_effects(compare(now))
    assert average_ranks(found).tasks == 3
    assert sorted(each.heading for each in found) == [
        "a on digits, protocol 1", "a on digits, protocol 2", "b on digits",
    ]  # fmt: skip


def test_where_uniform_lost_a_seed_every_method_leaves_the_task_out():
    lost = record(status="failed", reason="x", cell=cell("uniform", 0.5, 1, model=Model(name="b")))
    (effect,) = overall_effects(compare([*results(GAINS), lost]))
    assert (effect.tasks, effect.left_out) == (2, 1)


def test_accuracies_beside_the_times_of_a_second_device_count_once_and_the_most_of_them():
    here = results(GAINS)
    there = [each.model_copy(update={"fingerprint": "cpu-12345678"}) for each in here[:4]]
    comparisons = compare([*here, *there])
    assert len(comparisons) == 3
    assert overall_effects(comparisons) == overall_effects(compare(here))
