import numpy as np
import pytest
from scipy.stats import kendalltau

from benchmarks.analysis.comparison import compare
from benchmarks.analysis.effects import overall_effects
from benchmarks.analysis.standing import average_ranks, stability
from benchmarks.records.cell import Model
from benchmarks.tables.standing_table import standing_table
from tests.benchmarks.fabricate import ENVIRONMENT, cell, record


def results(table, **changes):
    """Records from {(model, budget): {method: accuracies over seeds}}."""
    return [
        record(cell=cell(method, budget, seed, model=Model(name=model), **changes), top1=top1)
        for (model, budget), row in table.items()
        for method, accuracies in row.items()
        for seed, top1 in enumerate(accuracies)
    ]


def test_ranks_are_averaged_over_budgets_then_networks_and_ties_share_theirs():
    table = {
        ("a", 0.5): {"x": [0.9], "y": [0.8], "z": [0.7]},
        ("a", 0.25): {"x": [0.6], "y": [0.6], "z": [0.5]},
        ("b", 0.5): {"x": [0.3, 0.5], "y": [0.5, 0.5], "z": [0.1, 0.1]},
    }
    standing = average_ranks(compare(results(table)))
    # x: 1 and 1.5 of a, 2 of b; y: 2 and 1.5, 1; z: 3 and 3, 3.
    assert standing.methods == ("y", "x", "z")
    assert (standing.tasks, standing.networks) == (3, 2)
    assert standing.average.tolist() == [1.375, 1.625, 3.0]


def test_the_last_bit_of_a_sum_breaks_no_tie():
    sums = {"x": [0.1, 0.2, 0.3], "y": [0.3, 0.2, 0.1], "z": [0.0, 0.0, 0.0]}
    assert len({float(np.mean(values)) for values in sums.values()}) == 3
    apart = {"x": [0.5] * 3, "y": [0.4] * 3, "z": [0.3] * 3}
    comparisons = compare(results({("a", 0.5): sums, ("a", 0.25): apart}))
    assert sorted(average_ranks(comparisons).average.tolist()) == [1.25, 1.75, 3.0]
    (found,) = stability(comparisons)
    assert found.tau == pytest.approx(kendalltau([2, 2, 1], [3, 2, 1]).statistic)


def test_rankings_of_one_network_on_two_processors_are_told_apart():
    table = {("a", budget): {"x": [0.9], "y": [0.8], "z": [0.7]} for budget in (0.5, 0.25)}
    gpu = ENVIRONMENT.model_copy(update={"gpu": "GPU 9"})
    there = [e.model_copy(update={"environment": gpu}) for e in results(table, device="cuda")]
    titles = [each.title for each in stability(compare([*results(table), *there]))]
    assert len(titles) == 2 and all(title.startswith("a on ") for title in titles)
    assert sorted(title.endswith("trained on GPU 9") for title in titles) == [False, True]


def test_a_method_that_failed_has_no_rank_and_one_that_was_not_run_leaves_the_task_out():
    table = {
        ("a", 0.5): {"x": [0.9], "y": [0.8], "z": [0.7]},
        ("a", 0.25): {"x": [0.9], "y": [0.8]},
        ("b", 0.5): {"y": [0.8], "z": [0.7]},
        ("c", 0.5): {"x": [0.9], "y": [0.8], "z": [0.7]},
    }
    failed = record(status="failed", reason="x", cell=cell("x", 0.5, 0, model=Model(name="b")))
    standing = average_ranks(compare([*results(table), failed]))
    assert standing.tasks == 3 and standing.left_out == 1
    assert standing.methods == ("y", "z") and standing.average.tolist() == [1.0, 2.0]
    assert standing.unranked == {"x": 1}
    text = standing_table([], standing, [])
    assert "Without ranks: one task that not all of these methods were run on." in text
    assert "Not ranked, since a seed has no result: x in one task." in text


def test_a_method_that_lost_a_seed_has_no_rank_however_good_the_others_were():
    table = {("a", b): {"x": [0.9], "y": [0.8, 0.8], "z": [0.7, 0.7]} for b in (0.5, 0.25)}
    lost = [
        record(status="failed", reason="x", cell=cell("x", b, 1, model=Model(name="a")))
        for b in (0.5, 0.25)
    ]
    standing = average_ranks(compare([*results(table), *lost]))
    assert standing.methods == ("y", "z") and standing.unranked == {"x": 2}


def test_ranks_and_rows_are_ordered_by_the_seeds_that_all_have() -> None:
    table = {("a", b): {"uniform": [0.9, 0.5], "bnp": [0.85]} for b in (0.5, 0.25)}
    comparisons = compare(results(table))
    standing = average_ranks(comparisons)
    # Over its own seeds uniform has 0.7, over the shared one 0.9.
    assert standing.methods == ("uniform", "bnp") and standing.average.tolist() == [1.0, 2.0]
    assert [row.method for row in comparisons[0].rows] == ["uniform", "bnp"] * 2
    assert "one seed at the least." in standing_table([], standing, [])
    even = average_ranks(compare(results({task: {"x": [0.9], "y": [0.8]} for task in table})))
    assert "same seeds" not in standing_table([], even, [])


def test_a_task_without_a_seed_that_all_have_has_no_ranks_and_the_text_says_so() -> None:
    table = {(model, 0.5): {"x": [0.9], "y": [0.8]} for model in "ab"}
    apart = [
        record(cell=cell(method, 0.5, seed, model=Model(name="c")))
        for seed, method in enumerate("xy")
    ]
    standing = average_ranks(compare([*results(table), *apart]))
    assert (standing.tasks, standing.left_out, standing.without_seed) == (2, 0, 1)
    text = standing_table([], standing, [])
    assert "one task in which these methods have no seed in common." in text
    assert average_ranks(compare([*results({("a", 0.5): table["a", 0.5]}), *apart])) is None


def test_settings_of_two_networks_are_two_methods() -> None:
    table = {(model, 0.5): {"uniform": [0.8], "bnp": [0.83]} for model in "abcd"}
    plain, rest = results(table), []
    for found in plain:
        has_steps = found.cell.method == "bnp" and found.cell.model.name in "cd"
        settings = {"steps": 5} if has_steps else {}
        rest.append(found.model_copy(update={
            "cell": found.cell.model_copy(update={"settings": settings})}))  # fmt: skip
    effects = overall_effects(compare(rest))
    assert [(each.method, each.networks) for each in effects] == [("bnp", 2), ("bnp (steps=5)", 2)]
    standing = average_ranks(compare(rest))
    assert standing.tasks == 2 and standing.left_out == 2 and "uniform" in standing.methods
    assert [(each.method, each.networks) for each in overall_effects(compare(plain))] == [
        ("bnp", 4)
    ]


def test_critical_difference_is_the_published_one():
    # Demsar 2006, table 5: q = 2.569 for four classifiers at 5 %; with 14 data sets, his example.
    task = {"p": [0.4], "q": [0.3], "r": [0.2], "s": [0.1]}
    table = {(f"net{i}", 0.5): task for i in range(14)}
    standing = average_ranks(compare(results(table)))
    assert standing.critical_difference == pytest.approx(
        2.569 * np.sqrt(4 * 5 / (6 * 14)), rel=1e-3
    )
    assert standing.p_value < 1e-6
    # Ranks 1, 2, 3, 4 and a critical difference of 1.25: neighbours are joined, no more.
    assert standing.cliques == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("networks", [3, 4, 5])
def test_a_critical_difference_needs_five_networks_however_many_budgets(networks):
    task = {"p": [0.4], "q": [0.3], "r": [0.2]}
    table = {(f"net{i}", b): task for i in range(networks) for b in (0.5, 0.25, 0.125)}
    standing = average_ranks(compare(results(table)))
    assert (standing.networks, standing.tasks) == (networks, 3 * networks)
    assert standing.is_testable == (networks >= 5)
    text = standing_table([], standing, [])
    if networks < 5:
        assert f"networks: {networks} networks; a critical difference needs 5." in text
    else:
        # Three ranks that never change: chi-square of 2 x 5 with 2 degrees of freedom.
        assert standing.p_value == pytest.approx(np.exp(-5))
        assert (
            "critical difference 1.48 (Nemenyi, 5 %) over 5 networks; Friedman p = 0.0067" in text
        )


def test_a_single_task_has_no_average_rank():
    assert average_ranks(compare(results({("a", 0.5): {"x": [0.9], "y": [0.8]}}))) is None
    assert average_ranks([]) is None


def test_stability_is_one_for_the_same_order_and_minus_one_for_the_reverse():
    order = {f"m{i}": [0.1 * i, 0.1 * i + 0.01] for i in range(6)}
    reverse = {name: [0.7 - value for value in values] for name, values in order.items()}
    table = {("a", 0.5): order, ("a", 0.25): order, ("b", 0.5): order, ("b", 0.25): reverse}
    same, turned = stability(compare(results(table)))
    assert (same.tau, same.high, same.methods, same.seeds) == (1.0, 1.0, 6, 2)
    assert turned.tau == -1.0 and turned.low == -1.0
    text = standing_table([], None, [same, turned])
    assert "| a on digits | 0.5 and 0.25 | 6 | 0 | 2 seeds | 1.00 |" in text


def test_only_budgets_of_one_metric_are_compared_and_the_metric_is_named_where_there_are_two():
    order = {f"m{i}": [0.1 * i, 0.1 * i + 0.01] for i in range(4)}
    reverse = {name: [0.5 - value for value in values] for name, values in order.items()}
    macs = results({("a", 0.5): order, ("a", 0.25): order})
    params = results({("a", 0.5): reverse}, metric="params")
    (found,) = stability(compare([*macs, *params]))
    assert found.tau == 1.0 and found.budgets == ("0.5 of macs", "0.25 of macs")
    further = results({("a", 0.25): reverse}, metric="params")
    assert [each.budgets for each in stability(compare([*macs, *params, *further]))] == [
        ("0.5 of macs", "0.25 of macs"),
        ("0.5 of params", "0.25 of params"),
    ]
    control = record(cell=cell("parent", 1.0, model=Model(name="a")))
    (alone,) = stability(compare([*params, *further, control]))
    assert alone.budgets == ("0.5", "0.25")


def test_a_method_that_lost_a_seed_takes_no_seed_from_the_others_stability():
    order = {f"m{i}": [0.1 * i, 0.1 * i + 0.01] for i in range(4)}
    lost = record(status="failed", reason="x", cell=cell("m3", 0.5, 1, model=Model(name="a")))
    found = [each for each in results({("a", b): order for b in (0.5, 0.25)})
             if each.cell.key != lost.cell.key]  # fmt: skip
    (stable,) = stability(compare([*found, lost]))
    assert (stable.methods, stable.left_out, stable.seeds) == (3, 1, 2)


def test_interval_of_a_stability_holds_its_tau_and_is_wide_for_few_methods():
    rng = np.random.default_rng(3)
    table = {
        ("a", budget): {f"m{i}": [rng.uniform(0.4, 0.6)] for i in range(5)}
        for budget in (0.5, 0.25)
    }
    (found,) = stability(compare(results(table)))
    assert found.low < found.tau < found.high and found.high - found.low > 0.5
