"""What many cells ask of the process that drives them: `python -m benchmarks.studies.scale`.

The driver is the real one, with its claims and its record files; workers are made up. They take
drawn times on a clock of their own, and some of them die, as processes and machines do. Reports are
made of the same kind of records. `docs/scale.md` tells what came of it.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.measuring.environment import capture
from benchmarks.page.report import write_report
from benchmarks.records.cell import Cell, Data, Model, Schedule
from benchmarks.records.files import current_records, load_records, write_record
from benchmarks.records.record import Group, PhaseCost, Record, Size, Top1
from benchmarks.records.runtime import Environment
from benchmarks.running.plan import Job, Plan
from benchmarks.running.run_cells import run_plan
from benchmarks.running.suite import PROTOCOL
from zoo.core.child_process import WorkerDied

__all__ = ["Driven", "MadeUpMachines", "drive", "made_up_cells", "made_up_record", "time_report"]

DEATHS = 0.02
"""Share of the tasks whose process dies."""

METHODS = ("uniform", "taylor", "fpgm", "l1_norm", "knapsack")
BUDGETS = (0.3, 0.4, 0.5, 0.6, 0.7)
SEEDS = 10

SECONDS = 0.05
"""Of a made-up task on the clock of the made-up machines, on average; only order counts."""


def made_up_cells(count: int) -> tuple[Cell, ...]:
    """As many cells as are asked for, of five methods, five budgets and ten seeds a network."""
    networks = range(1 + count // (SEEDS * len(BUDGETS) * len(METHODS)))
    numbers = itertools.product(networks, range(SEEDS), BUDGETS, METHODS)
    return tuple(
        Cell(
            protocol=PROTOCOL,
            model=Model(name=f"net{network}"),
            data=Data(name="digits"),
            method=method,
            budget=budget,
            seed=seed,
            parent=Schedule(epochs=3),
            finetune=Schedule(epochs=2),
        )
        for network, seed, budget, method in itertools.islice(numbers, count)
    )


def made_up_record(cell: Cell, environment: Environment) -> Record:
    """A record as the cell of a small network has one; its accuracies are drawn.

    Args:
        cell: what it is of.
        environment: where it was run.
    """
    rng = np.random.default_rng(int(cell.key, 16))
    top1 = 0.7 + 0.1 * cell.budget + 0.02 * rng.standard_normal()
    macs = round(1_000_000 * cell.budget)
    groups = [Group(name=f"blocks.{i}", size=16, kept=8, stage=i // 8) for i in range(24)]
    return Record(
        id="",
        utc=datetime.now(UTC).isoformat(timespec="seconds"),
        suite="made_up",
        cell=cell,
        status="ok",
        size=Size(full_macs=1_000_000, full_params=2_000, limit=macs, macs=macs, params=1_000),
        top1=Top1(parent=0.85, pruned=0.1, recalibrated=0.3, finetuned=min(1.0, top1)),
        spent={
            "baseline": PhaseCost(images=30, macs_forward=10**12, macs_backward=2 * 10**12),
            "search": PhaseCost(images=5, macs_forward=10**11, seconds=1.0),
            "finetune": PhaseCost(images=20, macs_forward=10**11, macs_backward=2 * 10**11),
        },
        groups=tuple(groups),
        seconds=10.0,
        environment=environment,
    )


@dataclass
class MadeUpMachines:
    """Workers that take drawn times and die at random; an engine of itself.

    Attributes:
        slots: how many there are.
        per_gpu: how many share a GPU.
        alone: how many of them may be alone.
        cores: that they share.
        seed: of times and deaths.
        most_ends: raise `KeyboardInterrupt` after so many tasks, as a kill of the driver would.
        deaths: share of the tasks whose process dies.
        ran: how often each cell was run to its end, by key.
    """

    slots: int
    per_gpu: int = 1
    alone: int = 8
    cores: int = 1
    seed: int = 0
    most_ends: int | None = None
    deaths: float = DEATHS
    ran: dict[str, int] = field(default_factory=dict)
    head_writes = True

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._environment = capture(workers=self.slots)
        self._now, self._ended = 0.0, 0
        self._clock: list[tuple[float, int, Future[Any], str, Cell]] = []
        self._count = itertools.count()

    def start(
        self, workers: int, *, is_whole: bool = False, is_quiet: bool = False
    ) -> MadeUpMachines:
        """The same machines; they take what they are given."""
        del workers, is_whole, is_quiet
        return self

    def submit(
        self, function: Callable[..., Any], *arguments: Any, needs: Sequence[Path] = ()
    ) -> Future[Any]:
        """Take a task; when it ends is drawn."""
        del needs
        future: Future[Any] = Future()
        end = self._now + float(self._rng.exponential(SECONDS))
        name = function.__name__
        if name == "run_one" and arguments[3] is not None:
            name = "refuse"
        entry = (end, next(self._count), future, name, arguments[0])
        heapq.heappush(self._clock, entry)
        return future

    def completed(self, timeout: float | None = None) -> list[Future[Any]]:
        """The task that ends next."""
        del timeout
        if not self._clock:
            return []
        if self._ended == self.most_ends:
            raise KeyboardInterrupt
        self._ended += 1
        self._now, _, future, name, cell = heapq.heappop(self._clock)
        if name != "refuse" and self._rng.random() < self.deaths:
            future.set_exception(WorkerDied(-9))
        elif name == "train_parent":
            future.set_result(None)
        else:
            self.ran[cell.key] = self.ran.get(cell.key, 0) + (name != "refuse")
            record = made_up_record(cell, self._environment)
            failed = {"status": "failed", "reason": "killed"}
            future.set_result(record.model_copy(update=failed if name == "refuse" else {}))
        return [future]

    def stop(self) -> None:
        """Forget what is under way."""
        self._clock.clear()


@dataclass(frozen=True)
class Driven:
    """What a driven sweep came to.

    Attributes:
        cells: how many there were.
        runs: how often the driver was started.
        settled: how many have a settled record.
        twice: how many have more than one.
        failures: records of deaths.
        cpu_ms: processor time of the driver for a cell.
    """

    cells: int
    runs: int
    settled: int
    twice: int
    failures: int
    cpu_ms: float


def drive(count: int, workers: int, folder: Path, *, seed: int = 0) -> Driven:
    """Drive made-up cells; the driver is stopped halfway, and another one goes on.

    Args:
        count: of cells.
        workers: of machines.
        folder: a new one.
        seed: of times and deaths.

    Returns:
        What came of it, once every cell is settled.
    """
    cells = made_up_cells(count)
    job = Job(folder, workers=workers)
    console = Console(quiet=True)
    began = time.process_time()
    stopped = MadeUpMachines(workers, seed=seed, most_ends=count // 2)
    with contextlib.suppress(KeyboardInterrupt):
        run_plan(Plan("made_up", cells, cells), job, console, stopped)
    runs = 1
    while left := _left(cells, job):  # what died twice is left to the next run
        machines = MadeUpMachines(workers, seed=seed + runs)
        run_plan(Plan("made_up", cells, left), job, console, machines)
        runs += 1
    cpu = time.process_time() - began
    records = load_records(job.records)
    settled = [record.cell.key for record in records if record.status == "ok"]
    return Driven(
        cells=count,
        runs=runs,
        settled=len(set(settled)),
        twice=len(settled) - len(set(settled)),
        failures=sum(record.status == "failed" for record in records),
        cpu_ms=1000 * cpu / count,
    )


def _left(cells: Sequence[Cell], job: Job) -> tuple[Cell, ...]:
    """The cells without a settled record."""
    there = {r.cell.key for r in load_records(job.records) if r.status == "ok"}
    return tuple(cell for cell in cells if cell.key not in there)


def time_report(count: int, folder: Path) -> float:
    """Processor seconds of `zoo report` on made-up records.

    Args:
        count: of records.
        folder: a new one.
    """
    environment = capture(workers=1)
    for cell in made_up_cells(count):
        write_record(folder / "records", made_up_record(cell, environment))
    assert len(current_records(load_records(folder / "records"))) == count
    began = time.process_time()
    write_report(Console(quiet=True), folder)
    return time.process_time() - began


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what `docs/scale.md` says: driving cells of made-up workers, and reports of many."""
    argparse.ArgumentParser(description=main.__doc__).parse_args(arguments)
    console = Console()
    for count, workers in ((2_500, 250), (10_000, 1_000)):
        before = _memory_mib()
        with tempfile.TemporaryDirectory() as folder:
            driven = drive(count, workers, Path(folder))
        console.print(f"{workers} workers: {driven}, {before:.0f} to {_memory_mib():.0f} MiB")
    for count in (1_250, 2_500, 5_000, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            console.print(f"report of {count} records: {time_report(count, Path(folder)):.1f} s")


def _memory_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
