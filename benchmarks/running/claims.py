"""Who does what, where several runs share one folder of results.

A run claims a piece of work by making a file that did not exist; the file names the run. While it
is alive, a run renews one further file, its heartbeat. A claim lapses when its run has ended, or
has not renewed its heartbeat for a while, and then belongs to whoever makes it anew. Times are
those that the folder's file system gives to files, so the clocks of machines need not agree.

If a run that was thought dead goes on after all, a cell may be run twice. That costs time and
leaves two records of one cell, of which readers take one.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock

from benchmarks.records.files import DamagedRecord, load_record
from benchmarks.records.record import Record
from benchmarks.records.whole_file import is_gone, sweep, this_writer, write_new, write_whole

__all__ = ["BEAT_SECONDS", "LAPSE_SECONDS", "Claims"]

BEAT_SECONDS = 15.0
"""Between two renewals of a heartbeat."""

LAPSE_SECONDS = 120.0
"""Age of a heartbeat above which its run counts as dead; file systems may show it that late."""

_OLD_SECONDS = 3600.0
"""Age above which the heartbeat of another run says nothing any more, and is removed."""

_RECORD = re.compile(r"-(?P<key>[0-9a-f]{8})(?:-\d+)?\.json")
"""End of a record's file name."""


class Claims:
    """The claims of one run, to be used in a `with` block.

    Args:
        folder: of claims; every run on the same records has the same one.
        records: where all runs write.
        keys: of the cells that this run found without a settled record.
    """

    def __init__(self, folder: Path, records: Path, keys: Collection[str]) -> None:
        self.folder, self.records, self._keys = folder, records, frozenset(keys)
        self.run = this_writer()
        self._heartbeat = folder / "runs" / self.run
        self._held: set[str] = set()
        self._seen: set[str] = set()
        self._found: dict[str, Record] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        for folder in (self.folder, self._heartbeat.parent):
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
        write_whole(self._heartbeat, "")
        self._look(is_first=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()
        for name in tuple(self._held):
            self.release(name)
        # The heartbeat stays, so that a run that is under way looks for this one's last records.

    def take(self, name: str) -> bool:
        """Claim a piece of work; False if another run that is alive has it.

        Args:
            name: of the work, fit for a file name.

        Raises:
            OSError: if the folder cannot be written.
        """
        if name in self._held:
            return True
        path = self.folder / name
        try:
            write_new(path, self.run, is_swept=True)
        except FileExistsError:
            if not self._taken_over(path):
                return False
        self._held.add(name)
        return True

    def release(self, name: str) -> None:
        """Give a claim up: the work is done, or was not begun."""
        if name in self._held:
            self._held.remove(name)
            with self._one_at_a_time(), contextlib.suppress(FileNotFoundError):
                if (self.folder / name).read_text("utf-8") == self.run:  # not taken over meanwhile
                    (self.folder / name).unlink()

    def recorded(self, key: str) -> Record | None:
        """What another run has made of a cell since this one began; None if nothing.

        A cell that was cancelled there is still to be run. To be asked after `take`.
        """
        if self._has_company():
            self._look()
        return self._found.get(key)

    def note(self, record: Record) -> None:
        """Know a record as this run's own."""
        self._seen.add(f"{record.id}.json")

    def _look(self, is_first: bool = False) -> None:
        """Read the records that have appeared.

        Those that are there at first settle a cell or are failures of runs before.
        """
        if not self.records.is_dir():
            return
        for name in os.listdir(self.records):  # noqa: PTH208  (names suffice, of many files)
            if name in self._seen:
                continue
            self._seen.add(name)
            found = _RECORD.search(name)
            if name[0] == "." or found is None or found["key"] not in self._keys:
                continue
            with contextlib.suppress(DamagedRecord):
                record = load_record(self.records / name)
                if record.status in ("ok", "infeasible"):
                    self._found[found["key"]] = record
                elif record.status == "failed" and not is_first:
                    self._found.setdefault(found["key"], record)

    def _has_company(self) -> bool:
        """Whether another run was alive of late."""
        now = self._now()
        for path in self._heartbeat.parent.iterdir():
            if path == self._heartbeat or path.name[0] == ".":
                continue
            with contextlib.suppress(FileNotFoundError):
                if now - path.stat().st_mtime <= _OLD_SECONDS:
                    return True
                path.unlink()
        return False

    def _taken_over(self, path: Path) -> bool:
        """Put this run's name into a claim whose run is dead; whether it was.

        The file stays there throughout, so nobody can make it anew in between.
        """
        with self._one_at_a_time():
            try:
                owner = path.read_text("utf-8")
            except FileNotFoundError:  # given up since; whoever looks next may have it
                return False
            if self._is_alive(owner):
                return False
            write_whole(path, self.run)
            return True

    def _one_at_a_time(self) -> FileLock:
        """Of all runs, one alone reads claims of others and changes them."""
        return FileLock(self.folder.with_name(f".{self.folder.name}.lock"))

    def _is_alive(self, run: str) -> bool:
        if run == self.run:
            return True
        try:
            age = self._now() - (self._heartbeat.parent / run).stat().st_mtime
            return age <= LAPSE_SECONDS and not is_gone(run)
        except (OSError, ValueError):  # it has none, or the claim holds no name of a run
            return False

    def _now(self) -> float:
        """Time of the file system, as this run's heartbeat gets it."""
        try:
            os.utime(self._heartbeat)
            return self._heartbeat.stat().st_mtime
        except FileNotFoundError:  # the cache was deleted
            self._heartbeat.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._heartbeat, "")
            return self._heartbeat.stat().st_mtime

    def _beat(self) -> None:
        while not self._is_over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # a moment without the disk is no end of the run
                self._now()
