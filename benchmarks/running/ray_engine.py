"""Tasks on a Ray cluster: several GPUs, several machines.

A module that a worker imports before its task: it imports no torch, so that Ray has bound the
worker to its GPU by then. Records come back and are written by the head. Where workers do not see
the head's folder, trained parents, supernets and latency tables come back as well, and are handed
to the tasks that need them.
"""

from __future__ import annotations

import importlib
import pickle
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.records.whole_file import this_writer, write_whole

__all__ = ["RayCluster", "RayEngine"]

MOST_RETRIES = 2
"""Times that Ray runs a task anew after its process or machine died."""

QUIET = "quiet"
"""Resource of a machine: a timing takes all of it, every other task a thousandth."""

_MARK = "head"
"""File of the cache by which a worker knows that it sees the head's."""

_LOOK_SECONDS = 1.0
"""Longest wait inside Ray, so that signals are answered in between."""

_END_SECONDS = 60.0
"""Time for cancelled tasks to end before their processes are killed."""


@dataclass(frozen=True)
class RayCluster:
    """A running cluster, or this machine if none is there.

    Attributes:
        cache: folder of parents, supernets and tables on the head.
        per_gpu: tasks that share a GPU; 0 for tasks that take a CPU core and no GPU.
        gpus: most GPUs at once; all if None.
        workers: most tasks at once; 0 for as many as there is room for.
        is_fresh: give every task a process of its own.
    """

    cache: Path
    per_gpu: int = 0
    gpus: int | None = None
    workers: int = 0
    is_fresh: bool = False

    @property
    def slots(self) -> int:
        """How many tasks go beside each other by default.

        Raises:
            OSError: if Ray is not installed.
            ValueError: if the cluster has nothing that tasks can run on.
        """
        there = self._ray().cluster_resources()
        gpus = int(there.get("GPU", 0))
        if not self.per_gpu:
            return self.workers or max(1, int(there.get("CPU", 1)))
        if gpus < (self.gpus or 1):
            raise ValueError(f"--gpus {self.gpus or 1}: Ray sees {gpus} GPUs; see `ray status`")
        return self.workers or self.per_gpu * (self.gpus or gpus)

    @property
    def cores(self) -> int:
        """CPU cores of the whole cluster."""
        return int(self._ray().cluster_resources().get("CPU", 1))

    @property
    def alone(self) -> int:
        """How many tasks may go beside each other where each is to be alone: one a machine."""
        return max(1, sum(bool(node["Alive"]) for node in self._ray().nodes()))

    def start(self, workers: int, *, is_whole: bool = False, is_quiet: bool = False) -> RayEngine:
        """An engine that has at most so many tasks in Ray at once."""
        del workers  # whoever submits keeps to it
        ray = self._ray()
        options: dict[str, Any] = {"num_cpus": 1, "max_retries": MOST_RETRIES}
        if self.per_gpu:
            share = 1 if is_whole or is_quiet else 1 / self.per_gpu
            options |= {"num_cpus": 0, "num_gpus": share}
        if self.is_fresh:
            options["max_calls"] = 1
        if QUIET in ray.cluster_resources():
            options["resources"] = {QUIET: 1 if is_quiet else 0.001}
        elif is_quiet:
            raise ValueError(
                "to time networks, Ray has to know which machine is quiet: start it with "
                f"`ray start --resources='{{\"{QUIET}\": 1}}'`, or give --no-time"
            )
        return RayEngine(ray, self.cache.absolute(), options)

    def _ray(self) -> ModuleType:
        """Ray, connected to the cluster that is there, or to one of this machine alone.

        Raises:
            OSError: if it is not installed.
        """
        try:
            ray: ModuleType = importlib.import_module("ray")
        except ModuleNotFoundError as error:
            raise OSError(
                "--engine ray needs Ray, which is not installed: pip install ray "
                "(or pip install -e '.[ray]')"
            ) from error
        if ray.is_initialized():
            return ray
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM)
        quiet = {"logging_level": "ERROR", "log_to_driver": False}
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError:
            counts = {"num_cpus": self.workers} if self.workers and not self.per_gpu else {}
            counts |= {"num_gpus": self.gpus} if self.gpus else {}
            ray.init(resources={QUIET: 1}, include_dashboard=False, **counts, **quiet)
        if is_main:  # Ray answers SIGTERM by an exit without a word
            signal.signal(signal.SIGTERM, before)
        return ray


class RayEngine:
    """Ray core tasks, one for each task that is handed in.

    Args:
        ray: the module, connected.
        cache: folder of the head, absolute.
        options: of every Ray task.
    """

    head_writes = True

    def __init__(self, ray: ModuleType, cache: Path, options: Mapping[str, Any]) -> None:
        self._ray, self._cache = ray, cache
        self._carry_out = ray.remote(**options)(carry_out)
        self._running: dict[Any, Future[Any]] = {}  # by Ray's reference
        self._put: dict[Path, Any] = {}
        self._token = this_writer()
        write_whole(cache / _MARK, self._token)
        self._is_shared = all(ray.get(self._probes()))

    def submit(
        self, function: Callable[..., Any], *arguments: Any, needs: Sequence[Path] = ()
    ) -> Future[Any]:
        """Hand in a task; where workers do not see the cache, the files it needs go along."""
        sent = [] if self._is_shared else [path for path in needs if path.is_file()]
        for path in sent:
            if path not in self._put:
                self._put[path] = self._ray.put(path.read_bytes())
        names = [str(path.absolute().relative_to(self._cache)) for path in sent]
        packed = pickle.dumps((function, arguments))
        refs = [self._put[path] for path in sent]
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        ref = self._carry_out.remote(packed, self._cache, self._token, names, *refs)
        self._running[ref] = future
        return future

    def completed(self, timeout: float | None = None) -> list[Future[Any]]:
        """The tasks that have ended and were not told before."""
        left = timeout
        if not self._running:
            time.sleep(timeout or 0)
        while self._running:
            step = _LOOK_SECONDS if left is None else min(left, _LOOK_SECONDS)
            refs = list(self._running)
            ended, _ = self._ray.wait(refs, num_returns=1, timeout=step, fetch_local=False)
            if ended:
                more, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
                return [self._settle(ref) for ref in more or ended]
            if left is not None:
                left -= step
                if left <= 0:
                    break
        return []

    def stop(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        refs = list(self._running)
        for ref in refs:
            self._ray.cancel(ref)
        _, late = (
            self._ray.wait(refs, num_returns=len(refs), timeout=_END_SECONDS)
            if refs
            else (
                [],
                [],
            )
        )
        for ref in late:
            self._ray.cancel(ref, force=True)
        self._running.clear()

    def _settle(self, ref: Any) -> Future[Any]:
        """The future of a Ray task that has ended, with what came of it."""
        from zoo.core.child_process import WorkerDied

        future, errors = self._running.pop(ref), self._ray.exceptions
        try:
            answer, is_error, is_shared, files = self._ray.get(ref)
        except errors.RayTaskError as error:
            future.set_exception(RuntimeError(f"Ray could not carry out a task: {error}"))
            return future
        except errors.RayError as error:  # process, machine or memory gone, after all retries
            told = " ".join(str(error).split())[:300]
            future.set_exception(WorkerDied(None, f"{type(error).__name__}: {told}"))
            return future
        self._is_shared = self._is_shared and is_shared
        for name, content in files.items():
            if not (self._cache / name).exists():
                write_whole(self._cache / name, content)
        (future.set_exception if is_error else future.set_result)(answer)
        return future

    def _probes(self) -> list[Any]:
        """One question to each machine: whether it sees the head's cache."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        sees = self._ray.remote(num_cpus=0)(sees_head)
        alive = [node["NodeID"] for node in self._ray.nodes() if node["Alive"]]
        return [
            sees.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True)
            ).remote(self._cache, self._token)
            for node in alive
        ]


def sees_head(cache: Path, token: str) -> bool:
    """On a worker: whether a folder is the head's.

    Args:
        cache: the folder.
        token: what the head wrote there.
    """
    try:
        return (cache / _MARK).read_text("utf-8") == token
    except OSError:
        return False


def carry_out(
    packed: bytes, cache: Path, token: str, names: Sequence[str], *contents: bytes
) -> tuple[Any, bool, bool, dict[str, bytes]]:
    """On a worker: a task.

    Args:
        packed: the function and its arguments, pickled: unpacking imports torch.
        cache: folder of parents, supernets and tables.
        token: what the head wrote there.
        names: of files that the task needs, below the cache.
        contents: of these files.

    Returns:
        What the task returned or raised, whether it was raised, whether the cache is the head's,
        and, if it is not, the files that the task has made, by name.
    """
    is_shared = sees_head(cache, token)
    if not is_shared:
        for name, content in zip(names, contents, strict=True):
            if not (cache / name).exists():
                write_whole(cache / name, content)
    function, arguments = pickle.loads(packed)
    from zoo.core.child_process import one_thread, packable

    one_thread()
    before = frozenset() if is_shared else _made(cache)
    try:
        answer, is_error = function(*arguments), False
    except Exception as error:  # the head decides what it means
        answer, is_error = packable(error), True
    made = frozenset() if is_shared else _made(cache) - before
    files = {name: (cache / name).read_bytes() for name in sorted(made)}
    return answer, is_error, is_shared, files


def _made(cache: Path) -> frozenset[str]:
    """Names of the whole files of a cache that other tasks may read."""
    found = (*cache.rglob("*.safetensors"), *cache.rglob("*.json"))
    return frozenset(str(path.relative_to(cache)) for path in found if path.name[0] != ".")
