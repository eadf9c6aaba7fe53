"""Budgets in pictures: one line style in every panel, and a metric where there are several."""

import io

import pytest
from rich.console import Console

from benchmarks.analysis.comparison import compare
from benchmarks.figures.accuracy import accuracy_against_macs
from benchmarks.figures.rows import kept_widths, training_cost
from benchmarks.figures.search import search_traces
from benchmarks.records.cell import Model
from benchmarks.records.plain import told_budget
from benchmarks.tables.terminal import terminal_table
from tests.benchmarks.fabricate import cell, record

EVOLVED = ({"step": "evolve", "scores": [0.2, 0.5, 0.4]},)
METRICS = compare([
    record(cell=cell("taylor", budget, metric=metric), status=status, reason=reason)
    for metric in ("macs", "params")
    for budget, status, reason in ((0.5, "ok", ""), (0.25, "failed", "x"))
])  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "metric", "wanted"),
    [
        (0.5, "macs", "0.5 of macs"),
        (90_000, "params", "90,000 params"),
        (5.0, "latency_ms", "5 ms"),
        (0.5, "latency", "0.5 of latency"),
    ],
)
def test_a_ratio_is_of_its_metric_and_a_count_is_in_it(budget, metric, wanted):
    assert told_budget(budget, metric) == wanted


def styles(lines):
    """Those of all lines but the ones between stages, which have two points."""
    return {line.get_linestyle() for line in lines if len(line.get_xdata()) != 2}


@pytest.mark.parametrize("draw", [kept_widths, search_traces])
def test_a_budget_has_the_style_of_the_legend_in_a_panel_without_the_others(draw):
    asked = [("net_a", 0.5), ("net_a", 0.25), ("net_b", 0.25)]
    traces = [
        record(cell=cell("bcnet", budget, model=Model(name=name)), trace=EVOLVED)
        for name, budget in asked
    ]
    figure = draw(compare(traces))
    (legend,) = figure.legends
    named = {text.get_text(): line.get_linestyle() for text, line in zip(
        legend.get_texts(), legend.get_lines(), strict=True)}  # fmt: skip
    assert (named["budget 0.5"], named["budget 0.25"]) == ("-", "--")
    both, one = figure.axes
    assert styles(both.get_lines()) == {"-", "--"} and styles(one.get_lines()) == {"--"}


def test_budgets_of_two_metrics_have_styles_of_their_own_and_are_told_with_them():
    figure = kept_widths(METRICS)
    (legend,) = figure.legends
    told = [text.get_text() for text in legend.get_texts()]
    assert told == [f"budget {ratio} of {m}" for m in ("macs", "params") for ratio in (0.5, 0.25)]
    assert styles(figure.axes[0].get_lines()) == {"-", ":"}
    assert "no mean at 0.25 of params" in figure.axes[0].get_title()
    names = [label.get_text() for label in training_cost(METRICS).axes[0].get_yticklabels()]
    assert {"taylor  0.5 of macs", "taylor  0.5 of params"} <= set(names)
    assert "taylor 0.25 of macs, 0.25 of params" in drawn_text(accuracy_against_macs(METRICS))


def drawn_text(figure):
    return " ".join(" ".join(axis.get_title(loc) for loc in ("left", "center", "right"))
                    for axis in figure.axes).replace("\n", " ")  # fmt: skip


def test_the_terminal_names_metrics_where_there_are_several():
    console = Console(file=io.StringIO(), width=120)
    console.print(terminal_table(METRICS[0]))
    text = console.file.getvalue()
    assert text.count("0.5 of macs") == text.count("0.5 of params") == 1
