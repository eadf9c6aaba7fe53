"""Records of several folders side by side, each row with the folder that it comes from.

Accuracies of two machines may differ by points for the same seed, so each row also has its gain
over the uniform width of its own folder and machine, paired by seed; the board is sorted by that.
Reads records and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.analysis.apart import Words, taught, words_apart
from benchmarks.analysis.comparison import REFERENCE, Comparison, Row, compare, share, spent_macs
from benchmarks.analysis.names import short_name
from benchmarks.analysis.uncertainty import shown
from benchmarks.records.cell import PARENT, Cell
from benchmarks.records.plain import counted, in_markdown
from benchmarks.records.record import TOTAL, Record
from benchmarks.tables.markdown import bold, markdown_table
from benchmarks.tables.tables import accuracy_text, budget_text

__all__ = ["ALIGN", "HEADINGS", "NOTE", "Board", "boards", "to_markdown"]

HEADINGS = ("Budget", "Method", "To uniform", "Top-1 %", "Own finish", "Seeds", "MACs %",
            "Total TMACs", "Machine", "Origin")  # fmt: skip
"""Of the columns of a board."""

ALIGN = "rlrrrrrrll"
"""Of the columns: words to the left, numbers to the right."""

NOTE = (
    "Each board holds one network, data set and recipe. Sorted by the gain over uniform width of "
    "the same folder and machine, in points, paired by seed: top-1 itself differs between machines "
    "for the same seed. Bold: a clear gain, Holm-corrected over the folder's own table. Total: "
    "training multiply-adds of search and common finish, in 10¹²."
)


@dataclass(frozen=True)
class Line:
    """A row of a board: its texts, in the order of the headings, and whether its gain is clear."""

    texts: tuple[str, ...]
    is_clear: bool


@dataclass(frozen=True)
class Board:
    """One network, data set and recipe.

    Attributes:
        title: network and data.
        caption: the recipe, as the tables say it.
        lines: the mildest budget first, within a budget the largest gain first, and last the rows
            that have none.
    """

    title: str
    caption: str
    lines: tuple[Line, ...]


def boards(records: Mapping[str, Sequence[Record]]) -> list[Board]:
    """All boards, in the order of network and data.

    Args:
        records: of each folder, by its name.
    """
    found: dict[str, list[tuple[str, Comparison]]] = {}
    for origin, mine in records.items():
        for comparison in compare(_as_trained(mine)):
            found.setdefault(comparison.cell.setting, []).append((origin, comparison))
    cells = [comparisons[0][1].cell for comparisons in found.values()]
    words = words_apart(cells, _caption)
    made = [_board(each, mine) for each, mine in zip(found.values(), words, strict=True)]
    return sorted(made, key=lambda board: (board.title, board.caption))


def to_markdown(found: Sequence[Board]) -> str:
    """A page: the note, then a heading, the recipe and a table for each board."""
    parts = ["# Leaderboard", NOTE]
    for board in found:
        table = markdown_table(
            HEADINGS,
            ALIGN,
            [
                [
                    bold(text) if line.is_clear and at == 2 else text
                    for at, text in enumerate(line.texts)
                ]
                for line in board.lines
            ],
        )
        parts.append(f"## {in_markdown(board.title)}\n\n{in_markdown(board.caption)}\n\n{table}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _as_trained(records: Iterable[Record]) -> list[Record]:
    """Each record once and without times, which the board does not show, as it was trained."""
    found: list[Record] = []
    seen: set[str] = set()
    for record in records:
        if record.timed_on is None:
            found.append(record)
        elif record.id not in seen:
            seen.add(record.id)
            found.append(record.model_copy(update={"timed_on": None, "latency": ()}))
    return found


def _board(comparisons: Sequence[tuple[str, Comparison]], words: Words) -> Board:
    rows = [
        (origin, comparison, row)
        for origin, comparison in comparisons
        for row in comparison.rows
        if row.cell.method != PARENT
    ]
    rows.sort(key=lambda each: _place(each[2]))
    cells = [row.cell for _, _, row in rows]  # of all folders: what differs between them is told
    first = comparisons[0][1].cell
    return Board(
        f"{words.network(first)}{taught(first)}{words.recipe}",
        _caption(first),
        tuple(Line(_texts(*each, cells), each[1].is_clear_gain(each[2])) for each in rows),
    )


def _caption(cell: Cell) -> str:
    """The recipe, as the tables say it."""
    trained = counted(cell.parent.epochs, "epoch")
    epochs = f"{trained} for the parent, {cell.finetune.epochs} of"
    loss = ", with distillation" if cell.distill else ""
    return f"{epochs} fine-tuning{loss}; protocol {cell.protocol}."


def _place(row: Row) -> tuple[str, float, bool, float]:
    """Where a row stands: unit, the mildest budget first, the largest gain first, none last."""
    gain = row.gain.mean if row.gain else None
    if row.method == REFERENCE and not row.lost:
        gain = 0.0  # over itself
    return row.cell.metric, -float(row.cell.budget), gain is None, -(gain or 0.0)


def _texts(origin: str, comparison: Comparison, row: Row, cells: Sequence[Cell]) -> tuple[str, ...]:
    total = row.mean(lambda record: spent_macs(record, TOTAL))
    macs = row.mean(lambda record: share(record, "macs"))
    return (
        budget_text(row),
        short_name(row.cell, cells),
        shown(row.gain, "+.1f", 100),
        accuracy_text(row, lambda record: record.top1.finetuned),
        accuracy_text(row, lambda record: record.top1.own),
        row.seeds,
        f"{100 * macs.mean:.1f}" if macs else "–",
        f"{total.mean / 1e12:.2f}" if total else "–",
        comparison.hardware,
        origin,
    )
