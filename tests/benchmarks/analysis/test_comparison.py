import csv
import io
import math

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import ttest_rel

from benchmarks.analysis.captions import caption
from benchmarks.analysis.comparison import aligned, compare, macs_ratio, realised
from benchmarks.analysis.findings import Findings
from benchmarks.analysis.regression import judge, pair_up
from benchmarks.records.cell import Model
from benchmarks.records.record import PhaseCost
from benchmarks.records.runtime import Quartiles
from benchmarks.tables.contrast_lines import NONE
from benchmarks.tables.legends import LEGEND, OF_SECONDS
from benchmarks.tables.marked_blocks import block_of, replace_block
from benchmarks.tables.tables import (
    to_csv,
    to_latex,
    to_markdown,
    to_short_markdown,
    write_tables,
)
from benchmarks.tables.terminal import terminal_table
from tests.benchmarks.fabricate import ENVIRONMENT, cell, record

BEGIN, END = "<!-- zoo report: begin -->", "<!-- zoo report: end -->"

# One seed, two methods, two budgets, one failure; every number below follows by hand from
# `fabricate.record`: a parent of 1,000,000 MACs and 2,000 parameters at 90 %, ratios 0.8 and 0.5.
FROZEN = [
    record("uniform", 0.5, top1=0.80),
    record("taylor", 0.5, top1=0.825),
    record("uniform", 0.25, top1=0.70),
    record("taylor", 0.25, status="failed", reason="Diverged: training loss nan"),
]

MARKDOWN = f"""\
{NONE}

### tiny_net on digits

Parent: 1,000,000 MACs, 2,000 parameters, top-1 90.0 %. Parent trained for 3 epochs, every pruned \
network fine-tuned for 2 epochs. Latency on Abacus 3000, 1 thread, float32, channels_last, 2 cells \
side by side; speed-up is the parent's time over the pruned network's, median of paired rounds.

| Budget | Method | Seeds | MACs % | Params % | Top-1 %, pruned | Recalibrated \
| Top-1 %, fine-tuned | To uniform | p, Holm | Detectable | MACs ratio | x8 % \
| Speed-up, batch 1 | Realised % \
| Speed-up, batch 8 | Realised % | Search TMACs | Fine-tune TMACs | Search s |
|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
| 0.5 MACs | taylor | one seed | 50.0 | 50.0 | 10.0 | 30.0 | 82.5 | +2.5 | – | – \
| 2.00 | 0 | 1.25 | 25 | 2.00 | 100 | 1.50 | 0.30 | 2.0 |
| 0.5 MACs | uniform | one seed | 50.0 | 50.0 | 10.0 | 30.0 | 80.0 | – | – | – \
| 2.00 | 0 | 1.25 | 25 | 2.00 | 100 | 1.50 | 0.30 | 2.0 |
| 0.25 MACs | uniform | one seed | 25.0 | 25.0 | 10.0 | 30.0 | 70.0 | – | – | – \
| 4.00 | 0 | 1.25 | 8 | 2.00 | 33 | 1.50 | 0.30 | 2.0 |
| 0.25 MACs | taylor | 1 of 1 failed | – | – | 1 of 1 failed | 1 of 1 failed | 1 of 1 failed \
| – | – | – \
| – | – | – | – | – | – | – | – | – |
| – | parent twice (A/A) | – | 100.0 | 100.0 | – | – | 90.0 | – | – | – \
| 1.00 | – | 1.00 ± 0.00 | – | 1.00 ± 0.00 | – | – | – | – |

{LEGEND} {OF_SECONDS}
"""

LATEX_ROW = (
    r"0.5 MACs & taylor & one seed & 50.0 & 50.0 & 10.0 & 30.0 & 82.5 & +2.5 & -- & -- & 2.00 & 0 "
    r"& 1.25 & 25 & 2.00 & 100 & 1.50 & 0.30 & 2.0 \\"
)


def rows(records):
    return list(csv.DictReader(io.StringIO(to_csv(compare(records)))))


def test_markdown_of_frozen_records_is_this_text():
    assert to_markdown(compare(FROZEN)) == MARKDOWN


def test_seconds_and_multiply_adds_of_both_phases_stand_beside_their_total():
    spent = {
        "supernet": PhaseCost(macs_forward=2 * 10**12, seconds=3.0),
        "search": PhaseCost(macs_forward=10**12, seconds=4.0),
        "finetune": PhaseCost(macs_forward=10**12, macs_backward=2 * 10**12, seconds=50.0),
        "finetune_own": PhaseCost(macs_forward=10**12, seconds=600.0),
    }
    text = to_markdown(compare([record(cell=cell(protocol=2), spent=spent)]))
    heading, _, row, *_ = (line for line in text.splitlines() if line.startswith("|"))
    told = dict(zip(heading.split(" | "), row.split(" | "), strict=True))
    cost = {name.strip("| "): text.strip("| ") for name, text in told.items()}
    assert cost["Search TMACs"] == cost["Fine-tune TMACs"] == "3.00"
    assert cost["Total TMACs"] == "6.00"
    seconds = [cost[name] for name in ("Search s", "Fine-tune s", "Total s")]
    assert seconds == ["7.0", "50.0", "57.0"]


@pytest.mark.parametrize("protocol", [1, 2])
def test_seconds_are_called_no_measure_of_cost_where_a_table_has_them_and_nowhere_else(protocol):
    found = compare([record(cell=cell(protocol=protocol))])
    whole, short = to_markdown(found), to_short_markdown(found)
    assert "| Search s |" in whole and whole.count(OF_SECONDS) == 1
    assert " s |" not in short and "seconds" not in short
    assert ("Total is what search" in short) == (protocol == 2)


def test_latex_is_booktabs_with_the_same_numbers_and_no_bare_special_character():
    text = to_latex(compare(FROZEN))
    lines = text.splitlines()
    assert LATEX_ROW in lines
    assert [lines.count(rf"\{rule}rule") for rule in ("top", "mid", "bottom")] == [1, 2, 1]
    assert r"tiny\_net" in text and r"MACs \%" in text
    assert not any(bare in text.replace(r"\_", "").replace(r"\%", "") for bare in "_%#–")


def test_csv_holds_unrounded_numbers_record_ids_and_empty_fields_for_what_is_missing():
    taylor, uniform, _, failed = rows(FROZEN)
    assert taylor["finetuned_top1"] == "0.825"
    assert float(taylor["top1_to_uniform"]) == pytest.approx(0.025)  # a difference of two decimals
    assert taylor["macs"] == "500000.0" and taylor["speedup_large_batch"] == "2.0"
    assert taylor["records"] == FROZEN[1].id
    assert uniform["top1_to_uniform"] == "" and taylor["finetuned_top1_sd"] == ""
    assert (failed["seeds"], failed["ok"], failed["finetuned_top1"]) == ("1", "0", "")


def test_a_row_is_the_mean_over_seeds_with_deviation_and_bootstrap_interval():
    records = [record(seed=seed, top1=top1) for seed, top1 in enumerate((0.7, 0.8, 0.9))]
    (row,) = rows(records)
    assert row["seeds"] == "3"
    assert float(row["finetuned_top1"]) == pytest.approx(0.8)
    assert float(row["finetuned_top1_sd"]) == pytest.approx(0.1)
    # 1 of the 27 resamples is 0.7 three times: more than 2.5 % of them.
    assert float(row["finetuned_top1_low"]) == pytest.approx(0.7)
    assert "| 3 seeds |" in to_markdown(compare(records))
    assert "| 80.0 ± 10.0 [70.0, 90.0] |" in to_markdown(compare(records))


def test_the_gain_realised_is_speed_over_what_macs_promise():
    found = record(budget=0.25)
    assert macs_ratio(found) == 4.0
    # Ratios of 0.8 and 0.5 in time, so speed-ups of 1.25 and 2 of the 4 that MACs promise.
    assert realised(found, smallest=True) == pytest.approx(0.25 / 3)
    assert realised(found, smallest=False) == pytest.approx(1 / 3)
    assert realised(record(budget=0.95), smallest=True) is None  # hardly any gain to realise


def test_widths_are_aligned_if_they_are_multiples_of_eight():
    groups = [
        {"name": name, "size": 64, "kept": kept}
        for name, kept in zip("abcd", (8, 12, 64, 1), strict=True)
    ]
    assert aligned(record(groups=groups)) == 0.5
    assert aligned(record(status="failed", reason="x")) is None


def seeds(method, *top1):
    return [record(method, seed=seed, top1=value) for seed, value in enumerate(top1)]


def test_bold_follows_holm_over_all_differences_of_the_table():
    uniform = seeds("uniform", 0.50, 0.60, 0.70)
    clear = seeds("taylor", 0.53, 0.635, 0.73)  # differences of 3, 3.5 and 3 points: p = 0.0027
    noisy = seeds("fpgm", 0.59, 0.60, 0.89)
    found = uniform + clear + noisy
    (line,) = [line for line in to_short_markdown(compare(found)).splitlines() if "taylor" in line]
    p_value = ttest_rel([0.53, 0.635, 0.73], [0.50, 0.60, 0.70]).pvalue
    assert "| **+3.2 ± 0.3 [+3.0, +3.5]** |" in line and p_value < 0.05 / 2
    (row,) = [row for row in rows(found) if row["method"] == "taylor"]
    assert float(row["top1_to_uniform_p_holm"]) == pytest.approx(2 * p_value)
    assert row["is_clear_gain"] == "True"
    # Another budget makes a family of 20 of the same differences, which one at 5 % is not clear in.
    many = [record(f"m{i}", 0.25, s, top1=0.5) for i in range(18) for s in range(3)]
    many += [record("uniform", 0.25, s, top1=0.5) for s in range(3)]
    assert "**" not in to_short_markdown(compare(found + many)) and 20 * p_value > 0.05
    worse = seeds("taylor", 0.47, 0.565, 0.67)
    assert "**" not in to_short_markdown(compare(uniform + worse))  # clear, and no gain


def test_a_row_that_lost_seeds_makes_no_other_row_s_test_easier():
    found = seeds("uniform", 0.50, 0.60, 0.70) + seeds("taylor", 0.53, 0.635, 0.73)
    lost = [*seeds("fpgm", 0.6, 0.6), record("fpgm", seed=2, status="failed", reason="x")]
    alone, beside = (
        next(row["top1_to_uniform_p_holm"] for row in rows(each) if row["method"] == "taylor")
        for each in (found, found + lost)
    )
    assert float(beside) == pytest.approx(2 * float(alone))


def test_without_any_true_difference_few_tables_have_a_bold_row():
    names = ("uniform", *(f"m{i}" for i in range(10)))
    some = [record(name, seed=seed) for name in names for seed in range(5)]
    rng = np.random.default_rng(0)
    tables = 200
    bold, clear, uncorrected = np.zeros((3, tables), dtype=bool)
    for table in range(tables):
        drawn = rng.normal(0.5, 0.02, size=len(some))
        (comparison,) = compare(
            each.model_copy(update={"top1": each.top1.model_copy(update={"finetuned": top1})})
            for each, top1 in zip(some, drawn, strict=True)
        )
        rows = [row for row in comparison.rows if row.gain]
        bold[table] = any(map(comparison.is_clear_gain, rows))
        clear[table] = any(comparison.p_value(row) <= 0.05 for row in rows)
        uncorrected[table] = any(row.gain.p_value <= 0.05 for row in rows)
    # 5 % of the tables, and two standard errors; of bold, which marks one direction, half.
    assert clear.mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / tables)
    assert bold.mean() <= 0.05 and uncorrected.mean() > 0.2


def test_one_seed_is_never_bold():
    assert "**" not in to_markdown(compare(FROZEN)) + to_short_markdown(compare(FROZEN))


def test_every_table_shows_the_parent_against_itself():
    control = (
        record("taylor")
        .latency[0]
        .model_copy(update={"control": Quartiles(q25=0.4, median=0.5, q75=0.6)})
    )
    records = [record(), record("taylor", latency=[control.model_dump()])]
    for text in (to_markdown(compare(records)), to_short_markdown(compare(records))):
        (line,) = [line for line in text.splitlines() if "(A/A)" in line]
        assert "| 1.50 ± 0.71 |" in line  # 1 and 2
    assert "(A/A)" in to_latex(compare(records))


def test_a_name_cannot_break_out_of_a_table():
    (line,) = [
        line
        for line in to_short_markdown(compare([record("<b>|x")])).splitlines()
        if "&lt;b&gt;" in line
    ]
    assert r"&lt;b&gt;\|x" in line


def test_the_difference_to_uniform_is_paired_by_seed():
    uniform = [record("uniform", seed=0, top1=0.5), record("uniform", seed=1, top1=0.9)]
    taylor = [record("taylor", seed=0, top1=0.6), record("taylor", seed=1, top1=1.0)]
    best, _ = rows(uniform + taylor)
    assert best["method"] == "taylor"
    assert float(best["top1_to_uniform"]) == pytest.approx(0.1)
    assert float(best["top1_to_uniform_sd"]) == pytest.approx(0.0, abs=1e-12)


def test_seeds_that_uniform_lacks_are_left_out_of_the_difference():
    records = [
        record("uniform", seed=0, top1=0.5),
        record("taylor", seed=0, top1=0.6),
        record("taylor", seed=1, top1=0.1),
    ]
    taylor = next(row for row in rows(records) if row["method"] == "taylor")
    assert float(taylor["top1_to_uniform"]) == pytest.approx(0.1)


def test_a_table_says_whether_the_common_loss_has_a_teacher():
    taught = record(cell=cell(protocol=2, distill=1.0))
    titles = [comparison.title for comparison in compare([record(), taught])]
    assert sorted(titles) == ["tiny_net on digits", "tiny_net on digits with distillation"]


def test_other_recipes_never_share_a_table():
    longer = cell(finetune={"epochs": 9})
    assert len(compare([record(), record(cell=longer)])) == 2


def test_of_two_longer_controls_of_one_seed_the_longest_counts_whichever_comes_first() -> None:
    short, long, other = (
        record(cell=cell(seed=seed, longer=longer), top1=top1, images={"test": 1000})
        for seed, longer, top1 in ((0, 8, 0.81), (0, 20, 0.84), (1, 12, 0.80))
    )
    for records in ([short, long, other], [long, other, short]):
        (comparison,) = compare([record(), record(seed=1), *records])
        (row,) = [row for row in comparison.rows if row.cell.longer]
        assert (row.seeds, row.top1_by_seed) == ("2 seeds", {0: 0.84, 1: 0.80})
        assert row.mean(lambda r: r.top1.finetuned).mean == pytest.approx(0.82)
    failed = record(cell=long.cell, status="failed", reason="x")
    (comparison,) = compare([record(), short, failed])
    assert [row.seeds for row in comparison.rows if row.cell.longer] == ["1 of 1 failed"]
    # Nor is the shorter one a repetition whose spread is noise; of one seed this is taken twice.
    pairs = pair_up([short, long], [short, long])
    images = math.sqrt(2 * 0.84 * 0.16 / 1000)
    findings = judge(pairs, ["accuracy"]).findings
    assert findings[0].noise == pytest.approx(2 * images / math.sqrt(2))


def test_seeds_of_the_longer_control_are_one_row_whatever_its_length():
    controls = [
        record(cell=cell(seed=seed, longer=longer)) for seed, longer in enumerate((7, 8, 7))
    ]
    (comparison,) = compare([*controls, *(record(seed=seed) for seed in range(3))])
    assert sorted(len(row.records) for row in comparison.rows) == [3, 3]
    assert {row.cell.longer is None for row in comparison.rows} == {True, False}


def test_csv_tells_a_network_that_was_made_wider_from_its_own_width():
    wide = record(cell=cell(model=Model(name="tiny_net", width=2)))
    assert {row["model"] for row in rows([wide, record()])} == {"tiny_net", "tiny_net x 2"}


def test_times_of_different_processors_never_share_a_table():
    elsewhere = ENVIRONMENT.model_copy(update={"cpu": "Slide Rule 2"})
    assert len(compare([record(), record("taylor", environment=elsewhere)])) == 2


def test_records_of_two_fingerprints_are_never_compared_whatever_their_processor_is_called():
    first, second = "cpu-11111111", "cpu-22222222"
    found = compare([record(fingerprint=first), record("taylor", fingerprint=second)])
    assert [len(comparison.rows) for comparison in found] == [1, 1]
    assert ["Latency on Abacus 3000 (cpu-" in caption(each) for each in found] == [True, True]
    assert {first in caption(found[0]), second in caption(found[0])} == {True, False}
    (together,) = compare([record(fingerprint=first), record("taylor", fingerprint=first)])
    assert len(together.rows) == 2


def test_a_method_with_other_settings_is_another_row_that_says_so():
    tuned = record(cell=cell("taylor", settings={"batches": 3}))
    methods = [row["method"] for row in rows([record("taylor"), tuned])]
    assert sorted(methods) == ["taylor", "taylor (batches=3)"]


def test_a_retried_cell_counts_once():
    failed = record(status="failed", reason="x")
    again = record().model_copy(update={"id": failed.id + "-2"})
    (row,) = rows([failed, again])
    assert (row["seeds"], row["ok"], row["records"]) == ("1", "1", again.id)


def test_all_three_forms_are_written(tmp_path):
    paths = write_tables(Findings.of(FROZEN), tmp_path / "tables")
    assert [path.name for path in paths] == ["results.md", "results.csv", "results.tex"]
    assert paths[0].read_text(encoding="utf-8") == MARKDOWN


def test_only_what_stands_between_the_markers_is_replaced():
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = replace_block(text, "new")
    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert replace_block(once, "new") == once
    assert block_of(once).strip() == "new"
    with pytest.raises(ValueError, match="zoo other: begin"):
        block_of(once, "other")


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_text_without_one_block_is_refused(text):
    with pytest.raises(ValueError, match="expected one block"):
        replace_block(text, "new")


def test_a_label_names_settings_only_where_there_are_variants():
    found = [
        record(cell=cell("taylor", settings={"batches": 3})),
        record(cell=cell("bnp", settings={"steps": 3})),
        record("bnp"),
    ]
    (comparison,) = compare(found)
    labels = {comparison.label(row) for row in comparison.rows}
    assert labels == {"taylor", "bnp", "bnp (steps=3)"}


def test_a_row_that_lost_a_seed_has_no_mean_anywhere_and_says_how_many_failed():
    seeds = range(4)
    found = [record("uniform", 0.5, seed=s, top1=0.5 + 0.01 * s) for s in seeds]
    found += [record("taylor", 0.5, seed=s, top1=0.7 + 0.01 * s) for s in seeds]
    found[0] = record("uniform", 0.5, top1=0.49)
    assert "**" in line_of(found)
    found[-1] = record("taylor", 0.5, seed=3, status="failed", reason="Diverged")
    assert "| taylor | 1 of 4 failed | – | – |" in line_of(found) and "**" not in line_of(found)
    for text in (to_markdown(compare(found)), to_latex(compare(found))):
        assert text.count("1 of 4 failed") == 4  # the seeds, and three accuracies
    row = next(row for row in rows(found) if row["method"] == "taylor")
    assert (row["finetuned_top1"], row["recalibrated_top1"], row["top1_to_uniform"]) == ("",) * 3
    assert (row["lost_seeds"], row["ok"]) == ("1 of 4 failed", "3")
    terminal = Console(width=100, file=io.StringIO())
    terminal.print(terminal_table(compare(found)[0]))
    (line,) = [x for x in terminal.file.getvalue().splitlines() if "taylor" in x]
    assert "1 of 4 failed" in line and "%" not in line


def test_where_uniform_lost_a_seed_there_is_no_difference_to_it():
    found = [*seeds("uniform", 0.5, 0.6), record("uniform", seed=2, status="failed", reason="x")]
    (taylor, _) = rows(found + seeds("taylor", 0.6, 0.71, 0.8))
    assert taylor["finetuned_top1"] != "" and taylor["top1_to_uniform"] == ""


def line_of(found):
    """The row of taylor in the short table."""
    lines = to_short_markdown(compare(found)).splitlines()
    return next(line for line in lines if "taylor" in line)


def test_a_label_leaves_out_the_settings_that_all_variants_have():
    found = [
        record(cell=cell("bnp", settings={"candidates": 9, "steps": 3})),
        record(cell=cell("bnp", settings={"candidates": 9, "steps": 4})),
        record(cell=cell("bnp", settings={"candidates": 9})),
    ]
    (comparison,) = compare(found)
    labels = {comparison.label(row) for row in comparison.rows}
    assert labels == {"bnp", "bnp (steps=3)", "bnp (steps=4)"}


def test_latex_stays_latex_whatever_a_name_holds():
    evil = record(cell=cell("taylor", settings={"note": "\\input{x} $~^<&%_#"}))
    text = to_latex(compare([evil]))
    assert (
        r"note=\textbackslash{}input\{x\} \$\textasciitilde{}\textasciicircum{}$<$\&\%\_\#" in text
    )
