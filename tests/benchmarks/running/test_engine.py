"""Where tasks run: options, GPUs of processes, what is done once before others need it."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks.records.record import Record
from benchmarks.running import parent, protocol
from benchmarks.running.engine import LocalMachine, answer, machines
from benchmarks.running.plan import Job, Plan
from benchmarks.running.protocol import Findings
from benchmarks.running.run_cells import Outcomes, run_plan
from benchmarks.running.shared_work import supernet_files
from tests.benchmarks.fabricate import cell, record
from zoo.core.meter import Meter


def visible(status: str) -> Record:
    reason = None if status == "ok" else "said"
    found = record(status=status, reason=reason, method="taylor")
    process = {"process": os.getpid(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
    begun = {"begun": torch.cuda.is_initialized()}  # type: ignore[no-untyped-call]
    return found.model_copy(update={"method_settings": process | begun})


def test_processes_are_bound_to_gpus_and_serve_until_a_cell_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    engine = LocalMachine(gpus=(1,)).start(1)
    outcomes = ("ok", "infeasible", "failed", "ok")
    found = [answer(engine, visible, each).method_settings for each in outcomes]
    engine.stop()
    assert {(each["gpu"], each["begun"]) for each in found} == {("7", False)}
    first, second, third, fourth = (each["process"] for each in found)
    assert first == second == third != fourth
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"
    with pytest.raises(ValueError, match=r"GPU 2 is not among those of CUDA_VISIBLE_DEVICES=4,7"):
        LocalMachine(gpus=(2,)).start(1)


def test_options_say_how_many_tasks_there_are(tmp_path: Path) -> None:
    assert machines("local", "cuda", tmp_path, gpus=8, per_gpu=4).slots == 32
    assert machines("local", "cuda", tmp_path).slots == 1
    assert machines("local", "cuda:3", tmp_path) == LocalMachine(gpus=(3,))
    # As before there were GPUs to count: several workers share the one.
    assert machines("local", "cuda", tmp_path, workers=3) == LocalMachine(3, (0,), 3)
    assert machines("local", "cpu", tmp_path, workers=5).slots == 5
    with pytest.raises(ValueError, match="are for --device cuda"):
        machines("local", "cpu", tmp_path, gpus=2)
    with pytest.raises(ValueError, match=r"cuda:1 names one GPU"):
        machines("local", "cuda:1", tmp_path, gpus=2)


@dataclass(frozen=True)
class Cores(LocalMachine):
    cores: int = 0


@pytest.mark.parametrize(
    ("cores", "workers", "gpus", "asked", "loaders"),
    [
        (16, 1, (0,), None, 15),  # the whole machine but for the one that trains
        (32, 0, (0, 1, 2, 3), None, 7),
        (4, 0, (), None, 0),  # every core has a cell of its own
        (16, 4, (), None, 3),
        (2, 5, (), None, 0),
        (16, 1, (0,), 0, 0),
        (2, 5, (), 6, 6),
    ],
)
def test_cores_that_no_cell_computes_on_read_images(
    cores: int, workers: int, gpus: tuple[int, ...], asked: int | None, loaders: int
) -> None:
    assert Job(Path()).on(Cores(workers, gpus, cores=cores), asked).loaders == loaders


def test_cores_are_those_that_the_process_may_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 5}, raising=False)
    assert LocalMachine().cores == LocalMachine().slots == 3


def test_the_index_of_a_gpu_is_no_part_of_a_key() -> None:
    one, other, cpu = (cell(device=name) for name in ("cuda:3", "cuda", "cpu"))
    for name in ("key", "parent_key", "variant", "comparison", "ranking"):
        assert getattr(one, name) == getattr(other, name) != getattr(cpu, name), name


class Noting:
    """An engine that ends tasks in the order they began, and notes what ran beside each other."""

    head_writes = False
    alone = 1
    slots = 4
    per_gpu = 1

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []
        self.wholes: list[bool] = []
        self.running: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self.beside: list[list[tuple[str, str]]] = []

    def start(self, workers: int, *, is_whole: bool = False, is_quiet: bool = False) -> "Noting":
        self.wholes.append(is_whole)
        return self

    def submit(
        self, function: Callable[..., Any], *arguments: Any, needs: Sequence[Path] = ()
    ) -> Future[Any]:
        self.begun.append((function.__name__, arguments[0].label))
        future: Future[Any] = Future()
        self.running.append((future, function, arguments))
        return future

    def completed(self, timeout: float | None = None) -> list[Future[Any]]:
        self.beside.append([(task.__name__, asked[0].label) for _, task, asked in self.running])
        if not self.running:
            return []
        future, function, arguments = self.running.pop(0)
        future.set_result(function(*arguments))
        return [future]

    def stop(self) -> None:
        assert not self.running


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Findings:
    """What every cell finds; nothing is trained."""
    findings = Findings(Meter("cpu"))
    monkeypatch.setattr(parent, "parent_for", lambda cell, places, watch: None)
    monkeypatch.setattr(
        protocol,
        "run_cell",
        lambda cell, **_: (record(cell=cell, id=""), findings),
    )
    return findings


def run(folder: Path, engine: Noting, *cells: Any, **changes: Any) -> Outcomes:
    job = Job(folder, workers=4, **changes)
    return run_plan(Plan("test", cells, cells), job, Console(quiet=True), engine)


@pytest.mark.parametrize("is_written", [True, False])
def test_cells_that_share_a_supernet_begin_once_it_is_there(
    is_written: bool, tmp_path: Path, made: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [cell("autoslim", budget) for budget in (0.3, 0.5, 0.7)]
    other = cell("uniform")
    (path,) = set(supernet_files([*cells, other], Job(tmp_path).cache).values())

    def run_cell(asked: Any, **_: Any) -> tuple[Record, Findings]:
        if is_written:
            path.write_text("")
        return record(cell=asked, id=""), made

    monkeypatch.setattr(protocol, "run_cell", run_cell)
    engine = Noting()
    assert run(tmp_path, engine, *cells, other) == {"ok": 4}
    first = {cells[0].label, other.label}
    beside = [{label for _, label in each} for each in engine.beside]
    assert beside[1] == first  # the others wait, and take no worker
    assert [name for _, name in engine.begun[1:]][2:] == [c.label for c in cells[1:]]
    assert {cells[1].label, cells[2].label} <= beside[2] | beside[3]


def test_cells_of_a_method_that_trains_for_each_budget_wait_for_none(tmp_path: Path) -> None:
    assert not supernet_files([cell("dmcp", budget) for budget in (0.3, 0.5)], Job(tmp_path).cache)


def test_a_latency_table_is_measured_before_the_cells_that_need_it(
    tmp_path: Path, made: Findings
) -> None:
    tight = [cell("taylor", 0.5, seed, metric="latency") for seed in (0, 1)]
    engine = Noting()
    assert run(tmp_path, engine, *tight, cell("uniform")) == {"ok": 3}
    kinds = [kind for kind, _ in engine.begun]
    assert kinds.count("measure_table") == 2  # of each seed: the second finds it there
    for asked in tight:
        names = [kind for kind, label in engine.begun if label == asked.label]
        assert names[-2:] == ["measure_table", "run_and_write"]
    # One at a time: the second would wait for the first in a lock.
    most = max([kind for kind, _ in each].count("measure_table") for each in engine.beside)
    assert most == 1


@pytest.mark.parametrize("per_gpu", [1, 4])
def test_a_cell_that_ran_out_of_memory_is_run_again_on_a_whole_gpu(
    per_gpu: int, tmp_path: Path, made: Findings
) -> None:
    made.error = torch.OutOfMemoryError("CUDA out of memory")
    engine = Noting()
    assert run(tmp_path, engine, cell(), per_gpu=per_gpu) == {"ok": 1}
    shared = [False, True] if per_gpu == 4 else [False]
    assert engine.wholes == shared
    assert [kind for kind, _ in engine.begun] == ["train_parent"] + ["run_and_write"] * len(shared)
    assert len(list((tmp_path / "records").iterdir())) == 1
