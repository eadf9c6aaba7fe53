"""The page that says which number is which: short, and with the numbers of the code."""

from pathlib import Path

from benchmarks.analysis.standing import FEWEST_NETWORKS
from benchmarks.analysis.uncertainty import ERROR, LEVEL, POWER, WIDEST
from benchmarks.records.contrast import Contrast
from benchmarks.records.runtime import MOST_DRIFT
from benchmarks.tables.tables import DETECTABLE, GAIN

PAGE = (Path(__file__).parents[3] / "docs" / "statistics.md").read_text("utf-8")


def section(heading: str) -> str:
    """A section, its lines joined."""
    return " ".join(PAGE.split(f"## {heading}\n")[1].split("\n## ")[0].split())


def test_it_fits_two_screens() -> None:
    lines = PAGE.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 120


def test_its_numbers_are_those_of_the_code() -> None:
    table = section("In a table")
    assert f"t-test (both sides) at {ERROR:.0%}".replace("%", " %") in table
    assert f"bootstrap {LEVEL:.0%} interval".replace("%", " %") in table
    assert f"with {POWER:.0%} power".replace("%", " %") in table
    assert f'"none" above {100 * WIDEST:.0f}' in table
    assert f"off by more than {MOST_DRIFT:.0%}".replace("%", " %") in table
    assert FEWEST_NETWORKS == 5 and "appear from five on" in section("Over several networks")


def test_it_explains_what_tables_test_and_what_a_contrast_is_made_of() -> None:
    for column in (GAIN, DETECTABLE):
        assert f"**{column.pattern}**" in section("In a table")
    asked = section("Asked before the run")
    given = [name for name in Contrast.model_fields if "origin" not in name]  # filled in by a run
    assert given and all(f"`{name}`" in asked for name in given)
