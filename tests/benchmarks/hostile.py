"""Records with one odd value, and reports of everything from them."""

import copy
import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from benchmarks.analysis.findings import Findings
from benchmarks.analysis.regression import judge, pair_up
from benchmarks.page.page import build_page
from benchmarks.page.renew import special_tables
from benchmarks.records.files import Loaded, read_folder
from benchmarks.records.record import Record
from benchmarks.tables.tables import to_csv, to_latex, to_markdown, to_short_markdown, with_unread

Place = tuple[str | int, ...]

NUMBERS = (0, -1, float("nan"), 1e308, float("inf"), 10**400, 1e-320, None, "x", [], {})
TEXTS = (
    "", "$", "$x^{$ \\frac", "\x1b[31m\x9b2J", "<!-- zoo report: end -->", "../../../etc/passwd",
    "a\nb|c\r\n# d", "=1+1", "x" * 100_000, "\u202eabc\u2066", "\\input{x}%", "_x", "[bold]:smile:",
    "`x` [a](http://b.c)", "\x00", "x" * 190, "中文", "</script><script>", None, 7,
)  # fmt: skip
FEW = 2
"""Items of a long list that are replaced."""


def leaves(value: object, place: Place = ()) -> Iterator[Place]:
    """Places of all numbers, texts and nulls of a record; of a list, those of its first items."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*place, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:FEW]):
            yield from leaves(inner, (*place, index))
    else:
        yield place


def mutations(record: dict) -> Iterator[tuple[Place, object]]:
    """Every leaf with every odd value for its kind."""
    for place in leaves(record):
        found = record
        for step in place:
            found = found[step]
        for value in TEXTS if isinstance(found, str) else NUMBERS:
            yield place, value


def mutated(record: dict, place: Place, value: object) -> str:
    """The text of a record with one leaf replaced."""
    changed = copy.deepcopy(record)
    inner = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return json.dumps(changed)


def report(loaded: Loaded, base: list[Record]) -> dict[str, str]:
    """All texts of a report, by kind, and what the gate says."""
    records, unread = loaded
    findings = Findings.of(records, unread)
    comparisons = findings.comparisons
    texts = {
        "results": with_unread(to_markdown(comparisons), unread),
        "short": with_unread(to_short_markdown(comparisons), unread),
        "csv": to_csv(comparisons),
        "tex": to_latex(comparisons),
        "page": build_page(findings, title="t"),
        **{name: make() for name, make in special_tables(findings).items()},
    }
    for first, second in ((base, records), (records, base)):
        pairs = pair_up(first, second, partial=True)
        judge(pairs)
    return texts


def require_text(texts: dict[str, str]) -> None:
    """Nothing in a report but what stands there to be read."""
    for name, text in texts.items():
        odd = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")}
        assert not odd, (name, odd)
        if name not in ("csv", "tex", "page"):
            assert "<!--" not in text and "<script" not in text, name
            require_tables(text)
    assert texts["page"].count("<script>") == 1 and 'href="records/..' not in texts["page"]
    rows = list(csv.reader(io.StringIO(texts["csv"])))
    assert len({len(row) for row in rows}) == 1 and texts["csv"].count("\n") == len(rows)
    fields = [field for row in rows for field in row if not _is_number(field)]
    assert not any(field.startswith(("=", "+", "-", "@")) for field in fields)


def require_tables(text: str) -> None:
    """Every row of every table has as many cells as its head."""
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.split("\n") if line.startswith("|")]
        counts = {len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in lines}
        assert len(counts) <= 1, block


def put(folder: Path, texts: dict[str, str]) -> Loaded:
    """Writes files and reads them as records."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.json").write_text(text, "utf-8")
    return read_folder(folder, Record)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
