"""Cells and records as runs of a tracker."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from benchmarks.records.cell import Cell
from benchmarks.records.record import Record
from benchmarks.records.whole_file import write_whole
from benchmarks.tracking.tracker import Settings, Tracker, open_tracker

__all__ = ["begin", "export_records", "finish", "mark", "results_of", "settings_of"]


def settings_of(cell: Cell) -> Settings:
    """All that a cell asks for beside defaults, by names with dots."""
    found = dict(_flat(cell.model_dump(mode="json", exclude_defaults=True)))
    return {"key": cell.key, **found}


def results_of(record: Record) -> dict[str, float]:
    """The numbers of a record by name: accuracy, size, cost by phase, latency."""
    found: dict[str, float] = {}
    for name, top1 in record.top1.model_dump().items():
        found[f"top1/{name}"] = top1
    if record.size is not None:
        for name, size in record.size.model_dump().items():
            found[f"size/{name}"] = size
    for phase, spent in record.spent.items():
        found[f"cost/{phase} macs"] = spent.macs
        found[f"cost/{phase} images"] = spent.images
        found[f"cost/{phase} seconds"] = spent.seconds
    for measured in record.latency:
        found[f"latency/batch {measured.batch} parent ms"] = measured.parent_ms.median
        found[f"latency/batch {measured.batch} pruned ms"] = measured.pruned_ms.median
    if record.seconds is not None:
        found["cost/seconds"] = record.seconds
    return {name: float(value) for name, value in found.items() if _is_number(value)}


def begin(kind: str, results: Path, suite: str, run: str, cell: Cell) -> Tracker:
    """Begin the run of a cell, or of its parent.

    Args:
        kind: name of the tracker.
        results: folder of results.
        suite: that it belongs to; runs of `zoo prune` have none.
        run: its name.
        cell: what is asked.
    """
    settings = settings_of(cell)
    return open_tracker(
        kind, results / "tracking", project=suite or "prune", run=run, settings=settings
    )


def finish(tracker: Tracker, record: Record, kind: str, results: Path) -> None:
    """End the run of a cell with its record, which is not exported again.

    Args:
        tracker: of the run.
        record: as it was written.
        kind: name of the tracker.
        results: folder of results.
    """
    tracker.close(results_of(record))
    mark(record, kind, results)


def mark(record: Record, kind: str, results: Path) -> None:
    """Note that a record is a run already."""
    write_whole(_mark(record, kind, results), "")


def export_records(kind: str, results: Path, records: Sequence[Record]) -> int:
    """Make a run of every record that is not a run yet; return how many were made.

    Args:
        kind: name of the tracker.
        results: folder of results.
        records: of any suites. One that stands there once for each device that timed it is one run,
            with the times of the processor that trained it if that timed it, too.
    """
    chosen: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: (not r.latency, not r.is_timed_where_trained)):
        chosen.setdefault(record.id, record)
    once = [chosen.pop(record.id) for record in records if record.id in chosen]
    new = [record for record in once if not _mark(record, kind, results).exists()]
    for record in new:
        tracker = begin(kind, results, record.suite, record.id, record.cell)
        for name, values in _curves(record):
            for step, value in enumerate(values, 1):
                tracker.log({name: value}, step)
        finish(tracker, record, kind, results)
    return len(new)


def _mark(record: Record, kind: str, results: Path) -> Path:
    """An empty file that says that a record is a run."""
    name = hashlib.sha256(record.id.encode()).hexdigest()[:16]
    return results / "tracking" / f"{kind}-records" / name


def _curves(record: Record) -> Iterator[tuple[str, list[float]]]:
    """Losses and scores that a search or a training traced, one number for each step."""
    for row in record.trace:
        for what in ("losses", "scores", "errors"):
            values = row.get(what)
            if isinstance(values, list) and values and all(map(_is_number, values)):
                numbers = [float(value) for value in values if isinstance(value, int | float)]
                yield f"{row['step']}/{what}", numbers


def _flat(value: JsonValue, name: str = "") -> Iterator[tuple[str, str | float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, bool) or value is None:
        yield name, str(value)
    elif isinstance(value, str | int | float):
        yield name, value
    else:
        yield name, ", ".join(map(str, value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
