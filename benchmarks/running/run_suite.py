"""A suite from its first cell to its last timing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from benchmarks.running import run_cells
from benchmarks.running.engine import Machines
from benchmarks.running.plan import Job, Plan
from benchmarks.running.run_cells import Outcomes
from benchmarks.running.time_networks import time_networks

__all__ = ["SuiteRun", "run_suite"]


@dataclass(frozen=True)
class SuiteRun:
    """What a run came to.

    Attributes:
        plan: its cells, controls among them.
        outcomes: how many ended how.
        left: how many were not begun.
        untimed: pairs of networks that were to be timed and were not.
        waiting: longer controls that need records of what was not begun.
        is_over: whether the time was up in the end.
    """

    plan: Plan
    outcomes: Outcomes
    left: int
    untimed: int = 0
    waiting: int = 0
    is_over: bool = False


def run_suite(
    plan: Plan,
    replan: Callable[[], Plan],
    job: Job,
    console: Console,
    *,
    device: str | None,
    machines: Machines,
) -> SuiteRun:
    """Run the missing cells, then the controls whose length they tell, then time the networks.

    Args:
        plan: what is missing.
        replan: makes the plan again from the records that are there by then.
        job: where, and until when something new is begun.
        console: where progress is shown.
        device: to time on; None times nothing.
        machines: what cells and timings run on.

    Raises:
        OSError, ValueError, ChildProcessError, KeyboardInterrupt: see `run_plan`.
    """
    known = {cell.key for cell in plan.missing}
    missing, waiting = len(known), 0
    outcomes = run_cells.run_plan(plan, job, console, machines)
    if plan.waiting:
        plan = replan()
        if job.is_over:  # told as left, not begun
            missing += len({cell.key for cell in plan.controls.missing} - known)
            waiting = plan.waiting
        else:
            missing += len(plan.controls.missing)
            outcomes.include(run_cells.run_plan(plan.controls, job, console, machines))
    untimed = 0
    if device is not None and (plan.done or outcomes):
        keys = {cell.key for cell in plan.cells}
        untimed = time_networks(job, console, machines, device=device, keys=keys)
    return SuiteRun(plan, outcomes, missing - outcomes.total(), untimed, waiting, job.is_over)
