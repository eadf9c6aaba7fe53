"""Runs in this process, which has torch already, what the program runs in one of its own."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

import pytest

from benchmarks.running import run_cells


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


def run_cells_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `zoo run` start no process."""
    here = partial(run_cells.run_plan, start_pool=InThisProcess)
    monkeypatch.setattr(run_cells, "run_plan", here)
