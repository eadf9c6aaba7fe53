"""Which method to take: the tables, and the page made from the published records."""

from pathlib import Path

from benchmarks.records.files import write_record
from benchmarks.records.record import Record, Top1
from benchmarks.studies.which_method import BLOCK, TUNED, UNTUNED, records_of, tables
from benchmarks.tables.marked_blocks import block_of
from tests.benchmarks.fabricate import ENVIRONMENT, cell, record

ROOT = Path(__file__).parents[3]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[part.strip() for part in line.strip("|").split("|")] for line in lines]


def with_top1(made: Record, **changes: float) -> Record:
    fields = {"parent": 0.9, "pruned": 0.1, "recalibrated": 0.3, "finetuned": 0.8, **changes}
    return made.model_copy(update={"top1": Top1.model_validate(fields)})


def test_without_training_the_mildest_budget_stands_first() -> None:
    untuned = [
        with_top1(record("bnp", 0.5), pruned=0.4, recalibrated=0.6),
        with_top1(record("bnp", 0.9), pruned=0.7, recalibrated=0.8),
        with_top1(record("uniform", 0.5), pruned=0.2, recalibrated=0.5),
    ]
    head, *body = rows(tables(untuned, []))
    assert head == ["Method", "cut, 0.9", "recalibrated, 0.9", "cut, 0.5", "recalibrated, 0.5"]
    assert body == [["bnp", "70.0", "80.0", "40.0", "60.0"], ["uniform", "–", "–", "20.0", "50.0"]]


def test_gains_are_over_the_common_finish_of_uniform_width() -> None:
    tuned = [
        with_top1(record("uniform", 0.5), finetuned=0.8),
        with_top1(record("bnp", 0.5), finetuned=0.81, own=0.84),
        record("parent", 1.0),
    ]
    head, *body = rows(tables([], tuned))
    assert head == ["Method", "0.5: common finish", "own finish", "cost"]
    # scoring 1 + search 0.5 over fine-tuning 0.1 + 0.2, in 10^12
    assert body == [["bnp", "+1.0", "+4.0", "5.0"]]


def test_one_budget_of_two_metrics_has_columns_of_its_own() -> None:
    both: list[Record] = []
    for metric, gain in (("macs", 0.01), ("params", 0.03)):
        asked = [cell(method, 0.5, metric=metric) for method in ("uniform", "bnp")]
        both += [with_top1(record(cell=asked[0]), recalibrated=0.2)]
        both += [with_top1(record(cell=asked[1]), recalibrated=0.2 + gain, finetuned=0.8 + gain)]
    head, line = rows(tables([], both))
    assert head[1::3] == ["0.5 of macs: common finish", "0.5 of params: common finish"]
    assert line[0] == "bnp" and line[1::3] == ["+1.0", "+3.0"]
    head, line, _ = rows(tables(both, []))
    assert head[2::2] == ["recalibrated, 0.5 of macs", "recalibrated, 0.5 of params"]
    assert line[2::2] == ["21.0", "23.0"]


def test_a_method_of_fewer_seeds_than_the_table_tells_them() -> None:
    tuned = [with_top1(record("uniform", at, seed)) for at in (0.5, 0.25) for seed in (0, 1)]
    tuned += [with_top1(record("bnp", at, 0)) for at in (0.5, 0.25)]
    tuned += [with_top1(record("fpgm", at, seed)) for at, seed in ((0.5, 0), (0.5, 1), (0.25, 1))]
    text = tables([], tuned)
    assert "; 2 seeds, parent" in text
    names = [row[0] for row in rows(text)[1:]]
    assert names == ["bnp; one seed", "fpgm; one seed at 0.25"]


def three_seeds(method: str, failed: int = 0) -> list[Record]:
    lost = [record(method, 0.5, s, status="failed", reason="no memory") for s in range(failed)]
    return [*lost, *(with_top1(record(method, 0.5, s), own=0.9) for s in range(failed, 3))]


def test_a_row_that_lost_seeds_says_how_many_and_not_that_it_was_never_run() -> None:
    found = [*three_seeds("uniform"), *three_seeds("bnp"), *three_seeds("fpgm", failed=2)]
    assert rows(tables(found, []))[1:] == [
        ["bnp", "10.0 ± 0.0", "30.0 ± 0.0"],
        ["fpgm", "2 of 3 failed", "2 of 3 failed"],
        ["uniform", "10.0 ± 0.0", "30.0 ± 0.0"],
    ]
    assert rows(tables([], found))[1:] == [
        ["bnp", "+0.0 ± 0.0", "+10.0 ± 0.0", "5.0"],
        ["fpgm", "2 of 3 failed", "2 of 3 failed", "–"],
    ]
    assert "No gains" not in tables([], found)


def test_where_uniform_width_lost_seeds_no_gain_stands_and_the_title_says_so() -> None:
    text = tables([], [*three_seeds("uniform", failed=1), *three_seeds("bnp")])
    assert rows(text)[1:] == [["bnp", "–", "–", "5.0"]]
    assert "No gains over uniform where it lost seeds: 1 of 3 failed at 0.5.\n" in text


def test_tables_of_two_processors_name_them() -> None:
    gpu = ENVIRONMENT.model_copy(update={"gpu": "GPU 9"})
    there = record(cell=cell("bnp", device="cuda")).model_copy(update={"environment": gpu})
    text = tables([], [record("bnp"), there])
    assert text.count("trained on GPU 9**") == 1 and text.count("**, fine-tuned") == 2


def test_the_page_is_that_of_the_published_records() -> None:
    untuned, tuned = (records_of(ROOT / "results", names) for names in (UNTUNED, TUNED))
    page = (ROOT / "docs" / "which_method.md").read_text("utf-8")
    renew = "stale; renew it with: python -m benchmarks.studies.which_method"
    assert block_of(page, BLOCK).strip() == tables(untuned, tuned).strip() != "", renew


def test_a_cell_that_two_suites_have_run_counts_once(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_record(tmp_path / name / "records", record("uniform", 0.5))
    assert len(records_of(tmp_path, ("one", "other"))) == 1


def test_what_another_machine_has_run_stands_in_a_table_of_its_own(tmp_path: Path) -> None:
    other = ENVIRONMENT.model_copy(update={"cpu": "Abacus 4000"})
    for method, top1 in (("uniform", 0.80), ("bnp", 0.82)):
        write_record(tmp_path / "one" / "records", record(method, 0.5, top1=top1))
    later = record("uniform", 0.5, top1=0.9, environment=other, utc="2026-02-01T12:00:00+00:00")
    write_record(tmp_path / "other" / "records", later)
    found = records_of(tmp_path, ("one", "other"))
    assert sorted((each.cell.method, each.top1.finetuned) for each in found) == [
        ("bnp", 0.82), ("uniform", 0.80), ("uniform", 0.90)
    ]  # fmt: skip
    text = tables([], found)
    assert text.count("trained on Abacus 3000**") == text.count("trained on Abacus 4000**") == 1
    assert [line[:2] for line in rows(text) if line[0] == "bnp"] == [["bnp", "+2.0"]]


def test_a_suite_that_lost_a_cell_leaves_it_to_the_next(tmp_path: Path) -> None:
    lost = record("uniform", 0.5, status="failed", reason="no memory")
    for name, made in (("one", lost), ("two", record("uniform", 0.5, top1=0.8)), ("six", lost)):
        write_record(tmp_path / name / "records", made)
    (found,) = records_of(tmp_path, ("one", "two", "six"))
    assert found.top1.finetuned == 0.8
