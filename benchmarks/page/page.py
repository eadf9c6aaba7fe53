"""One page for readers: the finding, a scatter, a table, figures, and every record behind a row.

The page stands alone: styles, script and figures are inside, and its security policy forbids any
request. What records say is text everywhere; jinja escapes it. Reads records and nothing else.
"""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.analysis.captions import caption
from benchmarks.analysis.comparison import (
    DECIDING,
    NOISE,
    Comparison,
    Row,
    aligned,
    is_noisy_speed,
    macs_ratio,
    realised,
    share,
    speedup,
    spent_macs,
)
from benchmarks.analysis.findings import Findings
from benchmarks.analysis.uncertainty import Estimate, findable
from benchmarks.figures.all_figures import TITLES
from benchmarks.page.scatter import scatter
from benchmarks.page.template import own_text, page_template
from benchmarks.records.files import current_records
from benchmarks.records.plain import told_budget
from benchmarks.records.record import TOTAL, Record
from benchmarks.records.runtime import Environment
from benchmarks.records.whole_file import write_whole
from benchmarks.tables.contrast_lines import contrast_lines
from benchmarks.tables.finding import finding
from benchmarks.tables.legends import legend
from benchmarks.tables.standing_table import ranked_lines, standing_words
from benchmarks.tables.tables import CONTROL
from benchmarks.tables.unread import unread_lines

__all__ = ["build_page", "write_page"]

SHRINK = 0.7
"""Size on the page over size in pixels, so that figures are sharp on fine screens."""

PLAIN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""Names of records as they are written."""

BROAD = 680
"""Pixels on the page from which on a figure takes a row of its own."""

LARGE = ("config", "trace", "scores")
"""Parts of a record that the page leaves to the file."""

TIMES = ("latency", "further_latency", "left_out", "footprint", "predicted_latency")
"""Parts of a record that may differ between the devices that timed it."""


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, and the number or text of a row.

    `told` stands in the place of the number, which the column is sorted by. One that
    `is_optional` stands there only if any row has its number.
    """

    heading: str
    value: Callable[[Comparison, Row], Estimate | str | None]
    pattern: str = ""
    scale: float = 1.0
    is_clear: Callable[[Comparison, Row], bool] = lambda comparison, row: False
    is_noise: Callable[[Row], bool] = lambda row: False
    control: Callable[[Comparison], Estimate | None] = lambda comparison: None
    told: Callable[[Row], str] | None = None
    is_optional: bool = False


def write_page(
    findings: Findings,
    path: Path,
    *,
    title: str,
    figures: Iterable[Path],
    dark: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the page; return its path.

    Args:
        findings: what to show.
        path: of the page.
        title: its heading.
        figures: files of the figures drawn from the same records; all but PNG are left out.
        dark: PNGs of the same figures for a dark ground, by name.
    """
    write_whole(path, build_page(findings, title=title, figures=figures, dark=dark))
    return path


def build_page(
    findings: Findings,
    *,
    title: str,
    figures: Iterable[Path] = (),
    dark: Mapping[str, bytes] | None = None,
) -> str:
    """The page as a text.

    Args:
        findings: what to show.
        title: its heading.
        figures: files of the figures drawn from the same records; all but PNG are left out.
        dark: PNGs of the same figures for a dark ground, by name.
    """
    comparisons = findings.comparisons
    columns = _standing(comparisons)
    rows = [_row(c, row, columns) for c in comparisons for row in c.rows]
    rows += [_control_row(c, columns) for c in comparisons if c.ok]
    points = scatter(comparisons, _anchor)
    return page_template("page.html.j2").render(
        title=title,
        finding=finding(findings),
        points=points,
        css=own_text("page.css"),
        js=own_text("page.js", "scatter.js"),
        library=own_text("uplot/uPlot.iife.min.js") if points["panels"] else "",
        licence=own_text("uplot/LICENSE"),
        captions=[{"title": c.timed_heading, "text": caption(c)} for c in comparisons],
        choices=_choices(rows),
        headings=[*map(_heading, columns), {"text": "Records", "classes": "text"}],
        rows=rows,
        legend=legend(comparisons, has_seconds=False),
        contrasts=contrast_lines(comparisons),
        unread=unread_lines(findings.unread),
        ranked=ranked_lines(findings),
        standing=standing_words(findings),
        figures=[_figure(path, dark or {}) for path in figures if path.suffix == ".png"],
        records=[_record(copies) for copies in _by_anchor(findings.records)],
    )


def _by_anchor(records: Sequence[Record]) -> list[list[Record]]:
    """The records that count, by name; one stands there once for each device that timed it."""
    found: dict[str, list[Record]] = {}
    for record in sorted(current_records(records), key=lambda record: record.id):
        found.setdefault(_anchor(record), []).append(record)
    return list(found.values())


def _mean(
    value: Callable[[Record], float | None],
) -> Callable[[Comparison, Row], Estimate | None]:
    return lambda comparison, row: row.mean(value)


def _one(value: float | None) -> Estimate | None:
    """A number that is not one over seeds, as a cell takes it."""
    return None if value is None else Estimate((value,))


def _detectable(size: float | None) -> Estimate | str | None:
    """The same of a detectable difference; "none" where no true one is found."""
    found = findable(size)
    return "none" if found == math.inf else _one(found)


def _speed_column(heading: str, *, smallest: bool) -> Column:
    return Column(
        heading,
        lambda comparison, row: row.mean_of_times(lambda record: speedup(record, smallest)),
        ".2f",
        is_noise=lambda row: is_noisy_speed(row, smallest),
        control=lambda comparison: comparison.control(smallest),
    )


def _realised_column(heading: str, *, smallest: bool) -> Column:
    return Column(
        heading,
        lambda comparison, row: row.mean_of_times(lambda record: realised(record, smallest)),
        ".0f",
        100,
        is_noise=lambda row: is_noisy_speed(row, smallest),
    )


COLUMNS: tuple[Column, ...] = (
    Column("Network", lambda c, row: c.model_title),
    Column("Method", lambda c, row: c.label(row)),
    Column(
        "Budget", lambda c, row: _one(float(row.cell.budget)), "g", told=lambda row: row.budget
    ),
    Column(
        "Top-1 %", lambda c, row: row.seeds if row.lost else row.mean(lambda r: r.top1.finetuned),
        ".1f", 100, control=lambda c: c.parent_top1,
    ),
    Column("To uniform", lambda c, row: row.gain, "+.1f", 100, lambda c, row: c.is_clear_gain(row)),
    Column(
        "Own finish", lambda c, row: row.seeds if row.lost else row.mean(lambda r: r.top1.own),
        ".1f", 100, is_optional=True,
    ),
    _speed_column("Speed-up, largest batch", smallest=False),
    _speed_column("Speed-up, smallest batch", smallest=True),
    Column("Total TMACs", _mean(lambda r: spent_macs(r, TOTAL)), ".2f", 1e-12),
    Column("MACs %", _mean(lambda r: share(r, "macs")), ".1f", 100),
    Column("Params %", _mean(lambda r: share(r, "params")), ".1f", 100),
    Column("Detectable", lambda c, row: _detectable(c.detectable(row)), ".1f", 100),
    Column("Seeds", lambda c, row: row.seeds),
    Column("Data", lambda c, row: c.data_title),
    Column("Of", lambda c, row: row.cell.metric),
    Column("MACs ratio", _mean(macs_ratio), ".2f"),
    Column("x8 %", _mean(aligned), ".0f", 100),
    _realised_column("Realised %, largest", smallest=False),
    _realised_column("Realised %, smallest", smallest=True),
    Column("Search TMACs", _mean(lambda r: spent_macs(r, DECIDING)), ".3f", 1e-12),
    Column("Fine-tune TMACs", _mean(lambda r: spent_macs(r, ["finetune"])), ".3f", 1e-12),
    Column("Device", lambda c, row: _device(c)),
)  # fmt: skip


def _standing(comparisons: Sequence[Comparison]) -> list[Column]:
    """The columns, without those that are optional and have no number."""
    return [
        column
        for column in COLUMNS
        if not column.is_optional
        or any(isinstance(column.value(c, row), Estimate) for c in comparisons for row in c.rows)
    ]


def _heading(column: Column) -> dict[str, str]:
    return {"text": column.heading, "classes": _classes(column)}


def _classes(column: Column, marks: Mapping[str, bool] | None = None) -> str:
    own = {"stays": column.heading == "Method", "text": not column.pattern, **(marks or {})}
    return " ".join(name for name, has in own.items() if has)


def _row(
    comparison: Comparison, row: Row, columns: Sequence[Column]
) -> dict[str, Any]:  # Any: what the template reads
    cells = [
        _cell(
            column,
            column.value(comparison, row),
            is_clear=column.is_clear(comparison, row),
            is_noise=column.is_noise(row),
            told=column.told(row) if column.told else "",
        )
        for column in columns
    ]
    links = [{"anchor": _anchor(record), "text": f"s{record.cell.seed}"} for record in row.records]
    return {"cells": cells, "links": links, "is_control": False, "fields": _fields(
        comparison, row.cell.method, f"{row.budget} {row.cell.metric}")}  # fmt: skip


def _control_row(
    comparison: Comparison, columns: Sequence[Column]
) -> dict[str, Any]:  # Any: as above
    named = {"Method": CONTROL, "Network": comparison.model_title,
             "Data": comparison.data_title, "Device": _device(comparison)}  # fmt: skip
    cells = [
        _cell(
            column,
            column.control(comparison) if column.pattern else named.get(column.heading, ""),
        )
        for column in columns
    ]
    fields = _fields(comparison, CONTROL, "")
    return {"cells": cells, "links": [], "is_control": True, "fields": fields}


def _fields(comparison: Comparison, method: str, budget: str) -> dict[str, str]:
    """What the select boxes filter by."""
    return {
        "network": comparison.model_title,
        "data": comparison.data_title,
        "device": _device(comparison),
        "method": method,
        "budget": budget,
    }


def _device(comparison: Comparison) -> str:
    """What timed its networks, and what trained them where that tells it from another."""
    trained = f", trained on {comparison.trained_on}" if comparison.has_other_trainer else ""
    return f"{comparison.hardware}{trained}"


def _cell(
    column: Column,
    found: Estimate | str | None,
    *,
    is_clear: bool = False,
    is_noise: bool = False,
    told: str = "",
) -> dict[str, str | float | None]:
    """Text, and the number to sort by: empty where it is not known, none for a text."""
    is_noise = is_noise and found is not None
    classes = _classes(column, {"clear": is_clear, NOISE: is_noise})
    if isinstance(found, str):
        return {"text": found, "value": "" if column.pattern else None, "classes": classes}
    if found is None:
        return {"text": "–", "value": "", "classes": classes}
    is_main = column.heading in ("Top-1 %", "To uniform")
    form = found.with_interval if is_main else found.shown
    text = told or form(column.pattern, column.scale) + (f" ({NOISE})" if is_noise else "")
    return {"text": text, "value": found.mean, "classes": classes}


def _choices(rows: Sequence[dict[str, Any]]) -> dict[str, list[str]]:  # Any: as above
    """Values of each select box; boxes with one value are left out."""
    names = ("network", "data", "budget", "method", "device")
    found = {name: sorted({row["fields"][name] for row in rows} - {""}) for name in names}
    return {name: values for name, values in found.items() if len(values) > 1}


def _figure(path: Path, dark: Mapping[str, bytes]) -> dict[str, Any]:  # Any: as above
    kind, _, device = path.stem.partition("-")
    with Image.open(path) as image:
        width, height = image.size
    return {
        "name": path.stem,
        "title": f"{TITLES[kind]}, {device}" if device else TITLES[kind],
        "uri": _inline(path.read_bytes()),
        "dark": _inline(dark[path.stem]) if path.stem in dark else "",
        "is_broad": SHRINK * width > BROAD,
        "width": round(SHRINK * width),
        "height": round(SHRINK * height),
    }


def _inline(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _record(copies: Sequence[Record]) -> dict[str, Any]:  # Any: as above
    """A record, told once, and what each device measured of its network.

    Args:
        copies: the same but for the times that joined it.
    """
    timed = [each for each in copies if each.timed_on is not None and each.latency]
    timed.sort(key=lambda each: each.runs_on)
    record = next((each for each in timed if each.is_timed_where_trained), copies[0])
    cell, environment = record.cell, record.environment
    facts = {
        "Method": cell.method,
        "Settings": json.dumps(record.method_settings or cell.settings),
        "Network and data": f"{cell.model.title} on {cell.data.title}",
        "Budget": told_budget(cell.budget, cell.metric),
        "Seed": cell.seed,
        "Status": record.status + (f": {record.reason}" if record.reason else ""),
        "Suite": record.suite,
        "Written": record.utc,
        "Commit": _commit(environment),
        "Environment": _told(environment),
    }
    for place, each in enumerate(timed, 1):
        name = "Timed" if len(timed) == 1 else f"Timed, {place} of {len(timed)}"
        facts[name] = _timed(each)
    return {
        "anchor": _anchor(record),
        "id": record.id,
        "facts": facts,
        "text": "\n".join([_dumped(record, bool(timed)), *map(_dumped_times, timed)]),
        "file": f"records/{record.id}.json",
        # Only what can be the name of a file is linked: no way out of the folder.
        "href": f"records/{record.id}.json" if PLAIN_ID.fullmatch(record.id) else "",
    }


def _dumped(record: Record, is_timed: bool) -> str:
    """As its file has it: times that joined it are files of their own."""
    left_out = {*LARGE, *(TIMES if is_timed else ())}
    return record.model_dump_json(indent=1, exclude=left_out, exclude_none=True)


def _dumped_times(record: Record) -> str:
    times = record.model_dump(mode="json", include={*TIMES}, exclude_none=True)
    on = record.timed_on
    known = on.model_dump(mode="json", exclude_none=True) if on else {}
    return json.dumps({"timed_on": known, **times}, indent=1, ensure_ascii=False)


def _timed(record: Record) -> str:
    on = record.timed_on
    assert on is not None  # only of records that were timed apart from their training
    told = f"commit {_commit(on.environment)}, {_told(on.environment)}"
    return f"on {on.device}, {told}, fingerprint {on.fingerprint}"


def _commit(environment: Environment) -> str:
    return f"{environment.commit or 'unknown'}{', changed' if environment.dirty else ''}"


def _told(environment: Environment) -> str:
    """All else that is known of it."""
    return ", ".join(
        f"{name} {value}"
        for name, value in environment.model_dump(mode="json").items()
        if value is not None and name not in ("commit", "dirty")
    )


def _anchor(record: Record) -> str:
    """Fit for an identifier whatever the record says; no two records share it."""
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in record.id)
    digest = zlib.crc32(f"{record.id} {record.cell.key}".encode())
    return f"r-{plain[:200]}-{digest:08x}"
