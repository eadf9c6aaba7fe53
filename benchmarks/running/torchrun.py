"""A command under torchrun: rank 0 runs it, the other ranks train with it and end as it does.

Rank 0 alone reads the command line, decides, prints, claims and writes. What all ranks are to run
is told through the store of torchrun, apart from what trainings exchange, so that a training that
failed cannot garble it. A thread in each rank looks on: where one rank fails and another still
waits for it in a training, or where rank 0 has ended, the process ends within seconds.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import pickle
import re
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

__all__ = [
    "RankFailed",
    "check_device",
    "is_launched",
    "local_ranks",
    "run_in_ranks",
    "stopped_by",
    "together",
]

T = TypeVar("T")
P = ParamSpec("P")

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_LOOK_SECONDS = 0.2
_GRACE_SECONDS = 10.0
"""Between a rank's failure, or a signal, and the end of those that still wait in a training."""

_LAST_SECONDS = 600.0
"""Most by which a rank ends a task later than rank 0."""

_LONG = timedelta(days=30)
"""Ranks wait as long as rank 0 searches."""


class RankFailed(ChildProcessError):
    """A rank failed otherwise than rank 0, so that they cannot go on together."""


def is_launched() -> bool:
    """Whether this is one of several processes that torchrun has started."""
    return all(name in os.environ for name in _NEEDED) and _number("WORLD_SIZE") > 1


def local_ranks() -> int:
    """How many of them there are on this machine; 1 without torchrun."""
    return _number("LOCAL_WORLD_SIZE") if is_launched() else 1


def check_device(device: str) -> None:
    """Refuse a device that the ranks of this machine cannot have one each of.

    Raises:
        ValueError: with the way out.
    """
    if not is_launched() or not device.startswith("cuda"):
        return
    import torch

    if ":" in device:
        raise ValueError(f"every rank has a GPU of its own; give --device cuda, not {device}")
    if local_ranks() > torch.cuda.device_count():
        raise ValueError(
            f"{local_ranks()} ranks need a GPU each and there are {torch.cuda.device_count()}; "
            "lower --nproc-per-node"
        )


def run_in_ranks(command: Callable[[], object]) -> NoReturn:
    """Run a command in rank 0, and in the others what it does together with them; never returns.

    Args:
        command: may end with `SystemExit`, whose status all ranks end with.
    """
    global _team
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # each rank would warn of the same
    _team = _Team()
    if _team.rank:
        _team.follow()
    from zoo.core.training.ranks import alone

    status = 1
    try:
        with alone():
            command()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    finally:
        _team.end(status)
    sys.exit(status)


def together(function: Callable[P, T], *arguments: P.args, **own: P.kwargs) -> T:
    """What a function returns that all ranks run; simply called where there is one process.

    Args:
        function: of a module.
        arguments: pickled for the other ranks.
        own: further arguments in rank 0 alone, such as who is told of progress.

    Raises:
        RankFailed: if a rank failed otherwise than this one.
        Exception: what the function raises.
    """
    if _team is None:
        return function(*arguments, **own)
    return _team.together(function, *arguments, **own)


def stopped_by() -> int | None:
    """The signal that this rank got last; None if there was none, or no torchrun."""
    return None if _team is None else _team.signal


class _Team:
    """This rank's link to the others."""

    def __init__(self) -> None:
        import torch
        import torch.distributed as dist

        self.rank = _number("RANK")
        self.signal: int | None = None
        if torch.cuda.is_available():
            torch.cuda.set_device(_number("LOCAL_RANK") % torch.cuda.device_count())
        has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
        dist.init_process_group(backend, timeout=_LONG)
        # A store waits with its lock held, so the thread that looks on has one of its own.
        self._store, self._looked_at = _store(), _store()
        self._numbers = count()
        self._running: int | None = None
        self._ending = threading.Lock()
        self._read, write = os.pipe()
        if self.rank == 0:
            os.set_blocking(write, False)
            signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._look, daemon=True).start()

    def together(self, function: Callable[..., T], *arguments: Any, **own: Any) -> T:
        """In rank 0: run a task with all."""
        from zoo.core.training.ranks import joined

        number = next(self._numbers)
        told = base64.b64encode(pickle.dumps((function, arguments)))
        self._store.set(f"task/{number}", told.decode())
        self._running = number
        try:
            with joined():
                answer = function(*arguments, **own)
        except Exception as error:
            self._compare(number, _failure(error))
            raise
        finally:
            self._running = None
        self._compare(number, _failure(answer))
        return answer

    def follow(self) -> NoReturn:
        """In another rank: run the tasks that rank 0 tells; the thread that looks on ends it."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
        for number in count():
            self._store.wait([f"task/{number}"], _LONG)
            told = base64.b64decode(self._store.get(f"task/{number}"))
            function, arguments = pickle.loads(told)
            try:
                failure = _failure(function(*arguments))
            except Exception as error:
                failure = _failure(error)
            if failure:
                self._store.set(f"failed/{number}", f"rank {self.rank}: {failure}")
            self._store.set(f"ended/{number}/{self.rank}", failure)
        raise AssertionError("tasks have no end")

    def end(self, status: int) -> None:
        """In rank 0: let all end with a status, and wait a moment until they have."""
        with self._ending, contextlib.suppress(Exception):  # the store may be gone with torchrun
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(ValueError):  # not in the main thread
                    signal.signal(number, signal.SIG_IGN)
            self._looked_at.set("end", str(status))
            others = [f"gone/{rank}" for rank in range(1, _number("WORLD_SIZE"))]
            limit = time.monotonic() + _GRACE_SECONDS
            while not self._looked_at.check(others) and time.monotonic() < limit:
                time.sleep(0.02)

    def _compare(self, number: int, own: str) -> None:
        """Wait until the others have ended a task, and refuse to go on if they ended otherwise."""
        if own.startswith("cancelled"):  # the others cannot know
            return
        limit = time.monotonic() + (_GRACE_SECONDS if own else _LAST_SECONDS)
        for rank in range(1, _number("WORLD_SIZE")):
            key = f"ended/{number}/{rank}"
            while not self._store.check([key]):
                if time.monotonic() > limit:
                    raise RankFailed(
                        f"rank {rank} is stuck{own and f' since rank 0 failed: {own}'}"
                    )
                time.sleep(0.01)
            other = self._store.get(key).decode()
            if _kind(other) != _kind(own) or "OutOfMemory" in own:
                raise RankFailed(
                    f"rank {rank} ended with {other or 'success'!r}, rank 0 with "
                    f"{own or 'success'!r}; what was finished is recorded, run again to resume"
                )

    def _look(self) -> None:
        """In a thread: end this process where waiting on would have no end."""
        since: float | None = None
        while True:
            ready, _, _ = select.select([self._read], [], [], _LOOK_SECONDS)
            if ready:
                self.signal = os.read(self._read, 1)[0]
            with self._ending:
                try:
                    if self.rank:
                        self._end_with_rank_0()
                    why = self._trouble()
                except Exception:  # torchrun is gone, and its store with it
                    os._exit(1)
            since = None if why is None else since or time.monotonic()
            if why is not None and time.monotonic() - (since or 0.0) > _GRACE_SECONDS:
                self._give_up(why)

    def _end_with_rank_0(self) -> None:
        """In another rank: end as rank 0 has, if it has."""
        if self._looked_at.check(["end"]):
            status = int(self._looked_at.get("end"))
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # the status counts
            self._looked_at.set(f"gone/{self.rank}", "")
            os._exit(status)

    def _trouble(self) -> str | None:
        """In rank 0: why the task that runs will not end, if that is so."""
        number = self._running
        if number is None:
            return None
        if self.signal is not None:
            return f"stopped by {signal.Signals(self.signal).name} in the midst of a training"
        if self._looked_at.check([f"failed/{number}"]):
            return self._looked_at.get(f"failed/{number}").decode()
        return None

    def _give_up(self, why: str) -> NoReturn:
        """In rank 0, whose main thread waits for a rank that does not answer."""
        print(f"error: {why}; what was finished is recorded, run again", file=sys.stderr)  # noqa: T201
        status = 1 if self.signal is None else 128 + self.signal
        self.end(status)
        os._exit(status)


_team: _Team | None = None


def _store() -> Store:
    """A link of its own to the store that torchrun, or rank 0, keeps."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined, unused-ignore]
    from torch.distributed.distributed_c10d import PrefixStore

    address, port = os.environ["MASTER_ADDR"], _number("MASTER_PORT")
    store = TCPStore(address, port, is_master=False, timeout=_LONG)
    return PrefixStore(f"zoo/{_number('TORCHELASTIC_RESTART_COUNT')}", store)


def _number(name: str) -> int:
    return int(os.environ.get(name, "0"))


def _failure(answer: object) -> str:
    """How a task failed, by what it returned or raised; empty if it did not."""
    if isinstance(answer, tuple) and answer:
        answer = answer[0]
    if isinstance(answer, BaseException):
        return f"{type(answer).__name__}: {answer}"
    status = getattr(answer, "status", "ok")
    if status != "ok":
        return f"{status}: {getattr(answer, 'reason', '')}"
    return answer if isinstance(answer, str) else ""


def _kind(failure: str) -> str:
    """What is the same of a failure in every rank; its message may name the rank's own numbers."""
    found = re.match(r"([a-z]+: )?\w*", failure)
    return found[0] if found else ""
