"""The first words of the page: what the tests of the tables support, and nothing else."""

import csv
import io

import pytest

from benchmarks.analysis.comparison import compare
from benchmarks.analysis.findings import Findings
from benchmarks.page.page import build_page
from benchmarks.records.cell import Model
from benchmarks.records.contrast import Contrast, Primary
from benchmarks.records.record import Top1
from benchmarks.tables.ablation import ablation_table
from benchmarks.tables.contrast_lines import contrast_lines
from benchmarks.tables.finding import finding
from benchmarks.tables.tables import to_csv, to_short_markdown
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


WILD = (-0.45, 0.0, 0.4)


def wild(*methods, **settings):
    """Three seeds of uniform width, and of methods whose gains spread by tens of points."""
    named = Primary(contrast=Contrast(method="bnp", budget=0.5), metric="macs", seeds=(0, 1, 2))
    asked = [cell("uniform", seed=seed) for seed in range(3)]
    asked += [cell(method, seed=seed, **settings) for method in methods for seed in range(3)]
    return [
        record(cell=each, top1=0.5 + (WILD[each.seed] if each.method != "uniform" else 0),
               primary=(named,))
        for each in asked
    ]  # fmt: skip


def test_no_detectable_difference_is_beyond_what_accuracies_can_differ_by():
    assert told(wild("bnp"))[-1] == (
        "Tested was one difference, Holm-corrected at 5 % within each table. "
        "Such a test finds no difference with 80 % power, however large it is."
    )
    assert told(wild("bnp", "taylor", "fpgm"))[-1].endswith(
        "At least half of such tests find no difference with 80 % power, however large it is."
    )
    records = wild("bnp", "taylor", "fpgm")
    comparisons = compare(records)
    assert min(c.detectable(row) for c in comparisons for row in c.rows if row.gain) > 1
    assert "detectable: none)" in contrast_lines(comparisons)[0]
    assert to_short_markdown(comparisons).count("| none |") == 3
    assert build_page(Findings.of(records), title="x").count(">none</td>") == 3
    found = csv.DictReader(io.StringIO(to_csv(comparisons)))
    assert [row["top1_to_uniform_detectable"] for row in found].count("inf") == 3
    variants = [each for each in wild("bnp", settings={"steps": 3}) if each.cell.method == "bnp"]
    shifted = [each.model_copy(update={"top1": Top1(finetuned=0.5)}) for each in variants]
    assert "| none |" in ablation_table(compare([*wild("bnp"), *shifted]))


def test_many_are_counted_and_networks_named_where_there_are_several():
    found = told(results({"taylor": 0.1, "fpgm": 0.2, "bnp": 0.25}, models=("net_a", "net_b")))[0]
    assert found.count("points") == 4 and found.endswith("and 2 more.")
    assert "bnp at 0.5 on net_a on digits (+25.1 points)" in found


def test_a_budget_is_told_with_its_metric_where_there_are_two():
    params = [
        each.model_copy(update={"cell": each.cell.model_copy(update={"metric": "params"})})
        for each in results({"taylor": 0.2})
    ]
    first = told([*results({"taylor": 0.1}), *params])[0]
    assert "taylor at 0.5 of params (+20.1 points), taylor at 0.5 of macs (+10.1 points)." in first


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
