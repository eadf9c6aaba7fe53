"""The table of false alarms is what the command draws, and its columns say what was drawn."""

from pathlib import Path

import pytest

from benchmarks.records.files import load_records
from benchmarks.studies.false_alarms import BLOCK, DRAWS, FALLS, METHODS, SEEDS, alarms
from benchmarks.tables.marked_blocks import block_of

ROOT = Path(__file__).parents[3]
LIKE = load_records(ROOT / "results" / "smoke" / "records")[0]


def rows() -> list[list[str]]:
    lines = block_of((ROOT / "docs" / "comparing.md").read_text("utf-8"), BLOCK).strip().split("\n")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_there_is_a_row_for_each_number_of_seeds_and_a_share_in_each_column() -> None:
    headings, _, *found = rows()
    assert [row[0] for row in found] == [str(seeds) for seeds in SEEDS]
    assert {len(row) for row in (headings, *found)} == {1 + len(METHODS) + 2 * len(FALLS)}


@pytest.mark.parametrize(
    ("seeds", "heading", "drawn"),
    [
        (1, "no change, 4 methods", (4, 1)),
        (2, "no change, 2 methods", (2, 2)),
        (1, "3 points lost by 2 of 4", (4, 1, 0.03, 2)),
    ],
)
def test_a_share_is_drawn_anew_to_the_digit(
    seeds: int, heading: str, drawn: tuple[float, ...]
) -> None:
    headings, _, *found = rows()
    share = sum(alarms(LIKE, DRAWS, *drawn)) / DRAWS
    (row,) = [row for row in found if row[0] == str(seeds)]
    renew = "stale; renew it: python -m benchmarks.studies.false_alarms"
    assert row[headings.index(heading)] == f"{100 * share:.1f} %", renew


def test_what_is_lost_comes_from_the_first_methods_alone() -> None:
    assert all(alarms(LIKE, 20, 4, 3, 0.8, 1)) and not any(alarms(LIKE, 20, 4, 3, 0.8, 0))
