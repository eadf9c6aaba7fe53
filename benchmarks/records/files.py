"""Records as files: written once, never edited; files that are no records are named and skipped."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from benchmarks.records.bounds import moment
from benchmarks.records.plain import visible
from benchmarks.records.record import SCHEMA, SETTLED, Record
from benchmarks.records.reference import Reference
from benchmarks.records.strict import explain
from benchmarks.records.timing import Timing
from benchmarks.records.whole_file import write_new

__all__ = [
    "MOST_BYTES",
    "DamagedRecord",
    "Identified",
    "Loaded",
    "Unread",
    "current_records",
    "faulty_links",
    "load_record",
    "load_records",
    "read_folder",
    "write_numbered",
    "write_record",
]


MOST_BYTES = 256 * 2**20
"""Of a record's file; published ones have a fifth of a megabyte."""


Identified = TypeVar("Identified", Record, Reference, Timing)
"""A kind of record; all have an `id` and a `schema_version`."""


class DamagedRecord(ValueError):
    """A record file that cannot be read back as it was written."""


def write_record(folder: Path, record: Record) -> Record:
    """Write a record as a whole, under a name that did not exist; return it with its id.

    A second attempt at the same cell on the same day gets `-2` after the hash.

    Raises:
        OSError: if the folder cannot be written.
    """
    stem = f"{record.utc[:10].replace('-', '')}-{record.cell.label}-{record.cell.key}"
    return write_numbered(folder, stem, record)


def write_numbered(folder: Path, stem: str, record: Identified) -> Identified:
    """Write a record as JSON under the first of `stem`, `stem-2`, ... that is free.

    A kill at any moment leaves whole records only, and a hidden file, which the next run sweeps.

    Args:
        folder: made if it does not exist.
        stem: of the file's name.
        record: of any kind.

    Returns:
        The record with its name as `id`.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in itertools.count(1):
        name = stem if attempt == 1 else f"{stem}-{attempt}"
        named = record.model_copy(update={"id": name})
        with contextlib.suppress(FileExistsError):
            write_new(
                folder / f"{name}.json", named.model_dump_json(indent=1) + "\n", is_swept=True
            )
            return named
    raise AssertionError("count() does not end")


@dataclass(frozen=True)
class Unread:
    """A file in a folder of records that is no record.

    Attributes:
        name: of the file.
        reason: why, in a line.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{visible(self.name, 120)}: {visible(self.reason, 400)}"


class Loaded(NamedTuple, Generic[Identified]):
    """What a folder holds: records in order of their ids, and files that could not be read."""

    records: list[Identified]
    unread: list[Unread]


def load_record(path: Path) -> Record:
    """Read one record.

    Raises:
        DamagedRecord: if it is not a file that holds a whole record of a schema version known here.
        OSError: if it cannot be opened.
    """
    try:
        return _parsed(path, Record)
    except _NoRecord as error:
        raise DamagedRecord(f"{path} {error}") from error


def load_records(folder: Path) -> list[Record]:
    """All records of a folder in order of their ids; none if there is no such folder.

    Raises:
        DamagedRecord: naming the first file that cannot be read.
    """
    return [load_record(path) for path in _files(folder)]


def read_folder(folder: Path, kind: type[Identified]) -> Loaded[Identified]:
    """All records of a folder, and the files that are none: those are left out and named.

    A record counts once: of files that hold one id, that which is called so, or the first.

    Args:
        folder: where they lie; one that does not exist holds none.
        kind: of the records, `Record` for those of cells.

    Raises:
        OSError: if the folder cannot be read.
    """
    unread: list[Unread] = []
    found: dict[str, Identified] = {}
    for path in _files(folder):
        try:
            found[path.name] = _parsed(path, kind)
        except _NoRecord as error:
            unread.append(Unread(path.name, str(error)))
        except OSError as error:
            unread.append(Unread(path.name, f"cannot be read: {error.strerror}"))
    holders: dict[str, str] = {}
    for name, record in found.items():
        own = f"{record.id}.json"
        holders.setdefault(record.id, own if own in found else name)
    for name, record in found.items():
        if name != holders[record.id]:
            reason = f"has the id of {holders[record.id]}, which counts once; move it away"
            unread.append(Unread(name, reason))
    records = [record for name, record in found.items() if name == holders[record.id]]
    return Loaded(records, unread)


class _NoRecord(ValueError):
    """Says what is wrong with a file, without its name."""


def _files(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{folder} is a file where records are kept in a folder; move it away"
        )
    found = (p for p in folder.iterdir() if p.suffix == ".json" and p.name[0] != ".")
    return sorted(found, key=lambda path: path.stem)  # by whole names "x-2.json" is before "x.json"


def _parsed(path: Path, kind: type[Identified]) -> Identified:
    try:
        record = kind.model_validate_json(_content(path))
    except ValidationError as error:
        raise _NoRecord(
            f"is not a whole record ({explain(error)}); move it away and run the suite again"
        ) from error
    if record.schema_version > SCHEMA:
        raise _NoRecord(
            f"has schema version {record.schema_version}, this program reads up to "
            f"{SCHEMA}; update the program"
        )
    return record


def _content(path: Path) -> bytes:
    with open(path, "rb", opener=_open_at_once) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise _NoRecord("is no file but a pipe or device; move it away")
        if found.st_size > MOST_BYTES:
            raise _NoRecord(
                f"has {found.st_size:,} bytes, a record at most {MOST_BYTES:,}; move it away"
            )
        return file.read(MOST_BYTES)


def _open_at_once(path: str, flags: int) -> int:
    """Does not wait for somebody to write into a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def current_records(records: Sequence[Record]) -> list[Record]:
    """One record for each cell and processor: an ok one, else an infeasible one, else any.

    Of several alike the latest counts, and none that is superseded; see `faulty_links` for what
    supersedes nothing. A cell that is settled stays so: no failure makes it run again, whatever the
    clock said when it was written and whatever processor it was on. A record that stands there once
    for each device it is timed on (see `joined`) stays so.
    """
    faulty = {record.id for record, _ in faulty_links(records)}
    replaced = {record.supersedes for record in records if record.id not in faulty}
    known = [record for record in records if record.id not in replaced]
    settled = {record.cell.key for record in known if record.status in SETTLED}
    chosen: dict[tuple[str, str], Record] = {}
    for record in known:
        if record.status not in SETTLED and record.cell.key in settled:
            continue
        best = chosen.get(_trained(record))
        if best is None or _rank(record) >= _rank(best):
            chosen[_trained(record)] = record
    ids = {place: record.id for place, record in chosen.items()}
    return [record for record in known if ids.get(_trained(record)) == record.id]


def faulty_links(records: Sequence[Record]) -> list[tuple[Record, str]]:
    """Records that supersede what they cannot, and why; such a link is as if it were not there.

    A correction is one of the same cell. Records that supersede each other in a circle would all
    be gone.
    """
    by_id = {record.id: record for record in records}
    found = []
    for record in by_id.values():
        old = by_id.get(record.supersedes or "")
        if old is None:
            continue
        if old.cell.key != record.cell.key:
            found.append((record, f"supersedes {old.id}, a record of another cell; both count"))
        elif record.id in _replaced_from(old, by_id):
            found.append((record, f"supersedes {old.id}, which supersedes it in turn"))
    return found


def _replaced_from(record: Record, by_id: Mapping[str, Record]) -> set[str]:
    """Ids of a record and of all that it replaces, step by step."""
    seen: set[str] = set()
    step: Record | None = record
    while step is not None and step.id not in seen:
        seen.add(step.id)
        step = by_id.get(step.supersedes or "")
    return seen


def _trained(record: Record) -> tuple[str, str]:
    """A cell and the processor that trained it."""
    return record.cell.key, record.trained_on


def _rank(record: Record) -> tuple[bool, bool, datetime]:
    return record.status == "ok", record.status in SETTLED, moment(record.utc)
