"""The finding in a few rows: what was asked beforehand, beside its controls, at every budget.

Reads records and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.analysis.comparison import REFERENCE, Comparison, Row, spent_macs
from benchmarks.analysis.contrasts import named_contrasts
from benchmarks.analysis.effects import distinct
from benchmarks.analysis.uncertainty import shown
from benchmarks.records.plain import in_markdown
from benchmarks.records.record import TOTAL
from benchmarks.tables.markdown import Written, bold, markdown_table
from benchmarks.tables.tables import accuracy_text, budget_text

__all__ = ["finding_table", "seeded"]

LEGEND = (
    "Top-1 in per cent under the common finish (own finish in brackets: with the loss and weights "
    "that a method hands on), mean ± sample standard deviation over seeds; total: training "
    "multiply-adds of search and common finish, in 10¹²."
)
BOLD = "Bold: more accurate than uniform, Holm-corrected over the network's whole table."

UNIFORM = "uniform width"
LONGER = "uniform width fine-tuned for what the dearest method costs"
ASKED = "the methods of the primary contrasts"


def finding_table(comparisons: Sequence[Comparison]) -> str:
    """A table for each network that primary contrasts were run on; empty if there is none.

    Rows are the sides of the primary contrasts and the controls, the most accurate first at the
    first budget; a budget has columns for accuracy and total cost.
    """
    asked = [(each, rows) for each in distinct(comparisons) if (rows := _asked(each))]
    if not asked:
        return ""
    tables = [_table(comparison, rows) for comparison, rows in asked]
    legend = _legend([row for _, rows in asked for row in rows])
    return "\n".join([*tables, f"{legend}\n"])


def _legend(rows: Sequence[Row]) -> str:
    """What the numbers are, and which kinds of rows there are."""
    found = {_kind(row) for row in rows}
    kinds = [kind for kind in (UNIFORM, LONGER, ASKED) if kind in found]
    comma = "," if len(kinds) > 2 else ""
    told = f"{', '.join(kinds[:-1])}{comma} and {kinds[-1]}" if len(kinds) > 1 else kinds[0]
    bold_told = [BOLD] if any(row.is_compared for row in rows) else []
    return " ".join([LEGEND, *bold_told, f"Rows: {told}."])


def _kind(row: Row) -> str:
    if row.cell.longer is not None:
        return LONGER
    return UNIFORM if row.method == REFERENCE else ASKED


def _table(comparison: Comparison, rows: Sequence[Row]) -> str:
    budgets = list(dict.fromkeys(budget_text(row) for row in rows))
    by_label: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_label.setdefault(comparison.label(row), {})[budget_text(row)] = row
    most = max(len(row.records) for row in rows)
    headings = ["Method", *(each for at in budgets for each in (f"Top-1 % at {at}", "Total"))]
    lines = []
    for label, found in by_label.items():
        cells = [seeded(label, found, most)]
        for at in budgets:
            cells += _cells(comparison, found.get(at))
        lines.append(cells)
    table = markdown_table(headings, "l" + "rr" * len(budgets), lines)
    parent = shown(comparison.parent_top1, ".1f", 100)
    counted = "one seed" if most == 1 else f"{most} seeds"
    return f"{in_markdown(comparison.heading)}, parent {parent} %, {counted}:\n\n{table}"


def seeded(label: str, rows: Mapping[str, Row], most: int) -> str:
    """A method's name, and its seeds where they are fewer than the heading's.

    Where a seed was lost, the row's cell tells how many there are.

    Args:
        label: the name.
        rows: of the method, by budget as it is told.
        most: seeds of the heading.
    """
    few = {at: row.seeds for at, row in rows.items() if not row.lost and len(row.records) < most}
    if len(few) == len(rows) and len({*few.values()}) == 1:
        return f"{label}; {min(few.values())}"
    told = ", ".join(f"{seeds} at {at}" for at, seeds in few.items())
    return f"{label}; {told}" if told else label


def _asked(comparison: Comparison) -> list[Row]:
    """The rows of a table, in their order: sides of primary contrasts, and uniform longer."""
    arms = [arm for primary in named_contrasts(comparison) for arm in primary.contrast.arms]
    return [
        row
        for row in comparison.rows
        if arms and (row.cell.longer is not None or any(arm.holds(row.cell) for arm in arms))
    ]


def _cells(comparison: Comparison, row: Row | None) -> list[str]:
    """Accuracy and total cost of a row; dashes where it was not run."""
    if row is None:
        return ["–", "–"]
    common = accuracy_text(row, lambda record: record.top1.finetuned)
    own = accuracy_text(row, lambda record: record.top1.own)
    beside = "" if own in ("–", common) else in_markdown(f" ({own})")
    told = bold(common) if comparison.is_clear_gain(row) else in_markdown(common)
    total = row.mean(lambda record: spent_macs(record, TOTAL))
    spent = f"{total.mean / 1e12:.2f}" if total else "–"
    return [Written(told + beside), spent]
