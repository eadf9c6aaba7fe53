"""A cell whose process is killed in a training goes on, and its record is as if undisturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.records.cell import Cell, Schedule
from benchmarks.records.files import load_records
from benchmarks.records.record import Record
from benchmarks.running import finetune, parent
from benchmarks.running.plan import Job, Plan
from benchmarks.running.run_cells import run_plan
from tests.benchmarks.fabricate import tiny_cell
from tests.benchmarks.in_this_process import IN_THIS_PROCESS
from tests.killed import Killing, was_killed

# Two batches in an epoch, and three epochs, so that the fourth is asked for in the second epoch.
RECIPE = Schedule(epochs=3, batch_size=32, ema_decay=0.9)
BATCHES = 6


def asked(method: str = "stagewise", **changes: Any) -> Cell:
    settings = {"steps": 3, "evaluations": 4, "population": 2, "pool": 1, "ratios": 3}
    given = {"parent": RECIPE, "finetune": RECIPE, "settings": settings, **changes}
    return tiny_cell(method, **given)


def run(cell: Cell, folder: Path) -> Record:
    """The last record of the one cell of a plan."""
    job = Job(folder, checkpoint_seconds=0)
    run_plan(Plan("test", (cell,), (cell,)), job, Console(quiet=True), IN_THIS_PROCESS)
    return load_records(job.records)[-1]


def killed(cell: Cell, folder: Path, *, at: int, of_parent: bool = False) -> bool:
    """Run a cell in a process that is killed as a training asks for its batch `at`."""

    def work() -> None:
        module = parent if of_parent else finetune
        batches, trainings = module.train_batches, iter(range(10))

        def ending(*given: Any) -> Any:
            # Batches are counted over all trainings of the cell; the first look is no training.
            source = batches(*given)
            if of_parent and next(trainings) == 0:
                return source
            left = at - counted[0]
            counted[0] += BATCHES
            return Killing(source, left) if 0 <= left < BATCHES else source

        counted = [0]
        module.train_batches = ending  # type: ignore[attr-defined]
        run(cell, folder)

    return was_killed(work)


def told(record: Record) -> dict[str, Any]:
    """All of a record but when and how fast it came about."""
    found = record.model_dump(exclude={"id", "utc", "seconds", "environment", "fingerprint"})
    for spent in found["spent"].values():
        del spent["seconds"], spent["peak_bytes"]
    for row in found["trace"]:
        row.pop("reused", None)
    return found


def kept(folder: Path) -> list[Path]:
    return list((folder / ".cache").rglob("*.checkpoint"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = tmp_path_factory.mktemp("undisturbed")
    record = run(asked(), folder)
    assert record.status == "ok" and record.handed_on == ("weights",) and not kept(folder)
    return record


@pytest.mark.parametrize("at", [2, 3])  # after an epoch, and in the middle of one
def test_a_parent_goes_on(at: int, undisturbed: Record, tmp_path: Path) -> None:
    assert killed(asked(), tmp_path, at=at, of_parent=True)
    assert len(kept(tmp_path)) == 1 and not list(tmp_path.rglob("*.safetensors"))
    assert told(run(asked(), tmp_path)) == told(undisturbed)
    assert not kept(tmp_path)


@pytest.mark.parametrize(
    ("at", "files"),
    [(2, 1), (3, 1), (BATCHES + 3, 2)],  # the last in the second training, its own finish
)
def test_a_finetuning_goes_on(at: int, files: int, undisturbed: Record, tmp_path: Path) -> None:
    assert killed(asked(), tmp_path, at=at)
    assert len(kept(tmp_path)) == files
    assert told(run(asked(), tmp_path)) == told(undisturbed)
    assert not kept(tmp_path)


def test_patience_goes_on_and_is_traced(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"patience": 1, "lr": 1e-6})
    cell = asked("uniform", finetune=recipe, settings={})
    undisturbed = run(cell, tmp_path / "undisturbed")
    (row,) = (row for row in undisturbed.trace if row["step"] == "finetune")
    epochs = len(row["scores"])  # type: ignore[arg-type]
    assert epochs == len(row["losses"]) and 1 <= row["best_epoch"] <= epochs <= 3  # type: ignore[arg-type, operator]
    size, spent = undisturbed.size, undisturbed.spent["finetune"]
    assert size is not None and size.macs is not None
    # 64 training images and 32 of the search split in each epoch.
    assert spent.images == epochs * (64 + 32)
    assert spent.macs_forward == epochs * (64 + 32) * size.macs
    assert killed(cell, tmp_path / "killed", at=1)
    assert told(run(cell, tmp_path / "killed")) == told(undisturbed)


def test_a_cell_that_was_stopped_keeps_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Record
) -> None:
    take, count = finetune.train, 0

    def stopped(*given: Any, **settings: Any) -> Any:
        nonlocal count
        count += 1
        found = take(*given, **settings)
        if count == 1:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "train", stopped)
        assert run(asked(), tmp_path).status == "cancelled"
    assert len(kept(tmp_path)) == 1
    assert told(run(asked(), tmp_path)) == told(undisturbed)
    assert not kept(tmp_path)
