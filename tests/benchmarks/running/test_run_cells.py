"""What a run makes of the death of a process: the end of one cell."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Executor, Future
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.cli import main
from benchmarks.records.cell import Cell, Model
from benchmarks.records.contrast import Contrast, Primary
from benchmarks.records.files import load_records
from benchmarks.records.record import Record
from benchmarks.running import parent, protocol
from benchmarks.running.engine import LocalMachine
from benchmarks.running.plan import Job, Plan
from benchmarks.running.protocol import Findings
from benchmarks.running.run_cells import Stopped, Unrecorded, run_plan
from tests.benchmarks.fabricate import cell, record
from tests.faults import disk
from zoo.core.child_process import WorkerDied
from zoo.core.meter import Meter

ROOT = Path(__file__).parents[3]


# Nothing is trained here, and a process is a call.


class Mortal(Executor):
    """Runs tasks at once; kills the process of what is told, as often as it is told."""

    def __init__(self, deaths: dict[tuple[str, str], int]) -> None:
        self.deaths = Counter(deaths)
        self.pools: list[int] = []
        self.tasks: list[tuple[str, str, int]] = []

    def of(self, workers: int) -> "Mortal":
        self.pools.append(workers)
        return self

    def submit(self, function, /, *arguments, **_):  # type: ignore[no-untyped-def, override]
        future: Future[object] = Future()
        asked, kind = arguments[0], "train" if function.__name__ == "train_parent" else "run"
        kind = "refuse" if kind == "run" and arguments[3] is not None else kind
        name = asked.parent_key if kind == "train" else asked.method
        self.tasks.append((kind, name, self.pools[-1]))
        if self.deaths[kind, name]:
            self.deaths[kind, name] -= 1
            future.set_exception(WorkerDied(-signal.SIGSEGV))
            return future
        try:
            future.set_result(function(*arguments))
        except OSError as error:
            future.set_exception(error)
        return future


METHODS = ("uniform", "taylor", "fpgm")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent, "parent_for", lambda cell, places, watch: None)

    def run_cell(cell: Cell, **_: object) -> tuple[Record, Findings]:
        utc = datetime.now(UTC).isoformat(timespec="seconds")
        return record(cell=cell, id="", utc=utc), Findings(Meter("cpu"))

    monkeypatch.setattr(protocol, "run_cell", run_cell)


NAMED = Primary(contrast=Contrast(method="taylor", budget=0.5), metric="macs", seeds=(0,))


def run(folder: Path, mortal: Mortal, **changes: object) -> tuple[Job, object]:
    cells = tuple(cell(method) for method in METHODS)
    job = Job(folder, workers=2, **changes)  # type: ignore[arg-type]
    plan = Plan("test", cells, cells, primary=(NAMED,))
    return job, run_plan(plan, job, Console(quiet=True), LocalMachine(start_pool=mortal.of))


PARENT = cell().parent_key


def reasons(job: Job, method: str) -> list[str | None]:
    return [r.reason for r in loaded(job.records) if r.cell.method == method]


def loaded(folder: Path) -> list[Record]:
    """In the order in which they were written."""
    return sorted(load_records(folder), key=lambda record: record.id)


def test_a_cell_that_dies_once_is_recorded_and_run_again_alone(
    tmp_path: Path, untrained: None
) -> None:
    mortal = Mortal({("run", "taylor"): 1})
    job, outcomes = run(tmp_path, mortal)
    assert outcomes == {"ok": 3} and not outcomes.unsettled
    assert outcomes.deaths == [f"{cell('taylor').label}: killed by signal 11 (SIGSEGV)"]
    assert reasons(job, "taylor") == ["killed by signal 11 (SIGSEGV)", None]
    assert mortal.tasks == [
        ("train", PARENT, 2),
        ("run", "uniform", 2),
        ("run", "taylor", 2),
        ("refuse", "taylor", 2),
        ("run", "fpgm", 2),
        ("run", "taylor", 1),
    ]


def test_a_cell_that_dies_twice_fails_and_is_named(tmp_path: Path, untrained: None) -> None:
    job, outcomes = run(tmp_path, Mortal({("run", "taylor"): 2}))
    assert outcomes == {"ok": 2, "failed": 1}
    death = "killed by signal 11 (SIGSEGV)"
    assert reasons(job, "taylor") == [death, f"{death}, and again when it ran alone"]
    assert [r.cell.method for r in outcomes.unsettled] == ["taylor"]
    # What was named beforehand, in records of failures, too.
    assert [each.primary for each in loaded(job.records)] == [(NAMED,)] * 4


def test_a_parent_that_dies_once_is_trained_again_alone_and_its_cells_run_side_by_side(
    tmp_path: Path, untrained: None
) -> None:
    mortal = Mortal({("train", PARENT): 1})
    job, outcomes = run(tmp_path, mortal)
    assert outcomes == {"ok": 3} and len(load_records(job.records)) == 3
    assert outcomes.deaths == [f"parent of {cell('uniform').label}: killed by signal 11 (SIGSEGV)"]
    assert mortal.tasks == [
        ("train", PARENT, 2),
        ("train", PARENT, 1),
        *(("run", method, 2) for method in METHODS),
    ]


def test_a_parent_that_dies_twice_fails_its_cells(tmp_path: Path, untrained: None) -> None:
    job, outcomes = run(tmp_path, Mortal({("train", PARENT): 2}))
    assert outcomes == {"failed": 3} and len(outcomes.unsettled) == 3
    reason = "parent: killed by signal 11 (SIGSEGV), and again when it was trained alone"
    assert [r.reason for r in load_records(job.records)] == [reason] * 3


def test_a_parent_and_then_one_of_its_cells_may_die(tmp_path: Path, untrained: None) -> None:
    job, outcomes = run(tmp_path, Mortal({("train", PARENT): 1, ("run", "fpgm"): 1}))
    assert outcomes == {"ok": 3}
    assert reasons(job, "fpgm") == ["killed by signal 11 (SIGSEGV)", None]


def test_a_cell_that_died_counts_as_failed_when_no_time_is_left_to_try_it_again(
    tmp_path: Path, untrained: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 0.0, 9.0])  # parent, two cells; taylor dies before it looks
    monkeypatch.setattr("benchmarks.running.plan.time.time", lambda: next(clock))
    job, outcomes = run(tmp_path, Mortal({("run", "taylor"): 1}), until=5.0)
    assert outcomes == {"ok": 2, "failed": 1}
    assert reasons(job, "taylor") == ["killed by signal 11 (SIGSEGV)"]


def test_a_run_stops_where_no_process_lives_to_write_a_record(
    tmp_path: Path, untrained: None
) -> None:
    mortal = Mortal({("run", "taylor"): 1, ("refuse", "taylor"): 1})
    with pytest.raises(OSError, match=r"die before .*SIGSEGV.*fewer --workers"):
        run(tmp_path, mortal)


# Of every step the claim is written first: 1 is the parent's, 2 the first cell's.
@pytest.mark.parametrize("at", [3, 5, 7])
def test_a_cell_finished_on_a_full_disk_stops_the_run_and_is_made_by_the_next(
    at: int, tmp_path: Path, untrained: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.running.run_cells.require_writable", lambda *_: None)
    (tmp_path / "records").mkdir()
    with (
        disk(monkeypatch, at, errno.ENOSPC, ("write",)),
        pytest.raises(
            Unrecorded, match=r"was finished, .*\(No space left.*mend that and run again"
        ),
    ):
        run(tmp_path, Mortal({}))
    found = load_records(tmp_path / "records")
    assert METHODS[at // 2 - 1] not in {r.cell.method for r in found}
    assert not list((tmp_path / "records").glob(".*"))
    run(tmp_path, Mortal({}))
    assert {r.cell.method for r in load_records(tmp_path / "records")} == {*METHODS}


@pytest.mark.parametrize("at", [1, 2])
def test_a_full_disk_is_told_before_there_is_work_to_lose(
    at: int, tmp_path: Path, untrained: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.running.run_cells.require_writable", lambda *_: None)
    with (
        disk(monkeypatch, at, errno.ENOSPC, ("write",)),
        pytest.raises(Unrecorded, match=r"nothing can be written to .*claims \(No space left"),
    ):
        run(tmp_path, Mortal({}))
    assert [path.name for path in (tmp_path / ".cache" / "claims").iterdir()] == ["runs"]


def test_a_record_that_cannot_be_written_gives_the_command_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise Unrecorded("no room")

    (tmp_path / "suite.toml").write_text(SUITE.replace("{methods}", '["uniform"]'))
    monkeypatch.setattr("benchmarks.running.run_cells.run_plan", full)
    arguments = ["zoo", "run", str(tmp_path / "suite.toml"), "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1 and "stopped: no room" in capsys.readouterr().out


def test_sigterm_stops_a_run_as_ctrl_c_does(tmp_path: Path, untrained: None) -> None:
    class Told(Mortal):
        def submit(self, function, /, *arguments, **_):  # type: ignore[no-untyped-def, override]
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("the run went on")

    with pytest.raises(Stopped) as stop:
        run(tmp_path, Told({}))
    assert stop.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_killed_runs_left_is_swept_at_the_next_start(tmp_path: Path, untrained: None) -> None:
    job = Job(tmp_path)
    hour_ago = time.time() - 4000
    left = [
        folder / ".x.json.12.tmp"
        for folder in (job.records, job.cache, job.cache / "latency", tmp_path / "tables")
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
        os.utime(path, (hour_ago, hour_ago))
    run(tmp_path, Mortal({}))
    assert not any(path.exists() for path in left)


# The whole command.

METHOD = '''"""Ends its process.

Paper: None.
Idea: None.
Steps:
    1. End.
Deviations:
    - None.
Unknowns:
    - None.
Cost: A process.
Names: None.
"""
import signal, time
from dataclasses import dataclass
from pathlib import Path
from zoo.core.method.pruner import Pruner

@dataclass(frozen=True)
class Deadly(Pruner):
    """Ends its process."""

    def search(self, problem):
        """End."""
        {end}
'''

SUITE = """
title = "one method that dies"
controls = false
budgets = [0.5]
seeds = [0]
methods = {methods}
[[models]]
name = "test_resnet"
[[datasets]]
name = "digits"
image_size = 16
train_size = 64
search_size = 32
test_size = 32
[parent]
epochs = 1
batch_size = 32
[finetune]
epochs = 1
batch_size = 32
[latency]
batches = [1]
rounds = 3
block_ms = 1.0
warmup_ms = 1.0
"""


def started(folder: Path, methods: list[str], end: str) -> "subprocess.Popen[str]":
    """The command in a process of its own, with a further baseline that ends its process."""
    (folder / "deadly.py").write_text(METHOD.replace("{end}", end))
    (folder / "sitecustomize.py").write_text(
        f"import baselines; baselines.__path__.append({str(folder)!r})"
    )
    (folder / "suite.toml").write_text(SUITE.replace("{methods}", repr(methods)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}:{ROOT}"}
    start = "from benchmarks.cli import main; main()"
    arguments = ["run", str(folder / "suite.toml"), "--workers", "1", "--results", str(folder)]
    return subprocess.Popen(
        [sys.executable, "-c", start, *arguments],
        env=environment,
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# It takes four workers. Above, deaths are made up; test_child_process.py has real ones.
@pytest.mark.slow
def test_a_method_that_kills_its_process_fails_its_cell_alone(tmp_path: Path) -> None:
    methods = ["uniform", "deadly", "l1_norm"]
    process = started(tmp_path, methods, "signal.raise_signal(signal.SIGKILL)")
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 1, output
    found = loaded(tmp_path / "records")
    assert Counter((r.cell.method, r.status) for r in found) == {
        ("uniform", "ok"): 1,
        ("l1_norm", "ok"): 1,
        ("deadly", "failed"): 2,
    }
    dead = [r for r in found if r.cell.method == "deadly"]
    reasons = [r.reason or "" for r in dead]
    assert all(reason.startswith("killed by signal 9 (SIGKILL); ") for reason in reasons)
    assert reasons[1].endswith("and again when it ran alone")
    assert dead[1].id in output and "1 failed cell" in output and "Traceback" not in output
    assert (tmp_path / "tables" / "results.md").is_file()


def sleeping(folder: Path) -> "subprocess.Popen[str]":
    """The command, while its method sleeps for ever."""
    begun = folder / "begun"
    process = started(folder, ["deadly"], f"Path({str(begun)!r}).touch(); time.sleep(10**6)")
    deadline = time.monotonic() + 400
    while not begun.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process


def require_gone(group: int) -> None:
    """Nobody outlives the run."""
    deadline = time.monotonic() + 60
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_to_the_command_records_what_was_running(
    tmp_path: Path, number: int, status: int
) -> None:
    process = sleeping(tmp_path)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # Ctrl-C reaches the workers, too
    else:
        process.send_signal(number)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == status, output
    assert "stopped" in output and "run again to resume" in output
    assert ("by SIGTERM" in output) == (number == signal.SIGTERM)
    (only,) = load_records(tmp_path / "records")
    assert (only.cell.method, only.status, only.reason) == ("deadly", "cancelled", "interrupted")
    require_gone(process.pid)


@pytest.mark.slow
def test_a_worker_that_is_busy_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    process = sleeping(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    require_gone(process.pid)


def test_networks_and_seeds_are_ended_one_after_the_other(tmp_path: Path, untrained: None) -> None:
    cells = tuple(
        cell(method, seed=seed, model=Model(name=name))
        for name in ("wide", "narrow")
        for seed in (0, 1)
        for method in METHODS
    )
    mortal = Mortal({})
    run_plan(
        Plan("test", cells, cells),
        Job(tmp_path),
        Console(quiet=True),
        LocalMachine(start_pool=mortal.of),
    )
    names = {each.parent_key: (each.seed, each.model.name) for each in cells}
    trained = [names[name] for kind, name, _ in mortal.tasks if kind == "train"]
    assert trained == [(0, "wide"), (0, "narrow"), (1, "wide"), (1, "narrow")]
    assert [kind for kind, _, _ in mortal.tasks] == ["train", "run", "run", "run"] * 4
