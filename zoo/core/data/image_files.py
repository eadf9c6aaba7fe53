"""Images of files, decoded to bytes: each time they are read, or once and read again from there."""

from __future__ import annotations

import hashlib
import logging
import shutil
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from io import FileIO
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.core.randomness import stream_generator
from zoo.core.sealed import check_sealed, seal_of, set_aside
from zoo.core.whole_file import sweep, whole_file

__all__ = ["DecodedOnce", "ImageFiles", "Origin"]

Pixels = tuple[Tensor, int]
"""An image, uint8, shape (C, H, W), and its label."""

MOST_IN_MEMORY = 2**28
"""Bytes of a split that each process keeps in its memory: 1,783 images of 224 x 224 pixels."""

PART = 64
"""Images that are decoded before the first of them is handed on."""

_DECODERS = ("pillow", "timm", "torchvision")
_LABEL_BYTES = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageFiles(Dataset[Pixels]):
    """Images of files, decoded and transformed each time they are read.

    An item is a normalised image, float, shape (C, H, W), and its label. Whoever reads many takes
    `pixels` and normalises them in batches where they are needed; the numbers are the same.

    Attributes:
        pixels: the images after all transforms but the normalisation, uint8, and labels.
        shape: (C, H, W) of each.
        mean: of each channel, in [0, 1].
        std: of each channel, in [0, 1].
    """

    pixels: Dataset[Pixels]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    _scale: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __len__(self) -> int:
        return len(cast(Sized, self.pixels))

    def __getitem__(self, index: int) -> Pixels:
        image, label = self.pixels[index]
        return self.normalise(image[None])[0], int(label)

    def normalise(self, images: Tensor) -> Tensor:
        """Float images with the set's mean 0 and deviation 1, shape (N, C, H, W), as torchvision's.

        The largest byte is a tensor: by a number, a GPU multiplies with its rounded inverse.
        """
        if images.device not in self._scale:
            most, mean, std = (
                torch.tensor(each, device=images.device).view(1, -1, 1, 1)
                for each in ((255.0,), self.mean, self.std)
            )
            self._scale[images.device] = most, mean, std
        most, mean, std = self._scale[images.device]
        return images.float().div_(most).sub_(mean).div_(std)


@dataclass(frozen=True)
class Origin:
    """Says which images a split is made of, and when they are others.

    Attributes:
        split: tells the folder, the choice of images and what is done to each of them; what was
            decoded for it before its files changed is stale.
        paths: of the images, in order.
    """

    split: str
    paths: tuple[str, ...]

    @property
    def name(self) -> str:
        """16 hexadecimal digits that stand for the split."""
        return hashlib.sha256(self.split.encode()).hexdigest()[:16]

    def state(self) -> str:
        """16 hexadecimal digits that change with the files, as far as rsync or make would notice.

        These are path, size and time of change of each, and the versions of what decodes them.
        """
        digest = hashlib.sha256(repr([version(each) for each in _DECODERS]).encode())
        for path in self.paths:
            found = Path(path).stat()
            digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:16]


class DecodedOnce(Dataset[Pixels]):
    """Images of files that are read again and again: each is decoded once, and kept as bytes.

    They are decoded in order, as far as they were asked for. What takes 256 MiB or less stays in
    memory; more goes into a file in a folder, which other processes read too. That file is written
    as a whole or not at all, and ends with its checksum. Once the images have changed another file
    is made, and the stale one removed.

    Args:
        files: the images; what their transforms do must not be random.
        origin: names them.
        folder: of the file; None where there is none, so that what does not go into memory is
            decoded each time.
    """

    def __init__(self, files: ImageFiles, origin: Origin, folder: Path | None) -> None:
        self.files = files
        self.normalise = files.normalise
        self._origin = origin
        self._folder = folder
        self._labels = torch.zeros(len(files), dtype=torch.long)
        self._kept: _Kept | None = None
        self._decoded = 0
        self._decoding: Iterator[None] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Pixels:
        return self.files[index]

    @property
    def size(self) -> int:
        """Bytes of all images."""
        return len(self) * int(np.prod(self.files.shape))

    @cached_property
    def is_kept(self) -> bool:
        """Whether there is room for what is decoded; where the disk has none, with a warning."""
        if self.size <= MOST_IN_MEMORY:
            return True
        if self._folder is None:
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        left = shutil.disk_usage(self._folder).free
        if left > self.size or self._path.exists():
            return True
        warnings.warn(
            f"{self._folder} has {left:,} bytes left, and {len(self):,} decoded images take "
            f"{self.size:,}: they are decoded anew each time; make room, or move the results",
            stacklevel=2,
        )
        return False

    def read(
        self, chosen: Sequence[int], *, workers: int = 0, is_pinned: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Images, uint8, shape (n, C, H, W), and labels, int64, shape (n,), on the CPU.

        Args:
            chosen: their n positions; all images up to the last of them are decoded.
            workers: processes that decode; those that the first call asks for go on.
            is_pinned: in memory that a GPU copies from by itself.

        Raises:
            IndexError: if there is no such position.
            OSError: if the disk is full.
            ValueError: if an image cannot be read, or images changed while they were decoded.
        """
        last = max(chosen)
        if not 0 <= min(chosen) <= last < len(self):
            raise IndexError(f"positions {min(chosen)} to {last} of {len(self)} images")
        if self._kept is None and self.size > MOST_IN_MEMORY:
            self._reopen()
        while self._decoded <= last:
            if self._decoding is None:
                self._decoding = self._decode(workers)
            next(self._decoding, None)
        assert self._kept is not None  # something was decoded
        shape = (len(chosen), *self.files.shape)
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=is_pinned)
        self._kept.read(chosen, images.numpy())
        return images, self._labels[torch.as_tensor(chosen)]

    @cached_property
    def _state(self) -> str:
        return self._origin.state()

    @property
    def _path(self) -> Path:
        assert self._folder is not None  # or nothing is kept
        return self._folder / f"{self._origin.name}-{self._state}.images"

    def _reopen(self) -> None:
        """Take what another process decoded, if it did; remove what is stale."""
        assert self._folder is not None  # or nothing is kept
        sweep(self._folder)
        for stale in set(self._folder.glob(f"{self._origin.name}-*")) - {self._path}:
            stale.unlink(missing_ok=True)
        found = check_sealed(self._path)
        if found is None:
            return
        if found != self.size + _LABEL_BYTES * len(self):
            set_aside(self._path, "it holds other images")
            return
        file = self._path.open("rb", buffering=0)
        file.seek(self.size)
        labels = np.frombuffer(file.read(_LABEL_BYTES * len(self)), dtype=np.int64)
        self._labels = torch.from_numpy(labels.copy())
        self._kept, self._decoded = _InFile(file), len(self)

    def _decode(self, workers: int) -> Iterator[None]:
        """Decode part after part, and say so after each but the last."""
        _log.info("decoding %d images once: %s", len(self), self._origin.split)
        started = self._state
        loader = DataLoader(
            self.files.pixels,
            batch_size=PART,
            num_workers=workers,
            generator=stream_generator("loader", 0, 0),  # or it would draw from the global one
            prefetch_factor=4 if workers else None,
        )
        try:
            with self._keeping() as add:
                for images, labels in loader:
                    add(images.numpy())
                    self._labels[self._decoded : self._decoded + len(labels)] = labels
                    self._decoded += len(labels)
                    if self._decoded < len(self):
                        yield
                if self._origin.state() != started:
                    raise ValueError(
                        f"images changed while they were decoded ({self._origin.split}); run again"
                    )
        except BaseException:  # whoever asks again begins anew
            self._kept, self._decoded, self._decoding = None, 0, None
            raise

    @contextmanager
    def _keeping(self) -> Iterator[Callable[[np.ndarray], None]]:
        """Lend what takes the images in order; they stay if the block ends well."""
        if self.size <= MOST_IN_MEMORY:
            memory = np.empty((len(self), *self.files.shape), dtype=np.uint8)
            self._kept = _InMemory(memory)
            yield lambda images: _put(memory, self._decoded, images)
            return
        digest = hashlib.sha256()
        with whole_file(self._path) as hidden, hidden.open("wb") as file:
            self._kept = _InFile(hidden.open("rb", buffering=0))

            def add(images: np.ndarray) -> None:
                digest.update(images.data)
                file.write(images.data)
                file.flush()  # it may be read at once

            yield add
            labels = self._labels.numpy().tobytes()
            digest.update(labels)
            file.write(labels + seal_of(digest))


class _Kept(Protocol):
    def read(self, chosen: Sequence[int], images: np.ndarray) -> None:
        """Fill uint8 images, shape (n, C, H, W), with those at n positions."""


@dataclass(frozen=True)
class _InMemory:
    images: np.ndarray

    def read(self, chosen: Sequence[int], images: np.ndarray) -> None:
        np.take(self.images, chosen, axis=0, out=images, mode="clip")  # else it copies twice


@dataclass(frozen=True)
class _InFile:
    """Read by position, not mapped: an error of the disk is then an exception, not a signal."""

    file: FileIO

    def __post_init__(self) -> None:
        weakref.finalize(self, self.file.close)  # else Python warns of a file that nobody closed

    def read(self, chosen: Sequence[int], images: np.ndarray) -> None:
        for place, image in zip(chosen, images, strict=True):
            self.file.seek(place * image.nbytes)
            if self.file.readinto(image.data) != image.nbytes:
                raise OSError(f"{self.file.name} has become shorter; remove it and run again")


def _put(memory: np.ndarray, start: int, images: np.ndarray) -> None:
    memory[start : start + len(images)] = images
