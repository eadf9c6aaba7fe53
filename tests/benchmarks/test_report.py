import csv
import io

import pytest

from benchmarks.marked import block_of, replace_block
from benchmarks.report import compare, estimate, to_csv, to_latex, to_markdown, write_tables
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

MARKDOWN = """\
### tiny_net on digits

Parent: 1,000,000 MACs, 2,000 parameters, top-1 90.0 %. Parent trained for 3 epochs, every pruned \
network fine-tuned for 2 epochs. Latency on Abacus 3000, 1 thread, float32, channels_last, 2 cells \
side by side; speed-up is the parent's time over the pruned network's, median of paired rounds.

| Budget | Method | Seeds | MACs % | Params % | Top-1 %, pruned | Recalibrated | Fine-tuned \
| To uniform | Speed-up, batch 1 | Speed-up, batch 8 | Search TMACs | Fine-tune TMACs | Search s |
|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
| 0.5 MACs | taylor | one seed | 50.0 | 50.0 | 10.0 | 30.0 | 82.5 | +2.5 | 1.25 | 2.00 | 1.50 \
| 0.30 | 2.0 |
| 0.5 MACs | uniform | one seed | 50.0 | 50.0 | 10.0 | 30.0 | 80.0 | – | 1.25 | 2.00 | 1.50 \
| 0.30 | 2.0 |
| 0.25 MACs | uniform | one seed | 25.0 | 25.0 | 10.0 | 30.0 | 70.0 | – | 1.25 | 2.00 | 1.50 \
| 0.30 | 2.0 |
| 0.25 MACs | taylor | 1 of 1 failed | – | – | – | – | – | – | – | – | – | – | – |
"""

LATEX_ROW = (
    r"0.5 MACs & taylor & one seed & 50.0 & 50.0 & 10.0 & 30.0 & 82.5 & +2.5 & 1.25 & 2.00 "
    r"& 1.50 & 0.30 & 2.0 \\"
)


def rows(records):
    return list(csv.DictReader(io.StringIO(to_csv(compare(records)))))


def test_markdown_of_frozen_records_is_this_text():
    assert to_markdown(compare(FROZEN)) == MARKDOWN


def test_latex_is_booktabs_with_the_same_numbers_and_no_bare_special_character():
    text = to_latex(compare(FROZEN))
    lines = text.splitlines()
    assert LATEX_ROW in lines
    assert [lines.count(rf"\{rule}rule") for rule in ("top", "mid", "bottom")] == [1, 1, 1]
    assert r"tiny\_net" in text and r"MACs \%" in text
    assert not any(bare in text.replace(r"\_", "").replace(r"\%", "") for bare in "_%#–")


def test_csv_holds_unrounded_numbers_record_ids_and_empty_fields_for_what_is_missing():
    taylor, uniform, _, failed = rows(FROZEN)
    assert taylor["finetuned_top1"] == "0.825"
    assert float(taylor["top1_to_uniform"]) == pytest.approx(0.025)  # a difference of two decimals
    assert taylor["macs"] == "500000.0" and taylor["speedup_large_batch"] == "2.0"
    assert taylor["records"] == FROZEN[1].id
    assert uniform["top1_to_uniform"] == "" and taylor["finetuned_top1_half_width"] == ""
    assert (failed["seeds"], failed["ok"], failed["finetuned_top1"]) == ("1", "0", "")


def test_a_row_is_the_mean_over_seeds_with_students_interval():
    records = [record(seed=seed, top1=top1) for seed, top1 in enumerate((0.7, 0.8, 0.9))]
    (row,) = rows(records)
    assert row["seeds"] == "3"
    assert float(row["finetuned_top1"]) == pytest.approx(0.8)
    # Sample deviation 0.1, three seeds, and 4.3027 from a printed table of Student's t.
    assert float(row["finetuned_top1_half_width"]) == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert "| 3 seeds |" in to_markdown(compare(records))
    assert "| 80.0 ± 24.8 |" in to_markdown(compare(records))


def test_one_seed_has_no_interval():
    assert estimate([0.5]).half_width is None


def test_the_difference_to_uniform_is_paired_by_seed():
    uniform = [record("uniform", seed=0, top1=0.5), record("uniform", seed=1, top1=0.9)]
    taylor = [record("taylor", seed=0, top1=0.6), record("taylor", seed=1, top1=1.0)]
    best, _ = rows(uniform + taylor)
    assert best["method"] == "taylor"
    assert float(best["top1_to_uniform"]) == pytest.approx(0.1)
    assert float(best["top1_to_uniform_half_width"]) == pytest.approx(0.0, abs=1e-12)


def test_seeds_that_uniform_lacks_are_left_out_of_the_difference():
    records = [
        record("uniform", seed=0, top1=0.5),
        record("taylor", seed=0, top1=0.6),
        record("taylor", seed=1, top1=0.1),
    ]
    taylor = next(row for row in rows(records) if row["method"] == "taylor")
    assert float(taylor["top1_to_uniform"]) == pytest.approx(0.1)


def test_other_recipes_never_share_a_table():
    longer = cell(finetune={"epochs": 9})
    assert len(compare([record(), record(cell=longer)])) == 2


def test_times_of_different_processors_never_share_a_table():
    elsewhere = ENVIRONMENT.model_copy(update={"cpu": "Slide Rule 2"})
    assert len(compare([record(), record("taylor", environment=elsewhere)])) == 2


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
    paths = write_tables(FROZEN, tmp_path / "tables")
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
