"""Ablations: variants of one method beside its plain self, differences paired by seed.

Reads records and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.analysis.comparison import DECIDING, Comparison, Row, spent_macs, spent_seconds
from benchmarks.analysis.effects import distinct
from benchmarks.analysis.names import settings_of
from benchmarks.analysis.uncertainty import ERROR, Estimate, holm, paired, shown
from benchmarks.records.bounds import numbers
from benchmarks.records.plain import in_markdown, told_budget
from benchmarks.records.record import Record
from benchmarks.tables.contrast_lines import points
from benchmarks.tables.legends import OF_SECONDS
from benchmarks.tables.markdown import bold, markdown_table
from benchmarks.tables.tables import accuracy_text

__all__ = ["ablation_table"]

HEADINGS = (
    "Variant", "Seeds", "Recalibrated", "Fine-tuned", "To the plain method", "Detectable",
    "Gap, ‰", "Search TMACs", "Search s",
)  # fmt: skip

OWN_HEADINGS = ("Own finish", "Own, to the plain method's")

LEGEND = (
    "Bold: differs from the plain method by a paired t-test at 5 % family-wise, Holm-corrected "
    "over the table. Detectable is the true difference, in points, that the first step of this "
    "correction finds with 80 % power, were the deviation the one observed. Gap is what the "
    "solver left, in thousandths: of the exact optimum of its scores (bnp), or of an upper bound "
    "at the cost that its solution uses (knapsack), so that of two solutions the better can have "
    f"the larger gap. {OF_SECONDS}"
)


def ablation_table(comparisons: Sequence[Comparison]) -> str:
    """Markdown: one heading and table for each comparison, budget and method with variants.

    The plain method is the variant with the fewest settings; where several have as few, the first
    by name stands in its place and tells them. The gap is that of the energy to the
    exact optimum of the same score table, in thousandths; only some methods have one.
    """
    tables = [
        _one_table(comparison, rows)
        for comparison in distinct(comparisons)
        for rows in _families(comparison)
    ]
    return "\n".join([*tables, f"{LEGEND}\n"] if tables else [])


def _families(comparison: Comparison) -> Iterator[list[Row]]:
    """Rows of each method with variants at one budget, the plain one first."""
    families: dict[tuple[str, str, float], list[Row]] = {}
    for row in comparison.rows:
        key = (row.cell.method, *row.asked)
        families.setdefault(key, []).append(row)
    for rows in families.values():
        if len(rows) > 1:
            yield sorted(rows, key=lambda row: (len(settings_of(row.cell)), row.method))


def _one_table(comparison: Comparison, rows: Sequence[Row]) -> str:
    plain = rows[0]
    budget = told_budget(plain.cell.budget, plain.cell.metric)
    name = f"{plain.cell.method} at {budget}: {comparison.heading}"
    variants = rows[1:]
    differences = [paired(row.top1_by_seed, plain.top1_by_seed) for row in variants]
    corrected = holm([found.p_value if found else None for found in differences])
    cells = [_cells(plain, _plain_name(plain, variants), ["–", "–"])]
    for row, found, p_value in zip(variants, differences, corrected, strict=True):
        cells.append(_cells(row, row.settings_beyond(plain), _told(found, p_value, len(variants))))
    headings: tuple[str, ...] = HEADINGS
    if any(_has_own(row) for row in rows):  # where methods hand on a loss or weights
        headings = (*HEADINGS, *OWN_HEADINGS)
        cells = [[*cell, *_own(row, plain)] for cell, row in zip(cells, rows, strict=True)]
    align = "ll" + "r" * (len(headings) - 2)
    return f"### {in_markdown(name)}\n\n{markdown_table(headings, align, cells)}"


def _plain_name(plain: Row, variants: Sequence[Row]) -> str:
    """Tells the settings of a first row that is no plainer than another one."""
    alike = (row for row in variants if len(settings_of(row.cell)) == len(settings_of(plain.cell)))
    beside = next(alike, None)
    return "plain" if beside is None else f"first, {plain.settings_beyond(beside)}"


def _own(row: Row, plain: Row) -> list[str]:
    """Accuracy under the finish of the method's own, and its difference to the plain method's."""
    own = accuracy_text(row, lambda record: record.top1.own)
    difference = None if row is plain else paired(_own_by_seed(row), _own_by_seed(plain))
    return [own, shown(difference, "+.1f", 100)]


def _has_own(row: Row) -> bool:
    """Whether any seed had a finish of the method's own."""
    return any(record.top1.own is not None for record in row.ok)


def _own_by_seed(row: Row) -> dict[int, float]:
    """Accuracy under the own finish of each seed that has one; none if a seed was lost."""
    if row.lost:
        return {}
    found = {record.cell.seed: record.top1.own for record in row.ok}
    return {seed: top1 for seed, top1 in found.items() if top1 is not None}


def _cells(row: Row, name: str, difference: Sequence[str]) -> list[str]:
    macs = row.mean(lambda record: spent_macs(record, DECIDING))
    seconds = row.mean(lambda record: spent_seconds(record, DECIDING))
    return [
        name,
        row.seeds,
        accuracy_text(row, lambda record: record.top1.recalibrated),
        accuracy_text(row, lambda record: record.top1.finetuned),
        *difference,
        shown(row.mean(_gap), ".2f", 1000),
        shown(macs, ".2f", 1e-12),
        shown(seconds, ".1f"),
    ]


def _told(found: Estimate | None, p_value: float, count: int) -> list[str]:
    """The difference to the plain method, and which one the first of `count` tests would find."""
    if found is None:
        return ["–", "–"]
    text = found.with_interval("+.1f", 100)
    return [bold(text) if p_value <= ERROR else text, points(found.detectable(ERROR / count))]


def _gap(record: Record) -> float | None:
    """What the solver left, as a fraction of the optimum or of its bound, from its own trace."""
    for row in record.trace:
        if row.get("step") == "solve":
            return next(iter(numbers([row.get("gap")])), None)
    return None
