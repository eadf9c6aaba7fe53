"""What a paper takes: numbers as LaTeX sets them, tests of the whole table, and no overflow."""

import contextlib
import io
import re
import shutil
import subprocess

import pytest
from rich.console import Console

from benchmarks.analysis.comparison import compare
from benchmarks.analysis.findings import Findings
from benchmarks.analysis.uncertainty import estimate
from benchmarks.figures.accuracy import accuracy_against_macs
from benchmarks.figures.style import look
from benchmarks.page import paper
from benchmarks.page.paper import asked_methods, write_paper
from benchmarks.records.cell import Model, Origin
from benchmarks.tables.paper_table import chosen_rows, paper_table, tex_number
from benchmarks.tables.tables import to_markdown
from benchmarks.tables.terminal import terminal_table
from tests.benchmarks.fabricate import cell, record
from tests.benchmarks.figures.test_accuracy import timed

ODD = "x_y" * 20 + " \\evil{} $ & % # ~ ^ \u4e2d " + "z" * 70


def results(seeds=(0, 1, 2)):
    """Three methods at two budgets; `taylor` gains about ten points and `fpgm` nothing."""
    gains = {"uniform": (0, 0, 0), "taylor": (0.1, 0.101, 0.102), "fpgm": (0.0, -0.02, 0.001)}
    return [
        record(cell=cell(method, budget, seed), top1=0.7 + 0.01 * seed + gains[method][seed])
        for method in gains
        for budget in (0.5, 0.25)
        for seed in seeds
    ]


@pytest.mark.parametrize(
    ("values", "pattern", "wanted"),
    [
        ([0.001, -0.001], "+.1f", r"0.0_{\pm {<}0.1}"),
        ([-0.001, -0.001], "+.1f", "0.0"),
        ([1.134, 1.1341], ".2f", r"1.13_{\pm {<}0.01}"),
        ([1.13, 1.13], ".2f", "1.13"),
        ([-2.0, -3.0], "+.1f", r"-2.5_{\pm 0.7}"),
        ([2.0, 3.0], "+.1f", r"+2.5_{\pm 0.7}"),
        ([4.2], ".1f", "4.2"),
        ([3, 8], ".0f", r"6_{\pm 4}"),
        ([3, 3.1], ".0f", r"3_{\pm {<}1}"),
    ],
)
def test_a_number_has_a_true_sign_and_is_never_nothing_give_or_take_nothing(
    values, pattern, wanted
):
    assert tex_number(estimate(values), pattern) == wanted
    assert tex_number(None, pattern) == "--"


def test_a_table_has_few_columns_a_label_and_numbers_in_mathematics_only():
    (comparison,) = compare(results())
    text = paper_table(comparison, (), "here")
    assert r"\label{tab:here}" in text and "$-0.6_{" in text
    rows = [
        line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line
    ]
    assert len(rows) == 1 + 6 + 1 and {line.count("&") for line in rows} == {4}
    outside = "".join(re.sub(r"\$[^$]*\$", "", line) for line in rows[1:])
    assert not re.search(r"[0-9]|-(?!-)(?<!--)", outside.replace("--", "").replace("A/", ""))


def test_methods_are_chosen_and_bold_stays_that_of_the_whole_table():
    (comparison,) = compare(results())
    whole, some = paper_table(comparison, (), "a"), paper_table(comparison, ["fpgm"], "a")
    assert whole.count(r"\mathbf") == 2 and r"\mathbf" not in some
    assert "taylor" not in some and some.count("fpgm") == 2
    assert "Bold: clear by a paired t-test" in whole
    assert "None is clear by a paired t-test" in some
    assert "whole table's 4 differences; 2 shown here" in some
    assert paper_table(comparison, ["nobody"], "a") == ""
    (one,) = compare([r for r in results() if r.cell.budget == 0.5 and r.cell.method != "fpgm"])
    assert "whole table's 1 difference; 1 shown here" in paper_table(one, (), "a")


def test_a_speed_that_is_noise_is_grey_and_the_caption_says_so():
    (noisy,) = compare([record("taylor", latency=[timed(0.5, 0.85)])])
    (sound,) = compare([record("taylor", latency=[timed(0.5, 0.95)])])
    text = paper_table(noisy, (), "a")
    assert r"\textcolor[gray]{0.55}{$2.00$}" in text and "Grey speeds are no result" in text
    text = paper_table(sound, (), "a")
    assert "textcolor" not in text and "Grey" not in text and "$2.00$" in text


def test_tables_and_the_terminal_say_of_a_speed_that_it_is_noise():
    for control, is_noise in ((0.85, True), (0.95, False)):
        (comparison,) = compare([record("taylor", latency=[timed(0.5, control)])])
        text = to_markdown([comparison])
        assert (text.count("| 2.00 (noise) |"), text.count("| 100 (noise) |")) == (
            (2, 2) if is_noise else (0, 0)
        )
        console = Console(file=io.StringIO(), width=120)
        console.print(terminal_table(comparison))
        assert ("2.00x noise" in console.file.getvalue()) == is_noise


def test_a_row_that_lost_a_seed_says_so_and_has_no_number():
    lost = record("taylor", 0.5, 3, status="failed", reason="x")
    (comparison,) = compare([*results(), lost])
    (line,) = [x for x in paper_table(comparison, (), "a").splitlines() if "failed" in x]
    assert line == r"taylor & \multicolumn{4}{l@{}}{1 of 4 failed} \\"


def test_budgets_of_milliseconds_are_in_order_and_one_of_them_is_no_whole_network():
    budgets = (1, 3, 2.5, 2)
    records = [
        record(cell=cell(method, budget, metric="latency_ms"), size=None)
        for budget in budgets
        for method in ("uniform", "taylor")
    ]
    (comparison,) = compare([*records, record("parent", 1.0)])
    text = paper_table(comparison, (), "a")
    assert re.findall(r"emph\{(.*?)\}", text) == [
        "Budget 3 ms", "Budget 2.5 ms", "Budget 2 ms", "Budget 1 ms", "Not pruned"
    ]  # fmt: skip
    counts = [record("uniform", budget, size=None) for budget in (500_000, 0.5, 1.0, 900_000)]
    assert [row.budget for row in compare(counts)[0].rows] == ["1", "0.5", "900,000", "500,000"]


def test_unknown_methods_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"no records of nobody; --methods can name: fpgm; taylor"):
        write_paper(Findings.of(results()), tmp_path / "paper", ["fpgm", "nobody"])
    assert not (tmp_path / "paper").exists()
    comparisons = compare(results())
    assert asked_methods(" fpgm, uniform,,fpgm", comparisons) == ["fpgm", "uniform"]
    with pytest.raises(ValueError, match="no records of tylor; --methods can name"):
        asked_methods("fpgm,tylor", comparisons)
    with pytest.raises(ValueError, match="--methods names no method"):
        asked_methods(" ,", comparisons)


def own(method="my_pruner.py:MyPruner", **changes):
    """A record of a method in a file."""
    source, digest = Origin(file=method.partition(":")[0], digest="0" * 16), changes
    return record(cell=cell(method, 0.5, 0, origin=source, **digest))


def test_an_own_method_is_chosen_and_labelled_by_its_class(tmp_path):
    records = [*results(), own()]
    (comparison,) = compare(records)
    assert asked_methods("MyPruner,uniform", [comparison]) == ["MyPruner", "uniform"]
    assert asked_methods("my_pruner.py:MyPruner", [comparison]) == ["my_pruner.py:MyPruner"]
    for name in ("MyPruner", "my_pruner.py:MyPruner"):
        (line,) = [x for x in paper_table(comparison, [name], "a").splitlines() if "Pruner" in x]
        assert line.startswith("MyPruner & $")
    variants = [own(settings={"power": power}) for power in (1, 2)]
    text = paper_table(compare([*records, *variants])[0], ["MyPruner"], "a")
    assert text.count("MyPruner") == 3 and "py" not in text.replace("my", "")
    shown = [rows for rows in drawn_legends(tmp_path, records) if "MyPruner" in rows]
    assert shown and not any("my_pruner.py:MyPruner" in rows for rows in shown)


def drawn_legends(folder, records, methods=()):
    """The texts of the legends below all figures for a paper."""
    found = []

    def kept(figure, *args, **kwargs):
        found.extend([text.get_text() for text in legend.get_texts()] for legend in figure.legends)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", kept)
        patch.setattr(paper, "_figure", lambda *_: "")
        with contextlib.suppress(OSError):  # no file is drawn
            write_paper(Findings.of(records), folder, methods)
    return found


def test_two_classes_of_one_name_keep_their_files():
    (comparison,) = compare([own(), own("other.py:MyPruner"), own("taylor.py:taylor"), *results()])
    labels = {comparison.label(row) for row in comparison.rows}
    assert {"my_pruner.py:MyPruner", "other.py:MyPruner", "taylor.py:taylor", "taylor"} <= labels


def test_names_with_commas_are_read_as_they_are_shown():
    arm = record(cell=cell("parent", 1.0, 0))
    variant = record(cell=cell("taylor", 0.5, 0, settings={"a": 1, "b": 2}))
    (comparison,) = compare([*results(), arm, variant])
    chosen = asked_methods("uniform,parent, fine-tuned,taylor (a=1,b=2), fpgm", [comparison])
    assert chosen == ["uniform", "parent, fine-tuned", "taylor (a=1, b=2)", "fpgm"]
    text = paper_table(comparison, ["parent, fine-tuned", "taylor (a=1, b=2)"], "a")
    assert len([line for line in text.splitlines() if line.count("&") == 4]) == 1 + 2 + 1


@pytest.mark.parametrize(("scale", "unit"), [(1, "T"), (1e-3, "G"), (1e-6, "M"), (1e-12, "M")])
def test_spent_macs_have_a_unit_in_which_they_are_seen(scale, unit):
    def cheap(one):
        spent = {
            phase: cost.model_copy(
                update={
                    "macs_forward": round(cost.macs_forward * scale),
                    "macs_backward": round(cost.macs_backward * scale),
                }
            )
            for phase, cost in one.spent.items()
        }
        return one.model_copy(update={"spent": spent})

    (comparison,) = compare([cheap(one) for one in results()])
    text = paper_table(comparison, (), "a")
    assert f"Speed-up & {unit}MACs" in text and f"{unit}MACs are those of search" in text
    assert (text.count("$1.80$") == 0) == (scale == 1e-12)
    assert f"Search {unit}MACs" in to_markdown([comparison])


def test_figures_show_the_chosen_methods_only(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(paper, "draw_for_paper", lambda shown, *_: drawn.append(shown) or [])
    write_paper(Findings.of(results()), tmp_path, ["taylor", "uniform"])
    assert {row.cell.method for shown in drawn for row in shown.rows} == {"taylor", "uniform"}


def with_variants():
    """The same with a longer control, two variants of `taylor`, and a parent that only one has."""
    longer = [record(cell=cell(seed=seed, longer=9), top1=0.75) for seed in (0, 1, 2)]
    variants = [record(cell=cell("taylor", settings={"n": n}), top1=0.7) for n in (1, 2)]
    alone = record("fpgm", 0.5, 3)
    elsewhere = alone.model_copy(update={"top1": alone.top1.model_copy(update={"parent": 0.5})})
    return [*results(), *longer, *variants, elsewhere]


def test_a_chosen_variant_keeps_its_name_and_the_numbers_of_the_whole_table_in_figures():
    (whole,) = compare(with_variants())
    for name in ("uniform (fine-tuned=longer)", "taylor (n=1)"):
        shown = whole.showing(chosen_rows(whole, [name]))
        assert [shown.label(row) for row in shown.rows] == [name]
        assert shown.parent_top1 == whole.parent_top1 and len(whole.parent_top1.values) == 4
        assert shown.control(smallest=True) == whole.control(smallest=True)
        assert shown.heading == whole.heading
    some = whole.showing(chosen_rows(whole, ["taylor"]))
    assert len(some.rows) == 4 < len(whole.rows)
    for row in some.rows:
        assert some.p_value(row) == whole.p_value(row)
        assert some.detectable(row) == whole.detectable(row)
    counts = [record(cell=cell("uniform", 0.5, metric="params")), *results()]
    several = next(c for c in compare(counts) if len(c.rows) > 1)
    part = several.showing(chosen_rows(several, ["taylor"]))
    assert [*map(part.told_budget, part.rows)] == [*map(several.told_budget, part.rows)]


def test_figures_of_a_variant_alone_draw_it_as_one_and_name_no_plain_method(tmp_path):
    legends = drawn_legends(tmp_path, with_variants(), ["uniform (fine-tuned=longer)"])
    assert legends and not any("uniform" in texts for texts in legends)
    assert any("uniform, fine-tuned longer" in texts for texts in legends)
    legends = drawn_legends(tmp_path, with_variants(), ["taylor (n=1)", "fpgm"])
    assert any({"taylor (n=1)", "fpgm"} <= {*texts} for texts in legends)
    assert not any("taylor" in texts for texts in legends)
    (whole,) = compare(with_variants())
    for name, is_hollow in (("taylor (n=1)", True), ("fpgm", False)):
        (axis,) = accuracy_against_macs([whole.showing(chosen_rows(whole, [name]))]).axes
        lines = [line for line in axis.get_lines() if line.get_marker() == look(name.split()[0])[1]]
        assert [line.get_markerfacecolor() == "none" for line in lines] == [is_hollow]


def test_a_figure_is_left_out_for_which_the_chosen_rows_have_nothing(tmp_path):
    bare = record("l1_norm", 0.5, latency=(), groups=())
    assert not bare.groups and not bare.latency
    write_paper(Findings.of([*results(), bare]), tmp_path, ["l1_norm"])
    drawn = {path.stem for path in tmp_path.glob("*.pdf")}
    assert drawn == {"accuracy_macs", "accuracy_cost", "accuracy_params", "training_cost"}


def test_comparisons_have_files_and_labels_of_their_own(tmp_path):
    named = [record(cell=cell(model=Model(name=name))) for name in ("net_a", "net-a", "b")]
    write_paper(Findings.of(named), tmp_path)
    text = (tmp_path / "figures.tex").read_text() + (tmp_path / "tables.tex").read_text()
    labels = re.findall(r"\\label\{([^}]*)\}", text)
    assert len(set(labels)) == len(labels) == 3 * 7
    files = re.findall(r"keepaspectratio\]\{([^}]*)\}", text)
    assert {path.stem for path in tmp_path.glob("*.pdf")} == {*files}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (texlive-latex-base)")
@pytest.mark.parametrize("model", ["tiny_net", ODD])
def test_the_article_compiles_in_two_columns_without_overflow(tmp_path, model):
    variant = record(cell=cell("taylor", 0.5, settings={"note": ODD}))
    records = [r.model_copy(update={"cell": r.cell.model_copy(update={"model": Model(name=model)})})
               for r in [*results(), variant]]  # fmt: skip
    article = write_paper(Findings.of(records), tmp_path)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", article.name],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    log = (tmp_path / "paper.log").read_text("latin-1")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in log and "twocolumn" in article.read_text()
