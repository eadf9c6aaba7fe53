"""Searches on a table: read right, judged right, repeatable, and within the budget."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.tabular import (
    CHANNEL_BENCH,
    CONTROL,
    OURS,
    SCORES,
    SEARCHES,
    WidthTable,
    introduction,
    measure,
    page,
    read_table,
    regrets,
    summary,
    to_markdown,
)
from benchmarks.studies.width_table_file import TABLE

GROUPS, CHOICES = 4, 3


@pytest.fixture(scope="module")
def table() -> WidthTable:
    rng = np.random.default_rng(0)
    shape = (CHOICES,) * GROUPS
    places = np.indices(shape).reshape(GROUPS, -1).T
    macs = (10 + places @ np.array([7, 3, 11, 5])).reshape(shape)
    gains = rng.uniform(0.005, 0.02, GROUPS)
    noise = rng.normal(0, 0.004, shape)
    return WidthTable(0.8 + (places @ gains).reshape(shape) + noise, macs)


def test_a_file_of_the_benchmark_is_read_by_its_digits(tmp_path: Path) -> None:
    states = list(product("1234", repeat=2))
    content = {
        "".join(s): {
            "mean": 10.0 * int(s[0]) + int(s[1]),
            "acc": [20.0 * int(s[0]), 2.0 * int(s[1])],
            "flops": int(s[0]) * int(s[1]),
        }
        for s in states
    }
    path = tmp_path / "table.json"
    path.write_text(json.dumps(content))
    read = read_table(path)
    assert read.macs.shape == (4, 4) and read.macs[3, 1] == 8
    assert read.accuracies[2, 0] == pytest.approx(0.31)
    assert read.runs is not None
    assert read.runs[:, 2, 1] == pytest.approx([0.6, 0.04])
    del content["23"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lists 15 of 16 configurations"):
        read_table(path)


@pytest.mark.parametrize("name", [name for name in SEARCHES if name != "AutoSlim"])
def test_searches_look_at_distinct_states_within_the_limit(table: WidthTable, name: str) -> None:
    limit = int(0.6 * table.macs.max())
    states = SEARCHES[name](table, limit, 12, np.random.default_rng(0))
    assert len(set(states)) == len(states) <= 12
    assert all(table.macs[state] <= limit for state in states)
    again = SEARCHES[name](table, limit, 12, np.random.default_rng(0))
    assert states == again


def test_regret_is_what_the_best_so_far_lacks(table: WidthTable) -> None:
    limit = int(0.6 * table.macs.max())
    fitting = [tuple(map(int, s)) for s in np.argwhere(table.macs <= limit)]
    fitting.sort(key=lambda state: table.accuracies[state])
    worst, middle, best = fitting[0], fitting[len(fitting) // 2], fitting[-1]

    def search(*_: object) -> list[tuple[int, ...]]:
        return [middle, worst, best]

    found = regrets(table, search, limit, 5, seeds=2)
    lost = table.accuracies[best] - table.accuracies[middle]
    assert np.allclose(found, [[lost, lost, 0, 0, 0]] * 2)


def test_searches_end_at_the_optimum_when_they_may_look_at_nearly_everything(
    table: WidthTable,
) -> None:
    limit = int(0.6 * table.macs.max())
    count = int((table.macs <= limit).sum())
    for name in ("evolution, no prior", "PSE-Net", "BCNet", "BNP's chain"):
        found = regrets(table, SEARCHES[name], limit, count - 4, seeds=5)
        assert np.median(found[:, -1]) == 0
        assert (np.diff(found, axis=1) <= 0).all()


def test_a_chain_that_finds_nothing_new_ends() -> None:
    table = WidthTable(np.array([0.5, 0.6, 0.7]), np.array([1, 2, 3]))
    states = SEARCHES["BNP's chain"](table, 2, 9, np.random.default_rng(0))
    assert sorted(states) == [(0,), (1,)]


def test_slimming_pays_for_what_it_looks_at_on_its_way_down() -> None:
    # Of two groups the second is worth nothing: it goes first, down to the narrowest.
    places = np.indices((3, 3))
    table = WidthTable(0.5 + 0.1 * places[0], 1 + places[0] + places[1])
    states = SEARCHES["AutoSlim"](table, 3, 9, np.random.default_rng(0))
    assert states == [(1, 2), (2, 1), (1, 1), (2, 0)]
    found = regrets(table, SEARCHES["AutoSlim"], 3, 6, seeds=1)
    assert np.isnan(found[0, :2]).all()
    assert found[0, 2:] == pytest.approx([0.1, 0, 0, 0])


def test_a_search_takes_what_scores_best_and_is_judged_by_the_accuracy() -> None:
    accuracies = np.array([0.5, 0.9, 0.7, 0.99])
    table = WidthTable(accuracies, np.array([1, 2, 3, 9]), seen=np.array([0.1, 0.2, 0.3, 0.9]))

    def search(*_: object) -> list[tuple[int, ...]]:
        return [(3,), (1,), (0,), (2,)]

    found = regrets(table, search, 3, 5, seeds=1)
    assert np.isnan(found[0, 0])  # nothing that fits yet
    assert found[0, 1:] == pytest.approx([0, 0, 0.2, 0.2])  # the last looks better and is worse


def test_scores_of_one_training_are_judged_by_the_others() -> None:
    runs = np.array([[0.1, 0.2], [0.3, 0.5], [0.5, 0.9]])
    table = WidthTable(runs.mean(0), np.array([1, 2]), runs=runs)
    seen = SCORES["One training"](table, 4)
    assert seen.scores.tolist() == [0.3, 0.5]
    assert seen.accuracies == pytest.approx([0.3, 0.55])
    with pytest.raises(ValueError, match="no single trainings"):
        SCORES["One training"](WidthTable(runs.mean(0), np.array([1, 2])), 0)


def test_noise_is_the_same_for_every_search_and_another_for_every_seed(table: WidthTable) -> None:
    first, again, other = (SCORES["Noisy scores"](table, seed) for seed in (0, 0, 1))
    assert (first.scores == again.scores).all() and (first.scores != other.scores).all()
    assert (first.accuracies == table.accuracies).all()
    noise = first.scores - table.accuracies
    assert noise.std() == pytest.approx(table.spread, rel=0.3)  # 81 draws


def test_the_table_of_regrets_names_every_search_and_budget(table: WidthTable) -> None:
    text = to_markdown(measure(table, {0.6: int(0.6 * table.macs.max())}, 30, seeds=3))
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    assert [row[1] for row in rows] == [*SEARCHES, "all of them"]
    heading = "| MACs | Search | after 10 | after 30 | to no prior, after 10 |"
    assert text.splitlines()[0] == heading
    assert rows[list(SEARCHES).index(CONTROL)][-1] == "–"
    assert rows[-1][-2] == "0.00 [0.00, 0.00]"  # true scores of all that fit have no regret


def test_a_difference_is_bold_where_its_interval_leaves_zero_out() -> None:
    # Evolution keeps close to the limit, where nothing is good here; greedy growth begins where
    # something is.
    accuracies = np.zeros((8, 8))
    accuracies[0, 0], accuracies[5, 1] = 0.5, 0.9
    macs = 1 + np.indices((8, 8)).sum(0)
    measured = measure(WidthTable(accuracies, macs), {0.6: 9}, 30, seeds=6)
    text = to_markdown(measured)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    last = {row[1]: row[-1] for row in rows}
    assert last["greedy"] == "**-50.00 [-50.00, -50.00]**"
    assert last["PSE-Net"] == "+0.00 [+0.00, +0.00]"
    counted = summary([measured, measured])
    assert "| greedy | 2 of 2 | 0 of 2 | -50.00 to -50.00 |" in counted
    assert "| PSE-Net | 0 of 2 | 0 of 2 | +0.00 to +0.00 |" in counted
    alike = counted.split("Never told apart from the control: ")[1].split(".")[0]
    assert "PSE-Net" in alike and "greedy" not in alike
    turned = [{0.6: {name: -each for name, each in measured[0.6].items()}}]
    assert "greedy" in summary(turned).split("often than not: ")[1]


def test_rounding_is_no_difference() -> None:
    accuracies = np.full((8, 8), 0.9)
    measured = measure(WidthTable(accuracies, 1 + np.indices((8, 8)).sum(0)), {0.6: 9}, 30, seeds=6)
    off = {0.6: {name: each + 1e-13 * (name == "random") for name, each in measured[0.6].items()}}
    assert "**" not in to_markdown(off)
    assert "| random | 0 of 1 | 0 of 1 | +0.00 to +0.00 |" in summary([off])
    clear = {0.6: {name: each + 1e-3 * (name == "random") for name, each in measured[0.6].items()}}
    assert "| random | 0 of 1 | 1 of 1 | +0.00 to +0.00 |" in summary([clear])


def test_searches_are_compared_before_they_have_seen_all(table: WidthTable) -> None:
    measured = measure(table, {0.6: int(0.6 * table.macs.max())}, 100, seeds=2)
    (heading, *_) = to_markdown(measured).splitlines()
    assert heading == "| MACs | Search | after 10 | after 30 | after 100 | to no prior, after 30 |"
    counted = measured[0.6]["random"][:, 29] - measured[0.6][CONTROL][:, 29]
    assert f"{counted.mean():+.2f}" in to_markdown(measured)


def test_the_published_pages_have_all_parts(table: WidthTable) -> None:
    runs = np.stack([table.accuracies, 0.9 * table.accuracies])
    subject = replace(OURS, evaluations=30)
    small = page(WidthTable(table.accuracies, table.macs, runs=runs), subject, seeds=2)
    docs = Path(__file__).parents[3] / "docs"
    pages = [(docs / each.page.name).read_text("utf-8") for each in (OURS, CHANNEL_BENCH)]
    for each in (small, *pages):
        headings = [line[3:] for line in each.splitlines() if line.startswith("## ")]
        assert headings == ["Which differ", *SCORES]


def test_the_published_page_is_about_the_published_table() -> None:
    text = (Path(__file__).parents[3] / OURS.page).read_text("utf-8")
    assert text.startswith(introduction(read_table(TABLE), OURS))


@pytest.mark.slow
def test_the_published_page_is_what_the_program_writes() -> None:
    text = (Path(__file__).parents[3] / OURS.page).read_text("utf-8")
    assert text == page(read_table(TABLE), OURS, seeds=50)


def test_the_introduction_counts_networks_noise_and_how_dense_good_ones_are() -> None:
    runs = np.array([[[0.5, 0.6], [0.592, 0.8]], [[0.5, 0.6], [0.6, 0.8]]])
    table = WidthTable(runs.mean(0), np.array([[1, 2], [3, 10]]), runs=runs)
    text = introduction(table, replace(OURS, budgets=(0.1, 0.3))).replace("\n  ", " ")
    assert "2 groups of 2 widths are few" in text
    assert "within 30 % of the MACs, 67 % have at most half a point" in text  # 0.596 and 0.6
    # Costs are 1, 2, 3 and 10, the budgets 1 and 3, nine tenths of which are 0 and 2 in whole MACs.
    assert "1 / 2 networks cost at least that at 10 / 30 % of the MACs" in text
    # Variances 0.008^2 / 2 and three times 0, halved for means of two.
    noise = 100 * (0.008**2 / 2 / 4 / 2) ** 0.5
    assert "highest of 4 means of 2 trainings, each mean with" in text
    assert f"deviation of about {noise:.2f} points" in text
    with pytest.raises(ValueError, match="no single trainings"):
        introduction(WidthTable(runs.mean(0), table.macs), OURS)


@pytest.mark.skipif(
    "ZOO_WIDTH_TABLE" not in os.environ,
    reason="set ZOO_WIDTH_TABLE to Results_ResNet.json of Channel-Bench-Macro, which carries no "
    "licence and is therefore no part of this repository",
)
def test_the_published_table_is_the_one_its_authors_describe() -> None:
    read = read_table(Path(os.environ["ZOO_WIDTH_TABLE"]))
    assert read.macs.shape == (4,) * 7
    assert (read.macs.min(), read.macs.max()) == (90_096_896, 1_436_226_560)
    found = regrets(read, SEARCHES["random"], read.macs.max() // 2, 50, seeds=3)
    assert 0 <= found[:, -1].mean() < 0.005
    text = (Path(__file__).parents[3] / CHANNEL_BENCH.page).read_text("utf-8")
    assert text.startswith(introduction(read, CHANNEL_BENCH))
