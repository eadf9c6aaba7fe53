"""Faults of a disk and kills, put under whatever writes files."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest

import benchmarks.records.whole_file
import zoo.core.whole_file

LAYERS = (zoo.core.whole_file, benchmarks.records.whole_file._layer)  # type: ignore[attr-defined]
"""Where the library and the harness write: one file, loaded twice."""

STEPS = ("open", "write", "fsync", "link", "replace", "rename", "unlink")


class Killed(BaseException):
    """Stands for the end of the process: nothing after it reaches the disk."""


@cache
def ended_process() -> int:
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


class FaultyOs:
    """`os` with a fault in place of the n-th call that touches the disk.

    Args:
        at: which call, from 1, of those named by `steps`.
        error: number of the error, or None for a kill.
        steps: which calls are counted.
    """

    def __init__(self, at: int, error: int | None, steps: tuple[str, ...] = STEPS) -> None:
        self.at, self.error, self.steps = at, error, steps
        self.calls, self.is_dead = 0, False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._watched(name, real) if name in STEPS else real

    def getpid(self) -> int:
        return ended_process() if self.error is None else os.getpid()

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if self.is_dead:
                raise Killed
            self.calls += name in self.steps
            if name in self.steps and self.calls == self.at:
                if name == "write":  # half of it reaches the disk
                    descriptor, content = arguments
                    real(descriptor, content[: len(content) // 2])
                self._strike()
            return real(*arguments)

        return call

    def _strike(self) -> None:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        self.is_dead = True
        raise Killed


@contextmanager
def disk(
    monkeypatch: pytest.MonkeyPatch, at: int, error: int | None, steps: tuple[str, ...] = STEPS
) -> Iterator[FaultyOs]:
    """Lets every writer of the library and of the harness write on a faulty disk."""
    faulty = FaultyOs(at, error, steps)
    with monkeypatch.context() as patch:
        for layer in LAYERS:
            patch.setattr(layer, "os", faulty)
        yield faulty
