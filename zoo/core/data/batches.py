"""Batches that follow from (seed, epoch) alone, from memory or from files."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from zoo.core.data.image_files import DecodedOnce, ImageFiles
from zoo.core.data.inputs import rows_of_rank
from zoo.core.randomness import fixed_random, stream_generator

__all__ = [
    "Augment",
    "Batch",
    "BatchSource",
    "Batches",
    "ImageTensors",
    "PartOfBatch",
    "Sample",
    "crop_and_flip",
    "shift",
]

Batch = tuple[Any, Any]
"""Inputs, most often images of shape (N, C, H, W), and targets, most often labels of shape (N,)."""

Sample = tuple[Tensor, int]
Augment = Callable[[Tensor, torch.Generator], Tensor]

MOST_RESIDENT_BYTES = 2 * 2**30
"""Of a set that is kept on the device that its batches go to; CIFAR's have a tenth of it."""


class PartOfBatch(tuple[Any, Any]):
    """A rank's part of a batch: inputs and targets, as of any batch.

    Attributes:
        whole: images in the batch of all ranks.
    """

    whole: int


class BatchSource(Protocol):
    """Batches by epoch: the same ones for the same epoch, however often they are asked for."""

    batch_size: int

    @property
    def num_images(self) -> int:
        """Images in one epoch."""

    def __len__(self) -> int:
        """Batches in one epoch."""

    def epoch(self, index: int) -> Iterator[Batch]:
        """Images, shape (N, C, H, W), and labels, shape (N,), of one epoch."""


@dataclass(frozen=True, eq=False)
class ImageTensors(Dataset[Sample]):
    """A set that is held in memory.

    Attributes:
        images: uint8, shape (N, C, H, W).
        labels: int64, shape (N,).
        mean: of each channel, in [0, 1].
        std: of each channel, in [0, 1].
        augment: what training does to a batch of images; None for nothing.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment | None = None
    _there: dict[torch.device, ImageTensors] = field(default_factory=dict, init=False, repr=False)
    _scale: dict[torch.device, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __len__(self) -> int:
        return len(self.images)

    def on(self, device: torch.device) -> ImageTensors:
        """The set on a device, copied there once; itself where it lies there or is too large."""
        if self.images.device == device or self.images.nbytes > MOST_RESIDENT_BYTES:
            return self
        if device not in self._there:
            images, labels = self.images.to(device), self.labels.to(device)
            self._there[device] = replace(self, images=images, labels=labels)
        return self._there[device]

    def __getitem__(self, index: int) -> Sample:
        return self.normalise(self.images[index][None])[0], int(self.labels[index])

    def normalise(self, images: Tensor) -> Tensor:
        """Float images with the set's mean 0 and deviation 1, same shape."""
        if images.device not in self._scale:
            self._scale[images.device] = (
                torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1) * 255.0,
                torch.tensor(self.std, device=images.device).view(1, -1, 1, 1) * 255.0,
            )
        mean, std = self._scale[images.device]
        return images.float().sub_(mean).div_(std)

    def select(self, index: Sequence[int] | np.ndarray, augment: Augment | None) -> ImageTensors:
        """The images at positions, shape (n,), in this order, with another augmentation."""
        chosen = torch.as_tensor(np.asarray(index), dtype=torch.long)
        return ImageTensors(self.images[chosen], self.labels[chosen], self.mean, self.std, augment)


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """CIFAR's augmentation: a random crop with 4 zeros around, every other one mirrored.

    Args:
        images: shape (N, C, H, W).
        generator: on the CPU; draws the offset and the mirroring of each image.

    Returns:
        New images, same shape and type.
    """
    moved = shift(images, generator, pixels=4)
    is_flipped = torch.randint(2, (len(images), 1, 1, 1), generator=generator).bool()
    is_flipped = is_flipped.to(images.device, non_blocking=True)
    return torch.where(is_flipped, moved.flip(-1), moved)


def shift(images: Tensor, generator: torch.Generator, pixels: int = 2) -> Tensor:
    """Each image moved by its own whole number of pixels; what moves in is zero.

    Args:
        images: shape (N, C, H, W).
        generator: on the CPU; draws the offsets.
        pixels: largest move in each direction.

    Returns:
        New images, same shape and type.
    """
    n, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (pixels, pixels, pixels, pixels))
    offset = torch.randint(2 * pixels + 1, (2, n), generator=generator)
    offset = offset.to(images.device, non_blocking=True)
    rows = offset[0][:, None] + torch.arange(height, device=images.device)
    columns = offset[1][:, None] + torch.arange(width, device=images.device)
    rows = rows[:, None, :, None].expand(n, channels, height, padded.shape[3])
    columns = columns[:, None, None, :].expand(n, channels, height, width)
    return padded.gather(2, rows).gather(3, columns)


class Batches:
    """Batches of a set that follow from (seed, epoch) alone, augmentation included.

    An `ImageTensors` is kept on the device and indexed, augmented and normalised there a batch at
    a time; what is random is drawn on the CPU, so a seed means the same everywhere. Any other
    map-style dataset is read item by item; the random numbers of its transforms are fixed per item,
    so the number of workers changes nothing but the speed. Images of files come to the device as
    bytes; a split that is `DecodedOnce` is so in its own order.

    Args:
        dataset: what to draw from.
        batch_size: images per batch; the last one may be smaller.
        seed: of order and augmentation.
        shuffle: a new order each epoch; otherwise the set's own.
        device: where the batches go.
        drop_last: leave out a smaller last batch.
        workers: processes that read a dataset which is not in memory; they start with the first
            epoch, read ahead, and last as long as this object.

    Raises:
        ValueError: for an empty set, a batch size below 1, or an epoch without a batch.
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
        workers: int = 0,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.is_shuffled = shuffle
        self.device = torch.device(device)
        self.workers = workers
        self._reader: _Reader | None = None
        self._is_read = False
        self._part: tuple[int, int] | None = None
        size = len(cast(Sized, dataset))
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size} is below 1")
        self.num_images = size - size % batch_size if drop_last else size
        if self.num_images == 0:
            raise ValueError(
                f"{size} images make no batch of {batch_size}; add images or lower the batch size"
            )

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    @contextmanager
    def shared_out(self, rank: int, ranks: int) -> Iterator[None]:
        """While it is open, of a set that is read item by item a rank's part of each batch is read.

        Each batch is a `PartOfBatch`. A set in memory is augmented by whole batches, and stays so.

        Args:
            rank: whose part.
            ranks: how many there are.
        """
        self._part = (rank, ranks)
        try:
            yield
        finally:
            self._part = None

    def places(self, epoch: int) -> Iterator[list[int]]:
        """Positions in the dataset of what is read for each batch, in the order of the epoch."""
        for chosen in torch.split(self.order(epoch), self.batch_size):
            if self._part is not None:
                yield chosen[rows_of_rank(len(chosen), *self._part)].tolist()
            else:
                yield chosen.tolist()

    def order(self, epoch: int) -> Tensor:
        """Positions in the dataset, in the order of the epoch, shape (num_images,)."""
        size = len(cast(Sized, self.dataset))
        if not self.is_shuffled:
            return torch.arange(self.num_images)
        generator = stream_generator("order", self.seed, epoch)
        return torch.randperm(size, generator=generator)[: self.num_images]

    def epoch(self, index: int) -> Iterator[Batch]:
        """Images, float, shape (N, C, H, W), and labels, int64, shape (N,), on the device."""
        if isinstance(self.dataset, ImageTensors):
            return self._from_memory(self.dataset, index)
        if isinstance(self.dataset, DecodedOnce) and not self.is_shuffled and self.dataset.is_kept:
            return self._from_bytes(self.dataset)
        return self._from_items(index)

    def _from_memory(self, dataset: ImageTensors, epoch: int) -> Iterator[Batch]:
        generator = stream_generator("augment", self.seed, epoch)
        dataset = dataset.on(self.device)
        order = self.order(epoch).to(dataset.images.device)
        for chosen in torch.split(order, self.batch_size):
            images = dataset.images[chosen].to(self.device)
            if dataset.augment is not None:
                images = dataset.augment(images, generator)
            yield dataset.normalise(images), dataset.labels[chosen].to(self.device)

    def _from_bytes(self, dataset: DecodedOnce) -> Iterator[Batch]:
        is_pinned = self.device.type == "cuda"
        for chosen in torch.split(self.order(0), self.batch_size):
            images, labels = dataset.read(
                chosen.tolist(), workers=self.workers, is_pinned=is_pinned
            )
            yield self._normalised(images), labels.to(self.device, non_blocking=True)

    def _normalised(self, images: Tensor) -> Tensor:
        """Images on the device; those of files come there as bytes."""
        images = images.to(self.device, non_blocking=True)
        if isinstance(self.dataset, ImageFiles | DecodedOnce):
            return self.dataset.normalise(images)
        return images

    def _from_items(self, epoch: int) -> Iterator[Batch]:
        # A loader reads one epoch at a time: a second one beside it gets a loader of its own.
        is_shared = not self._is_read
        if is_shared and self._reader is None:
            self._reader = self._make_reader()
        loader, order = (self._reader if is_shared else None) or self._make_reader()
        order.epoch = epoch
        self._is_read = True
        try:
            for number, (images, labels) in enumerate(loader):
                labels = torch.as_tensor(labels, dtype=torch.long)
                labels = labels.to(self.device, non_blocking=True)
                batch = self._normalised(images), labels
                if self._part is not None:
                    batch = PartOfBatch(batch)
                    batch.whole = min(self.batch_size, self.num_images - number * self.batch_size)
                yield batch
        finally:
            if is_shared:
                self._is_read = False

    def _make_reader(self) -> _Reader:
        order, dataset = _Order(self), self.dataset
        if isinstance(dataset, DecodedOnce):
            dataset = dataset.files
        if isinstance(dataset, ImageFiles):
            dataset = dataset.pixels
        loader: DataLoader[Sample] = DataLoader(
            _FixedItems(dataset, self.seed),
            batch_sampler=order,
            num_workers=self.workers,
            generator=stream_generator("loader", self.seed, 0),
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.workers > 0,
            prefetch_factor=4 if self.workers else None,
        )
        return loader, order


_Place = tuple[int, int]
"""An epoch and the position of an item."""


class _Order(Sampler[list[_Place]]):
    """The items of each batch of an epoch; `epoch` is set before each pass."""

    def __init__(self, batches: Batches) -> None:
        self._batches = weakref.proxy(batches)  # so that it, and its processes, end when unused
        self.epoch = 0

    def __iter__(self) -> Iterator[list[_Place]]:
        epoch = self.epoch
        return ([(epoch, place) for place in each] for each in self._batches.places(epoch))

    def __len__(self) -> int:
        return len(self._batches)


_Reader = tuple[DataLoader[Sample], _Order]
"""A loader and what says which epoch it reads."""


@dataclass
class _FixedItems(Dataset[Sample]):
    """A dataset whose transforms draw the same numbers for (seed, epoch, item) in any process."""

    dataset: Dataset[Sample]
    seed: int

    def __getitem__(self, place: _Place) -> Sample:
        epoch, index = place
        with fixed_random("item", self.seed, epoch, index):
            return self.dataset[index]

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))
