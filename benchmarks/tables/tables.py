"""Comparisons to tables: Markdown, CSV and LaTeX, whole for the record and short for the README.

What was named before the run is told first. Each table ends with the parent timed against itself,
the noise floor of its speed-ups, and bold marks only what Holm's correction over the table leaves.
Reads records and nothing else.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.analysis.captions import caption
from benchmarks.analysis.comparison import (
    DECIDING,
    NOISE,
    REFERENCE,
    Comparison,
    Row,
    aligned,
    control_speedup,
    is_noisy_speed,
    latency_at,
    macs_ratio,
    realised,
    share,
    speedup,
    spent_macs,
    spent_seconds,
)
from benchmarks.analysis.findings import Findings
from benchmarks.analysis.uncertainty import Estimate, findable, shown
from benchmarks.records.files import Unread
from benchmarks.records.plain import in_csv, in_html, in_markdown, in_tex
from benchmarks.records.record import TOTAL, Record
from benchmarks.records.whole_file import write_whole
from benchmarks.tables.contrast_lines import contrast_lines, points
from benchmarks.tables.legends import has_finishes, legend
from benchmarks.tables.macs_unit import TERA, MacsUnit, macs_unit
from benchmarks.tables.markdown import bold, markdown_table
from benchmarks.tables.unread import unread_markdown, unread_tex

__all__ = [
    "accuracy_text",
    "budget_text",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_short_markdown",
    "with_unread",
    "write_tables",
]

UNITS = {"macs": "MACs", "params": "params", "latency": "latency", "latency_ms": "ms"}
CONTROL = "parent twice (A/A)"


@dataclass(frozen=True)
class Column:
    """A column of the readable tables.

    Attributes:
        pattern: heading, which may name the smallest and the largest batch, and the unit.
        text: of a row.
        is_number: aligned to the right.
        is_bold: whether a row's text stands out.
        control: text of the A/A row.
        stands_in: whether a comparison's table has the column.
        unit: of multiply-adds, for a column of them.
    """

    pattern: str
    text: Callable[[Comparison, Row], str]
    is_number: bool = True
    is_bold: Callable[[Comparison, Row], bool] = lambda comparison, row: False
    control: Callable[[Comparison], str] = lambda comparison: "–"
    stands_in: Callable[[Comparison], bool] = lambda comparison: True
    unit: Callable[[Comparison], MacsUnit] = lambda comparison: TERA

    def heading(self, comparison: Comparison) -> str:
        """The heading for a comparison."""
        batches = comparison.cell.latency.batches
        unit = self.unit(comparison).name
        return self.pattern.format(small=min(batches), large=max(batches), unit=unit)

    @property
    def tells_seconds(self) -> bool:
        """Whether its numbers are those of a clock."""
        return self.pattern.endswith(" s")


@dataclass(frozen=True)
class Line:
    """The texts of a table's row, and which of them are bold."""

    texts: tuple[str, ...]
    bold: tuple[bool, ...]

    def marked(self, plain: Callable[[str], str], bold: Callable[[str], str]) -> list[str]:
        """The texts, each shown by one of two functions."""
        pairs = zip(self.texts, self.bold, strict=True)
        return [bold(text) if is_bold else plain(text) for text, is_bold in pairs]


def to_markdown(comparisons: Sequence[Comparison]) -> str:
    """One heading, caption and table for each comparison."""
    parts = [
        f"### {in_markdown(comparison.timed_heading)}\n\n{in_markdown(caption(comparison))}\n\n"
        f"{_markdown(comparison, COLUMNS)}"
        for comparison in comparisons
    ]
    return _framed(parts, comparisons, COLUMNS)


def to_short_markdown(comparisons: Sequence[Comparison]) -> str:
    """The columns that decide, the first comparison open and the others folded."""
    parts = []
    for index, comparison in enumerate(comparisons):
        held_equal = in_markdown(caption(comparison))
        table = f"{held_equal}\n\n{_markdown(comparison, SHORT_COLUMNS)}"
        seeds = _seed_note(comparison)
        if index == 0:
            parts.append(f"### {in_markdown(comparison.timed_heading)}, {seeds}\n\n{table}")
        else:
            summary = f"<summary><b>{in_html(comparison.timed_heading)}</b>, {seeds}</summary>"
            parts.append(f"<details>\n{summary}\n\n{table}\n</details>\n")
    return _framed(parts, comparisons, SHORT_COLUMNS)


def _framed(
    parts: Sequence[str], comparisons: Sequence[Comparison], columns: Sequence[Column]
) -> str:
    """Markdown tables after what was named before the run, and before the legend."""
    if not parts:
        return ""
    first = [f"{in_markdown(line)}\n" for line in contrast_lines(comparisons)]
    told = legend(comparisons, has_seconds=any(column.tells_seconds for column in columns))
    return "\n".join([*first, *parts, f"{told}\n"])


def to_latex(comparisons: Sequence[Comparison]) -> str:
    """One booktabs table for each comparison."""
    parts = [f"{in_tex(line)}\n" for line in contrast_lines(comparisons) if comparisons]
    for comparison in comparisons:
        lines = [
            " & ".join(line.marked(in_tex, lambda text: rf"\textbf{{{in_tex(text)}}}")) + r" \\"
            for line in _lines(comparison, COLUMNS)
        ]
        columns = _standing(comparison, COLUMNS)
        body = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{in_tex(comparison.timed_heading)}. {in_tex(caption(comparison))}}}",
            rf"\begin{{tabular}}{{{_align(columns)}}}",
            r"\toprule",
            " & ".join(in_tex(column.heading(comparison)) for column in columns) + r" \\",
            r"\midrule",
            *lines[:-1],
            r"\midrule",
            lines[-1],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        parts.append("\n".join(body) + "\n")
    return "\n".join(parts)


def to_csv(comparisons: Sequence[Comparison]) -> str:
    """All rows in one table, numbers unrounded, an empty field for what was not measured.

    A detectable difference is `inf` where no true one is found.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADINGS)
    for comparison in comparisons:
        writer.writerows(_csv_row(row, comparison) for row in comparison.rows)
    return out.getvalue()


def write_tables(findings: Findings, folder: Path) -> list[Path]:
    """Write `results.md`, `results.csv` and `results.tex`; return their paths.

    The first and the last end with the files that were left out, if there are any.
    """
    comparisons, unread = findings.comparisons, findings.unread
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "results.md": with_unread(to_markdown(comparisons), unread),
        "results.csv": to_csv(comparisons),
        "results.tex": "\n".join(filter(None, [to_latex(comparisons), unread_tex(unread)])),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def with_unread(text: str, unread: Sequence[Unread]) -> str:
    """Markdown that ends with the files that were left out, if there are any."""
    return "\n".join(filter(None, [text, unread_markdown(unread)]))


def accuracy_text(
    row: Row, value: Callable[[Record], float | None], *, has_interval: bool = False
) -> str:
    """An accuracy averaged over the seeds of a row, in per cent; how many failed if some did."""
    if row.lost:
        return row.seeds
    found = row.mean(value)
    return found.with_interval(".1f", 100) if found and has_interval else shown(found, ".1f", 100)


def _lines(comparison: Comparison, columns: Sequence[Column]) -> list[Line]:
    """The rows of a table, the A/A row last."""
    columns = _standing(comparison, columns)
    lines = [
        Line(
            tuple(column.text(comparison, row) for column in columns),
            tuple(column.is_bold(comparison, row) for column in columns),
        )
        for row in comparison.rows
    ]
    control = tuple(column.control(comparison) for column in columns)
    return [*lines, Line(control, (False,) * len(columns))]


def _markdown(comparison: Comparison, columns: Sequence[Column]) -> str:
    standing = _standing(comparison, columns)
    return markdown_table(
        [column.heading(comparison) for column in standing],
        _align(standing),
        [line.marked(str, bold) for line in _lines(comparison, columns)],
    )


def _standing(comparison: Comparison, columns: Sequence[Column]) -> list[Column]:
    return [column for column in columns if column.stands_in(comparison)]


def _align(columns: Sequence[Column]) -> str:
    """As LaTeX says it."""
    return "".join("r" if column.is_number else "l" for column in columns)


def _label(comparison: Comparison, row: Row) -> str:
    """A row's name, and its seeds where they are fewer than those of other rows."""
    most = max(len(other.records) for other in comparison.rows)
    is_short = len(row.records) < most and not row.lost
    return f"{comparison.label(row)}; {row.seeds}" if is_short else comparison.label(row)


def _seed_note(comparison: Comparison) -> str:
    counts = sorted({len(row.records) for row in comparison.rows})
    if counts == [1]:
        return "one seed"
    return f"{' to '.join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))} seeds"


def _number(name: str, pattern: str, scale: float = 1.0) -> Callable[[Comparison, Row], str]:
    return lambda comparison, row: shown(_mean(row, name), pattern, scale)


def _mean(row: Row, name: str) -> Estimate | None:
    return (row.mean_of_times if name in OF_TIMES else row.mean)(NUMBERS[name])


def _cost(
    pattern: str, name: str, stands_in: Callable[[Comparison], bool] = lambda _: True
) -> Column:
    """A column of multiply-adds, in a unit in which the dearest method is seen."""

    def unit(comparison: Comparison) -> MacsUnit:
        means = (row.mean(NUMBERS[name]) for row in comparison.rows)
        return macs_unit([found.mean for found in means if found], max)

    def text(comparison: Comparison, row: Row) -> str:
        return shown(row.mean(NUMBERS[name]), ".2f", 1 / unit(comparison).size)

    return Column(pattern, text, stands_in=stands_in, unit=unit)


def _speed(
    name: str, pattern: str, scale: float = 1.0, *, smallest: bool
) -> Callable[[Comparison, Row], str]:
    text = _number(name, pattern, scale)

    def told(comparison: Comparison, row: Row) -> str:
        is_noise = is_noisy_speed(row, smallest) and _mean(row, name) is not None
        return f"{text(comparison, row)} ({NOISE})" if is_noise else text(comparison, row)

    return told


def _accuracy(name: str) -> Callable[[Comparison, Row], str]:
    return lambda comparison, row: accuracy_text(row, NUMBERS[name])


def _final_accuracy(name: str) -> Callable[[Comparison, Row], str]:
    return lambda comparison, row: accuracy_text(row, NUMBERS[name], has_interval=True)


def _gain(comparison: Comparison, row: Row) -> str:
    return row.gain.with_interval("+.1f", 100) if row.gain else "–"


def _p_value(comparison: Comparison, row: Row) -> str:
    found = comparison.p_value(row)
    return "–" if found is None else f"{found:.2g}"


def _top1(row: Row) -> Estimate | None:
    return row.mean(lambda record: record.top1.finetuned)


def budget_text(row: Row) -> str:
    """A row's budget with its unit."""
    return f"{row.budget} {UNITS.get(row.cell.metric, row.cell.metric)}"


def _control_speed(smallest: bool) -> Callable[[Comparison], str]:
    return lambda comparison: shown(comparison.control(smallest), ".2f")


def _milliseconds(record: Record, smallest: bool, which: str) -> float | None:
    measured = latency_at(record, smallest)
    if measured is None:
        return None
    return (measured.parent_ms if which == "parent" else measured.pruned_ms).median


NUMBERS: dict[str, Callable[[Record], float | None]] = {
    "parent_top1": lambda r: r.top1.parent,
    "pruned_top1": lambda r: r.top1.pruned,
    "recalibrated_top1": lambda r: r.top1.recalibrated,
    "finetuned_top1": lambda r: r.top1.finetuned,
    "macs_share": lambda r: share(r, "macs"),
    "params_share": lambda r: share(r, "params"),
    "macs": lambda r: r.size.macs if r.size else None,
    "full_macs": lambda r: r.size.full_macs if r.size else None,
    "params": lambda r: r.size.params if r.size else None,
    "full_params": lambda r: r.size.full_params if r.size else None,
    "macs_ratio": macs_ratio,
    "aligned_share": aligned,
    "parent_ms_small_batch": lambda r: _milliseconds(r, True, "parent"),
    "pruned_ms_small_batch": lambda r: _milliseconds(r, True, "pruned"),
    "speedup_small_batch": lambda r: speedup(r, True),
    "realised_small_batch": lambda r: realised(r, True),
    "control_small_batch": lambda r: control_speedup(r, True),
    "parent_ms_large_batch": lambda r: _milliseconds(r, False, "parent"),
    "pruned_ms_large_batch": lambda r: _milliseconds(r, False, "pruned"),
    "speedup_large_batch": lambda r: speedup(r, False),
    "realised_large_batch": lambda r: realised(r, False),
    "control_large_batch": lambda r: control_speedup(r, False),
    "baseline_macs": lambda r: spent_macs(r, ["baseline"]),
    "search_macs": lambda r: spent_macs(r, DECIDING),
    "finetune_macs": lambda r: spent_macs(r, ["finetune"]),
    "search_seconds": lambda r: spent_seconds(r, DECIDING),
    "finetune_seconds": lambda r: spent_seconds(r, ["finetune"]),
    "own_top1": lambda r: r.top1.own,
    "total_macs": lambda r: spent_macs(r, TOTAL),
    "total_seconds": lambda r: spent_seconds(r, TOTAL),
}
"""What the CSV holds of each row, averaged over seeds, or over networks; see `OF_TIMES`."""

OF_TIMES = frozenset(name for name in NUMBERS if name.endswith("_batch"))
"""Those of them that clocks gave: averaged over the networks that were timed."""

BUDGET = Column("Budget", lambda c, row: budget_text(row))
LABEL = Column("Method", _label, False, control=lambda c: CONTROL)
TOP1 = Column(
    "Top-1 %, fine-tuned", _final_accuracy("finetuned_top1"),
    control=lambda c: shown(c.parent_top1, ".1f", 100),
)  # fmt: skip
OWN = Column(
    "Own finish", _final_accuracy("own_top1"), stands_in=has_finishes,
)  # fmt: skip
SEARCH_COST = _cost("Search {unit}", "search_macs")
TOTAL_COST = _cost("Total {unit}", "total_macs", has_finishes)
GAIN = Column(f"To {REFERENCE}", _gain, is_bold=lambda c, row: c.is_clear_gain(row))
DETECTABLE = Column("Detectable", lambda c, row: points(c.detectable(row)))
SPEED: tuple[Column, ...] = (
    Column("MACs ratio", _number("macs_ratio", ".2f"), control=lambda c: "1.00"),
    Column("x8 %", _number("aligned_share", ".0f", 100)),
    Column("Speed-up, batch {small}", _speed("speedup_small_batch", ".2f", smallest=True),
           control=_control_speed(True)),
    Column("Realised %", _speed("realised_small_batch", ".0f", 100, smallest=True)),
    Column("Speed-up, batch {large}", _speed("speedup_large_batch", ".2f", smallest=False),
           control=_control_speed(False)),
    Column("Realised %", _speed("realised_large_batch", ".0f", 100, smallest=False)),
)  # fmt: skip

COLUMNS: tuple[Column, ...] = (
    BUDGET,
    Column("Method", lambda c, row: row.method, False, control=lambda c: CONTROL),
    Column("Seeds", lambda c, row: row.seeds, is_number=False),
    Column("MACs %", _number("macs_share", ".1f", 100), control=lambda c: "100.0"),
    Column("Params %", _number("params_share", ".1f", 100), control=lambda c: "100.0"),
    Column("Top-1 %, pruned", _accuracy("pruned_top1")),
    Column("Recalibrated", _accuracy("recalibrated_top1")),
    TOP1,
    GAIN,
    Column("p, Holm", _p_value),
    DETECTABLE,
    OWN,
    *SPEED,
    SEARCH_COST,
    _cost("Fine-tune {unit}", "finetune_macs"),
    Column("Search s", _number("search_seconds", ".1f")),
    Column("Fine-tune s", _number("finetune_seconds", ".1f"), stands_in=has_finishes),
    TOTAL_COST,
    Column("Total s", _number("total_seconds", ".1f"), stands_in=has_finishes),
)

SHORT_COLUMNS: tuple[Column, ...] = (
    BUDGET,
    LABEL,
    TOP1,
    GAIN,
    DETECTABLE,
    OWN,
    *SPEED[:2],
    *SPEED[4:],
    SEARCH_COST,
    TOTAL_COST,
)

CSV_HEADINGS = (
    "comparison", "model", "data", "hardware", "trained_on", "metric", "budget", "method",
    "seeds", "ok", *NUMBERS, "finetuned_top1_sd", "finetuned_top1_low", "finetuned_top1_high",
    "top1_to_uniform", "top1_to_uniform_sd", "top1_to_uniform_low", "top1_to_uniform_high",
    "top1_to_uniform_p_holm", "top1_to_uniform_detectable", "is_clear_gain", "lost_seeds",
    "records",
)  # fmt: skip


def _csv_row(row: Row, comparison: Comparison) -> list[object]:
    cell = row.cell
    means = [_mean(row, name) for name in NUMBERS]
    final, gain = _top1(row), row.gain
    fields: list[object] = [
        cell.comparison, cell.model.title, cell.data.name, comparison.hardware,
        comparison.trained_on, cell.metric,
        cell.budget, row.method, len(row.records), len(row.ok),
        *(found.mean if found else None for found in means),
        *_spread(final),
        gain.mean if gain else None,
        *_spread(gain),
        comparison.p_value(row),
        findable(comparison.detectable(row)),
        comparison.is_clear_gain(row),
        row.seeds if row.lost else None,
        " ".join(record.id for record in row.records),
    ]  # fmt: skip
    return [in_csv(field) for field in fields]


def _spread(found: Estimate | None) -> tuple[float | None, float | None, float | None]:
    """Standard deviation and ends of the interval, as far as there are any."""
    if found is None or found.interval is None:
        return None, None, None
    return found.sd, *found.interval
