"""Records of cells with the times that belong to their networks.

Reads records and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.records.bounds import moment
from benchmarks.records.files import Loaded, current_records, read_folder
from benchmarks.records.record import Record, TimedOn
from benchmarks.records.runtime import PredictedLatency
from benchmarks.records.timing import Timing

__all__ = ["TIMINGS", "joined", "network_key", "read_results", "read_timings"]

TIMINGS = "timings"
"""Name of the folder beside that of the records."""


def network_key(record: Record) -> str | None:
    """Sixteen hexadecimal digits that name the pair of networks of a cell, and how it is timed.

    None for a record that no network can be made from: it did not end, it is part of a ranking, or
    it is older than protocol 2.
    """
    cell = record.cell
    if record.status != "ok" or cell.sample is not None or record.input_size is None:
        return None
    told = {
        "model": cell.model.model_dump(mode="json", exclude={"weights"}),  # no matter of time
        "input_size": record.input_size,
        "num_classes": record.num_classes,
        "widths": [[group.name, group.kept] for group in record.groups],
        "latency": cell.latency.model_dump(mode="json"),
    }
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_timings(results: Path) -> Loaded[Timing]:
    """All timings of a results folder, and the files among them that are none.

    Raises:
        OSError: if the folder cannot be read.
    """
    return read_folder(results / TIMINGS, Timing)


def read_results(results: Path) -> Loaded[Record]:
    """All records of a results folder with the times that belong to them, and what cannot be read.

    A folder of records alone may be given, too.

    Raises:
        OSError: if a folder cannot be read.
    """
    if not (results / "records").is_dir():
        return read_folder(results, Record)
    loaded = read_folder(results / "records", Record)
    timings, unread = read_timings(results)
    return Loaded(joined(loaded.records, timings), [*loaded.unread, *unread])


def joined(records: Sequence[Record], timings: Iterable[Timing]) -> list[Record]:
    """Records with their times filled in, once for each device that one of their comparison ran on.

    So each device gets tables of its own, and a network that is not timed there yet stays in them
    without times. Networks that other processors trained are other comparisons, and a timing, which
    knows no weights, belongs to each that has its network. Records that hold times of their own are
    returned as they are.
    """
    latest: dict[tuple[str, str], Timing] = {}
    for timing in sorted(timings, key=lambda each: moment(each.utc)):
        latest[timing.network, timing.fingerprint] = timing
    devices: dict[tuple[str, str], dict[str, Timing]] = {}  # of each comparison, by fingerprint
    by_network: dict[str, list[Timing]] = {}
    for timing in latest.values():
        by_network.setdefault(timing.network, []).append(timing)
    keys = [network_key(record) for record in records]
    for record in current_records(records):  # a device that timed replaced ones only has no table
        for timing in by_network.get(network_key(record) or "", ()):
            devices.setdefault(_place(record), {})[timing.fingerprint] = timing
    found: list[Record] = []
    for record, key in zip(records, keys, strict=True):
        on = devices.get(_place(record), {})
        if record.latency or not on:
            found.append(record)
            continue
        for fingerprint, example in on.items():
            found.append(_timed(record, latest.get((key or "", fingerprint)), example))
    return found


def _place(record: Record) -> tuple[str, str]:
    """What is held equal, and the processor that trained it."""
    return record.cell.comparison, record.trained_on


def _timed(record: Record, timing: Timing | None, example: Timing) -> Record:
    """A record as it looks on a device, without times where its network was not timed there.

    Args:
        record: of a cell.
        timing: of its network.
        example: any timing on the device.
    """
    on = TimedOn(
        device=example.device, environment=example.environment, fingerprint=example.fingerprint
    )
    found = record.model_copy(update={"timed_on": on})
    if timing is None:
        return found
    times: dict[str, object] = {
        "latency": timing.latency,
        "further_latency": timing.further_latency,
        "left_out": timing.left_out,
        "footprint": timing.footprint,
    }
    if found.is_timed_where_trained:  # a prediction is one for the device that pruned
        times["predicted_latency"] = _beside(record, timing)
    return found.model_copy(update=times)


def _beside(record: Record, timing: Timing) -> PredictedLatency | None:
    """What was predicted, with what was measured at the same batch."""
    predicted = record.predicted_latency
    if predicted is None:
        return None
    for found in timing.latency:
        if found.batch == predicted.batch:
            return predicted.model_copy(
                update={
                    "measured_parent_ms": found.parent_ms.median,
                    "measured_pruned_ms": found.pruned_ms.median,
                }
            )
    return predicted
