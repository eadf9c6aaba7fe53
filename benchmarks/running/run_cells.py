"""Runs the cells of a suite in processes of one thread each and shows how far it is.

Cells are independent and each is written by the process that ran it, so an interrupted or killed
run leaves whole records only and the next run takes up what is missing: cells that failed or were
cancelled are tried again, cells that are settled are not. A parent network is trained once, before
the cells that start from it. A cell whose process dies fails, the others go on, and at the end it
is tried once more alone.
"""

from __future__ import annotations

import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.records.cell import Cell
from benchmarks.records.contrast import Primary
from benchmarks.records.files import write_record
from benchmarks.records.plain import in_markup
from benchmarks.records.record import Record, Status
from benchmarks.records.whole_file import require_writable, sweep
from benchmarks.running.live import cell_lines
from benchmarks.running.plan import SETTLED, Job, Plan
from zoo.core.child_process import WorkerDied, Workers

if TYPE_CHECKING:
    from benchmarks.running.parent import Places

__all__ = ["Outcomes", "Stopped", "Unrecorded", "run_plan"]


StartPool = Callable[[int], Executor]
"""Makes an executor of at most that many workers."""

COLOURS: Mapping[Status, str] = {
    "ok": "green",
    "infeasible": "yellow",
    "failed": "red",
    "cancelled": "yellow",
}


class Stopped(KeyboardInterrupt):
    """A run was told to end by a signal other than that of Ctrl-C."""

    def __init__(self, signal_: signal.Signals) -> None:
        super().__init__(signal_.name)
        self.signal = signal_


class Unrecorded(OSError):
    """A cell was finished and its record cannot be written, nor would those of others."""


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


def run_plan(plan: Plan, job: Job, console: Console, start_pool: StartPool = Workers) -> Outcomes:
    """Run the missing cells of a plan and count their outcomes.

    Args:
        plan: what to run.
        job: where, and in how many processes.
        console: where progress is shown.
        start_pool: makes the executor that runs cells; a cluster's can take its place. It raises
            `WorkerDied` for a task whose process died, if the other tasks go on.

    Returns:
        How many cells ended how; of a job whose time is up, fewer than were missing.

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
    with _stopping(), Progress(*columns, console=console) as progress:
        task = progress.add_task(plan.suite, total=len(plan.missing))

        def show(record: Record, is_last: bool) -> None:
            progress.console.print(_line(record), soft_wrap=False)
            if not is_last:
                return
            outcomes[record.status] += 1
            if record.status not in SETTLED:
                outcomes.unsettled.append(record)
            progress.advance(task)

        runner = _Runner(plan, job, show, start_pool)
        outcomes.deaths = runner.deaths
        with cell_lines(console, plan.suite, len(plan.missing), outcomes.total):
            runner.run()
    return outcomes


@dataclass(frozen=True)
class _Step:
    """One task of a process: train a cell's parent, run the cell, or record its `problem`."""

    cell: Cell
    is_training: bool = False
    problem: str | None = None
    is_last: bool = True
    """False if the cell is tried again later; its failure is recorded all the same."""


class _Runner:
    """Hands parents and then cells to processes, one step each, and collects records."""

    def __init__(
        self,
        plan: Plan,
        job: Job,
        show: Callable[[Record, bool], None],
        start_pool: StartPool,
    ) -> None:
        self.plan, self.job, self.show, self.start_pool = plan, job, show, start_pool
        self.todo: deque[_Step] = deque()
        self.running: dict[Future[Any], _Step] = {}  # a training answers a text, a cell a record
        self.died: list[_Step] = []
        self.deaths: list[str] = []
        self.held: list[_Step] = []
        self.failed: dict[str, Record] = {}

    def run(self) -> None:
        """Run all steps side by side, then once more alone those whose process died.

        Raises:
            ChildProcessError: if no process lives long enough to write a record.
        """
        first = [_Step(cell, True, is_last=False) for cell in self.plan.parents.values()]
        self._phase(self.job.workers, first)
        for is_training in (True, False):
            again = [step for step in self.died if step.is_training == is_training]
            self._phase(1, [replace(step, is_last=True) for step in again])
            self._phase(self.job.workers, self.held)
            self.held = []

    def _phase(self, workers: int, steps: Sequence[_Step]) -> None:
        """Run steps, and those that follow from them, in processes of their own."""
        if not steps:
            return
        self.todo.extend(steps)
        pool = self.start_pool(min(workers, len(self.plan.missing)))
        try:
            while self.todo or self.running:
                while self.todo and len(self.running) < workers:
                    step = self.todo.popleft()
                    self.running[self._submit(pool, step)] = step
                done, _ = wait(self.running, return_when=FIRST_COMPLETED)
                for future in done:
                    self._collect(self.running.pop(future), future)
        except BrokenExecutor as error:  # of a pool that is not ours
            raise ChildProcessError(
                f"the pool of processes broke ({error}); what was finished is recorded: run again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _submit(self, pool: Executor, step: _Step) -> Future[Any]:
        if step.is_training:
            return pool.submit(_train_parent, step.cell, self.job)
        plan = self.plan
        return pool.submit(
            _run_and_write, step.cell, plan.suite, self.job, step.problem, plan.primary
        )

    def _collect(self, step: _Step, future: Future[Any]) -> None:
        try:
            answer = future.result()
        except WorkerDied as error:
            self._note_death(step, error)
            return
        if step.is_training:
            cells = self._cells(step, answer)
            if step.is_last:
                self.held += cells
            else:
                # Before the next parent: a part of a run then ends with whole networks and seeds.
                self.todo.extendleft(reversed(cells))
            return
        if step.problem is not None and not step.is_last:
            self.failed[step.cell.key] = answer
        # The time may be up before a cell is tried again; then its first end counts.
        record = answer or self.failed.get(step.cell.key)
        if record is not None:
            self.show(record, step.is_last or step.problem is None)

    def _note_death(self, step: _Step, error: WorkerDied) -> None:
        """Record the cell's failure next, before it or its parent is tried again alone."""
        if step.problem is not None:
            raise ChildProcessError(
                f"worker processes die before they can write a record ({error}); what was finished "
                "is recorded: run again with fewer --workers"
            ) from error
        if not step.is_last:
            self.died.append(step)
            self.deaths.append(f"{'parent of ' * step.is_training}{step.cell.label}: {error}")
        if not step.is_training:
            again = ", and again when it ran alone" if step.is_last else ""
            self.todo.appendleft(replace(step, problem=f"{error}{again}"))
        elif step.is_last:
            problem = f"parent: {error}, and again when it was trained alone"
            self.todo.extendleft(self._cells(step, problem))

    def _cells(self, training: _Step, problem: str | None) -> list[_Step]:
        """A step for every cell that starts from the parent that was trained."""
        cells = [c for c in self.plan.missing if c.parent_key == training.cell.parent_key]
        return [_Step(cell, problem=problem, is_last=problem is not None) for cell in cells]


def _run_and_write(
    cell: Cell, suite: str, job: Job, problem: str | None, primary: tuple[Primary, ...]
) -> Record | None:
    """In a worker: run a cell and write its record; None if the time is up."""
    if problem is None and job.is_over:
        return None
    from benchmarks.running import protocol
    from benchmarks.running.kept import settle
    from benchmarks.running.live import watching
    from benchmarks.tracking.runs import begin, finish

    # What cannot start is recorded in a moment, which is not to be interrupted.
    signal.signal(signal.SIGTERM, _interrupt if problem is None else signal.SIG_IGN)
    try:
        if problem is None:
            tracker = job.track and begin(job.track, job.results, suite, cell.label, cell)
            record, _ = protocol.run_cell(
                cell,
                suite=suite,
                places=_places(job),
                workers=job.workers,
                watch=watching(tracker or None),
            )
        else:
            record = protocol.refuse(cell, problem, suite=suite, workers=job.workers)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            record = write_record(job.records, record.model_copy(update={"primary": primary}))
        except OSError as error:
            raise Unrecorded(
                f"{cell.label} was finished, but its record cannot be written to {job.records} "
                f"({error.strerror}); all before it is recorded: mend that and run again"
            ) from error
        if problem is None:  # else the cell is tried again, and goes on
            settle(cell, record.status, _places(job))
            if job.track and tracker:
                finish(tracker, record, job.track, job.results)
        return record
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _train_parent(cell: Cell, job: Job) -> str | None:
    """In a worker: train a parent into the cache; return what went wrong, if anything did."""
    if job.is_over:
        return None
    from benchmarks.running import protocol
    from benchmarks.running.live import watching
    from benchmarks.running.parent import parent_for
    from benchmarks.tracking.runs import begin
    from zoo.core.errors import UnsupportedModel

    try:
        name = cell.parent_file.removesuffix(".safetensors")
        is_new = not (job.cache / cell.parent_file).exists()
        tracker = is_new and job.track and begin(job.track, job.results, "parents", name, cell)
        parent_for(cell, _places(job), watching(tracker or None))
        if tracker:
            tracker.close({})
    except UnsupportedModel as error:
        return f"parent: {protocol.describe(error)}"
    except (FileNotFoundError, ValueError):
        raise  # the request is wrong, not the run: whoever asked is told before anything is spent
    except Exception as error:  # its cells are recorded as failed, the other parents go on
        return f"parent: {protocol.describe(error)}"
    return None


def _places(job: Job) -> Places:
    from benchmarks.running.parent import Places

    return Places(job.cache, job.data, job.is_download_allowed, job.weights, job.checkpoint_seconds)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(signum, signal.SIG_IGN)  # once is enough: the record must not be interrupted
    raise KeyboardInterrupt


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
    return f"[{colour}]{record.status}[/] {in_markup(name)} {in_markup(result, 500)}"
