"""What a run says of work that is left when its time is up; its records are made up."""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.records.cell import PARENT, Cell
from benchmarks.records.files import write_record
from benchmarks.records.record import Group, Record
from benchmarks.running import plan as planning
from benchmarks.running import run_cells
from benchmarks.running.endings import tell_left
from benchmarks.running.plan import Job, Plan, plan_suite
from benchmarks.running.run_cells import Outcomes
from benchmarks.running.run_suite import SuiteRun, run_suite
from benchmarks.running.suite import Suite
from tests.benchmarks.fabricate import FEW, TINY, record
from tests.benchmarks.in_this_process import IN_THIS_PROCESS

SUITE = Suite.model_validate(
    {
        "title": "t",
        "methods": ("l1_norm",),
        "budgets": (0.5,),
        "models": ({"name": "test_resnet"},),
        "datasets": (TINY,),
        "parent": FEW,
        "finetune": FEW,
    }
)
"""Three cells, and a longer control after them: every made-up search costs time."""


class Clock:
    """Stands in the place of the module `time`: the time is up once so many cells are run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
        self.left, self.failing = cells, ""
        monkeypatch.setattr(planning, "time", self)
        monkeypatch.setattr(run_cells, "run_plan", self.run)

    def time(self) -> float:
        """At which a job until 5 is over as soon as no cell is left."""
        return 0.0 if self.left > 0 else 9.0

    def run(self, plan: Plan, job: Job, *_: object) -> Outcomes:
        """Write made-up records of the missing cells."""
        outcomes = Outcomes()
        for cell in plan.missing:
            if job.is_over:
                break
            made = self.made(cell)
            write_record(job.records, made)
            outcomes[made.status] += 1
            outcomes.unsettled += [made] * (made.status == "failed")
            self.left -= 1
        return outcomes

    def made(self, cell: Cell) -> Record:
        """A record without times; each method keeps another count."""
        if cell.method == self.failing:
            return record(cell=cell, status="failed", reason="x")
        kept = {"uniform": 4, "l1_norm": 5, PARENT: 8}[cell.method]
        widths = {
            "groups": (Group(name="stem", size=8, kept=kept),),
            "config": {"stem": list(range(kept))},
        }
        shape = {"input_size": (3, 16, 16), "num_classes": 10}
        return record(cell=cell, latency=(), **widths, **shape)


def run(folder: Path, device: str | None = None) -> SuiteRun:
    job = Job(folder, until=5.0)
    replan = partial(plan_suite, "test", SUITE, job.records)
    console = Console(quiet=True)
    return run_suite(replan(), replan, job, console, device=device, machines=IN_THIS_PROCESS)


def told(done: SuiteRun) -> Sequence[str]:
    out = io.StringIO()
    tell_left(done, Console(file=out, width=300))
    return out.getvalue().splitlines()


def test_a_time_that_is_up_with_the_last_cell_tells_the_longer_controls(tmp_path, monkeypatch):
    Clock(monkeypatch, cells=3)
    done = run(tmp_path)
    assert done.outcomes == {"ok": 3} and [bool(c.longer) for c in done.plan.cells].count(True) == 1
    assert told(done) == ["time is up: 1 cell left; run again"]
    Clock(monkeypatch, cells=1)  # which the next part takes up, and is up again
    done = run(tmp_path)
    assert (done.outcomes, done.left, told(done)) == ({"ok": 1}, 0, [])


def test_controls_that_cannot_be_planned_yet_are_told_beside_the_cells_that_are_left(
    tmp_path, monkeypatch
):
    Clock(monkeypatch, cells=1)
    done = run(tmp_path)
    wanted = "time is up: 2 cells left, 1 longer control when the cost is known; run again"
    assert told(done) == [wanted]


def test_a_longer_control_that_was_not_begun_is_counted_once(tmp_path, monkeypatch):
    Clock(monkeypatch, cells=3)
    run(tmp_path)
    Clock(monkeypatch, cells=0)
    more = SUITE.model_copy(update={"budgets": (0.5, 0.25)})
    monkeypatch.setattr("tests.benchmarks.running.test_run_suite.SUITE", more)
    done = run(tmp_path)
    wanted = "time is up: 3 cells left, 1 longer control when the cost is known; run again"
    assert told(done) == [wanted]


def test_a_time_that_is_up_before_the_timing_tells_the_networks(tmp_path, monkeypatch):
    Clock(monkeypatch, cells=3)
    assert run(tmp_path / "a", device="cpu").untimed == 3
    assert not list((tmp_path / "a" / "timings").iterdir())
    Clock(monkeypatch, cells=4)
    done = run(tmp_path / "b", device="cpu")
    assert told(done) == ["time is up: 3 networks not timed; run again"]
    Clock(monkeypatch, cells=0)
    assert run(tmp_path / "c", device="cpu").untimed == 0  # nothing was run, so no process is asked
    assert not (tmp_path / "c").exists()


def test_what_has_time_and_leaves_nothing_says_nothing(tmp_path, monkeypatch):
    Clock(monkeypatch, cells=9)
    assert told(run(tmp_path)) == []


def test_controls_that_wait_for_a_failed_cell_are_no_matter_of_time(tmp_path, monkeypatch):
    Clock(monkeypatch, cells=9).failing = "l1_norm"
    done = run(tmp_path)
    assert done.plan.waiting == 1 and told(done) == []


def test_what_died_in_the_second_part_is_told_too():
    first, second = Outcomes(), Outcomes()
    first.deaths.append("a")
    second.deaths.append("b")
    first.include(second)
    assert first.deaths == ["a", "b"]
