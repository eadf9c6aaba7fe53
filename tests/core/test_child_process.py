"""The death of one process is the end of one task."""

import operator
import os
import signal
import sys
import time
from functools import partial

import pytest

from zoo.core.child_process import WorkerDied, Workers, _describe_end, _Slot, packable


class Narrow(ValueError):
    """Does not survive pickling: it is made of two values and keeps one."""

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(f"{name} is above {limit}")


def test_a_task_ends_with_its_process_and_the_others_do_not() -> None:
    pool = Workers(1, settle=os.getpid)
    try:
        killed = pool.submit(signal.raise_signal, signal.SIGKILL)
        left = pool.submit(sys.exit, 3)
        broken = pool.submit(operator.truediv, 1, 0)
        added = pool.submit(operator.add, 1, 2)
        with pytest.raises(WorkerDied, match=r"^killed by signal 9 \(SIGKILL\); .*memory"):
            killed.result(120)
        with pytest.raises(WorkerDied, match="exit status 3"):
            left.result(120)
        with pytest.raises(ZeroDivisionError):
            broken.result(120)
        assert added.result(120) == 3
    finally:
        pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(operator.add, 1, 2)


def test_a_second_interruption_ends_processes_that_do_not_listen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Workers(1, settle=partial(signal.signal, signal.SIGTERM, signal.SIG_IGN))
    process = pool.submit(os.getpid).result(120)
    busy = pool.submit(time.sleep, 10**6)
    while not busy.running():
        time.sleep(0.01)

    def interrupt(slot: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_Slot, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.shutdown()
    with pytest.raises(WorkerDied, match="killed by signal"):
        busy.result(120)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_an_end_names_the_signal() -> None:
    assert _describe_end(-signal.SIGSEGV) == "killed by signal 11 (SIGSEGV)"
    assert _describe_end(-signal.SIGABRT) == "killed by signal 6 (SIGABRT)"
    assert _describe_end(-35) == "killed by signal 35"  # a real-time signal has no name
    assert _describe_end(None) == "the process ended with exit status None and gave no answer"


def test_an_exception_that_cannot_travel_is_told() -> None:
    packed = packable(Narrow("lr", 3))
    assert type(packed) is ValueError and str(packed) == "Narrow: lr is above 3"
    assert isinstance(packable(ZeroDivisionError("x")), ZeroDivisionError)


def small(value: int) -> bool:
    """Of a process whose task gave this: whether it may take another."""
    if value == 7:
        raise RuntimeError("asked whether it is sound, it fails")
    return value < 10


def test_a_process_serves_until_it_is_no_longer_sound() -> None:
    pool = Workers(1, is_sound=small)

    try:
        assert pool.submit(operator.add, 1, 2).result(120) == 3
        first = pool._slots[0]._process
        assert first is not None
        assert pool.submit(operator.add, 2, 2).result(120) == 4
        assert pool._slots[0]._process is first
        for spoilt in ((operator.add, 5, 5), (operator.add, 3, 4), (operator.truediv, 1, 0)):
            pool.submit(*spoilt).exception(120)
            assert pool.submit(operator.add, 1, 2).result(120) == 3
            after = pool._slots[0]._process
            assert after is not None and after is not first
            first = after
    finally:
        pool.shutdown()
