"""Where the tasks of a run are carried out: one protocol, and this machine's processes.

An engine takes tasks, says which are completed and stops. It decides nothing: what is run, in which
order and how often is the runner's, so that progress, resume, failures and exit status are the same
wherever the work is done.
"""

from __future__ import annotations

import math
import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from benchmarks.running.sound_gpu import is_gpu_sound
from benchmarks.running.torchrun import check_device, is_launched, local_ranks
from zoo.core.child_process import Workers, one_thread

__all__ = [
    "Engine",
    "EngineName",
    "LocalEngine",
    "LocalMachine",
    "Machines",
    "answer",
    "check_core",
    "machines",
]

EngineName = Literal["local", "ray"]

StartPool = Callable[[int], Executor]
"""Makes an executor of at most that many workers. It raises `WorkerDied` for a task whose process
died, if the other tasks go on."""

_VISIBLE = "CUDA_VISIBLE_DEVICES"


class Engine(Protocol):
    """Carries out tasks, several at once.

    Attributes:
        head_writes: whether records are to be written by whoever submits; else by the task.
    """

    head_writes: bool

    def submit(
        self, function: Callable[..., Any], *arguments: Any, needs: Sequence[Path] = ()
    ) -> Future[Any]:
        """Hand in a task; function, arguments and answer are pickled.

        The future gets the task's exceptions, and `WorkerDied` if its process died.

        Args:
            function: of a module.
            arguments: of the function.
            needs: files of the cache that the task reads, if they are there.
        """

    def completed(self, timeout: float | None = None) -> list[Future[Any]]:
        """The tasks that have ended and were not told before.

        Args:
            timeout: seconds to wait for one, None to wait as long as it takes.
        """

    def stop(self) -> None:
        """End all tasks, those that are running too, and wait until they have."""


class Machines(Protocol):
    """What engines are started on."""

    @property
    def per_gpu(self) -> int:
        """How many tasks share a GPU."""

    @property
    def slots(self) -> int:
        """How many tasks go beside each other by default."""

    @property
    def cores(self) -> int:
        """CPU cores that all tasks share."""

    @property
    def alone(self) -> int:
        """How many tasks may go beside each other where each is to be alone on a machine."""

    def start(self, workers: int, *, is_whole: bool = False, is_quiet: bool = False) -> Engine:
        """An engine.

        Args:
            workers: most tasks at once.
            is_whole: give each task a GPU of its own, where GPUs are shared.
            is_quiet: for timing: run nothing else on the machine of a task.
        """


def machines(
    engine: EngineName,
    device: str,
    cache: Path,
    *,
    gpus: int | None = None,
    per_gpu: int = 1,
    workers: int = 0,
) -> Machines:
    """What a command's options ask for.

    Args:
        engine: the name.
        device: a torch device; the index of a GPU says which one is taken.
        cache: folder of what tasks make for others.
        gpus: how many GPUs are taken; 1 if None, of a cluster all.
        per_gpu: tasks that share a GPU.
        workers: tasks beside each other; 0 for as many as there is room for.

    Raises:
        ValueError: if the options contradict each other.
        OSError: if Ray is asked for and is not there.
    """
    kind, _, index = device.partition(":")
    if is_launched():
        from benchmarks.running.rank_engine import RankMachine, check_options

        check_options(engine, gpus, per_gpu, workers)
        check_device(device)
        here = LocalMachine(1)
        return RankMachine(partial(here.start, 1, is_quiet=True), here.cores // local_ranks())
    if kind == "cpu" and (gpus is not None or per_gpu != 1):
        raise ValueError("--gpus and --per-gpu are for --device cuda")
    if index and (gpus is not None or engine == "ray"):
        raise ValueError(f"--device {device} names one GPU; for several give --device cuda --gpus")
    if engine == "ray":
        from benchmarks.running.ray_engine import RayCluster

        share = per_gpu if kind == "cuda" else 0
        return RayCluster(cache, share, gpus, workers, is_fresh=kind == "cuda")
    if kind == "cpu":
        return LocalMachine(workers)
    chosen = (int(index),) if index else tuple(range(gpus or 1))
    if workers and per_gpu == 1:
        per_gpu = math.ceil(workers / len(chosen))
    return LocalMachine(workers, gpus=chosen, per_gpu=per_gpu)


@dataclass(frozen=True)
class LocalMachine:
    """This machine.

    Attributes:
        workers: processes beside each other; 0 for one a core, or as many as the GPUs take.
        gpus: indices of the GPUs that processes are bound to; none to bind none.
        per_gpu: processes that share a GPU.
        core: CPU core that a timing stays on; any if None.
        start_pool: makes the executor of the processes.
        alone: tasks at once where each is to be alone.
    """

    workers: int = 0
    gpus: tuple[int, ...] = ()
    per_gpu: int = 1
    core: int | None = None
    start_pool: StartPool | None = None
    alone: int = 1

    @property
    def slots(self) -> int:
        """How many tasks go beside each other by default."""
        if self.workers:
            return self.workers
        if self.gpus:
            return len(self.gpus) * self.per_gpu
        return self.cores

    @property
    def cores(self) -> int:
        """CPU cores that this process may run on."""
        has_affinity = hasattr(os, "sched_getaffinity")
        return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1

    def start(self, workers: int, *, is_whole: bool = False, is_quiet: bool = False) -> LocalEngine:
        """An engine of processes of one thread each; one for timing sees all GPUs."""
        if is_quiet:
            return LocalEngine(Workers(1, partial(_settle, self.core)))
        count = min(workers, len(self.gpus)) if is_whole and self.gpus else workers
        if self.start_pool is not None:
            return LocalEngine(self.start_pool(count))
        gpus = self.gpus
        bound = [_bound_to(gpus[place % len(gpus)]) for place in range(count)] if gpus else []
        if not bound:
            return LocalEngine(Workers(count, one_thread))
        return LocalEngine(Workers(count, one_thread, environments=bound, is_sound=is_gpu_sound))


def _settle(core: int | None) -> None:
    """In a worker, first: one thread, on a core."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    one_thread()


def _bound_to(gpu: int) -> dict[str, str]:
    """The environment of a process that sees one GPU of those that this process sees."""
    seen = [name for name in os.environ.get(_VISIBLE, "").split(",") if name]
    if seen and gpu >= len(seen):
        raise ValueError(f"GPU {gpu} is not among those of {_VISIBLE}={','.join(seen)}")
    return {_VISIBLE: seen[gpu] if seen else str(gpu)}


class LocalEngine:
    """An engine on an executor of this machine.

    Args:
        pool: carries out the tasks, which write their own records.
    """

    head_writes = False

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._ended: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()

    def submit(
        self, function: Callable[..., Any], *arguments: Any, needs: Sequence[Path] = ()
    ) -> Future[Any]:
        """Hand in a task; the files that it needs are on this machine."""
        del needs
        future = self._pool.submit(function, *arguments)
        future.add_done_callback(self._ended.put)
        return future

    def completed(self, timeout: float | None = None) -> list[Future[Any]]:
        """The tasks that have ended and were not told before."""
        try:
            ended = [self._ended.get(timeout=timeout)]
        except queue.Empty:
            return []
        while not self._ended.empty():
            ended.append(self._ended.get())
        return ended

    def stop(self) -> None:
        """End all processes; a task that is running records what it did."""
        self._pool.shutdown(cancel_futures=True)


def check_core(core: int) -> None:
    """Refuse a core that no process can be kept on.

    Raises:
        ValueError: with those that there are.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if core not in allowed:
        told = ", ".join(map(str, sorted(allowed))) or "none: this system keeps processes on none"
        raise ValueError(f"no process can be kept on core {core}; cores are {told}")


def answer(engine: Engine, function: Callable[..., Any], *arguments: Any) -> Any:
    """What one task returns, on an engine that has no other.

    Raises:
        Exception: that of the task.
    """
    future = engine.submit(function, *arguments)
    while not future.done():
        engine.completed()
    return future.result()
