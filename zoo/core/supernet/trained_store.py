"""Trained supernets on disk, so that one serves every budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from zoo.core.meter import Spent
from zoo.core.sealed import read_tensors, write_tensors

__all__ = ["SupernetStore", "Trained", "load_trained", "save_trained"]

TraceRow = dict[str, object]

_RECORD = "record:"  # prefix of what is no weight


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained supernet.

    Attributes:
        weights: full-size parameters by state-dict name.
        records: what training saw, arrays by name.
    """

    weights: Mapping[str, Tensor]
    records: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SupernetStore:
    """A folder of trained supernets, each under the hash of what it was trained from and how.

    Attributes:
        folder: can be deleted at any time.
        origin: names parent, data, seed and device.
    """

    folder: Path
    origin: str

    @contextmanager
    def locked(self, settings: Mapping[str, object]) -> Iterator[Path]:
        """The path of a supernet, while no other process trains or reads the same one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(settings)
        with FileLock(path.with_suffix(".lock")):
            yield path

    def path(self, settings: Mapping[str, object]) -> Path:
        """Where the supernet of a method's settings is kept, trained or not."""
        text = json.dumps({"origin": self.origin, **settings}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


def save_trained(path: Path, trained: Trained, spent: Spent, rows: list[TraceRow]) -> None:
    """Write a supernet, what it cost and what it traced, as a whole and with a checksum.

    Args:
        path: as `SupernetStore.locked` gives it.
        trained: the supernet.
        spent: cost of the training.
        rows: what the training traced.
    """
    tensors = dict(trained.weights)
    for name, array in trained.records.items():
        tensors[_RECORD + name] = torch.from_numpy(np.ascontiguousarray(array))
    facts = {"spent": json.dumps(spent.to_json()), "trace": json.dumps(rows)}
    write_tensors(path, tensors, facts)


def load_trained(path: Path, device: torch.device) -> tuple[Trained, Spent, list[TraceRow]] | None:
    """Read what `save_trained` wrote; None if there is no such file, or it is damaged."""
    found = read_tensors(path)
    if found is None:
        return None
    tensors, facts = found
    weights = {n: t.to(device) for n, t in tensors.items() if not n.startswith(_RECORD)}
    records = {n.removeprefix(_RECORD): t.numpy() for n, t in tensors.items() if n not in weights}
    spent = Spent(**json.loads(facts["spent"]))
    return Trained(weights, records), spent, json.loads(facts["trace"])
