"""Which variant is drawn as its method, and what a legend calls the others."""

import pytest

from benchmarks.analysis.comparison import compare
from benchmarks.figures.variants import entries_of, is_plain
from tests.benchmarks.fabricate import cell, record


@pytest.mark.parametrize("best", [1, 2])
def test_the_plain_variant_is_one_whatever_the_results_and_whichever_rows_are_shown(best):
    (whole,) = compare(
        record(cell=cell("taylor", settings={"n": n}), top1=0.8 if n == best else 0.7)
        for n in (1, 2)
    )
    assert [row.cell.settings["n"] for row in whole.rows] == [best, 3 - best]
    for shown in (whole, *(whole.showing([row]) for row in whole.rows)):
        plain = {row.cell.settings["n"] for row in whole.rows if is_plain(shown, row)}
        assert plain == {1}


def test_a_legend_names_a_variant_only_where_its_method_stands_nowhere():
    (whole,) = compare([record("taylor"), record(cell=cell("taylor", settings={"n": 1}))])
    (variant,) = [row for row in whole.rows if row.cell.settings]
    assert entries_of([whole]) == ({"taylor"}, [])
    methods, (entry,) = entries_of([whole.showing([variant])])
    assert methods == set() and entry.get_label() == "taylor (n=1)"
