"""What several cells of a plan need: supernets, tables of latencies, and the files that keep them.

Cells that need the same one are not begun side by side before it is there, so that none waits for
another in a process that holds a GPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.records.cell import PARENT, Cell
from benchmarks.running.methods import MethodFiles, asked_method
from benchmarks.running.sample import PROXIES
from zoo.core.method.discovery import create_pruner
from zoo.core.one_shot.one_shot import OneShot
from zoo.core.supernet.trained_store import SupernetStore

__all__ = ["needed_files", "supernet_files", "table_name"]


def supernet_files(
    cells: Sequence[Cell], cache: Path, methods: MethodFiles = ()
) -> dict[str, Path]:
    """Where the supernets of cells are kept, trained or not, by the keys of those that need one.

    Args:
        cells: of a plan.
        cache: folder of the trained parents.
        methods: files of methods, wherever they lie.

    Raises:
        ValueError: if a method is not the one that the cells were planned with.
        OSError: if its file cannot be read.
    """
    found = {}
    for cell in cells:
        if cell.method == PARENT or cell.method in PROXIES or cell.member is not None:
            continue
        pruner = create_pruner(asked_method(cell, methods), **cell.settings)
        if isinstance(pruner, OneShot) and pruner.serves_every_budget:
            store = SupernetStore(cache / "supernets", cell.supernet_key)
            found[cell.key] = store.path(pruner.training_settings)
    return found


def table_name(cell: Cell) -> str:
    """Names the table of latencies that a cell needs; empty if it needs none."""
    if not cell.limits_latency:
        return ""
    needed = cell.model_dump(mode="json", include={"model", "data", "latency", "device"})
    text = json.dumps([needed, cell.rules.divisor], sort_keys=True)
    return f"table-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def needed_files(cell: Cell, cache: Path, supernet: Path | None) -> list[Path]:
    """Files of the cache that a cell reads, if they are there.

    Args:
        cell: what is run.
        cache: folder of the trained parents.
        supernet: of the cell.
    """
    tables = sorted((cache / "latency").glob("*.json")) if cell.limits_latency else []
    return [cache / cell.parent_file, *tables, *([supernet] if supernet else [])]
