"""Runs in this process, which has torch already, what the program runs in one of its own."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest
from rich.console import Console

from benchmarks.running import run_cells
from benchmarks.running.engine import LocalMachine, Machines
from benchmarks.running.plan import Job, Plan
from benchmarks.running.run_cells import Outcomes


class InThisProcess(Executor):
    """Runs a task when it is submitted; tests/core/test_child_process.py tries the processes."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The task, done; its exceptions are the future's."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


IN_THIS_PROCESS = LocalMachine(start_pool=InThisProcess)


def run_cells_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `zoo run` start no process."""
    run_plan = run_cells.run_plan

    def here(plan: Plan, job: Job, console: Console, machines: Machines) -> Outcomes:
        del machines
        return run_plan(plan, job, console, IN_THIS_PROCESS)

    monkeypatch.setattr(run_cells, "run_plan", here)
