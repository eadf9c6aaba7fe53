"""The one writer of Markdown tables; texts of records are escaped."""

from collections.abc import Iterable, Sequence

from benchmarks.records.plain import in_markdown

__all__ = ["Written", "bold", "markdown_table"]

RULES = {"l": "---", "r": "---:"}


class Written(str):
    """A cell that is Markdown already and is not escaped."""


def bold(text: str) -> Written:
    """A cell that stands out."""
    return Written(f"**{in_markdown(text)}**")


def markdown_table(headings: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """A table, every line of it ended.

    Args:
        headings: of the columns, as Markdown.
        align: a letter for each column as in LaTeX, `l` for words and `r` for numbers.
        rows: cells; a text is escaped, what is `Written` is not.

    Raises:
        ValueError: if a row or `align` is longer or shorter than the headings.
    """
    lines = [list(headings), [RULES[letter] for letter in align], *(map(_cells, rows))]
    for line in lines:
        if len(line) != len(headings):
            raise ValueError(f"{len(line)} cells in a table of {len(headings)} columns: {line}")
    head, rule, *body = lines
    return "".join([_line(head), f"|{'|'.join(rule)}|\n", *map(_line, body)])


def _cells(row: Sequence[str]) -> list[str]:
    return [cell if isinstance(cell, Written) else in_markdown(cell) for cell in row]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
