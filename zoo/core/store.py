"""Trained supernets on disk, so that one serves every budget."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.core.meter import Spent

__all__ = ["SupernetStore", "Trained", "load_trained", "save_trained"]

TraceRow = dict[str, object]

_RECORD = "record:"  # prefix of what is no weight


@dataclass(frozen=True, eq=False)
class Trained:
    """What the training of a supernet leaves.

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
        path = self._path(settings)
        with FileLock(path.with_suffix(".lock")):
            yield path

    def _path(self, settings: Mapping[str, object]) -> Path:
        text = json.dumps({"origin": self.origin, **settings}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


def save_trained(path: Path, trained: Trained, spent: Spent, rows: list[TraceRow]) -> None:
    """Write a supernet, what it cost and what it traced.

    It is written beside the destination first, so that no half file is ever read.
    """
    tensors = {name: weight.cpu().contiguous() for name, weight in trained.weights.items()}
    for name, array in trained.records.items():
        tensors[_RECORD + name] = torch.from_numpy(np.ascontiguousarray(array))
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    facts = {"spent": json.dumps(spent.to_json()), "trace": json.dumps(rows)}
    save_file(tensors, hidden, metadata=facts)
    hidden.replace(path)


def load_trained(path: Path, device: torch.device) -> tuple[Trained, Spent, list[TraceRow]]:
    """Read what `save_trained` wrote."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = file.metadata()
    weights = {n: t.to(device) for n, t in tensors.items() if not n.startswith(_RECORD)}
    records = {n.removeprefix(_RECORD): t.numpy() for n, t in tensors.items() if n not in weights}
    spent = Spent(**json.loads(facts["spent"]))
    return Trained(weights, records), spent, json.loads(facts["trace"])
