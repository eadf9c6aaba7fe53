"""Runs in trackers: TensorBoard's files read back with its reader, the others where installed."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.records.files import load_records, write_record
from benchmarks.records.join import joined
from benchmarks.records.record import Record
from benchmarks.records.runtime import Environment
from benchmarks.running.plan import Job, Plan
from benchmarks.running.run_cells import run_plan
from benchmarks.tracking import tracker as tracking
from benchmarks.tracking.runs import begin, export_records, results_of, settings_of
from benchmarks.tracking.tracker import open_tracker, require_tracker
from tests.benchmarks.fabricate import record, tiny_cell
from tests.benchmarks.in_this_process import IN_THIS_PROCESS
from tests.benchmarks.machines import ABACUS, BETA, GPU, timing, trained

SETTINGS = {"method": "taylor", "budget": 0.5}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads from a folder: steps and values by name."""
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def needs(name: str) -> None:
    pytest.importorskip(name, reason=f"the extra {name} is not installed")


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Trackers that only remember; returned in the order in which they were opened."""
    opened: list[Any] = []

    class Remembered:
        def __init__(self, project: str, run: str, settings: Mapping[str, Any]) -> None:
            self.project, self.run, self.settings = project, run, settings
            self.logged: list[tuple[dict[str, float], int]] = []
            self.results: dict[str, float] | None = None
            opened.append(self)

        def log(self, values: Mapping[str, float], step: int) -> None:
            self.logged.append((dict(values), step))

        def close(self, results: Mapping[str, float]) -> None:
            self.results = dict(results)

    class Module:
        @staticmethod
        def start(folder: Path, project: str, run: str, settings: Mapping[str, Any]) -> Any:
            del folder
            return Remembered(project, run, settings)

    monkeypatch.setattr(tracking, "_module", lambda name: Module)
    return opened


def run(folder: Path, track: str | None, cell: Any) -> Record:
    job = Job(folder, track=track)
    run_plan(Plan("suite", (cell,), (cell,)), job, Console(quiet=True), IN_THIS_PROCESS)
    (found,) = load_records(job.records)
    return found


def test_a_run_of_cells_tells_curves_and_what_it_came_to(tmp_path: Path, in_memory: Any) -> None:
    cell = tiny_cell("uniform")
    found = run(tmp_path, "tensorboard", cell)
    parent, own = in_memory
    assert (parent.project, own.project, own.run) == ("parents", "suite", cell.label)
    assert own.settings["method"] == "uniform" and own.settings["key"] == cell.key
    assert own.results == results_of(found)
    names = [name for values, _ in own.logged for name in values]
    assert names == ["finetune/loss", "finetune/epoch loss"]
    assert [name for values, _ in parent.logged for name in values] == [
        "baseline/loss",
        "baseline/epoch loss",
    ]
    assert [step for _, step in own.logged] == [2, 2]  # 64 images in batches of 32
    assert export_records("tensorboard", tmp_path, [found]) == 0  # it is a run already
    assert export_records("wandb", tmp_path, [found]) == 1


@pytest.mark.parametrize("devices", [(BETA, ABACUS), (ABACUS, BETA), (BETA, None), (BETA, GPU)])
def test_a_record_that_several_devices_timed_is_one_run(
    tmp_path: Path, in_memory: Any, devices: tuple[Environment | None, ...]
) -> None:
    one, other = trained(), trained("fpgm", kept=5)
    times = [timing(one, 0.5 if on is ABACUS else 0.9, on=on) for on in devices if on]
    found = joined([one, other], [*times, timing(other, 0.8, on=GPU)])
    assert len(found) > 2
    assert export_records("wandb", tmp_path, found) == 2
    assert [each.run for each in in_memory] == [one.id, other.id]
    told = [(each.results or {})["latency/batch 1 pruned ms"] for each in in_memory]
    assert told == [5.0 if ABACUS in devices else 9.0, 8.0]


def test_that_a_tracker_looks_on_changes_no_record(tmp_path: Path, in_memory: Any) -> None:
    del in_memory
    cell = tiny_cell("uniform")
    one, other = run(tmp_path / "a", "wandb", cell), run(tmp_path / "b", None, cell)
    assert one.top1 == other.top1 and one.config == other.config
    assert {p: s.macs for p, s in one.spent.items()} == {p: s.macs for p, s in other.spent.items()}


def test_a_tracker_that_fails_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        @staticmethod
        def start(*_: object) -> Any:
            raise ConnectionError("no server")

    monkeypatch.setattr(tracking, "_module", lambda name: Broken)
    with pytest.warns(RuntimeWarning, match="wandb is told no more.*ConnectionError: no server"):
        found = run(tmp_path, "wandb", tiny_cell("uniform"))
    assert found.status == "ok"


def test_numbers_of_a_record_are_flat_and_finite() -> None:
    made = record("taylor")
    found = results_of(made)
    assert found["top1/finetuned"] == made.top1.finetuned
    assert made.size is not None and found["size/macs"] == made.size.macs
    assert found["cost/finetune macs"] == made.spent["finetune"].macs
    assert all(math.isfinite(value) for value in found.values())
    settings = settings_of(made.cell)
    assert settings["parent.epochs"] == 3 and settings["model.name"] == made.cell.model.name
    assert all(isinstance(value, str | int | float) for value in settings.values())


def test_an_unknown_tracker_and_a_missing_package_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match=r"unknown tracker 'tensorbord'; did you mean"):
        require_tracker("tensorbord")
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--track mlflow needs .*pip install -e '\.\[mlflow\]'"):
        require_tracker("mlflow")


def test_names_of_foreign_records_lead_nowhere_else(tmp_path: Path, in_memory: Any) -> None:
    strange = record("taylor").model_copy(update={"id": "../../x", "suite": "/etc/../a b"})
    assert export_records("wandb", tmp_path, [strange]) == 1
    assert in_memory[0].run == "_.._x" and in_memory[0].project == "_etc_.._a_b"
    assert [path.parent.name for path in tmp_path.rglob("*") if path.is_file()] == ["wandb-records"]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    needs("tensorboard")
    run_ = open_tracker("tensorboard", tmp_path, project="suite", run="a", settings=SETTINGS)
    for step in range(1, 4):
        run_.log({"finetune/loss": 1 / step}, step)
    run_.close({"top1/finetuned": 0.75})
    found = scalars(tmp_path / "tensorboard" / "suite" / "a")
    assert found["finetune/loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert found["top1/finetuned"] == [(0, 0.75)]


def test_the_command_exports_records_to_tensorboard_once(tmp_path: Path) -> None:
    needs("tensorboard")
    made = write_record(tmp_path / "records", record("taylor", id=""))
    for told in ("1 record told", "0 records told"):
        done = CliRunner().invoke(
            app, ["report", "--results", str(tmp_path), "--track", "tensorboard"]
        )
        assert done.exit_code == 0 and told in done.output, done.output
    folder = tmp_path / "tracking" / "tensorboard" / made.suite / made.id
    assert scalars(folder)["top1/finetuned"] == [(0, pytest.approx(made.top1.finetuned))]


def test_a_live_run_is_there_for_tensorboard(tmp_path: Path) -> None:
    needs("tensorboard")
    cell = tiny_cell("uniform")
    found = run(tmp_path, "tensorboard", cell)
    told = scalars(tmp_path / "tracking" / "tensorboard" / "suite" / cell.label)
    assert told["finetune/loss"][0][0] == 2
    assert told["top1/finetuned"] == [(0, pytest.approx(found.top1.finetuned))]


@pytest.mark.filterwarnings("ignore")  # its packages warn of each other
def test_mlflow_holds_what_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cell = tiny_cell("uniform")
    run_ = begin("mlflow", tmp_path, "suite", "a", cell)
    run_.log({"finetune/loss": 0.5}, 7)
    run_.close({"top1/finetuned": 0.75})
    begin("mlflow", tmp_path, "suite", "b", cell).close({})  # another of the same experiment
    base = sqlite3.connect(tmp_path / "tracking" / "mlflow" / "mlflow.db")
    metrics = base.execute("select key, value, step from metrics order by key").fetchall()
    assert metrics == [("finetune/loss", 0.5, 7), ("top1/finetuned", 0.75, 0)]
    assert ("method", "uniform") in base.execute("select key, value from params").fetchall()
    assert base.execute("select name, status from runs order by name").fetchall() == [
        ("a", "FINISHED"),
        ("b", "FINISHED"),
    ]


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_files_where_it_is_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_ = open_tracker("wandb", tmp_path, project="suite", run="a", settings=SETTINGS)
    run_.log({"finetune/loss": 0.5}, 7)
    run_.log({"supernet/loss": 0.25}, 3)  # another training counts its own steps
    run_.close({"top1/finetuned": 0.75})
    (file,) = (tmp_path / "wandb").rglob("*.wandb")
    content = file.read_bytes()
    assert all(name in content for name in (b"finetune/loss", b"supernet/step", b"top1/finetuned"))


@pytest.mark.filterwarnings("ignore")
def test_trackio_keeps_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    needs("trackio")
    run_ = open_tracker("trackio", tmp_path, project="suite", run="a", settings=SETTINGS)
    run_.log({"finetune/loss": 0.5}, 7)
    run_.close({"top1/finetuned": 0.75})
    (file,) = (tmp_path / "trackio").glob("*.db")
    rows = sqlite3.connect(file).execute("select step, metrics from metrics").fetchall()
    told = [(step, json.loads(metrics)) for step, metrics in rows]
    assert (7, {"finetune/loss": 0.5}) in told
    assert {"top1/finetuned": 0.75} in [metrics for _, metrics in told]
