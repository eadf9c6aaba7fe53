"""Where every tensor of a pass comes from: which call made it, and whether it holds the images.

Two passes do the same only if each call reads what the same earlier calls made. Values that no
operator shows (`torch.tensor(3.0, device=x.device)`) are noted by `zoo.core.tracing.functions`.
"""

from __future__ import annotations

import gc
import hashlib
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = ["Sources", "digest", "outliving", "values_of"]


class Sources:
    """The origin of the tensors of one pass, found by identity; keeps those tensors alive.

    Args:
        own: parameters and buffers by name.
    """

    def __init__(self, own: Iterable[tuple[str, Tensor]]) -> None:
        self._own = {id(tensor): name for name, tensor in own}
        self._made: dict[int, object] = {}
        self._with_images: set[int] = set()  # storages, so that views share it
        self._known: set[int] = set()  # tensors that hold images
        self._alive: list[Tensor] = []

    def enter_images(self, tensors: Iterable[Tensor]) -> None:
        """Note what the network is called with, in order; the first is shape (N, C, H, W)."""
        for place, tensor in enumerate(tensors):
            self.note(tensor, f"images {place}")
            self._note_images(tensor)

    def note(self, tensor: Tensor, source: object) -> None:
        """Note where a tensor, of any shape, comes from; the last writer counts."""
        self._made[id(tensor)] = source
        self._alive.append(tensor)

    def note_call(self, step: int, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
        """Note what a call of the pass read and made.

        Args:
            step: number of the call.
            inputs: tensors of any shape that it read.
            outputs: tensors of any shape that it made.
        """
        holds_images = any(map(self.holds_images, inputs))
        for place, tensor in enumerate(outputs):
            self.note(tensor, (step, place))
            if holds_images:
                self._note_images(tensor)

    def note_copy(self, original: Tensor, copy: Tensor) -> None:
        """Note that a tensor is a copy of another, same shape: both come from the same place."""
        self.note(copy, self.of(original))
        if self.holds_images(original):
            self._note_images(copy)

    def _note_images(self, tensor: Tensor) -> None:
        self._with_images.add(_storage(tensor))
        self._known.add(id(tensor))

    def of(self, tensor: Tensor) -> object:
        """Return what made a tensor of any shape: call and place, its name, or its values."""
        made = self._made.get(id(tensor))
        if made is None:
            made = self._own.get(id(tensor))
        return values_of(tensor) if made is None else made

    def holds_images(self, tensor: Tensor) -> bool:
        """Whether a tensor of any shape depends on the images, not on parameters alone."""
        return id(tensor) in self._known or _storage(tensor) in self._with_images

    def forget(self) -> None:
        """Let go of all tensors."""
        self._made.clear()
        self._with_images.clear()
        self._known.clear()
        self._alive.clear()


def values_of(tensor: Tensor) -> object:
    """Return a digest of a constant of any shape; None on the meta device, without values."""
    if tensor.device.type == "meta":
        return None
    values = tensor.detach().cpu()
    is_known = values.dtype not in (torch.bfloat16, torch.complex32)  # to numpy
    return str(values.dtype), digest((values if is_known else values.to(torch.complex64)).numpy())


def digest(values: np.ndarray) -> tuple[str, tuple[int, ...], str]:
    """Return what tells values of any shape from others: their type, their shape and a hash."""
    return str(values.dtype), values.shape, hashlib.sha256(values.tobytes()).hexdigest()


def outliving(tensors: list[Tensor], own: Iterable[Tensor], known: Iterable[Tensor]) -> list[int]:
    """Return the indices of the tensors that are held from outside this list.

    A tensor that is held in another form (as a view, through `.data`) shares its storage.

    Args:
        tensors: what a pass made, of any shape; the list is emptied.
        own: tensors that live on in any case; views of them do not count.
        known: tensors that are known to be held.
    """
    lasting = {_storage(tensor) for tensor in own}
    expected = {_storage(tensor) for tensor in known}
    is_known = [_storage(tensor) in expected for tensor in tensors]
    watched = [(weakref.ref(t), None if _storage(t) in lasting else _watch(t)) for t in tensors]
    tensors.clear()

    def held() -> list[int]:
        return [
            place
            for place, (tensor, storage) in enumerate(watched)
            if tensor() is not None or not (storage is None or storage.expired())
        ]

    if not all(is_known[place] for place in held()):
        gc.collect()  # frees what only circles of references hold; slow
    return held()


def _watch(tensor: Tensor) -> Any:  # torch leaves the class untyped
    """A weak reference to the memory of a tensor, which its views and disguises share."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
