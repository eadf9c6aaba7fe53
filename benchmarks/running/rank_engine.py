"""An engine of the processes that torchrun has started: one task after another, on all of them."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.records.record import Record
from benchmarks.running.stopped import Stopped
from benchmarks.running.torchrun import stopped_by, together

if TYPE_CHECKING:
    from benchmarks.running.engine import Engine, EngineName

__all__ = ["RankEngine", "RankMachine", "check_options"]


def check_options(engine: EngineName, gpus: int | None, per_gpu: int, workers: int) -> None:
    """Refuse options that say where cells go: under torchrun each one takes all ranks.

    Raises:
        ValueError: naming the first.
    """
    given = {
        "--engine ray": engine == "ray",
        "--gpus": gpus is not None,
        "--per-gpu": per_gpu != 1,
        "--workers": workers > 1,
    }
    for name, is_given in given.items():
        if is_given:
            raise ValueError(
                f"under torchrun every training runs on all ranks, one cell after another; leave "
                f"out {name}, or start the command without torchrun"
            )


@dataclass(frozen=True)
class RankMachine:
    """All ranks together, as one place for a task.

    Attributes:
        start_quiet: makes the engine for timing, of one process.
        cores: CPU cores of this machine for each of its ranks.
        per_gpu, slots, alone: as of any machine; a task at a time.
    """

    start_quiet: Callable[[], Engine]
    cores: int
    per_gpu: int = 1
    slots: int = 1
    alone: int = 1

    def start(self, workers: int, *, is_whole: bool = False, is_quiet: bool = False) -> Engine:
        """An engine of all ranks; of one process of this machine for timing."""
        del workers, is_whole
        return self.start_quiet() if is_quiet else RankEngine()


class RankEngine:
    """Runs each task in this process, rank 0, and beside it in all others; see `together`."""

    head_writes = True

    def __init__(self) -> None:
        self._waiting: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self._is_interrupted = False

    def submit(
        self, function: Callable[..., Any], *arguments: Any, needs: Sequence[Path] = ()
    ) -> Future[Any]:
        """Hand in a task, which runs when it is waited for."""
        del needs  # ranks share a folder, or are told by rank 0 what lies there
        self._interrupt()
        future: Future[Any] = Future()
        self._waiting.append((future, function, arguments))
        return future

    def completed(self, timeout: float | None = None) -> list[Future[Any]]:
        """Run the next task.

        Raises:
            KeyboardInterrupt: if the task before it was interrupted; it is recorded by now.
        """
        self._interrupt()
        if not self._waiting:
            time.sleep(timeout or 0.0)
            return []
        future, function, arguments = self._waiting.popleft()
        try:
            answer = together(function, *arguments)
        except Exception as error:  # the request is wrong, or ranks cannot go on
            future.set_exception(error)
        else:
            future.set_result(answer)
            self._is_interrupted = isinstance(answer, Record) and answer.status == "cancelled"
        return [future]

    def stop(self) -> None:
        """End; nothing runs between two tasks."""
        self._waiting.clear()
        self._interrupt()

    def _interrupt(self) -> None:
        if self._is_interrupted:
            self._is_interrupted = False
            number = stopped_by()
            if number is None or number == signal.SIGINT:
                raise KeyboardInterrupt
            raise Stopped(signal.Signals(number))
