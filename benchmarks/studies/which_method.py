"""Which method to take: what each keeps without training, after a brief one, and what it costs.

`python -m benchmarks.studies.which_method` reads the records of the suites `untuned`, `fashion`,
`fashion-field` and `cifar10-cores` in `results` and renews the block of `docs/which_method.md`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.analysis.comparison import DECIDING, Comparison, Row, compare, spent_macs
from benchmarks.analysis.uncertainty import Estimate, paired, shown
from benchmarks.records.cell import PARENT, REFERENCE
from benchmarks.records.files import current_records, read_folder
from benchmarks.records.plain import counted
from benchmarks.records.record import Record
from benchmarks.records.whole_file import write_whole
from benchmarks.tables.finding_table import seeded
from benchmarks.tables.markdown import markdown_table
from benchmarks.tables.marked_blocks import replace_block
from benchmarks.tables.tables import accuracy_text

__all__ = ["BLOCK", "TUNED", "UNTUNED", "main", "records_of", "tables"]

BLOCK = "which method"
UNTUNED, TUNED = ("untuned",), ("fashion", "fashion-field", "cifar10-cores")
"""Suites without and with fine-tuning; on the same data they share parents and recipes."""

CUT, RECALIBRATED = "cut", "recalibrated"


def main() -> None:
    """Read the records, then write the block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="holds the folders")
    parser.add_argument("--page", type=Path, default=Path("docs/which_method.md"))
    given = parser.parse_args()
    text = tables(*(records_of(given.results, names) for names in (UNTUNED, TUNED)))
    if not text:
        told = ", ".join((*UNTUNED, *TUNED))
        parser.error(f"no records of the suites {told} in {given.results}; run them")
    write_whole(given.page, replace_block(given.page.read_text("utf-8"), text, BLOCK))


def records_of(results: Path, suites: Iterable[str]) -> list[Record]:
    """The records of some suites; of a cell that several have run, the first that has a result.

    What two processors have run stays beside one another.
    """
    found: dict[tuple[str, str], Record] = {}
    for name in suites:
        for record in current_records(read_folder(results / name / "records", Record).records):
            place = (record.cell.key, record.trained_on)
            known = found.get(place)
            if known is None or (known.status != "ok" and record.status == "ok"):
                found[place] = record
    return [*found.values()]


def tables(untuned: Iterable[Record], tuned: Iterable[Record]) -> str:
    """Two tables for each network: accuracies without training, and what fine-tuning makes of them.

    Args:
        untuned: records whose networks were not fine-tuned.
        tuned: records whose networks were.
    """
    parts = [_without_training(comparison) for comparison in compare(untuned)]
    parts += [_after_training(comparison) for comparison in compare(tuned)]
    return "\n".join(parts)


def _without_training(comparison: Comparison) -> str:
    """As cut and recalibrated, at every budget."""
    found = _by_method(comparison)
    budgets = _budgets(comparison)
    headings = ["Method", *(f"{kind}, {at}" for at in budgets for kind in (CUT, RECALIBRATED))]
    lines = [
        [
            seeded(method, rows, _most_seeds(comparison)),
            *(t for at in budgets for t in _untrained(rows.get(at))),
        ]
        for method, rows in found.items()
    ]
    return _titled(comparison, "not trained", headings, lines)


def _untrained(row: Row | None) -> list[str]:
    if row is None:
        return ["–", "–"]
    return [
        accuracy_text(row, lambda record: record.top1.pruned),
        accuracy_text(row, lambda record: record.top1.recalibrated),
    ]


def _after_training(comparison: Comparison) -> str:
    """Gains over uniform width, common and own finish, and what deciding costs."""
    found = _by_method(comparison)
    budgets = _budgets(comparison)
    base = found.get(REFERENCE, {})
    headings = ["Method", *(text for at in budgets for text in _gain_headings(at))]
    lines = [
        [
            seeded(method, rows, _most_seeds(comparison)),
            *(text for at in budgets for text in _gains(rows.get(at), base.get(at))),
        ]
        for method, rows in found.items()
        if method != REFERENCE
    ]
    return _titled(comparison, "fine-tuned", headings, lines, _without_base(base))


def _without_base(base: Mapping[str, Row]) -> str:
    """Says where nothing is compared with uniform width, since seeds of it failed; else empty."""
    lost = [f"{row.seeds} at {at}" for at, row in base.items() if row.lost]
    return f" No gains over {REFERENCE} where it lost seeds: {', '.join(lost)}." if lost else ""


def _gain_headings(at: str) -> list[str]:
    return [f"{at}: common finish", "own finish", "cost"]


def _gains(row: Row | None, base: Row | None) -> list[str]:
    """Gains in points over uniform width, and the decision's cost in common fine-tunings.

    A row that lost seeds has neither; how many failed stands in their place.
    """
    if row is None or base is None:
        return ["–", "–", "–"]
    if row.lost:
        return [row.seeds, row.seeds, "–"]
    cost = row.mean(_in_finetunings)
    return [
        shown(row.gain, "+.1f", 100),
        shown(_own_gain(row, base), "+.1f", 100),
        f"{cost.mean:.1f}" if cost else "–",
    ]


def _own_gain(row: Row, base: Row) -> Estimate | None:
    """The own finish of a row against the common one of uniform width, paired by seed."""
    own = {record.cell.seed: record.top1.own for record in row.ok}
    known = {seed: top1 for seed, top1 in own.items() if top1 is not None}
    return None if row.lost else paired(known, base.top1_by_seed)


def _in_finetunings(record: Record) -> float | None:
    """Training MACs of a decision, in fine-tunings of the network that came of it."""
    deciding, finetuning = spent_macs(record, DECIDING), spent_macs(record, ["finetune"])
    return deciding / finetuning if deciding is not None and finetuning else None


def _by_method(comparison: Comparison) -> dict[str, dict[str, Row]]:
    """Rows by label and budget, without controls."""
    found: dict[str, dict[str, Row]] = {}
    for row in _shown(comparison):
        found.setdefault(comparison.label(row), {})[comparison.told_budget(row)] = row
    return dict(sorted(found.items()))


def _shown(comparison: Comparison) -> list[Row]:
    """The rows that are no controls."""
    rows = comparison.rows
    return [row for row in rows if row.cell.method != PARENT and row.cell.longer is None]


def _most_seeds(comparison: Comparison) -> int:
    return max(len(row.records) for row in comparison.rows)


def _budgets(comparison: Comparison) -> list[str]:
    """All budgets, the mildest of each metric first."""
    return list(dict.fromkeys(comparison.told_budget(row) for row in _shown(comparison)))


def _titled(
    comparison: Comparison,
    what: str,
    headings: Sequence[str],
    lines: list[list[str]],
    note: str = "",
) -> str:
    told = counted(_most_seeds(comparison), "seed")
    parent = shown(comparison.parent_top1, ".1f", 100)
    table = markdown_table(headings, "l" + "r" * (len(headings) - 1), lines)
    return f"**{comparison.heading}**, {what}; {told}, parent {parent} %.{note}\n\n{table}"


if __name__ == "__main__":
    main()
