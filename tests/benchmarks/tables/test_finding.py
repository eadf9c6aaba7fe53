"""The first words of the page: what the tests of the tables support, and nothing else."""

import pytest

from benchmarks.analysis.comparison import compare
from benchmarks.analysis.findings import Findings
from benchmarks.records.cell import Model
from benchmarks.records.contrast import Contrast, Primary
from benchmarks.tables.finding import finding
from tests.benchmarks.fabricate import cell, record

NOISE = (0.0, 0.01, 0.005, -0.003)


def results(gains, models=("tiny_net",), budgets=(0.5,), **changes):
    """Four seeds of uniform width and of methods whose gains spread a little around one size."""
    return [
        record(
            cell=cell(method, budget, seed, model=Model(name=model)),
            top1=0.7 + gain + (NOISE[seed] / 5 if method != "uniform" else 0),
            **changes,
        )
        for method, gain in {"uniform": 0.0, **gains}.items()
        for model in models
        for budget in budgets
        for seed in range(4)
    ]


def told(records):
    return finding(Findings.of(records))


def test_clear_gains_and_losses_are_named_with_their_sizes_the_largest_first():
    first, second, third = told(results({"taylor": 0.1, "fpgm": 0.2, "bnp": -0.15, "l1_norm": 0.0}))
    assert first == (
        "Clearly more accurate than uniform width at the same budget: fpgm at 0.5 (+20.1 points), "
        "taylor at 0.5 (+10.1 points)."
    )
    assert second == "Clearly less accurate: bnp at 0.5 (\N{MINUS SIGN}14.9 points)."
    assert third.startswith("Tested were 4 differences, Holm-corrected at 5 % within each table.")


def test_exactly_what_the_tables_mark_is_called_clear():
    records = results({"taylor": 0.0015, "fpgm": 0.004, "bnp": 0.0}, budgets=(0.5, 0.25))
    (comparison,) = compare(records)
    marked = {row.method for row in comparison.rows if comparison.is_clear_gain(row)}
    words = told(records)[0]
    assert {name for name in ("taylor", "fpgm", "bnp") if f"{name} at" in words} == marked
    assert 0 < len(marked) < 3


def test_where_nothing_is_clear_no_method_is_praised_and_the_power_is_told():
    (comparison,) = compare(results({"taylor": 0.0}))
    first, second = told(results({"taylor": 0.0}))
    assert first == "No method is clearly more accurate than uniform width at the same budget."
    size = comparison.detectable(next(row for row in comparison.rows if row.gain))
    assert second.startswith("Tested was one difference, Holm-corrected")
    assert f"would find is {100 * size:.1f} points." in second


def test_many_are_counted_and_networks_named_where_there_are_several():
    found = told(results({"taylor": 0.1, "fpgm": 0.2, "bnp": 0.25}, models=("net_a", "net_b")))[0]
    assert found.count("points") == 4 and found.endswith("and 2 more.")
    assert "bnp at 0.5 on net_a on digits (+25.1 points)" in found


def test_one_seed_tells_nothing_and_no_comparison_nothing_at_all():
    (only,) = told([record("uniform"), record("taylor", top1=0.99)])
    assert only.startswith("Nothing tells a method from uniform width here")
    assert told([record("taylor")]) == told([]) == []


@pytest.mark.parametrize(
    ("gain", "seeds", "wanted"),
    [
        (0.1, 4, "As asked before the run: taylor is clearly more accurate than uniform at 0.5 of "
         "macs, tiny_net on digits (+10.1 points)."),
        (0.0, 4, "The contrast named before the run shows no clear difference."),
        (0.1, 5, None),
    ],
)  # fmt: skip
def test_a_contrast_named_before_comes_first_if_it_is_confirmatory(gain, seeds, wanted):
    named = Primary(
        contrast=Contrast(method="taylor", against="uniform", budget=0.5),
        metric="macs",
        seeds=tuple(range(seeds)),
    )
    first = told(results({"taylor": gain}, primary=(named,)))[0]
    assert first == wanted if wanted else "before the run" not in first
