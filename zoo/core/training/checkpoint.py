"""Checkpoints: what a training needs to go on after its process was killed, whole or not at all.

A checkpoint is a sealed file of tensors and JSON, so none is ever unpickled, and a damaged one is
set aside and not used. It carries a key of all that decides the training; one of another recipe,
network, task, data set or version is not used either.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import timm
import torch
from torch import Tensor

from zoo.core.arguments import check_argument, fields_checked
from zoo.core.sealed import read_tensors, write_tensors
from zoo.core.whole_file import sweep

__all__ = ["Checkpoint", "Checkpoints", "Stateful", "digest"]

_LOGGER = logging.getLogger(__name__)

SECONDS = 600.0
"""Time between two checkpoints within an epoch."""

EPOCH_SHARE = 0.05
"""Of that time must have passed for one at the end of an epoch: shorter trainings write none."""

_VERSION = 1
"""Of training loops and file format: raised when a checkpoint would be continued differently."""

_SUFFIX = ".checkpoint"

State = dict[str, Any]  # tensors, arrays, numbers, texts, and mappings and sequences of them


class Stateful(Protocol):
    """A part of a training that is saved and put back, as torch's optimizers are."""

    def state_dict(self) -> State:
        """The state: tensors, arrays, plain values, and mappings and sequences of them."""

    def load_state_dict(self, state_dict: State, /) -> object:
        """Put a state back."""


@fields_checked
@dataclass
class Checkpoints:
    """Where the trainings of one run keep their checkpoints.

    Attributes:
        folder: made when there is something to write.
        origin: names all that a training starts from beside what it knows itself: data and seed.
        seconds: between two checkpoints within an epoch. The end of an epoch writes one, too,
            unless a twentieth of that time has not passed.
    """

    folder: Path
    origin: str = ""
    seconds: float = SECONDS
    _names: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_argument("folder", self.folder, str | os.PathLike)
        self.folder = Path(self.folder)
        check_argument("seconds", self.seconds, float)
        if not self.seconds >= 0:
            raise ValueError(f"seconds between checkpoints, {self.seconds}, must be 0 or above")

    def fresh(self, origin: str) -> Checkpoints:
        """The same place for a run that starts from `origin`."""
        return Checkpoints(self.folder, origin, self.seconds)

    def beside(self, path: Path) -> Checkpoints:
        """The place for the training whose result is to be the file at `path`."""
        return Checkpoints(path.with_suffix(".checkpoints"), path.stem, self.seconds)

    def of(self, name: str, **facts: object) -> Checkpoint:
        """The checkpoint of the next training of that name.

        Args:
            name: such as the phase of the meter; a second training of the name gets a number.
            facts: what decides the training beside the origin; JSON values.
        """
        number = self._names[name] = self._names.get(name, 0) + 1
        file = name if number == 1 else f"{name}-{number}"
        told = {
            "version": _VERSION,
            "origin": self.origin,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
            "name": file,
            "facts": facts,
        }
        text = json.dumps(told, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()
        return Checkpoint(self.folder / f"{file}{_SUFFIX}", key, self.seconds)

    def remove(self) -> None:
        """Remove all checkpoints of the run, and the folder if nothing else is in it."""
        if not self.folder.is_dir():
            return
        for path in self.folder.glob(f"*{_SUFFIX}"):
            path.unlink(missing_ok=True)
        sweep(self.folder)
        with contextlib.suppress(OSError):  # something of somebody else's is in it
            self.folder.rmdir()


class Checkpoint:
    """The file of one training.

    Args:
        path: of the file.
        key: names all that decides the training.
        seconds: between two of them within an epoch.
    """

    def __init__(self, path: Path, key: str, seconds: float = SECONDS) -> None:
        self.path = path
        self.key = key
        self.seconds = seconds
        self._written = time.monotonic()
        self._is_told = False

    def load(self) -> State | None:
        """The state that was saved; None if there is none of this very training.

        A damaged file is set aside with a warning, see `zoo.core.sealed`.
        """
        found = read_tensors(self.path)
        if found is None:
            return None
        tensors, facts = found
        if facts.get("key") != self.key:
            _LOGGER.warning(
                "%s is of another recipe, network, task, data set or version; this training begins "
                "anew",
                self.path,
            )
            return None
        state: State = _unpack(json.loads(facts["state"]), tensors)
        _LOGGER.info("the training goes on from %s", self.path)
        return state

    def is_due(self, *, at_epoch_end: bool = False) -> bool:
        """Whether it is time to write one."""
        limit = EPOCH_SHARE * self.seconds if at_epoch_end else self.seconds
        return time.monotonic() - self._written >= limit

    def save(self, state: State) -> None:
        """Write a state as a whole file in place of the last one.

        A disk that is full or gone must not end a training of hours: it is told once, and the
        training goes on without.
        """
        tensors: dict[str, Tensor] = {}
        try:
            text = json.dumps(_pack(state, tensors))
            write_tensors(self.path, tensors, {"key": self.key, "state": text})
        except (OSError, _Unpackable) as error:
            if not self._is_told:
                warnings.warn(
                    f"{self.path}: no checkpoint can be written ({error}); the training goes on, "
                    "and begins anew if it is cut",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._is_told = True
        self._written = time.monotonic()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits of names, types, shapes and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        found.update(plain.view(torch.uint8).numpy().data if plain.numel() else b"")
    return found.hexdigest()[:16]


class _Unpackable(TypeError):
    """A state holds what a checkpoint cannot."""


def _pack(value: object, tensors: dict[str, Tensor]) -> object:
    """A state as JSON, its tensors put into `tensors` under the names that stand in it."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, int | float):
        return value
    if isinstance(value, Tensor):
        # A copy each: two that share memory are refused by the format.
        name = str(len(tensors))
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
        is_dense = torch.empty_like(value).stride() == value.stride()
        return {"tensor": name, "stride": list(value.stride()) if is_dense else None}
    if isinstance(value, np.ndarray):
        is_wide = value.dtype.kind in "iu"  # the format has no room for all kinds of integers
        plain = torch.from_numpy(value.astype(np.int64) if is_wide else value.copy())
        return {"array": _pack(plain, tensors), "dtype": value.dtype.str}
    if isinstance(value, Mapping):
        return {"items": [[_pack(k, tensors), _pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(each, tensors) for each in value]}
    if isinstance(value, list):
        return [_pack(each, tensors) for each in value]
    raise _Unpackable(f"it would hold a {type(value).__name__}")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:  # Any: JSON, made by `_pack`
    """What `_pack` was given, with tensors on the CPU in the memory layout that they had."""
    if isinstance(value, list):
        return [_unpack(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if "items" in value:
        return {_unpack(k, tensors): _unpack(v, tensors) for k, v in value["items"]}
    if "tuple" in value:
        return tuple(_unpack(each, tensors) for each in value["tuple"])
    if "array" in value:
        return _unpack(value["array"], tensors).numpy().astype(value["dtype"])
    tensor = tensors[value["tensor"]]
    if value["stride"] is None:
        return tensor
    return torch.empty_strided(tensor.shape, value["stride"], dtype=tensor.dtype).copy_(tensor)
