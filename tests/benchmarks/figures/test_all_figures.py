import gc
import io
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
from benchmarks.figures.search import (
    critical_difference,
    proxy_against_accuracy,
    search_traces,
    traced,
)
from benchmarks.figures.style import (
    COLUMN_WIDTH,
    DARK,
    LIGHT,
    METHODS,
    PAPER,
    darken,
    drawn_for,
    ink,
    look,
)
from benchmarks.records.cell import Model
from benchmarks.records.join import joined
from tests.benchmarks.fabricate import ENVIRONMENT, cell, record
from tests.benchmarks.machines import GPU, timing, trained

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


def searched(scores=(0.2, 0.5, 0.4), **changes):
    trace = (
        {"step": "train_pairs", "losses": [3.0, 2.0, 1.0]},
        {"step": "evolve", "scores": [*scores]},
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
    bars = [x for axis in training_cost(compare(RECORDS)).axes for x in axis.get_yticklabels()]
    panels = [axis.title for axis in kept_widths(compare(RECORDS)).axes]
    # Two networks, and in the bars two budgets of each.
    for texts, count in ((bars, 4), (panels, 2)):
        labels = [label for label in texts if method in label.get_text()]
        assert len(labels) == count
        assert {to_hex(label.get_color()) for label in labels} == {to_hex(colour)}


def test_widths_of_one_network_on_two_processors_name_them():
    gpu = ENVIRONMENT.model_copy(update={"gpu": "GPU 9"})
    there = record(cell=cell("taylor", device="cuda")).model_copy(update={"environment": gpu})
    titles = [a.get_title() for a in kept_widths(compare([record("taylor"), there])).axes]
    assert sum("GPU 9" in title for title in titles) == 1
    assert len({*titles}) == 2 and all(title.startswith("tiny_net\n") for title in titles)


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
    # 1 scoring, 0.5 search, 0.3 fine-tuning, in trillions; 3 for the parent in words.
    assert max(ends) == pytest.approx(1.8)
    assert "training the parent: 3.00 T more, for all" in figure.axes[0].get_title("right")


def test_widths_show_the_share_kept_of_each_group():
    figure = kept_widths(compare([record()]))
    (line,) = steps(figure.axes[0])
    assert line.get_xdata().tolist() == [-0.5, 0.5, 0.5, 1.5]
    assert line.get_ydata().tolist() == [0.5, 0.5, 0.75, 0.75]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["–", "0"]


def steps(axis):
    """The lines of kept widths, without those between stages."""
    return [line for line in axis.get_lines() if len(line.get_xdata()) > 2]


def test_widths_are_means_over_seeds_in_a_shade_from_least_to_most():
    groups = [[{"name": "stem", "size": 8, "kept": kept}] for kept in (2, 4, 6, 6)]
    figure = kept_widths(compare([record(seed=s, groups=g) for s, g in enumerate(groups)]))
    (line,) = [x for x in figure.axes[0].get_lines() if len(x.get_xdata()) == 2]
    assert line.get_ydata().tolist() == [0.5625, 0.5625]
    (shade,) = figure.axes[0].collections
    heights = shade.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.25, 0.75)


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


def test_scores_of_a_method_that_lost_seeds_have_no_panel_and_are_named():
    asked = cell("bcnet", 0.35, 0, sample=SAMPLE)
    lost = record(cell=asked, status="failed", reason="no memory")
    (ranking,) = collect_rankings([*ranked(), lost])
    figure = proxy_against_accuracy([ranking])
    assert len(figure.axes) == 1
    (_, note) = figure.get_suptitle().splitlines()
    assert note == "no tau: bcnet on tiny_net on digits, 1 of 1 failed"


def test_a_trace_shows_the_best_so_far_and_the_losses():
    evaluations, losses = search_traces(compare([searched()])).axes
    assert list(evaluations.get_lines()[0].get_ydata()) == [20, 50, 50]
    assert list(losses.get_lines()[0].get_ydata()) == [3, 2, 1]


def test_a_trace_is_the_median_over_seeds_in_a_band_and_goes_on_level_when_a_search_has_ended():
    scores = ([0.2, 0.5], [0.3, 0.1, 0.8], [0.6, 0.1, 0.1])
    seeds = [searched(seed=seed, scores=found) for seed, found in enumerate(scores)]
    evaluations, losses = search_traces(compare(seeds)).axes
    assert list(evaluations.get_lines()[0].get_ydata()) == [30, 50, 60]
    heights = evaluations.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (20, 80)
    assert list(losses.get_lines()[0].get_ydata()) == [3, 2, 1]
    assert evaluations.get_title().splitlines()[1] == "median and range over 3 seeds"
    lost = [*seeds, searched(seed=3, status="failed", reason="x")]
    assert list(traced(compare(lost))) == []


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
    (axis,) = kept_widths(comparisons).axes
    assert len(steps(axis)) == 1
    assert axis.get_title().splitlines() == ["taylor", "no mean at 0.5", "no mean at 0.125"]


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


def test_figures_of_a_network_on_two_devices_are_never_one():
    asked = cell("fpgm", model=Model(name="net_a"))
    elsewhere = record(cell=asked, fingerprint="cpu-12345678")  # a processor of the same name
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


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(
        share * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
        for share, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
    )


def pixels(figure):
    written = io.BytesIO()
    figure.savefig(written, format="rgba")
    return written.getvalue()


def test_a_dark_figure_shows_the_same_in_colours_that_stand_out_from_its_ground():
    comparisons = compare([*RECORDS, searched()])
    for draw in (*ALL, search_traces):
        light = draw(comparisons)
        with drawn_for(DARK):
            dark = draw(comparisons)
        assert plotted(dark) == plotted(light)
        assert luminance(to_hex(dark.get_facecolor())) < 0.02
        assert luminance(to_hex(light.get_facecolor())) > 0.98
        light.draw_without_rendering()  # which makes the last ticks
        darken(light)
        with drawn_for(DARK):
            assert pixels(light) == pixels(dark)
    for canvas, ground in ((LIGHT, "#ffffff"), (DARK, DARK.settings["axes.facecolor"])):
        with drawn_for(canvas):
            colours = [ink(), *(look(method)[0] for method in METHODS)]
        assert len(set(colours)) == len(METHODS) + 1
        for colour in colours:
            ends = sorted((luminance(colour), luminance(ground)))
            assert (ends[1] + 0.05) / (ends[0] + 0.05) >= (4.5 if canvas is DARK else 2.2)
    assert ink() == "#000000"


@pytest.mark.parametrize("draw", [*ALL, search_traces])
def test_a_figure_of_a_paper_is_as_wide_as_a_column_and_nothing_is_cut_off(draw):
    with drawn_for(PAPER):
        figure = draw(compare([*RECORDS, searched()]))
        figure.savefig(io.BytesIO())  # which lays it out
    assert figure.get_size_inches()[0] == COLUMN_WIDTH
    box, room = figure.get_tightbbox(), figure.bbox_inches
    assert box.x0 >= -0.02 and box.x1 <= room.x1 + 0.02


def test_networks_of_one_device_each_are_panels_of_one_figure(tmp_path):
    here, there = (
        [each.model_copy(update={"fingerprint": name}) for each in RECORDS]
        for name in ("cpu-00000001", "cpu-00000002")
    )
    of = {"net_a": here, "net_b": there}
    apart = [each for net, found in of.items() for each in found if each.cell.model.name == net]
    drawn = {path.name for path in draw_figures(Findings.of([*here, *there]), tmp_path)}
    assert len(drawn) == 2 * (len(ALL) + 1)  # the same accuracies, timed twice
    assert not any(n.startswith("accuracy_latency.") for n in drawn)
    mine = {"mine.png", "accuracy_macs-old.png", "accuracy_macs.svg"}
    for name in mine:
        (tmp_path / name).touch()
    one = {path.name for path in draw_figures(Findings.of(apart), tmp_path)}
    assert "accuracy_macs.png" in one and len(one) == 2 * len(ALL)
    # What the records no longer make is gone, and nothing else.
    assert {path.name for path in tmp_path.iterdir()} == {*one, *mine}
    figure = figures_of(Findings.of(apart))["accuracy_macs"]()
    assert [axis.get_title().split("\n")[0].split(" ")[0] for axis in figure.axes] == [
        "net_a",
        "net_b",
    ]


def test_figures_without_times_are_drawn_once_where_two_devices_timed():
    records = [trained(m, seed=s, kept=k) for m, k in (("uniform", 4), ("fpgm", 5)) for s in (0, 1)]
    on_cpu, on_gpu = timing(records[0]), timing(records[0], on=GPU, device="cuda")
    once = figures_of(Findings.of(joined(records, [on_cpu])))
    both = figures_of(Findings.of(joined(records, [on_cpu, on_gpu])))
    times = "accuracy_latency"
    assert {*both} - {*once} == {
        f"{times}-abacus-3000-{on_cpu.fingerprint}",
        f"{times}-gpu-9-{on_gpu.fingerprint}",
    }
    assert {*once} - {*both} == {times}
    for name in {*once} & {*both}:
        assert plotted(once[name]()) == plotted(both[name]())
    assert {*figures_of(Findings.of([*joined(records, [on_cpu, on_gpu]), *ranked()]))} > {*both}


def test_panels_of_latency_name_their_devices_where_these_differ():
    other = {"model": Model(name="other")}
    one, two = trained(), trained(asked=other)
    on_cpu, on_gpu = timing(one), timing(two, on=GPU, device="cuda")
    draw = figures_of(Findings.of(joined([one, two], [on_cpu, on_gpu])))["accuracy_latency"]
    titles = [axis.get_title() for axis in draw().axes]
    assert len(titles) == 4
    for network, name in (("tiny_net", "Abacus 3000 (cpu-"), ("other", "GPU 9 (cuda-")):
        assert sum(network in title and name in title for title in titles) == 2
    alone = figures_of(Findings.of(joined([one, two], [on_cpu, timing(two)])))["accuracy_latency"]
    assert not any("Abacus" in axis.get_title() for axis in alone().axes)
