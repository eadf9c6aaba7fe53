"""A driver of a tiny run on Ray, one of whose tasks is struck."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from benchmarks.running.plan import Job, Plan
from benchmarks.running.ray_engine import RayCluster, RayEngine
from benchmarks.running.run_cells import Outcomes, run_plan
from tests.benchmarks.fabricate import tiny_cell

CELLS = (tiny_cell("uniform"), tiny_cell("l1_norm"), tiny_cell("uniform", budget=1e9))
"""The last one asks for more than there is, and fails."""

Strike = Literal["sleep", "die"]


def struck(folder: Path, strike: Strike, function: Callable[..., Any], *arguments: Any) -> Any:
    """In a worker: the task; the first time that l1_norm's cell is run, not."""
    begun = folder / strike
    if getattr(arguments[0], "method", "") == "l1_norm" and not begun.exists():
        begun.write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        if strike == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(10**6)
    return function(*arguments)


class StruckEngine(RayEngine):
    folder: Path
    strike: Strike

    def submit(
        self, function: Callable[..., Any], *arguments: Any, needs: Sequence[Path] = ()
    ) -> Future[Any]:
        return super().submit(struck, self.folder, self.strike, function, *arguments, needs=needs)


@dataclass(frozen=True)
class StruckCluster(RayCluster):
    strike: Strike = "die"

    def start(
        self, workers: int, *, is_whole: bool = False, is_quiet: bool = False
    ) -> StruckEngine:
        engine = super().start(workers, is_whole=is_whole, is_quiet=is_quiet)
        engine.__class__ = StruckEngine
        assert isinstance(engine, StruckEngine)
        engine.folder, engine.strike = self.cache.parents[1], self.strike
        return engine


def drive(folder: Path, strike: Strike) -> Outcomes:
    """Run the cells on two pretended GPUs."""
    job = Job(folder, workers=2)
    cluster = StruckCluster(job.cache, per_gpu=1, strike=strike)
    assert cluster.slots == 2
    return run_plan(Plan("test", CELLS, CELLS), job, Console(width=200), cluster)
