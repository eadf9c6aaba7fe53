"""Runs the cells of a suite in processes of one thread each and shows how far it is.

Cells are independent and each is written by the process that ran it, so an interrupted or killed
run leaves whole records only and the next run takes up what is missing: cells that failed or were
cancelled are tried again, cells that are settled are not. A parent network is trained once, before
the cells that start from it.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.planning import check_suite, name_files
from benchmarks.record import Cell, Record, Status, current_records, load_records, write_record
from benchmarks.strict import suggest
from benchmarks.suite import Suite, Variant, expand, expand_ranking

if TYPE_CHECKING:
    from benchmarks.protocol import Places

__all__ = ["Job", "Plan", "WorkerDied", "plan_suite", "run_plan"]

SETTLED: tuple[Status, ...] = ("ok", "infeasible")
"""Cells with these outcomes are not run again."""

StartPool = Callable[[int], Executor]
"""Makes an executor of at most that many workers."""

COLOURS: Mapping[Status, str] = {
    "ok": "green",
    "infeasible": "yellow",
    "failed": "red",
    "cancelled": "yellow",
}


class WorkerDied(ChildProcessError):
    """A worker process ended without an answer."""


@dataclass(frozen=True)
class Plan:
    """The cells of a suite, and those of them that have no settled record yet."""

    suite: str
    cells: tuple[Cell, ...]
    missing: tuple[Cell, ...]

    @property
    def parents(self) -> dict[str, Cell]:
        """One missing cell for every parent that is needed, by the parent's key."""
        return {cell.parent_key: cell for cell in reversed(self.missing)}


@dataclass(frozen=True)
class Job:
    """Where a run reads and writes, how many processes it takes, and until when it starts cells.

    `until` is a time of `time.time()`; what is running then is finished.
    """

    results: Path
    data: Path | None = None
    is_download_allowed: bool = False
    workers: int = 1
    until: float = math.inf

    @property
    def is_over(self) -> bool:
        """Whether nothing new is started any more."""
        return time.time() >= self.until

    @property
    def records(self) -> Path:
        """Folder of the records."""
        return self.results / "records"

    @property
    def cache(self) -> Path:
        """Folder of the trained parents, which can be deleted at any time."""
        return self.results / ".cache" / "parents"


def plan_suite(
    name: str,
    suite: Suite,
    records: Path | None = None,
    device: str = "cpu",
    data: Path | None = None,
) -> Plan:
    """Which cells a suite has and which of them are left to do; all, without a folder of records.

    Args:
        name: of the suite, to record.
        suite: what to run.
        records: folder of what has been run.
        device: where it is to run.
        data: folder of the sets that are read from files; cells are named after its content.

    Raises:
        ValueError: if the suite names a model, data set, method or setting that does not exist, or
            a number that cannot work.
        FileNotFoundError: if a folder is given that is no such data set.
        DamagedRecord: if a record in the folder cannot be read.
    """
    jobs, scorers = _jobs(suite), _scorers(suite)
    check_suite(suite, len(jobs), len(scorers))
    suite = name_files(suite, data)
    cells = [*expand(suite, jobs, device), *expand_ranking(suite, scorers, device)]
    settled = {
        record.cell.key
        for record in current_records(load_records(records) if records else [])
        if record.status in SETTLED
    }
    missing = tuple(cell for cell in cells if cell.key not in settled)
    return Plan(suite=name, cells=tuple(cells), missing=missing)


def start_processes(workers: int) -> Executor:
    """A pool of fresh processes of one thread each."""
    return ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    )


def run_plan(
    plan: Plan, job: Job, console: Console, start_pool: StartPool = start_processes
) -> Counter[Status]:
    """Runs the missing cells of a plan and counts their outcomes.

    Args:
        plan: what to run.
        job: where, and in how many processes.
        console: where progress is shown.
        start_pool: makes the executor that runs cells; a cluster's can take its place.

    Returns:
        How many cells ended how; of a job whose time is up, fewer than were missing.

    Raises:
        OSError: if the results folder cannot be written.
        ValueError: if a data set does not fit the request.
        WorkerDied: if a worker process ended without an answer.
        KeyboardInterrupt: passed on after the running cells have been recorded as cancelled.
    """
    _require_writable(job.records)
    outcomes: Counter[Status] = Counter()
    if not plan.missing:
        return outcomes
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(plan.suite, total=len(plan.missing))

        def show(record: Record) -> None:
            outcomes[record.status] += 1
            progress.console.print(_line(record), soft_wrap=False)
            progress.advance(task)

        _Runner(plan, job, show, start_pool).run()
    return outcomes


class _Runner:
    """Hands parents and then cells to a pool of processes and collects records."""

    def __init__(
        self, plan: Plan, job: Job, show: Callable[[Record], None], start_pool: StartPool
    ) -> None:
        self.plan, self.job, self.show, self.start_pool = plan, job, show, start_pool
        self.waiting: set[Future[Record | None]] = set()
        self.parents: dict[Future[str | None], str] = {}

    def run(self) -> None:
        pool = self.start_pool(min(self.job.workers, len(self.plan.missing)))
        try:
            self._drain(pool)
        except BrokenProcessPool as error:
            raise WorkerDied(
                "a worker process died, perhaps for lack of memory; what was finished is recorded: "
                "run again, with fewer --workers"
            ) from error
        finally:
            _stop(pool)

    def _drain(self, pool: Executor) -> None:
        for key, cell in self.plan.parents.items():
            self.parents[pool.submit(_train_parent, cell, self.job)] = key
        while self.parents or self.waiting:
            pending: set[Future[Any]] = {*self.parents, *self.waiting}
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for trained in done & self.parents.keys():
                self._start_cells(pool, self.parents.pop(trained), trained.result())
            for ran in done & self.waiting:
                self.waiting.remove(ran)
                if record := ran.result():
                    self.show(record)

    def _start_cells(self, pool: Executor, parent: str, problem: str | None) -> None:
        for cell in self.plan.missing:
            if cell.parent_key == parent:
                arguments = (cell, self.plan.suite, self.job, problem)
                self.waiting.add(pool.submit(_run_and_write, *arguments))


def _run_and_write(cell: Cell, suite: str, job: Job, problem: str | None) -> Record | None:
    """In a worker: one cell, from start to its record on disk; None if the time is up."""
    if job.is_over:
        return None
    from benchmarks import protocol

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if problem is None:
            record, _ = protocol.run_cell(
                cell, suite=suite, places=_places(job), workers=job.workers
            )
        else:
            record = protocol.refuse(cell, problem, suite=suite, workers=job.workers)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return write_record(job.records, record)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _train_parent(cell: Cell, job: Job) -> str | None:
    """In a worker: trains a parent into the cache; returns what went wrong, if anything did."""
    if job.is_over:
        return None
    from benchmarks import protocol
    from zoo.core.errors import UnsupportedModel

    try:
        protocol.parent_for(cell, _places(job))
    except UnsupportedModel as error:
        return f"parent: {protocol.describe(error)}"
    except (FileNotFoundError, ValueError):
        raise  # the request is wrong, not the run: whoever asked is told before anything is spent
    except Exception as error:  # its cells are recorded as failed, the other parents go on
        return f"parent: {protocol.describe(error)}"
    return None


def _places(job: Job) -> Places:
    from benchmarks.protocol import Places

    return Places(job.cache, job.data, job.is_download_allowed)


def _start_worker() -> None:
    """One thread; Ctrl-C is the main process's business; no worker outlives it."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(signum, signal.SIG_IGN)  # once is enough: the record must not be interrupted
    raise KeyboardInterrupt


def _stop(pool: Executor) -> None:
    """Ends the workers; one that is busy records its cell as cancelled first."""
    pool.shutdown(wait=False, cancel_futures=True)
    for process in multiprocessing.active_children():
        process.terminate()
        process.join()


def _require_writable(folder: Path) -> None:
    """Finds out before anything is trained.

    Raises:
        OSError: naming the folder.
    """
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"results cannot be written to {folder} ({error.strerror}); give another --results"
        ) from error


def _jobs(suite: Suite) -> list[Variant]:
    """The methods and variants that a suite prunes with, their settings without defaults."""
    from zoo.core.pruner import list_pruners

    methods = list_pruners() if suite.methods == "all" else suite.methods
    ranked = suite.ranking.scorers if suite.ranking else ()
    known = {*methods, *(variant.method for variant in (*suite.variants, *ranked))}
    for name in suite.settings:
        if name not in known:
            raise ValueError(
                f"settings for {name!r}, which the suite does not run; {suggest(name, known)}"
            )
    wanted = (*(Variant(method=name) for name in methods), *suite.variants)
    return _distinct([_without_defaults(variant, suite) for variant in wanted])


def _scorers(suite: Suite) -> list[Variant]:
    """What scores the sample of a suite's ranking: methods that can, and zero-cost proxies."""
    from benchmarks.sample import PROXIES
    from zoo.core.pruner import get_pruner, list_pruners

    chosen = []
    for variant in suite.ranking.scorers if suite.ranking else ():
        if variant.method in PROXIES:
            if variant.settings:
                raise ValueError(f"the proxy {variant.method!r} has no settings")
            chosen.append(variant)
            continue
        if variant.method in list_pruners() and not get_pruner(variant.method).can_score():
            able = [name for name in list_pruners() if get_pruner(name).can_score()]
            raise ValueError(
                f"{variant.method!r} scores no configurations; "
                f"those that do: {', '.join((*able, *PROXIES))}"
            )
        chosen.append(_without_defaults(variant, suite))
    return _distinct(chosen)


def _without_defaults(variant: Variant, suite: Suite) -> Variant:
    """A variant with the suite's settings for its method, less those that change nothing."""
    from zoo.core.pruner import create_pruner

    given = {**suite.settings.get(variant.method, {}), **variant.settings}
    pruner, default = create_pruner(variant.method, **given), create_pruner(variant.method)
    differing = {
        key: value for key, value in given.items() if getattr(pruner, key) != getattr(default, key)
    }
    return variant.model_copy(update={"settings": differing})


def _distinct(variants: list[Variant]) -> list[Variant]:
    """The same list, refused if two are alike: their records could not be told apart."""
    for place, variant in enumerate(variants):
        if variant in variants[:place]:
            raise ValueError(
                f"{variant.method!r} stands twice in the suite with the settings "
                f"{variant.settings or 'of its defaults'}; take one out"
            )
    return variants


def _line(record: Record) -> str:
    """One cell, one line: outcome, method, network, budget, and what it reached or why not."""
    cell = record.cell
    name = f"{cell.method} {cell.model.name} {cell.budget:g} s{cell.seed}"
    if cell.member is not None:
        name += f" member {cell.member}"
    if record.status == "ok" and record.scores:
        result = f"scored {len(record.scores)} configurations, {record.seconds or 0:.0f} s"
    elif record.status == "ok" and record.top1.finetuned is not None:
        result = f"{100 * record.top1.finetuned:.1f} % {record.seconds or 0:.0f} s"
    else:
        result = record.reason or ""
    colour = COLOURS[record.status]
    return f"[{colour}]{record.status}[/] {escape(name)} {escape(result)}"
