"""Runs that share one folder share the work, and a dead one's claims lapse."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.records.cell import Cell
from benchmarks.records.files import load_records, write_record
from benchmarks.records.record import Record
from benchmarks.records.whole_file import this_writer
from benchmarks.running import claims as claims_module
from benchmarks.running import parent, protocol
from benchmarks.running.claims import LAPSE_SECONDS, Claims
from benchmarks.running.engine import LocalMachine
from benchmarks.running.plan import Job, Plan
from benchmarks.running.protocol import Findings
from benchmarks.running.run_cells import Outcomes, run_plan
from tests.benchmarks.fabricate import cell, record
from tests.benchmarks.in_this_process import InThisProcess
from tests.faults import ended_process
from zoo.core.meter import Meter

KEY = cell().key


def claims(folder: Path) -> Claims:
    return Claims(folder / "claims", folder / "records", [KEY])


def test_a_claim_belongs_to_one_run_until_it_gives_it_up(tmp_path: Path) -> None:
    with claims(tmp_path) as one, claims(tmp_path) as other:
        assert one.take("a") and one.take("a") and not other.take("a")
        assert other.take("b") and not one.take("b")
        one.release("a")
        assert other.take("a") and not one.take("a")
    with claims(tmp_path) as later:  # both have ended, and gave up what they had
        assert later.take("a") and later.take("b")


@pytest.mark.parametrize("writers", [2, 8])
def test_of_many_that_try_at_once_one_gets_a_claim(writers: int, tmp_path: Path) -> None:
    for name in map(str, range(20)):
        dead = tmp_path / "claims" / name
        dead.parent.mkdir(exist_ok=True)
        dead.write_text(of_a_dead_process())
        runs = [claims(tmp_path) for _ in range(writers)]
        start, won = threading.Barrier(writers), []

        def attempt(run: Claims, start: threading.Barrier, won: list[Claims], name: str) -> None:
            start.wait()
            if run.take(name):
                won.append(run)

        for run in runs:
            run.__enter__()
        threads = [threading.Thread(target=attempt, args=(r, start, won, name)) for r in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # A try may meet another one's and come back later; never do two have it.
        assert len(won) <= 1 and (won or runs[0].take(name))
        for run in runs:
            run.__exit__(None, None, None)


def of_a_dead_process() -> str:
    machine, _, token = this_writer().split("-")
    return f"{machine}-{ended_process()}-{token}"


def of_another_machine() -> str:
    return "0" * 8 + "-1-" + "0" * 8


@pytest.mark.parametrize(
    ("owner", "age", "is_free"),
    [
        (of_a_dead_process, 0.0, True),
        (of_another_machine, 0.0, False),
        (of_another_machine, LAPSE_SECONDS - 20, False),
        (of_another_machine, LAPSE_SECONDS + 20, True),
        (lambda: "nobody's name", 0.0, True),
        (lambda: "../records", 0.0, True),
    ],
)
def test_a_claim_lapses_with_its_run(
    owner: Callable[[], str], age: float, is_free: bool, tmp_path: Path
) -> None:
    with claims(tmp_path) as mine:
        name = owner()
        (mine.folder / "a").write_text(name)
        heartbeat = mine.folder / "runs" / name
        if "/" not in name:
            heartbeat.write_text("")
            then = time.time() - age
            os.utime(heartbeat, (then, then))
        assert mine.take("a") == is_free
        assert (mine.folder / "a").read_text() == (mine.run if is_free else name)


def test_a_run_without_a_heartbeat_is_dead_and_a_heartbeat_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "BEAT_SECONDS", 0.01)
    with claims(tmp_path) as one, claims(tmp_path) as other:
        heartbeat = one.folder / "runs" / one.run
        os.utime(heartbeat, (0, 0))
        while heartbeat.stat().st_mtime < 1:
            time.sleep(0.01)
        assert one.take("a") and not other.take("a")
        one._is_over.set()
        one._thread.join()
        heartbeat.unlink()
        assert other.take("a")


def test_what_another_run_has_recorded_since_is_not_run_again(tmp_path: Path) -> None:
    failed = {"status": "failed", "reason": "once"}
    folder = tmp_path / "records"
    write_record(folder, record(id="", **failed))  # type: ignore[arg-type]
    with claims(tmp_path) as alone:
        assert alone.recorded(KEY) is None  # what failed before is to be tried again
    with claims(tmp_path) as one, claims(tmp_path):
        write_record(folder, record(id="", status="cancelled", reason="interrupted"))
        assert one.recorded(KEY) is None
        write_record(folder, record("taylor", id=""))
        assert one.recorded(KEY) is None
        again = write_record(folder, record(id="", **failed))  # type: ignore[arg-type]
        assert one.recorded(KEY) == again
        settled = write_record(folder, record(id=""))
        assert one.recorded(KEY) == settled
    with claims(tmp_path) as late:  # it was planned before that
        assert late.recorded(KEY) == settled


def test_two_drivers_share_the_cells_and_tell_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.running.run_cells._LOOK_SECONDS", 0.02)
    monkeypatch.setattr(parent, "parent_for", lambda cell, places, watch: time.sleep(0.05))
    monkeypatch.setattr("benchmarks.running.tasks.signal.signal", lambda *_: None)
    ran: list[tuple[int, str]] = []

    def run_cell(asked: Cell, **_: object) -> tuple[Record, Findings]:
        ran.append((threading.get_ident(), asked.key))
        time.sleep(0.02)
        ending = {"status": "failed", "reason": "so"} if asked.seed == 3 else {}
        return record(cell=asked, id="", **ending), Findings(Meter("cpu"))  # type: ignore[arg-type]

    monkeypatch.setattr(protocol, "run_cell", run_cell)
    cells = tuple(cell(m, seed=s) for m in ("uniform", "taylor", "fpgm") for s in range(4))
    told: list[Outcomes] = []

    def drive() -> None:
        plan, machine = Plan("test", cells, cells), LocalMachine(start_pool=InThisProcess)
        told.append(run_plan(plan, Job(tmp_path), Console(quiet=True), machine))

    drivers = [threading.Thread(target=drive) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert sorted(key for _, key in ran) == sorted(each.key for each in cells)
    assert len({thread for thread, _ in ran}) == 2
    assert len(load_records(tmp_path / "records")) == len(cells)
    assert told == [{"ok": 9, "failed": 3}] * 2
