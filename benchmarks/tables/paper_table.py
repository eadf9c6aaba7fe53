r"""Tables for a two-column paper: few columns, chosen methods, numbers as LaTeX sets them.

A table is as wide as a column and has a ``\label``. Signs are true minus signs, and a deviation
that rounds to nothing is shown as less than the last digit. What is bold is decided over the whole
table, also where only some of its methods are shown. Reads records and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from benchmarks.analysis.comparison import (
    REFERENCE,
    Comparison,
    Row,
    is_noisy_speed,
    speedup,
    spent_macs,
)
from benchmarks.analysis.names import plain_name
from benchmarks.analysis.uncertainty import Estimate
from benchmarks.records.plain import counted, in_tex, visible
from benchmarks.records.record import TOTAL, Record
from benchmarks.tables.macs_unit import MacsUnit, macs_unit
from benchmarks.tables.tables import CONTROL, UNITS

__all__ = ["PACKAGES", "breakable", "chosen_rows", "names_of", "paper_table", "tex_number"]

PACKAGES = ("booktabs", "tabularx", "array", "color", "graphicx")
"""What the tables and the figures beside them need; all are in LaTeX's base and recommended set."""

GREY = 0.55
"""Of speeds that are no result, on LaTeX's scale from black to white."""
NONE = "--"

_PIECES = re.compile(r"[^_=,()/. -]{1,12}[_=,()/. -]?|.")
"""Parts of a name that a line may be broken between."""


def paper_table(comparison: Comparison, methods: Collection[str], label: str) -> str:
    """One comparison as a floating table; an empty text if none of its rows is chosen.

    Args:
        comparison: whole, so that its tests are those of the whole table.
        methods: names of methods or of their variants; empty for all.
        label: without `tab:`.
    """
    rows = chosen_rows(comparison, methods)
    if not rows:
        return ""
    unit = macs_unit([found.mean for row in rows if (found := row.mean(_spent))], min)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{_caption(comparison, rows, unit)}}}",
            rf"\label{{tab:{label}}}",
            r"\begin{tabularx}{\columnwidth}{@{}>{\raggedright\arraybackslash}Xrrrr@{}}",
            r"\toprule",
            rf"Method & Top-1 \% & To {REFERENCE} & Speed-up & {unit.name} \\",
            *_body(comparison, rows, unit),
            r"\midrule",
            _control(comparison),
            r"\bottomrule",
            r"\end{tabularx}",
            r"\end{table}",
            "",
        ]
    )


def chosen_rows(comparison: Comparison, methods: Collection[str]) -> list[Row]:
    """The rows of some methods or variants, all if none is named."""
    return [row for row in comparison.rows if not methods or names_of(comparison, row) & {*methods}]


def names_of(comparison: Comparison, row: Row) -> set[str]:
    """What a row can be chosen by: its method, as records and as tables name it, or its variant."""
    shown = plain_name(row.cell, [other.cell for other in comparison.rows])
    return {row.cell.method, shown, comparison.label(row)}


def breakable(name: str) -> str:
    """A name in LaTeX that may be broken over lines; its middle is cut out if it is long."""
    return r"\allowbreak{}".join(in_tex(piece) for piece in _PIECES.findall(visible(name, 80)))


def tex_number(found: Estimate | None, pattern: str, scale: float = 1.0) -> str:
    r"""A mean with its standard deviation as an index, for LaTeX's mathematics without the dollars.

    Args:
        found: the estimate; a dash for None.
        pattern: of `format`, for example "+.1f".
        scale: what both numbers are multiplied by.
    """
    if found is None:
        return NONE
    mean = format(scale * found.mean, pattern)
    plain = pattern.lstrip("+")
    if float(mean) == 0:
        mean = format(0.0, plain)
    if found.sd is None:
        return mean
    deviation = format(scale * found.sd, plain)
    if float(deviation) > 0:
        return rf"{mean}_{{\pm {deviation}}}"
    last = re.sub(r"0$", "1", deviation)
    return rf"{mean}_{{\pm {{<}}{last}}}" if found.sd > 0 else mean


def _body(comparison: Comparison, rows: Sequence[Row], unit: MacsUnit) -> Iterator[str]:
    """Lines of rows, a heading before each budget."""
    budget = ""
    for row in rows:
        heading = _heading(row)
        if heading != budget:
            budget = heading
            yield r"\midrule"
            yield rf"\multicolumn{{5}}{{@{{}}l}}{{\emph{{{in_tex(heading)}}}}} \\"
        yield _line(comparison, row, unit)


def _heading(row: Row) -> str:
    """The budget in words; a ratio of 1 leaves the whole network, and 1 ms does not."""
    metric = row.cell.metric
    if metric == "latency_ms":
        return f"Budget {row.budget} ms"
    return f"Budget {row.budget} of {UNITS[metric]}" if row.cell.budget != 1 else "Not pruned"


def _line(comparison: Comparison, row: Row, unit: MacsUnit) -> str:
    name = breakable(comparison.label(row))
    if row.lost:
        return rf"{name} & \multicolumn{{4}}{{l@{{}}}}{{{in_tex(row.seeds)}}} \\"
    gain = tex_number(row.gain, "+.1f", 100)
    cells = [
        _math(tex_number(row.mean(lambda record: record.top1.finetuned), ".1f", 100)),
        _math(rf"\mathbf{{{gain}}}" if comparison.is_clear_gain(row) else gain),
        _speed(row),
        _math(tex_number(row.mean(_spent), ".2f", 1 / unit.size)),
    ]
    return rf"{name} & {' & '.join(cells)} \\"


def _spent(record: Record) -> float | None:
    return spent_macs(record, TOTAL)


def _speed(row: Row) -> str:
    text = _math(tex_number(row.mean_of_times(lambda record: speedup(record, False)), ".2f"))
    return rf"\textcolor[gray]{{{GREY}}}{{{text}}}" if _is_grey(row) else text


def _is_grey(row: Row) -> bool:
    return is_noisy_speed(row, smallest=False)


def _control(comparison: Comparison) -> str:
    top1 = _math(tex_number(comparison.parent_top1, ".1f", 100))
    speed = _math(tex_number(comparison.control(smallest=False), ".2f"))
    return rf"{breakable(CONTROL)} & {top1} & {NONE} & {speed} & {NONE} \\"


def _caption(comparison: Comparison, rows: Sequence[Row], unit: MacsUnit) -> str:
    """What the numbers are, and over what family bold was decided."""
    counts = sorted({len(row.ok) for row in rows if not row.lost})
    seeds = "no seeds" if not counts else f"{counts[0]} to {counts[-1]} seeds"
    if counts and counts[0] == counts[-1]:
        seeds = "one seed" if counts[0] == 1 else f"{counts[0]} seeds"
    tested = sum(row.is_compared for row in comparison.rows)
    shown = sum(row.is_compared for row in rows)
    sentences = [
        f"Test accuracy after fine-tuning and its difference to {REFERENCE} width, paired by seed: "
        f"mean and sample standard deviation, {seeds}.",
    ]
    if tested:
        bold = any(comparison.is_clear_gain(row) for row in rows)
        found = "Bold: clear" if bold else "None is clear"
        sentences.append(
            f"{found} by a paired t-test at 5 %, Holm-corrected over the whole table's "
            f"{counted(tested, 'difference')}; {shown} shown here."
        )
    batch = max(comparison.cell.latency.batches)
    sentences.append(
        f"Speed-up is measured at batch {batch}; {unit.name} are those of search and fine-tuning."
    )
    if any(_is_grey(row) for row in rows if not row.lost):
        sentences.append(
            "Grey speeds are no result: the parent against itself was off by more than 10 %."
        )
    return f"{breakable(comparison.timed_heading)}. {in_tex(' '.join(sentences))}"


def _math(text: str) -> str:
    return text if text == NONE or NONE in text else f"${text}$"
