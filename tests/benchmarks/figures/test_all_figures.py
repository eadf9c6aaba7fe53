import gc
import itertools

import matplotlib.image
import pytest
from matplotlib.colors import to_hex
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.analysis.comparison import compare
from benchmarks.analysis.findings import Findings
from benchmarks.analysis.published import Point, published_for
from benchmarks.analysis.ranking import collect_rankings
from benchmarks.analysis.standing import average_ranks
from benchmarks.figures import accuracy as plot_accuracy
from benchmarks.figures.accuracy import (
    accuracy_against_cost,
    accuracy_against_latency,
    accuracy_against_macs,
    accuracy_against_params,
)
from benchmarks.figures.all_figures import digest_of, draw_figures, figures_of, plotted
from benchmarks.figures.rows import kept_widths, training_cost
from benchmarks.figures.search import critical_difference, proxy_against_accuracy, search_traces
from benchmarks.figures.style import METHODS, look
from benchmarks.records.cell import Model
from benchmarks.records.record import PhaseCost
from tests.benchmarks.fabricate import cell, record

RECORDS = [
    record(cell=cell(method, budget, model=Model(name=model)), top1=0.5 + budget / 2)
    for method, budget, model in itertools.product(
        ("uniform", "taylor", "brand_new"), (0.5, 0.25), ("net_a", "net_b")
    )
]
ALL = (
    accuracy_against_macs,
    accuracy_against_params,
    accuracy_against_latency,
    accuracy_against_cost,
    training_cost,
    kept_widths,
)


SAMPLE = {"count": 4, "low": 0.3, "high": 0.35}


def ranked(seeds=(0, 1)):
    """A ranking of four configurations by one method, and the configurations trained alone."""
    parts = []
    for seed in seeds:
        asked = cell("taylor", 0.35, seed, sample=SAMPLE)
        parts.append(record(cell=asked, scores=(0.1, 0.2, 0.4, 0.3 + seed)))
        for member in range(4):
            alone = cell("standalone", 0.35, seed, sample=SAMPLE, member=member)
            parts.append(record(cell=alone, top1=0.5 + 0.1 * member))
    return parts


def searched(**changes):
    trace = (
        {"step": "train_pairs", "losses": [3.0, 2.0, 1.0]},
        {"step": "evolve", "scores": [0.2, 0.5, 0.4]},
    )
    return record("bcnet", trace=trace, **changes)


def test_every_figure_is_written_as_png_and_pdf_and_shows_something(tmp_path):
    paths = draw_figures(Findings.of([*RECORDS, *ranked(), searched()]), tmp_path)
    assert len(paths) == 2 * (len(ALL) + 2)
    for path in paths:
        if path.suffix == ".png":
            pixels = matplotlib.image.imread(path)[..., :3]
            assert (pixels.min(axis=2) < 0.9).mean() > 0.01
        else:
            assert path.read_bytes().startswith(b"%PDF") and path.stat().st_size > 5_000


def test_known_methods_look_different_in_colour_and_marker():
    assert len({look(method) for method in METHODS}) == len(METHODS)
    assert len({look(method)[0] for method in METHODS}) == len(METHODS)


@pytest.mark.parametrize("method", ["uniform", "taylor", "brand_new"])
def test_a_method_has_one_colour_and_marker_in_every_figure_and_panel(method):
    colour, marker = look(method)
    # Two networks, and for latency two batches of each.
    for draw, panels in ((accuracy_against_macs, 2), (accuracy_against_latency, 4)):
        figure = draw(compare(RECORDS))
        drawn = [
            line
            for axis in figure.axes
            for line in axis.get_lines()
            if to_hex(line.get_color()) == to_hex(colour)
        ]
        assert len(drawn) == panels and {line.get_marker() for line in drawn} == {marker}
    for draw in (training_cost, kept_widths):
        figure = draw(compare(RECORDS))
        labels = [
            label
            for axis in figure.axes
            for label in axis.get_yticklabels()
            if label.get_text().startswith(method)
        ]
        assert len(labels) == 4 and {to_hex(label.get_color()) for label in labels} == {
            to_hex(colour)
        }


def test_a_look_does_not_depend_on_who_else_is_drawn():
    alone = accuracy_against_macs(compare([r for r in RECORDS if r.cell.method == "taylor"]))
    (line,) = [x for x in alone.axes[0].get_lines() if x.get_marker() == look("taylor")[1]]
    assert to_hex(line.get_color()) == to_hex(look("taylor")[0])


def test_the_lines_go_through_the_records_numbers():
    figure = accuracy_against_macs(compare([r for r in RECORDS if r.cell.method == "taylor"]))
    line = next(x for x in figure.axes[0].get_lines() if x.get_marker() == look("taylor")[1])
    assert line.get_xdata().tolist() == [0.25, 0.5]
    assert line.get_ydata().tolist() == [62.5, 75.0]


def test_latency_is_the_paired_ratio_of_the_parents_time():
    figure = accuracy_against_latency(compare([r for r in RECORDS if r.cell.method == "taylor"]))
    lines = [x for axis in figure.axes for x in axis.get_lines() if x.get_marker() == "h"]
    # The parent takes 10 ms; ratios are 0.8 at batch 1 and 0.5 at batch 8.
    assert [set(line.get_xdata().tolist()) for line in lines] == [{8.0}, {5.0}, {8.0}, {5.0}]


def test_bars_add_up_to_what_was_spent():
    figure = training_cost(compare([record()]))
    ends = [bar.get_x() + bar.get_width() for bar in figure.axes[0].patches]
    # 3 for the parent, 1 scoring, 0.5 search, 0.3 fine-tuning, in trillions.
    assert max(ends) == pytest.approx(4.8)


def test_widths_show_the_share_kept_of_each_group():
    figure = kept_widths(compare([record()]))
    (image,) = figure.axes[0].get_images()
    assert image.get_array().tolist() == [[0.5, 0.75]]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        "stem",
        "blocks.0.conv1",
    ]


def test_records_without_a_result_draw_nothing(tmp_path):
    assert draw_figures(Findings.of([record(status="failed", reason="x")]), tmp_path) == []


@pytest.mark.parametrize("draw", ALL)
def test_no_two_tick_labels_of_an_axis_overlap(draw):
    figure = draw(compare(RECORDS))
    figure.canvas.draw()
    renderer = figure._get_renderer()
    for axis in figure.axes:
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            boxes = [x.get_window_extent(renderer) for x in labels if x.get_text()]
            assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_scores_stand_against_the_mean_accuracy_with_their_tau():
    (ranking,) = collect_rankings(ranked())
    (axis,) = proxy_against_accuracy([ranking]).axes
    line = axis.get_lines()[0]
    assert line.get_xdata() == pytest.approx([0.1, 0.2, 0.4, 0.8])  # means over two seeds
    assert line.get_ydata() == pytest.approx([50, 60, 70, 80])
    assert f"tau {ranking.agreements[ranking.scorers[0].name].tau:.2f}" in axis.get_title()


def test_a_trace_shows_the_best_so_far_and_the_losses():
    evaluations, losses = search_traces(compare([searched()])).axes
    assert list(evaluations.get_lines()[0].get_ydata()) == [20, 50, 50]
    assert list(losses.get_lines()[0].get_ydata()) == [3, 2, 1]


def test_methods_stand_at_their_average_ranks_and_bars_join_those_that_do_not_differ():
    standing = average_ranks(compare(on_networks(5)))
    (axis,) = critical_difference(standing).axes
    texts = {text.get_text() for text in axis.texts}
    for name, rank in zip(standing.methods, standing.average, strict=True):
        assert f"{name}  {rank:.2f}" in texts
    bars = [line for line in axis.get_lines() if line.get_linewidth() == 3]
    assert len(bars) == len(standing.cliques) == 1  # all three tie in every task


def on_networks(count):
    return [
        record(cell=cell(method, budget, model=Model(name=f"net_{place}")))
        for method, budget in itertools.product(("uniform", "taylor", "fpgm"), (0.5, 0.25))
        for place in range(count)
    ]


def test_a_critical_difference_is_drawn_for_five_networks_and_not_for_ten_tasks_of_four():
    assert "critical_difference" in figures_of(Findings.of(on_networks(5)))
    assert "critical_difference" not in figures_of(Findings.of(on_networks(4)))


def test_a_row_that_lost_a_seed_has_no_point_and_no_bar_and_is_named():
    lost = record("taylor", 0.5, 1, status="failed", reason="x")
    never = record("taylor", 0.125, status="infeasible", reason="x")
    comparisons = compare([record("taylor", 0.5), record("taylor", 0.25), lost, never])
    (axis,) = accuracy_against_macs(comparisons).axes
    line = next(x for x in axis.get_lines() if x.get_marker() == look("taylor")[1])
    assert line.get_xdata().tolist() == [0.25]
    assert axis.get_title().splitlines()[1:] == ["one seed", "no mean: taylor 0.5, 0.125"]
    (axis,) = training_cost(comparisons).axes
    first, second, third = (label.get_text() for label in axis.get_yticklabels())
    assert (first, second) == ("taylor, 1 of 2 failed  0.5", "taylor  0.25")
    assert third == "taylor, 1 of 1 infeasible  0.125"
    assert {bar.get_y() + 0.35 for bar in axis.patches if bar.get_width()} == {1.0}
    (image,) = kept_widths(comparisons).axes[0].get_images()
    assert image.get_array().mask.tolist() == [[True, True], [False, False], [True, True]]


def test_variants_of_a_method_have_its_look_but_are_hollow():
    variant = record(cell=cell("taylor", settings={"batches": 3}))
    figure = accuracy_against_macs(compare([record("taylor"), variant]))
    lines = [x for x in figure.axes[0].get_lines() if x.get_marker() == look("taylor")[1]]
    assert {line.get_markerfacecolor() == "none" for line in lines} == {True, False}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["parent", "taylor"]


POINT = Point(
    method="taylor", model="tiny_net", data="digits", macs=400_000, macs_from="printed", top1=0.77,
    source="made up for a test",
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "count"), [({}, 1), ({"model": "other_net"}, 0), ({"data": "cifar10"}, 0)]
)
def test_published_points_stand_only_beside_the_same_network_and_data(monkeypatch, change, count):
    points = (POINT.model_copy(update=change),)
    monkeypatch.setattr(plot_accuracy, "published_for", lambda cell: published_for(cell, points))
    figure = accuracy_against_macs(compare([record("taylor")]))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels.count("taylor, published") == count
    places = [tuple(x.get_data()[0]) + tuple(x.get_data()[1]) for x in figure.axes[0].get_lines()]
    assert ((0.4, 77.0) in places) == bool(count)


def test_accuracy_against_total_cost_is_the_second_figure():
    assert list(figures_of(Findings.of(RECORDS)))[:2] == ["accuracy_macs", "accuracy_cost"]


def test_figures_of_two_devices_are_never_one():
    elsewhere = record("taylor", fingerprint="cpu-12345678")  # a processor of the same name
    names = figures_of(Findings.of([*RECORDS, elsewhere]))
    devices = {name.partition("-")[2] for name in names if name.startswith("accuracy_macs")}
    assert devices == {f"abacus-3000-{RECORDS[0].runs_on}", "abacus-3000-cpu-12345678"}
    assert "accuracy_macs" not in names and "accuracy_macs" in figures_of(Findings.of(RECORDS))


def test_a_png_carries_a_digest_that_follows_the_data_and_nothing_else(tmp_path):
    draw_figures(Findings.of(RECORDS), tmp_path)
    names = figures_of(Findings.of(RECORDS))
    for name, draw in names.items():
        assert digest_of(tmp_path / f"{name}.png") == plotted(draw())
    changed = [*RECORDS[1:], record(cell=RECORDS[0].cell, top1=0.7512)]
    figure = figures_of(Findings.of(changed))["accuracy_macs"]()
    assert plotted(figure) != digest_of(tmp_path / "accuracy_macs.png")
    figure.set_size_inches(9, 9)
    assert plotted(figure) == plotted(figures_of(Findings.of(changed))["accuracy_macs"]())


def test_a_figure_is_laid_out_once_for_both_formats(tmp_path, monkeypatch):
    laid_out, execute = [], ConstrainedLayoutEngine.execute

    def counted(layout, figure):
        laid_out.append(figure)
        execute(layout, figure)

    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", counted)
    paths = draw_figures(Findings.of(RECORDS), tmp_path)
    assert len(laid_out) == len(paths) / 2 > 0
    assert gc.isenabled()


@pytest.mark.parametrize("draw", [accuracy_against_cost, training_cost])
def test_what_a_method_s_own_finish_cost_is_no_cost_of_its_decision(draw):
    own = {"finetune_own": PhaseCost(macs_forward=10**14)}
    finished = [each.model_copy(update={"spent": {**each.spent, **own}}) for each in RECORDS]
    assert plotted(draw(compare(finished))) == plotted(draw(compare(RECORDS)))


def test_controls_are_told_apart_in_the_legend_and_ranked_as_one_over_budgets():
    asked = [cell("parent", 1.0), *(cell("uniform", b, longer=int(2 / b)) for b in (0.5, 0.25))]
    comparisons = compare([*RECORDS, *(record(cell=each) for each in asked)])
    tiny = next(each for each in comparisons if each.cell.model.name == "tiny_net")
    figure = accuracy_against_macs([tiny])
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert len(set(labels)) == len(labels)
    assert {"parent", "parent, fine-tuned", "uniform, fine-tuned longer"} <= {*labels}
    assert len({tiny.label(row) for row in tiny.rows if row.cell.longer}) == 1
