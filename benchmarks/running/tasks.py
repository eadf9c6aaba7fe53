"""What a worker does: train a parent, time operators, run a cell; and how a record is written."""

from __future__ import annotations

import contextlib
import signal
from types import FrameType
from typing import TYPE_CHECKING

import torch

from benchmarks.records.cell import Cell
from benchmarks.records.contrast import Primary
from benchmarks.records.files import write_record
from benchmarks.records.record import Record
from benchmarks.running.kept import settle
from benchmarks.running.live import watching
from benchmarks.running.plan import Job
from benchmarks.tracking.runs import begin, mark, results_of
from zoo.core.training.ranks import decided, rank

if TYPE_CHECKING:
    from benchmarks.running.parent import Places

__all__ = [
    "OutOfMemory",
    "Unrecorded",
    "measure_table",
    "run_and_write",
    "run_one",
    "train_parent",
    "written",
]


class Unrecorded(OSError):
    """A cell was finished and its record cannot be written, nor would those of others."""


class OutOfMemory:
    """Answer of a task that shared a GPU whose memory ran out."""


def written(job: Job, record: Record, problem: str | None) -> Record:
    """The record of a finished cell, written; of one that had a problem, checkpoints stay."""
    try:
        record = write_record(job.records, record)
    except OSError as error:
        raise Unrecorded(
            f"{record.cell.label} was finished, but its record cannot be written to {job.records} "
            f"({error.strerror}); all before it is recorded: mend that and run again"
        ) from error
    if problem is None:  # else the cell is tried again, and goes on
        settle(record.cell, record.status, _places(job))
        if job.track:
            mark(record, job.track, job.results)
    return record


def run_one(
    cell: Cell, suite: str, job: Job, problem: str | None, primary: tuple[Primary, ...]
) -> Record | OutOfMemory | None:
    """In a worker: run a cell, or record its problem; None if the time is up."""
    if problem is None and decided(lambda: job.is_over):
        return None
    from benchmarks.running import protocol

    if problem is None:
        track = job.track if rank() == 0 else None
        tracker = begin(track, job.results, suite, cell.label, cell) if track else None
        watch = watching(tracker)
        record, found = protocol.run_cell(
            cell, suite=suite, places=_places(job), workers=job.workers, watch=watch
        )
        if tracker is not None:
            tracker.close(results_of(record))
        if job.per_gpu > 1 and isinstance(found.error, torch.OutOfMemoryError):
            return OutOfMemory()
    else:
        record = protocol.refuse(cell, problem, suite=suite, workers=job.workers)
    return record.model_copy(update={"primary": primary})


def run_and_write(
    cell: Cell, suite: str, job: Job, problem: str | None, primary: tuple[Primary, ...]
) -> Record | OutOfMemory | None:
    """In a worker: run a cell and write its record; None if the time is up."""
    # What cannot start is recorded in a moment, which is not to be interrupted.
    signal.signal(signal.SIGTERM, _interrupt if problem is None else signal.SIG_IGN)
    try:
        record = run_one(cell, suite, job, problem, primary)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return written(job, record, problem) if isinstance(record, Record) else record
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def measure_table(cell: Cell, job: Job) -> None:
    """In a worker: time operators into the cache; what goes wrong, the cells will say."""
    if decided(lambda: job.is_over):
        return
    from benchmarks.running import protocol
    from benchmarks.running.parent import parent_for, splits_of
    from zoo.core.meter import Meter

    places = _places(job)
    with contextlib.suppress(Exception):  # it comes again in each cell, which records it
        model = parent_for(cell, places).model
        splits = splits_of(cell.data, cell.seed, places)
        protocol.build_problem(cell, model, splits, Meter(cell.device), job.cache)


def train_parent(cell: Cell, job: Job) -> str | OutOfMemory | None:
    """In a worker: train a parent into the cache; return what went wrong, if anything did."""
    if decided(lambda: job.is_over):
        return None
    from benchmarks.running import protocol
    from benchmarks.running.parent import parent_for
    from zoo.core.errors import UnsupportedModel

    try:
        name = cell.parent_file.removesuffix(".safetensors")
        is_new = not (job.cache / cell.parent_file).exists()
        track = job.track if is_new and rank() == 0 else None
        tracker = begin(track, job.results, "parents", name, cell) if track else None
        parent_for(cell, _places(job), watching(tracker))
        if tracker is not None:
            tracker.close({})
    except UnsupportedModel as error:
        return f"parent: {protocol.describe(error)}"
    except (FileNotFoundError, ValueError):
        raise  # the request is wrong, not the run: whoever asked is told before anything is spent
    except torch.OutOfMemoryError as error:
        return OutOfMemory() if job.per_gpu > 1 else f"parent: {protocol.describe(error)}"
    except Exception as error:  # its cells are recorded as failed, the other parents go on
        return f"parent: {protocol.describe(error)}"
    return None


def _places(job: Job) -> Places:
    from benchmarks.running.parent import Places

    return Places(
        job.cache,
        job.data,
        job.is_download_allowed,
        job.weights,
        job.methods,
        job.checkpoint_seconds,
        job.loaders,
    )


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(signum, signal.SIG_IGN)  # once is enough: the record must not be interrupted
    raise KeyboardInterrupt
