"""Worker processes that run one task at a time; if one dies, only its task fails.

A pool of the standard library breaks as a whole when one of its processes dies. Here every process
has a pipe and a thread of its own; when it dies, its task ends with `WorkerDied`, which names the
signal, and the next task gets a fresh process.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

__all__ = ["WorkerDied", "Workers", "one_thread", "packable"]

_LOOK_SECONDS = 0.5
"""How often a silent process is checked for life; usually its pipe reports the end at once."""

_GONE_SECONDS = 10.0
"""Time for a process to exit once it has closed its pipe."""

_END_SECONDS = 60.0
"""Time for a process that was told to stop to record what it ran."""

_STARTING = threading.Lock()
"""Held while a process starts: it inherits the environment of that moment."""


class _Answer(NamedTuple):
    """What a task returned or raised, and whether its process may take another."""

    value: Any
    is_error: bool
    may_go_on: bool


_Task = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]  # whatever the task takes, makes


def one_thread() -> None:
    """Let torch calculate in one thread."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    torch.set_num_threads(1)


class WorkerDied(ChildProcessError):
    """A worker process ended without an answer.

    Args:
        exitcode: as `multiprocessing` gives it; None if it is not known.
        told: what is known instead.
    """

    def __init__(self, exitcode: int | None, told: str | None = None) -> None:
        super().__init__(told or _describe_end(exitcode))


class Workers(Executor):
    """An executor of fresh processes, which ignore Ctrl-C and end with the one that started them.

    Args:
        count: most processes at once; they start when there is work for them.
        settle: called first in every process; it must be picklable.
        environments: variables that the processes of each place get from their start on, before
            they import anything; one mapping for each of `count`, or none at all.
        is_sound: asked in a process after each task, with its answer, whether the process may take
            another; it must be picklable. One that may not, or whose task raised, is replaced, so
            that no task inherits what a failed one left behind, such as a broken CUDA context. By
            default every process may.
    """

    def __init__(
        self,
        count: int,
        settle: Callable[[], object] = one_thread,
        *,
        environments: Sequence[Mapping[str, str]] = (),
        is_sound: Callable[[Any], bool] | None = None,
    ) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._is_closed = False
        given = environments or [{}] * count
        serve = partial(_serve, settle=settle, is_sound=is_sound)
        self._slots = [_Slot(self._tasks, serve, each) for each in given[:count]]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand a task to the next free process; arguments and result are pickled.

        The future gets the task's exceptions, and `WorkerDied` if its process dies.

        Args:
            fn: a function of a module, so that it can be pickled.
            args: its arguments.
            kwargs: not taken; part of the interface of `Executor`.

        Raises:
            RuntimeError: after `shutdown`.
        """
        if self._is_closed:
            raise RuntimeError("no task is taken after shutdown")
        assert not kwargs
        future: Future[Any] = Future()
        self._tasks.put((future, fn, args))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End all processes; one that is busy gets SIGTERM and time to answer to it.

        Args:
            wait: ignored: this always waits.
            cancel_futures: ignored: tasks that no process has begun are always cancelled.
        """
        if self._is_closed:
            return
        self._is_closed = True
        while True:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                break
            if task is not None:
                task[0].cancel()
        for _ in self._slots:
            self._tasks.put(None)
        try:
            for slot in self._slots:
                slot.stop()
            for slot in self._slots:
                slot.wait()
        except KeyboardInterrupt:  # a second one: no time is left
            for slot in self._slots:
                slot.kill()
            raise


class _Slot:
    """A thread that runs tasks in a process, and starts a new one if that dies."""

    def __init__(
        self,
        tasks: queue.SimpleQueue[_Task | None],
        serve: Callable[[Connection], None],
        environment: Mapping[str, str],
    ) -> None:
        self._tasks, self._serve, self._environment = tasks, serve, environment
        self._lock = threading.Lock()  # around starting a process and telling it to end
        self._is_over = False
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Tell the process to end, and start no other."""
        with self._lock:
            self._is_over = True
            if self._process is not None:
                self._process.terminate()

    def wait(self) -> None:
        """Wait until the process is gone; kill it if that takes too long."""
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive():
            self.kill()
            self._thread.join()

    def kill(self) -> None:
        """End the process at once."""
        with self._lock:
            self._is_over = True
            if self._process is not None:
                self._process.kill()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, function, arguments = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                answer, is_error = self._run_in_process(function, arguments)
            except Exception as error:  # it is the future's, whatever it is
                answer, is_error = error, True
            (future.set_exception if is_error else future.set_result)(answer)
        if self._pipe is not None and self._process is not None:
            self._pipe.close()  # a process that is idle ends with its pipe
            self._process.join()

    def _run_in_process(
        self, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> tuple[Any, bool]:
        """What a task returned or raised in the process, and whether it was raised.

        Raises:
            WorkerDied: if the process ends without an answer.
        """
        with self._lock:
            if self._is_over:
                raise WorkerDied(-signal.SIGTERM)
            if self._process is None:
                self._process, self._pipe = _start(self._serve, self._environment)
        process, pipe = self._process, self._pipe
        assert pipe is not None
        try:
            pipe.send((function, arguments))
            while not pipe.poll(_LOOK_SECONDS):
                if not process.is_alive() and not pipe.poll():
                    raise EOFError
            answer: _Answer = pipe.recv()
        except (EOFError, OSError):  # it died before, in or after the task
            exitcode = _exitcode(process)
            with self._lock:
                self._process, self._pipe = None, None
            pipe.close()
            raise WorkerDied(exitcode) from None
        if not answer.may_go_on:
            self._let_go(process, pipe)
        return answer.value, answer.is_error

    def _let_go(self, process: multiprocessing.process.BaseProcess, pipe: Connection) -> None:
        """End a process that is to take no other task; the next one gets another."""
        pipe.close()
        _exitcode(process)
        with self._lock:
            self._process, self._pipe = None, None


def _start(
    serve: Callable[[Connection], None], environment: Mapping[str, str]
) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    # Not forked: a fork inherits locks whose threads it lacks, torch's among them, and may hang.
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=serve, args=(its,))
    with _STARTING, _environment(environment):
        process.start()
    its.close()  # so that the pipe ends with the process
    return process, ours


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of this process's environment inside the block."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _exitcode(process: multiprocessing.process.BaseProcess) -> int | None:
    """Exit status of a process whose pipe has ended; None if the system does not tell."""
    process.join(_GONE_SECONDS)
    if process.is_alive():  # it closed its pipe and goes on
        process.kill()
    for _ in range(10):  # starting another process may have taken its end first, in that thread
        if process.exitcode is not None:
            break
        process.join(0.1)
        time.sleep(0.01)
    return process.exitcode


def _serve(
    pipe: Connection, settle: Callable[[], object], is_sound: Callable[[Any], bool] | None
) -> None:
    """In a worker: run the tasks that come through the pipe until it is closed."""
    _attach()
    settle()
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            value = function(*arguments)
            answer = _Answer(value, False, is_sound is None or _says_yes(is_sound, value))
        except Exception as error:  # the main process decides what it means
            answer = _Answer(packable(error), True, is_sound is None)
        try:
            pipe.send(answer)
        except BrokenPipeError:  # nobody waits any more
            return


def _says_yes(is_sound: Callable[[Any], bool], value: object) -> bool:
    try:
        return is_sound(value)
    except Exception:  # a broken CUDA context raises whenever it is asked
        return False


def _attach() -> None:
    """Ignore Ctrl-C, which the main process handles, and end when that process ends."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def packable(error: Exception) -> Exception:
    """Return the exception, or one with the same message if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception of foreign code may do anything there
        kind = ValueError if isinstance(error, ValueError) else RuntimeError
        return kind(f"{type(error).__name__}: {error}")
    return error


def _describe_end(exitcode: int | None) -> str:
    """How a process ended, and the usual cause, in words."""
    if exitcode is None or exitcode >= 0:
        return f"the process ended with exit status {exitcode} and gave no answer"
    number = -exitcode
    known = number in {each.value for each in signal.Signals}
    name = f" ({signal.Signals(number).name})" if known else ""
    hint = ""
    if number == signal.SIGKILL:
        hint = "; the system does that when memory runs out: try fewer workers"
    return f"killed by signal {number}{name}{hint}"
