"""Accuracy against costs: points and whiskers lie within their axes, and words apart from them."""

import pytest
from matplotlib.colors import to_hex

from benchmarks.analysis.comparison import compare
from benchmarks.analysis.uncertainty import estimate
from benchmarks.figures.accuracy import (
    accuracy_against_cost,
    accuracy_against_latency,
    accuracy_against_macs,
)
from benchmarks.figures.all_figures import plotted
from benchmarks.figures.rows import training_cost
from benchmarks.figures.search import (
    search_traces,
)
from benchmarks.figures.style import (
    FAINT,
    look,
)
from benchmarks.records.cell import Model
from benchmarks.records.record import PhaseCost, Top1
from benchmarks.records.runtime import Interval, Quartiles
from tests.benchmarks.fabricate import ENVIRONMENT, cell, measured, record
from tests.benchmarks.figures.test_all_figures import RECORDS, searched


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


def test_a_parent_s_line_is_the_mean_over_seeds_however_many_methods_ran_on_each():
    ran = [("uniform", 0, 0.9), *((method, 1, 0.7) for method in ("uniform", "fpgm", "taylor"))]
    found = [
        record(method, 0.5, seed).model_copy(update={"top1": Top1(parent=parent, finetuned=0.6)})
        for method, seed, parent in ran
    ]
    (axis,) = accuracy_against_macs(compare(found)).axes
    (line,) = [line for line in axis.get_lines() if line.get_linestyle() == ":"]
    assert line.get_ydata() == pytest.approx([80, 80])


def test_an_axis_ends_where_the_data_do_and_a_far_parent_is_a_word():
    (axis,) = accuracy_against_macs(compare([record("taylor", b) for b in (0.25, 0.5)])).axes
    low, high = axis.get_xlim()
    assert 0.15 < low < 0.25 and 0.5 < high < 0.6
    assert not [line for line in axis.get_lines() if line.get_marker() == "*"]
    assert [text.get_text() for text in axis.texts] == [
        "\N{MIDDLE DOT}\N{MIDDLE DOT}\N{MIDDLE DOT} parent at 1 \N{RIGHTWARDS ARROW}"
    ]
    near = accuracy_against_macs(compare([record("taylor", b) for b in (0.25, 0.8)])).axes[0]
    (star,) = [line for line in near.get_lines() if line.get_marker() == "*"]
    assert star.get_xdata()[0] == 1 < near.get_xlim()[1] and not near.texts


@pytest.mark.parametrize("above", [0.01, 0.05, 0.15])
def test_nothing_is_drawn_through_the_word_on_the_parent(above):
    controls = [record(cell=cell("parent", 1.0), top1=0.8 + above / 2)]
    controls += [record(cell=cell("uniform", 0.5, s, longer=4), top1=0.8 + s * above)
                 for s in (0, 1)]  # fmt: skip
    figure = accuracy_against_macs(compare([record("taylor", 0.25), *controls]))
    (axis,) = figure.axes
    figure.draw_without_rendering()
    (word,) = axis.texts
    box = word.get_window_extent()
    assert axis.bbox.y0 < box.y0 and box.y1 < axis.bbox.y1
    drawn = [line.get_window_extent() for line in axis.get_lines()]
    drawn += [bars.get_window_extent() for bars in axis.collections]
    assert len(drawn) > 4 and not [each for each in drawn if each.y1 >= box.y0]


@pytest.mark.parametrize("draw", [accuracy_against_macs, search_traces])
def test_no_title_runs_over_the_edge_or_into_the_next(draw):
    gpu = ENVIRONMENT.model_copy(update={"gpu": "Accelerator Nine 80GB HBM3 of a long name"})
    found = [
        searched().model_copy(update={"environment": place, "cell": searched().cell.model_copy(
            update={"device": device, "model": Model(name="a_long_name_of_a_network")})})
        for place, device in ((ENVIRONMENT, "cpu"), (gpu, "cuda"))
    ]  # fmt: skip
    figure = draw(compare(found))
    figure.draw_without_rendering()
    titles = [axis.title for axis in figure.axes if axis.get_visible()]
    assert len(titles) in (2, 4) and all("trained on" in title.get_text() for title in titles)
    boxes = [title.get_window_extent() for title in titles]
    for left, right in zip(boxes[::2], boxes[1::2], strict=True):
        assert left.x0 >= 0 and left.x1 < right.x0 and right.x1 <= figure.bbox.x1


def test_every_point_and_whisker_lies_within_its_axes():
    seeds = [record(m, b, s, top1=t + s / 10) for m, t in (("taylor", 0.2), ("fpgm", 0.6))
             for b in (0.25, 0.5) for s in (0, 1)]  # fmt: skip
    (axis,) = accuracy_against_macs(compare(seeds)).axes
    low, high = axis.get_ylim()
    assert low < 20 and high > 90


def test_whiskers_at_one_budget_stand_side_by_side_and_their_numbers_stay():
    figure = accuracy_against_macs(compare([r for r in RECORDS if r.cell.model.name == "net_a"]))
    lines = [x for x in figure.axes[0].get_lines() if 0.25 in list(x.get_xdata())]
    shown = [round(float(x.get_transform().transform((0.25, 70))[0]), 3) for x in lines]
    assert len(set(shown)) == len(lines) == 3
    true = figure.axes[0].transData.transform((0.25, 70))[0]
    moved = max(abs(place - true) for place in shown) * 72 / figure.dpi  # points
    assert moved == pytest.approx(3, abs=0.01)
    (axis, _) = accuracy_against_latency(compare([record("taylor"), record("fpgm")])).axes
    shown = {tuple(x.get_transform().transform((8.0, 80))) for x in axis.get_lines()
             if list(x.get_xdata()) == [8.0]}  # fmt: skip
    assert len(shown) == 1  # a measured place is not moved


def timed(ratio, control=1.0, **changes):
    """A measurement at batch 1 with what the parent took against itself."""
    at = Quartiles(q25=control, median=control, q75=control)
    return measured(1, ratio).model_copy(update={"control": at, **changes})


def test_latency_has_whiskers_in_both_directions_and_the_parents_own_times_as_a_band():
    times = ((0.7, 0.98), (0.8, 1.01), (0.9, 1.04))
    records = [record("taylor", seed=seed, top1=0.7 + seed / 10, latency=[timed(*found)])
               for seed, found in enumerate(times)]  # fmt: skip
    axis = accuracy_against_latency(compare(records)).axes[0]
    across, up = (bar.get_segments()[0] for bar in axis.collections)
    assert across[:, 0] == pytest.approx(estimate([7, 8, 9]).interval)
    assert up[:, 1] == pytest.approx(estimate([70, 80, 90]).interval)
    (band,) = axis.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((9.8, 10.4))
    alone = timed(0.5, ratio_interval=Interval(low=0.4, high=0.7, level=0.95))
    axis = accuracy_against_latency(compare([record("taylor", latency=[alone])])).axes[0]
    assert axis.collections[0].get_segments()[0][:, 0] == pytest.approx([4, 7])


@pytest.mark.parametrize(
    ("odd", "is_noise"),
    [
        (timed(0.5, 1 / 1.11), True),
        (timed(0.5, 1 / 0.89), True),
        (timed(0.5, 1 / 1.09), False),
        (timed(0.5, suspect="x"), True),
    ],
)
def test_a_speed_that_is_noise_is_grey_is_named_and_is_no_part_of_a_line(odd, is_noise):
    records = [record("taylor", 0.5, latency=[odd]), record("taylor", 0.25, latency=[timed(0.3)])]
    axis = accuracy_against_latency(compare(records)).axes[0]
    grey = [x for x in axis.get_lines() if to_hex(x.get_color()) == FAINT.lower()]
    line = next(x for x in axis.get_lines() if to_hex(x.get_color()) == to_hex(look("taylor")[0]))
    assert [list(x.get_xdata()) for x in grey] == ([[5.0]] if is_noise else [])
    assert list(line.get_xdata()) == ([3.0] if is_noise else [3.0, 5.0])
    assert ("grey, no result" in axis.get_title()) == is_noise
    assert ("(taylor 0.5)" in axis.get_title().replace("\n", " ")) == is_noise


def test_the_whiskers_of_noise_do_not_stretch_the_axis():
    records = [record("taylor", seed=s, latency=[timed(r, 0.8)]) for s, r in enumerate((0.4, 0.9))]
    records += [record("fpgm", seed=s, latency=[timed(0.5 + s / 10)]) for s in (0, 1)]
    axis = accuracy_against_latency(compare(records)).axes[0]
    low, high = axis.get_xlim()
    assert 4.7 < low < 5 and 6.5 < high < 6.8  # taylor's mean is 6.5
