"""Runs the cells of a suite on an engine and shows how far it is.

Cells are independent and each is written when it ends, so an interrupted or killed run leaves whole
records only and the next run takes up what is missing: cells that failed or were cancelled are
tried again, cells that are settled are not. Several runs on one folder share the work; see
`benchmarks.running.claims`. A parent network and a table of latencies are made once, before the
cells that start from them; of the cells that share a supernet, one trains it before the others
begin. A cell whose process dies fails, the others go on, and at the end it is tried once more
alone; one that shared a GPU whose memory ran out is tried once more on a whole one.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.records.cell import Cell
from benchmarks.records.files import write_record
from benchmarks.records.plain import asked_budget, counted, in_markup
from benchmarks.records.record import SETTLED, Record, Status
from benchmarks.records.whole_file import require_writable, sweep
from benchmarks.running.claims import Claims
from benchmarks.running.engine import Engine, LocalMachine, Machines
from benchmarks.running.live import cell_lines
from benchmarks.running.plan import Job, Plan
from benchmarks.running.shared_work import needed_files, supernet_files, table_name
from benchmarks.running.stopped import Stopped
from benchmarks.running.tasks import (
    OutOfMemory,
    Unrecorded,
    measure_table,
    run_and_write,
    run_one,
    train_parent,
    written,
)
from zoo.core.child_process import WorkerDied

__all__ = ["Outcomes", "Stopped", "Unrecorded", "run_plan"]


_LOOK_SECONDS = 1.0
"""Between two looks at what others hold: another run, or a cell that trains a supernet."""

COLOURS: Mapping[Status, str] = {
    "ok": "green",
    "infeasible": "yellow",
    "failed": "red",
    "cancelled": "yellow",
}


class Outcomes(Counter[Status]):
    """How many cells ended how.

    Attributes:
        unsettled: records of the cells that the next run tries again.
        deaths: what was tried once more because its process died, and of what that died.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unsettled: list[Record] = []
        self.deaths: list[str] = []

    def include(self, more: Outcomes) -> None:
        """Count what another plan came to, too."""
        self.update(more)
        self.unsettled += more.unsettled
        self.deaths += more.deaths


def run_plan(plan: Plan, job: Job, console: Console, machines: Machines | None = None) -> Outcomes:
    """Run the missing cells of a plan and count their outcomes.

    Args:
        plan: what to run.
        job: where, and in how many processes.
        console: where progress is shown.
        machines: what engines are started on; processes of this machine if None.

    Returns:
        How many cells ended how, those among them that another run ended meanwhile; of a job whose
        time is up, fewer than were missing.

    Raises:
        OSError: if the results folder cannot be written; `Unrecorded` if that turns out later.
        ValueError: if a data set does not fit the request.
        ChildProcessError: if no process lives long enough to write a record.
        KeyboardInterrupt: passed on after the running cells have been recorded as cancelled;
            `Stopped` if it was a signal to this process.
    """
    _prepare(job)
    outcomes = Outcomes()
    if not plan.missing:
        return outcomes
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    claims = Claims(job.claims, job.records, [cell.key for cell in plan.missing])
    with _stopping(), claims, Progress(*columns, console=console) as progress:
        task = progress.add_task(plan.suite, total=len(plan.missing))

        def show(record: Record, is_last: bool) -> None:
            progress.console.print(_line(record), soft_wrap=False)
            if not is_last:
                return
            outcomes[record.status] += 1
            if record.status not in SETTLED:
                outcomes.unsettled.append(record)
            progress.advance(task)

        runner = _Runner(plan, job, show, machines or LocalMachine(), claims)
        outcomes.deaths = runner.deaths
        with cell_lines(console, plan.suite, len(plan.missing), outcomes.total):
            runner.run()
    return outcomes


@dataclass(frozen=True)
class _Step:
    """One task: train a cell's parent, time operators for it, run it, or record its `problem`."""

    cell: Cell
    is_training: bool = False
    is_timing: bool = False
    problem: str | None = None
    is_last: bool = True
    """False if the cell is tried again later; its failure is recorded all the same."""

    @property
    def is_cell(self) -> bool:
        """Whether a record comes of it."""
        return not self.is_training and not self.is_timing

    @property
    def is_run(self) -> bool:
        """Whether the cell is run, not only its problem recorded."""
        return self.is_cell and self.problem is None

    @property
    def is_noted_death(self) -> bool:
        """Whether it records a failure of a cell that is tried again."""
        return self.problem is not None and not self.is_last

    @cached_property
    def claim(self) -> str:
        """Name of the work among runs."""
        if self.is_timing:
            return table_name(self.cell)
        return f"parent-{self.cell.parent_key}" if self.is_training else f"cell-{self.cell.key}"


class _Runner:
    """Hands parents and then cells to an engine, one step each, and collects records."""

    def __init__(
        self,
        plan: Plan,
        job: Job,
        show: Callable[[Record, bool], None],
        machines: Machines,
        claims: Claims,
    ) -> None:
        self.plan, self.job, self.show, self.machines = plan, job, show, machines
        self.claims = claims
        self.todo: deque[_Step] = deque()
        self.running: dict[Future[Any], _Step] = {}  # a training answers a text, a cell a record
        self.held_back: list[_Step] = []  # another run or another step is at it
        self.next_look = 0.0
        self.busy: set[str] = set()  # claims of what is running
        self.died: list[_Step] = []
        self.deaths: list[str] = []
        self.held: list[_Step] = []
        self.crowded: list[_Step] = []
        self.failed: dict[str, Record] = {}
        self.supernets = supernet_files(plan.missing, job.cache, job.methods)
        self.makers: dict[str, str] = {}  # claims of supernets, by the key of the cell that trains
        self.unmade: set[Path] = set()
        self.by_parent: dict[str, list[Cell]] = defaultdict(list)
        for cell in plan.missing:
            self.by_parent[cell.parent_key].append(cell)

    def run(self) -> None:
        """Run all steps side by side, then once more those that died or lacked memory.

        Raises:
            ChildProcessError: if no process lives long enough to write a record.
        """
        first = [_Step(cell, True, is_last=False) for cell in self.plan.parents.values()]
        self._phase(self.job.workers, first)
        self._phase_of_whole_gpus()
        for is_training in (True, False):
            again = [step for step in self.died if step.is_training == is_training]
            alone = [replace(step, is_last=True) for step in again]
            self._phase(self.machines.alone, alone, is_whole=True)
            self._phase(self.job.workers, self.held)
            self.held = []
        self._phase_of_whole_gpus()

    def _phase_of_whole_gpus(self) -> None:
        crowded, self.crowded = self.crowded, []
        self._phase(self.job.workers, crowded, is_whole=True)

    def _phase(self, workers: int, steps: Sequence[_Step], *, is_whole: bool = False) -> None:
        """Run steps, and those that follow from them, in processes of their own."""
        if not steps:
            return
        self.todo.extend(steps)
        count = min(workers, len(self.plan.missing))
        job = replace(self.job, per_gpu=1) if is_whole else self.job
        engine = self.machines.start(count, is_whole=is_whole)
        try:
            while self.todo or self.running or self.held_back:
                self._fill(engine, workers, job.absolute)
                if not self.running and not self.held_back:
                    continue
                timeout = _LOOK_SECONDS if self.held_back else None
                for future in engine.completed(timeout):
                    self._collect(self.running.pop(future), future)
        except BrokenExecutor as error:  # of a pool that is not ours
            raise ChildProcessError(
                f"the pool of processes broke ({error}); what was finished is recorded: run again"
            ) from error
        finally:
            engine.stop()
            if engine.head_writes:
                self._record_stopped()

    def _fill(self, engine: Engine, workers: int, job: Job) -> None:
        """Submit what may begin; what somebody else is at is looked at again later."""
        if self.held_back and (not self.running or time.monotonic() >= self.next_look):
            self.next_look = time.monotonic() + _LOOK_SECONDS
            waited, self.held_back = self.held_back, []
            if not self.job.is_over:
                self.todo.extendleft(reversed(waited))
        while self.todo and len(self.running) < workers:
            step = self.todo.popleft()
            if not self._may_begin(step):
                self.held_back.append(step)
                continue
            record = self.claims.recorded(step.cell.key) if step.is_run else None
            if record is not None:
                self._end(step)
                self.show(record, True)
                continue
            self.busy.add(step.claim)
            self.running[self._submit(engine, step, job)] = step

    def _may_begin(self, step: _Step) -> bool:
        """Claim a step, and the supernet that it is the first to need."""
        if not self._take(step.claim):
            return False
        supernet = self.supernets.get(step.cell.key) if step.is_run else None
        if supernet is None or supernet in self.unmade or supernet.exists():
            return True
        name = f"supernet-{supernet.stem}"
        if not self._take(name):
            self.claims.release(step.claim)
            return False
        self.busy.add(name)
        self.makers[step.cell.key] = name
        return True

    def _take(self, claim: str) -> bool:
        """Claim what neither another run nor another step is at."""
        try:
            return claim not in self.busy and self.claims.take(claim)
        except OSError as error:
            raise Unrecorded(
                f"nothing can be written to {self.claims.folder} ({error.strerror}), nor could "
                "records; what was finished is recorded: mend that and run again"
            ) from error

    def _submit(self, engine: Engine, step: _Step, job: Job) -> Future[Any]:
        needs = needed_files(step.cell, job.cache, self.supernets.get(step.cell.key))
        if not step.is_cell:
            prepare = measure_table if step.is_timing else train_parent
            return engine.submit(prepare, step.cell, job, needs=needs)
        plan = self.plan
        task = run_one if engine.head_writes else run_and_write
        return engine.submit(
            task, step.cell, plan.suite, job, step.problem, plan.primary, needs=needs
        )

    def _collect(self, step: _Step, future: Future[Any]) -> None:
        try:
            answer = future.result()
        except WorkerDied as error:
            self._note_death(step, error)
            return
        if isinstance(answer, OutOfMemory):
            self.crowded.append(step)
            self._end(step)
            return
        if not step.is_cell:
            self._end(step)
            cells = self._next(step, answer)
            if step.is_last:
                self.held += cells
            else:
                # Before the next parent: a part of a run then ends with whole networks and seeds.
                self.todo.extendleft(reversed(cells))
            return
        if answer is not None and not answer.id:  # the task left it to be written here
            answer = written(self.job, answer, step.problem)
        if step.problem is not None and not step.is_last:
            self.failed[step.cell.key] = answer
        # The time may be up before a cell is tried again; then its first end counts.
        record = answer or self.failed.get(step.cell.key)
        if record is not None:
            self.claims.note(record)
            self.show(record, step.is_last or step.problem is None)
        self._end(step)

    def _end(self, step: _Step) -> None:
        """Let others have what a step has held, unless it is tried again."""
        self.busy.discard(step.claim)
        if not step.is_noted_death:
            self.claims.release(step.claim)
        name = self.makers.pop(step.cell.key, None) if step.is_cell else None
        if name is not None:
            self.busy.discard(name)
            self.claims.release(name)
            supernet = self.supernets[step.cell.key]
            if not supernet.exists():  # it needed none: nobody waits for the next one to see
                self.unmade.add(supernet)

    def _note_death(self, step: _Step, error: WorkerDied) -> None:
        """Record the cell's failure next, before it or its parent is tried again alone."""
        if step.problem is not None:
            raise ChildProcessError(
                f"worker processes die before they can write a record ({error}); what was finished "
                "is recorded: run again with fewer --workers"
            ) from error
        if step.is_timing:  # its cells time for themselves, and say what is wrong
            self._end(step)
            self.todo.extendleft(reversed(self._next(step, None)))
            return
        if not step.is_last:
            self.died.append(step)
            self.deaths.append(f"{'parent of ' * step.is_training}{step.cell.label}: {error}")
        if step.is_cell:
            again = ", and again when it ran alone" if step.is_last else ""
            refusal = replace(step, problem=f"{error}{again}")
            self.todo.appendleft(refusal)
            self._end(replace(refusal, is_last=False))
            return
        self._end(step)
        if step.is_last:
            problem = f"parent: {error}, and again when it was trained alone"
            self.todo.extendleft(self._next(step, problem))

    def _next(self, step: _Step, problem: str | None) -> list[_Step]:
        """The cells that start from the parent that was trained; before them, tables they need."""
        cells = self.by_parent[step.cell.parent_key]
        if step.is_timing:
            cells = [cell for cell in cells if table_name(cell) == step.claim]
        elif problem is None:
            tables = {name: cell for cell in cells if (name := table_name(cell))}
            cells = [cell for cell in cells if not table_name(cell)]
            timings = [
                _Step(cell, is_timing=True, is_last=step.is_last) for cell in tables.values()
            ]
            return [*timings, *(_Step(cell, is_last=False) for cell in cells)]
        return [_Step(cell, problem=problem, is_last=problem is not None) for cell in cells]

    def _record_stopped(self) -> None:
        """Record as cancelled what ran when the engine was stopped."""
        from benchmarks.running import protocol

        for step in self.running.values():
            if step.is_run:
                record = protocol.refuse(
                    step.cell,
                    "interrupted",
                    suite=self.plan.suite,
                    workers=self.job.workers,
                    status="cancelled",
                )
                with contextlib.suppress(OSError):  # the run ends; why, is told already
                    write_record(self.job.records, record)
        self.running.clear()


@contextmanager
def _stopping() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end the block as Ctrl-C does, unless somebody else minds them."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_IGN)  # once is enough: records are being written
        raise Stopped(signal.Signals(number))

    is_main = threading.current_thread() is threading.main_thread()
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if is_main and signal.getsignal(number) == signal.SIG_DFL
    ]
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _prepare(job: Job) -> None:
    """Check that results can be written, and sweep away what killed runs left half-written.

    Raises:
        OSError: naming the folder.
    """
    tables, figures = job.results / "tables", job.results / "figures"
    caches = (job.cache, job.cache / "latency", job.cache / "supernets")
    folders = (job.records, tables, figures, *caches)
    for folder in (job.results, *folders):
        require_writable(folder, "--results")
    sweep(job.results, "page.html")
    for folder in folders:
        sweep(folder)


def _line(record: Record) -> str:
    """One cell, one line: outcome, method, network, budget, and what it reached or why not."""
    cell = record.cell
    name = f"{cell.method} {cell.model.title} {asked_budget(cell.budget)} s{cell.seed}"
    if cell.member is not None:
        name += f" member {cell.member}"
    if record.status == "ok" and record.scores:
        result = (
            f"scored {counted(len(record.scores), 'configuration')}, {record.seconds or 0:.0f} s"
        )
    elif record.status == "ok" and record.top1.finetuned is not None:
        result = f"{100 * record.top1.finetuned:.1f} % {record.seconds or 0:.0f} s"
    else:
        result = record.reason or ""
    colour = COLOURS[record.status]
    return f"[{colour}]{record.status}[/] {in_markup(name)} {in_markup(result, 500)}"
