import itertools

import matplotlib.image
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from benchmarks.plots import (
    METHODS,
    accuracy_against_latency,
    accuracy_against_macs,
    draw_figures,
    kept_widths,
    look,
    training_cost,
)
from benchmarks.record import Model
from benchmarks.report import compare
from tests.benchmarks.fabricate import cell, record

RECORDS = [
    record(cell=cell(method, budget, model=Model(name=model)), top1=0.5 + budget / 2)
    for method, budget, model in itertools.product(
        ("uniform", "taylor", "brand_new"), (0.5, 0.25), ("net_a", "net_b")
    )
]
ALL = (accuracy_against_macs, accuracy_against_latency, training_cost, kept_widths)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_every_figure_is_written_as_png_and_pdf_and_shows_something(tmp_path):
    paths = draw_figures(RECORDS, tmp_path)
    assert len(paths) == 2 * len(ALL)
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
    assert draw_figures([record(status="failed", reason="x")], tmp_path) == []


@pytest.mark.parametrize("draw", ALL)
def test_no_two_tick_labels_of_an_axis_overlap(draw):
    figure = draw(compare(RECORDS))
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    for axis in figure.axes:
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            boxes = [x.get_window_extent(renderer) for x in labels if x.get_text()]
            assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
