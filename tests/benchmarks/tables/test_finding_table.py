"""The finding in a few rows: which rows stand there, in which order, and what each cell says."""

from benchmarks.analysis.comparison import compare
from benchmarks.records.contrast import Contrast, Primary
from benchmarks.records.record import Record, Top1
from benchmarks.tables.finding_table import finding_table
from benchmarks.tables.tables import to_short_markdown
from tests.benchmarks.fabricate import cell, record

ASKED = Primary(contrast=Contrast(method="bnp", budget=0.5), metric="macs", seeds=(0, 1))


def top1(common: float, own: float | None = None) -> Top1:
    return Top1(parent=0.9, pruned=0.1, recalibrated=0.3, finetuned=common, own=own)


def made(method: str, budget: float, common: float, own: float | None = None) -> list[Record]:
    return [
        record(method, budget, seed, primary=(ASKED,), top1=common).model_copy(
            update={"top1": top1(common, own)}
        )
        for seed in (0, 1)
    ]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[part.strip() for part in line.strip("|").split("|")] for line in lines]


def test_rows_are_the_sides_of_the_contrast_and_the_longer_control() -> None:
    longer = [
        record(cell=cell("uniform", 0.5, seed, longer=2), top1=0.85, primary=(ASKED,))
        for seed in (0, 1)
    ]
    records = [
        *made("uniform", 0.5, 0.7), *made("bnp", 0.5, 0.8, 0.82), *made("taylor", 0.5, 0.9),
        *made("uniform", 0.25, 0.6), *longer,
    ]  # fmt: skip
    table = finding_table(compare(records))
    assert table.startswith("tiny_net on digits, parent 90.0 ± 0.0 %, 2 seeds:")
    head, _, *body = rows(table)
    assert head == ["Method", "Top-1 % at 0.5 MACs", "Total", "Top-1 % at 0.25 MACs", "Total"]
    # scoring 1 + search 0.5 + fine-tuning 0.1 + 0.2, in 10^12
    assert body == [
        ["uniform (fine-tuned=longer)", "85.0 ± 0.0", "1.80", "–", "–"],
        ["bnp", "80.0 ± 0.0 (82.0 ± 0.0)", "1.80", "–", "–"],
        ["uniform", "70.0 ± 0.0", "1.80", "60.0 ± 0.0", "1.80"],
    ]


def test_without_a_contrast_there_is_nothing_to_tell() -> None:
    assert finding_table(compare([record("uniform"), record("bnp")])) == ""


def test_a_row_that_lost_a_seed_says_so() -> None:
    lost = record("bnp", seed=2, status="failed", reason="no memory", primary=(ASKED,))
    records = [*made("uniform", 0.5, 0.7), *made("bnp", 0.5, 0.8), lost]
    *_, last = rows(finding_table(compare(records)))
    assert last[0] == "bnp" and "1 of 3 failed" in last[1] and last[2] == "–"


def test_the_legend_names_the_rows_that_are_there_and_no_others() -> None:
    against = Contrast(method="knapsack", against="bnp", budget=0.5)
    asked = {"primary": (Primary(contrast=against, metric="macs", seeds=(0,)),)}
    sides = [record("knapsack", **asked), record("bnp", **asked)]
    text = finding_table(compare([*sides, record("uniform", **asked)]))
    assert text.endswith("whole table. Rows: the methods of the primary contrasts.\n")
    longer = record(cell=cell("uniform", longer=2), **asked)
    text = finding_table(compare([*sides, longer]))
    assert text.endswith(
        "in 10¹². Rows: uniform width fine-tuned for what the dearest method costs and the methods "
        "of the primary contrasts.\n"
    )
    text = finding_table(compare([*made("uniform", 0.5, 0.7), *made("bnp", 0.5, 0.8), longer]))
    assert text.endswith(
        "Bold: more accurate than uniform, Holm-corrected over the network's whole table. "
        "Rows: uniform width, uniform width fine-tuned for what the dearest method costs, and the "
        "methods of the primary contrasts.\n"
    )


def test_a_row_of_fewer_seeds_than_the_heading_tells_them() -> None:
    def seeds(method: str, budget: float, count: int) -> list[Record]:
        return [record(method, budget, seed, primary=(ASKED,)) for seed in range(count)]

    records = [*seeds("uniform", 0.5, 3), *seeds("uniform", 0.25, 3)]
    assert [row[0] for row in rows(finding_table(compare(records)))[2:]] == ["uniform"]
    even = finding_table(compare([*records, *seeds("bnp", 0.5, 2), *seeds("bnp", 0.25, 2)]))
    assert ", 3 seeds:" in even and "| bnp; 2 seeds |" in even and "| uniform |" in even
    one = finding_table(compare([*records, *seeds("bnp", 0.5, 3), *seeds("bnp", 0.25, 1)]))
    assert "| bnp; one seed at 0.25 MACs |" in one
    two = finding_table(compare([*records, *seeds("bnp", 0.5, 2), *seeds("bnp", 0.25, 1)]))
    assert "| bnp; 2 seeds at 0.5 MACs, one seed at 0.25 MACs |" in two


def test_bold_says_nothing_of_the_own_finish_which_was_not_tested() -> None:
    def seeds(method: str, gains: tuple[float, ...], own: float | None = None) -> list[Record]:
        return [
            record(method, 0.5, seed, primary=(ASKED,), top1=0.7 + gain).model_copy(
                update={"top1": top1(0.7 + gain, own)}
            )
            for seed, gain in enumerate(gains)
        ]

    clear = finding_table(
        compare([*seeds("uniform", (0.0,) * 3), *seeds("bnp", (0.1, 0.101, 0.102), 0.9)])
    )
    assert rows(clear)[2][1] == "**80.1 ± 0.1** (90.0 ± 0.0)"


def test_a_row_of_fewer_seeds_than_others_tells_them_in_a_short_table_too() -> None:
    records = [record("uniform", 0.5, seed) for seed in range(3)]
    few = [record("bnp", 0.5, seed) for seed in range(2)]
    lost = record("taylor", 0.5, 2, status="failed", reason="no memory")
    text = to_short_markdown(compare([*records, *few, lost]))
    named = {row[1] for row in rows(text) if row[0] == "0.5 MACs"}
    assert named == {"bnp; 2 seeds", "uniform", "taylor"}
