"""Cells on a Ray cluster of this machine with two pretended GPUs; tasks run on the CPU."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.records.files import load_records
from benchmarks.records.record import Record
from benchmarks.running.plan import Job, Plan
from benchmarks.running.ray_engine import RayCluster, carry_out
from benchmarks.running.run_cells import run_plan
from tests.benchmarks.in_this_process import IN_THIS_PROCESS
from tests.benchmarks.ray_driver import CELLS, drive

ray = pytest.importorskip("ray", reason="the extra ray is not installed")

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray leaves sockets and processes to its end


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster whose workers find the project and its tests."""
    before = signal.getsignal(signal.SIGTERM)
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    found = ray.init(
        num_cpus=2,
        num_gpus=2,
        resources={"quiet": 1},
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
    )
    signal.signal(signal.SIGTERM, before)
    yield found.address_info["address"]
    ray.shutdown()


def told(record: Record) -> dict[str, Any]:
    """What does not depend on where and when a cell was run."""
    fields = record.model_dump(
        exclude={"id", "utc", "seconds", "environment", "fingerprint", "spent", "trace"}
    )
    spent = {phase: (cost.images, cost.macs_forward) for phase, cost in record.spent.items()}
    return {**fields, "spent": spent}


def await_file(path: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 500
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_driver_and_a_killed_worker_leave_the_records_of_a_local_run(
    address: str, tmp_path: Path
) -> None:
    shared, local = tmp_path / "shared", Job(tmp_path / "local", workers=2)
    run_plan(Plan("test", CELLS, CELLS), local, Console(quiet=True), IN_THIS_PROCESS)
    environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)}
    # Not with -m: workers are to find its functions by the name of its module.
    start = "import pathlib, sys; from tests.benchmarks.ray_driver import drive; "
    start += "drive(pathlib.Path(sys.argv[1]), 'sleep')"
    first = subprocess.Popen(
        [sys.executable, "-c", start, str(shared)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    await_file(shared / "sleep", first)
    while len(list((shared / "records").glob("*.json"))) < 2:
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    assert (shared / ".cache" / "claims" / f"cell-{CELLS[1].key}").exists()  # nobody gave it up
    (parent,) = (shared / ".cache" / "parents").glob("*.safetensors")
    trained = parent.stat().st_mtime_ns

    outcomes = drive(shared, "die")
    assert (shared / "die").read_text() in ("0", "1")  # bound to one of the two
    # One had its record; the one that was killed was run again by Ray, without a word.
    assert outcomes == {"ok": 2, "failed": 1} and not outcomes.deaths
    assert parent.stat().st_mtime_ns == trained
    settled = [r for r in load_records(shared / "records") if r.status == "ok"]
    assert [told(r) for r in settled] == [
        told(r) for r in load_records(local.records) if r.status == "ok"
    ]
    assert {r.reason for r in load_records(shared / "records")} == {
        r.reason for r in load_records(local.records)
    }
    assert [p.name for p in (shared / ".cache" / "claims").iterdir()] == ["runs"]


def test_a_timing_has_a_machine_to_itself(address: str, tmp_path: Path) -> None:
    cluster = RayCluster(tmp_path / "parents", per_gpu=4)
    assert cluster.slots == 8 and RayCluster(tmp_path / "parents", per_gpu=4, gpus=1).slots == 4
    timing = cluster.start(1, is_quiet=True)
    beside = cluster.start(1)
    first, second = timing.submit(moments, 1.0), beside.submit(moments, 1.0)
    while not (first.done() and second.done()):
        timing.completed(0.1)
        beside.completed(0.1)
    (begun, ended), (other, last) = first.result(), second.result()
    assert ended <= other or last <= begun


def moments(seconds: float) -> tuple[float, float]:
    begun = time.monotonic()
    time.sleep(seconds)
    return begun, time.monotonic()


def test_a_stopped_engine_ends_its_tasks(address: str, tmp_path: Path) -> None:
    engine = RayCluster(tmp_path / "parents", per_gpu=1).start(2)
    future = engine.submit(moments, 10.0**6)
    assert engine.completed(0.5) == []
    engine.stop()
    assert not future.done() and engine.completed(0) == []


def test_more_gpus_than_the_cluster_has_are_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--gpus 3: Ray sees 2 GPUs"):
        _ = RayCluster(tmp_path / "parents", per_gpu=1, gpus=3).slots


def write_supernet(cache: Path) -> int:
    (cache / "supernets").mkdir(parents=True, exist_ok=True)
    (cache / "supernets" / "b.safetensors").write_bytes(b"made")
    return len((cache / "net.safetensors").read_bytes())


@pytest.mark.parametrize("is_shared", [True, False])
def test_files_of_the_cache_travel_where_no_folder_is_shared(
    is_shared: bool, tmp_path: Path
) -> None:
    import pickle

    if is_shared:
        (tmp_path / "head").write_text("token")
        (tmp_path / "net.safetensors").write_bytes(b"there")
    packed = pickle.dumps((write_supernet, (tmp_path,)))
    answer = carry_out(packed, tmp_path, "token", ["net.safetensors"], b"sent")
    made = {} if is_shared else {"supernets/b.safetensors": b"made"}
    assert answer == (5 if is_shared else 4, False, is_shared, made)
