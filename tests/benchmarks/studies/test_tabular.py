"""Searches on a table: read right, judged right, repeatable, and within the budget."""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.tabular import SEARCHES, WidthTable, read_table, regrets, to_markdown

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
        "".join(s): {"mean": 10.0 * int(s[0]) + int(s[1]), "flops": int(s[0]) * int(s[1])}
        for s in states
    }
    path = tmp_path / "table.json"
    path.write_text(json.dumps(content))
    read = read_table(path)
    assert read.macs.shape == (4, 4) and read.macs[3, 1] == 8
    assert read.accuracies[2, 0] == pytest.approx(0.31)
    del content["23"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lists 15 of 16 configurations"):
        read_table(path)


@pytest.mark.parametrize("name", SEARCHES)
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


def test_the_table_of_regrets_names_every_search_and_budget(table: WidthTable) -> None:
    text = to_markdown(table, {0.6: int(0.6 * table.macs.max())}, evaluations=30, seeds=3)
    rows = [line.split(" | ") for line in text.splitlines()[2:]]
    assert [row[1] for row in rows] == list(SEARCHES)
    assert text.splitlines()[0] == "| MACs | Search | after 10 | after 30 |"


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
