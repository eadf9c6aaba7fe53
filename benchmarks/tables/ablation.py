"""Ablations: variants of one method beside its plain self, differences paired by seed.

Reads records and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.analysis.comparison import (
    DECIDING,
    Comparison,
    Row,
    settings_of,
    spent_macs,
    spent_seconds,
)
from benchmarks.analysis.uncertainty import paired, shown
from benchmarks.records.bounds import numbers
from benchmarks.records.plain import in_markdown
from benchmarks.records.record import Record
from benchmarks.tables.markdown import bold, markdown_table

__all__ = ["ablation_table"]

HEADINGS = (
    "Variant", "Seeds", "Recalibrated", "Fine-tuned", "To the plain method", "Gap to optimum",
    "Search TMACs", "Search s",
)  # fmt: skip


def ablation_table(comparisons: Sequence[Comparison]) -> str:
    """Markdown: one heading and table for each comparison, budget and method with variants.

    The plain method is the variant with the fewest settings. The gap is that of the energy to the
    exact optimum of the same score table, in thousandths; only some methods have one.
    """
    return "\n".join(
        _one_table(comparison, rows) for comparison in comparisons for rows in _families(comparison)
    )


def _families(comparison: Comparison) -> Iterator[list[Row]]:
    """Rows of each method with variants at one budget, the plain one first."""
    families: dict[tuple[str, str, float], list[Row]] = {}
    for row in comparison.rows:
        key = (row.cell.method, row.cell.metric, row.cell.budget)
        families.setdefault(key, []).append(row)
    for rows in families.values():
        if len(rows) > 1:
            yield sorted(rows, key=lambda row: (len(settings_of(row.cell)), row.method))


def _one_table(comparison: Comparison, rows: Sequence[Row]) -> str:
    plain = rows[0]
    name = f"{plain.cell.method} at {plain.budget} of {plain.cell.metric}: {comparison.title}"
    table = markdown_table(HEADINGS, "llrrrrrr", [_cells(row, plain) for row in rows])
    return f"### {in_markdown(name)}\n\n{table}"


def _cells(row: Row, plain: Row) -> list[str]:
    macs = row.mean(lambda record: spent_macs(record, DECIDING))
    seconds = row.mean(lambda record: spent_seconds(record, DECIDING))
    return [
        "plain" if row is plain else row.settings_beyond(plain),
        row.seeds,
        shown(row.mean(lambda record: record.top1.recalibrated), ".1f", 100),
        shown(row.mean(lambda record: record.top1.finetuned), ".1f", 100),
        "–" if row is plain else _difference(row, plain),
        shown(row.mean(_gap), ".2f", 1000),
        shown(macs, ".2f", 1e-12),
        shown(seconds, ".1f"),
    ]


def _difference(row: Row, plain: Row) -> str:
    """Final top-1 against the plain method, paired by seed; bold outside its interval."""
    found = paired(row.top1_by_seed, plain.top1_by_seed)
    if found is None:
        return "–"
    text = found.with_interval("+.1f", 100)
    return bold(text) if found.sign else text


def _gap(record: Record) -> float | None:
    """Energy above the exact optimum of the score table, from the search's own trace."""
    for row in record.trace:
        if row.get("step") == "solve":
            return next(iter(numbers([row.get("gap")])), None)
    return None
