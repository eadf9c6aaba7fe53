"""What a run keeps of trainings that are not done: checkpoints, until their cell is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.records.cell import Cell
from benchmarks.records.record import Status
from zoo.core.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from benchmarks.running.parent import Places

__all__ = ["cell_checkpoints", "parent_checkpoints", "settle"]


def parent_checkpoints(cell: Cell, places: Places) -> Checkpoints:
    """Where the training of a cell's parent is kept until the parent is saved."""
    fields = {"protocol", "model", "data", "parent", "seed", "device"}
    return _of(cell.parent_key, cell.model_dump_json(include=fields), places)


def cell_checkpoints(cell: Cell, places: Places) -> Checkpoints:
    """Where the trainings of a cell are kept until it is recorded."""
    return _of(cell.key, cell.model_dump_json(), places)


def settle(cell: Cell, status: Status, places: Places) -> None:
    """Remove the checkpoints of a cell that is recorded, unless it was stopped and is to go on."""
    if status != "cancelled":
        cell_checkpoints(cell, places).remove()


def _of(key: str, origin: str, places: Places) -> Checkpoints:
    return Checkpoints(places.cache / "checkpoints" / key, origin, places.checkpoint_seconds)
