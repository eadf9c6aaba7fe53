"""The writer that all Markdown tables come from."""

import re
from pathlib import Path

import pytest

from benchmarks.tables.markdown import Written, bold, markdown_table

ROOT = Path(__file__).parents[3]


def test_texts_are_escaped_and_what_is_written_is_left():
    table = markdown_table(("A", "B"), "lr", [("a|b", bold("1|2")), (Written("`c`"), "3")])
    assert table == "| A | B |\n|---|---:|\n| a\\|b | **1\\|2** |\n| `c` | 3 |\n"


@pytest.mark.parametrize(("align", "row"), [("lr", ("a",)), ("lr", ("a", "b", "c")), ("l", "ab")])
def test_a_row_of_another_length_is_refused(align, row):
    with pytest.raises(ValueError, match="of 2 columns"):
        markdown_table(("A", "B"), align, [row])


def test_nobody_writes_the_rule_of_a_table_by_hand():
    sources = [path for path in (ROOT / "benchmarks").rglob("*.py") if path.stem != "markdown"]
    assert not [path for path in sources if re.search(r"\|---|\"---", path.read_text())]
