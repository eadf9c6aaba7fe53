"""Batches that follow from (seed, epoch) alone, from memory, from files or from anyone's loader."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from zoo.core.pairs import Targets, read_pair

__all__ = [
    "Augment",
    "Batch",
    "BatchSource",
    "Batches",
    "ImageTensors",
    "LoaderBatches",
    "Sample",
    "crop_and_flip",
    "fixed_random",
    "shift",
    "stream_seed",
]

Batch = tuple[Tensor, Tensor]
Sample = tuple[Tensor, int]
Augment = Callable[[Tensor, torch.Generator], Tensor]

# After so many batches a loader without length is taken for one without end.
MOST_BATCHES = 1_000_000


def stream_seed(*names: int | str) -> int:
    """A seed in [0, 2**63) for the stream with these names; other names, independent stream."""
    text = "/".join(map(str, names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


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

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return self.normalise(self.images[index][None])[0], int(self.labels[index])

    def normalise(self, images: Tensor) -> Tensor:
        """Float images with the set's mean 0 and deviation 1, same shape."""
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1) * 255.0
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1) * 255.0
        return images.float().sub_(mean).div_(std)

    def select(self, index: Sequence[int] | np.ndarray, augment: Augment | None) -> ImageTensors:
        """The images at these positions, in this order, with another augmentation."""
        chosen = torch.as_tensor(np.asarray(index), dtype=torch.long)
        return ImageTensors(self.images[chosen], self.labels[chosen], self.mean, self.std, augment)


def crop_and_flip(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """CIFAR's augmentation: a random crop of the zero-padded image, mirrored every other time.

    Args:
        images: shape (N, C, H, W).
        generator: on the CPU; draws the offset and the mirroring of each image.
        padding: pixels added on each side.

    Returns:
        New images, same shape and type.
    """
    moved = shift(images, generator, pixels=padding)
    is_flipped = torch.randint(2, (len(images), 1, 1, 1), generator=generator).bool()
    return torch.where(is_flipped.to(images.device), moved.flip(-1), moved)


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
    offset = torch.randint(2 * pixels + 1, (2, n), generator=generator).to(images.device)
    rows = offset[0][:, None] + torch.arange(height, device=images.device)
    columns = offset[1][:, None] + torch.arange(width, device=images.device)
    rows = rows[:, None, :, None].expand(n, channels, height, padded.shape[3])
    columns = columns[:, None, None, :].expand(n, channels, height, width)
    return padded.gather(2, rows).gather(3, columns)


class Batches:
    """Batches of a set that follow from (seed, epoch) alone, augmentation included.

    An `ImageTensors` is indexed, augmented and normalised a batch at a time. Any other map-style
    dataset is read item by item; the random numbers of its transforms are fixed per item, so the
    number of workers changes nothing but the speed.

    Args:
        dataset: what to draw from.
        batch_size: images per batch; the last one may be smaller.
        seed: of order and augmentation.
        shuffle: a new order each epoch; otherwise the set's own.
        augment: in place of the set's own; for `ImageTensors` only.
        device: where the batches go.
        drop_last: leave out a smaller last batch.
        workers: processes that read a dataset which is not in memory.

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
        augment: Augment | None = None,
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
        self._augment = augment or getattr(dataset, "augment", None)
        size = len(cast(Sized, dataset))
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size} is below 1")
        self.num_images = size - size % batch_size if drop_last else size
        if self.num_images == 0:
            raise ValueError(
                f"{size} images make no batch of {batch_size}; add images or lower the batch size"
            )
        if augment is not None and not isinstance(dataset, ImageTensors):
            raise ValueError("augment works on sets in memory; put it into the dataset's transform")

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Positions in the dataset, in the order of the epoch, shape (num_images,)."""
        size = len(cast(Sized, self.dataset))
        if not self.is_shuffled:
            return torch.arange(self.num_images)
        generator = _generator("order", self.seed, epoch)
        return torch.randperm(size, generator=generator)[: self.num_images]

    def epoch(self, index: int) -> Iterator[Batch]:
        """Images, float, shape (N, C, H, W), and labels, int64, shape (N,), on the device."""
        if isinstance(self.dataset, ImageTensors):
            return self._from_memory(self.dataset, index)
        return self._from_items(index)

    def _from_memory(self, dataset: ImageTensors, epoch: int) -> Iterator[Batch]:
        generator = _generator("augment", self.seed, epoch)
        for chosen in torch.split(self.order(epoch), self.batch_size):
            images = dataset.images[chosen].to(self.device)
            if self._augment is not None:
                images = self._augment(images, generator)
            yield dataset.normalise(images), dataset.labels[chosen].to(self.device)

    def _from_items(self, epoch: int) -> Iterator[Batch]:
        loader = DataLoader(
            _FixedItems(self.dataset, self.seed, epoch),
            batch_size=self.batch_size,
            sampler=self.order(epoch).tolist(),
            num_workers=self.workers,
            generator=_generator("loader", self.seed, epoch),
            pin_memory=self.device.type == "cuda",
        )
        for images, labels in loader:
            yield _to_device(images, labels, self.device)


class LoaderBatches:
    """Anyone's loader behind the same interface.

    Random numbers that the loader draws in this process, from its own generators or the global
    ones, are fixed by (seed, epoch), and the global ones are put back after each batch. A sampler
    with `set_epoch` is told the epoch. What has no length is counted in one pass over epoch 0.

    Args:
        loader: a DataLoader, or anything else that can be iterated anew for each epoch; yields
            (images, labels), with anything behind them, or dicts, see `read_pair`.
        seed: of the random numbers.
        device: where the batches go.
        name: of the loader, for messages.
        dtype: that images are turned into; their own if None.
        is_hard: labels are class indices in any case, see `Targets`.
        skips_single: leave out a batch of one image beside larger ones, for training: neither batch
            norms nor distances over a teacher's variance mean anything on one image.

    Attributes:
        first: the first batch of epoch 0.
        num_images: in one epoch; for a loader of batches of unknown sizes, as many as if all were
            of the size of the first.

    Raises:
        ValueError: if the loader cannot be iterated twice, has no batch or none that can be read.
    """

    def __init__(
        self,
        loader: Iterable[Any],  # torch's loader is typed by its dataset, which may be any
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        name: str = "the loader",
        dtype: torch.dtype | None = None,
        is_hard: bool = False,
        skips_single: bool = False,
    ) -> None:
        self.loader = loader
        self.seed = seed
        self.device = torch.device(device)
        self.name = name
        self.dtype = dtype
        self.targets = Targets(name, is_hard=is_hard)
        _check_reusable(loader, name)
        self._length = _length(loader)
        if self._length == 0:
            raise ValueError(_no_batch(loader, name))
        self.first = self._first()
        sizes = [] if self._length is not None else self._counted()
        if self._length is None:
            self._length = len(sizes)
        self.batch_size = getattr(loader, "batch_size", None) or max(sizes, default=0)
        self.batch_size = self.batch_size or len(self.first[0])
        images = sum(sizes) or _declared_images(loader, self._length, self.batch_size)
        self._skips_single = skips_single and self.batch_size > 1
        told = sizes.count(1) if sizes else int(images % self.batch_size == 1)
        self._singles = told if self._skips_single else 0
        self.num_images = images - self._singles
        if len(self) == 0:
            raise ValueError(f"{name} yields one image; a batch needs two images or more")

    def __len__(self) -> int:
        assert self._length is not None  # known since it was counted
        return self._length - self._singles

    def expect(self, classes: int, *, is_binary: bool) -> None:
        """Say what the network answers, which labels are held against.

        Args:
            classes: number of logits.
            is_binary: whether the network has one logit, and labels may be 0.0 and 1.0.

        Raises:
            ValueError: if the labels of the first batch do not fit.
        """
        self.targets = replace(self.targets, classes=classes, is_binary=is_binary)
        self.targets.read(self.first[1])

    def first_images(self) -> Tensor:
        """Images of the first batch of epoch 0, shape (N, C, H, W), on the device."""
        return self.first[0].to(self.device, self.dtype)

    def as_type(self, dtype: torch.dtype) -> LoaderBatches:
        """The same batches, their images of another type."""
        other = copy.copy(self)
        other.dtype = dtype
        return other

    def look(self) -> Batch:
        """The first batch of epoch 0, as `epoch` returns it, though it be a single image."""
        return self._given(*self.first)

    def epoch(self, index: int) -> Iterator[Batch]:
        """Images, shape (N, C, H, W), and labels, on the device.

        Labels are int64, shape (N,), or, for soft targets, probabilities, shape (N, classes).
        """
        for images, labels in self._pairs(index):
            if self._skips_single and len(images) == 1:
                continue
            yield self._given(images, labels)

    def _given(self, images: Tensor, labels: Tensor) -> Batch:
        """A batch in its final form, on the device."""
        dtype = self.dtype or images.dtype
        labels = self.targets.read(labels)
        soft = dtype if labels.is_floating_point() else labels.dtype
        return (
            images.to(self.device, dtype, non_blocking=True),
            labels.to(self.device, soft, non_blocking=True),
        )

    def _pairs(self, index: int) -> Iterator[Batch]:
        """What the loader yields in an epoch; as often as it said, if it did."""
        sampler: Any = getattr(self.loader, "sampler", None)  # anyone's
        for generator in (
            getattr(self.loader, "generator", None),
            getattr(sampler, "generator", None),
        ):
            if isinstance(generator, torch.Generator):
                generator.manual_seed(stream_seed("loader", self.seed, index))
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(index)
        with fixed_random("loader", self.seed, index, "start"), self._explained(index, 0):
            batches = iter(self.loader)
        for number in count() if self._length is None else range(self._length):
            with (
                fixed_random("loader", self.seed, index, number),
                self._explained(index, number),
            ):
                batch = next(batches, _END)
            if batch is _END and self._length is None:
                return
            if batch is _END:
                raise ValueError(
                    f"{self.name} ended after {number} of {self._length} batches in epoch {index}. "
                    "A set that wraps a generator or an open file is empty the second time: let "
                    "its __iter__ start anew, and its __len__, if it has one, say the truth"
                )
            yield read_pair(batch, self.name)

    @contextmanager
    def _explained(self, epoch: int, number: int) -> Iterator[None]:
        """Say what is expected of a loader where its very first batch cannot be read."""
        try:
            yield
        except Exception as error:  # whatever a foreign dataset may raise
            if (epoch, number) != (0, 0):
                raise
            lines = str(error).strip().split("\n")
            # A worker process hands on its whole traceback, whose end is the error.
            reason = lines[-1] if lines[0].startswith("Caught ") else lines[0]
            raise ValueError(
                f"the first batch of {self.name} cannot be read: {type(error).__name__}: {reason}. "
                "Each image must be a tensor of the same shape (C, H, W), with a class index"
            ) from error

    def _first(self) -> Batch:
        """The first batch of epoch 0.

        Raises:
            ValueError: if there is none.
        """
        batch = next(self._pairs(0), None)
        if batch is None:
            raise ValueError(_no_batch(self.loader, self.name))
        return batch

    def _counted(self) -> list[int]:
        """Images in each batch of epoch 0, of a loader that does not say how many it yields."""
        sizes = []
        for images, _ in self._pairs(0):
            sizes.append(len(images))
            if len(sizes) > MOST_BATCHES:
                raise ValueError(
                    f"{self.name} has no length and yields more than {MOST_BATCHES:,} batches; if "
                    "it never ends, give it a __len__, the number of batches of an epoch"
                )
        if not sizes or next(self._pairs(0), None) is None:
            raise ValueError(_ONCE.format(name=self.name))
        return sizes


_END = object()

_ONCE = (
    "{name} can be iterated once only, and each epoch needs all of its batches: pass a DataLoader, "
    "a list of batches, or an object whose __iter__ starts anew, not an iterator or generator"
)


def _check_reusable(loader: object, name: str) -> None:
    """Refuse what has no batches, or has them once."""
    if isinstance(loader, Iterator):
        raise ValueError(_ONCE.format(name=name))
    if isinstance(loader, Tensor | np.ndarray | Mapping | str) or not hasattr(loader, "__iter__"):
        way = "DataLoader(dataset, batch_size=64)" if hasattr(loader, "__getitem__") else "one"
        raise ValueError(
            f"{name} is a {type(loader).__name__}, no loader; pass {way}, or a list of batches"
        )


def _length(loader: object) -> int | None:
    """Batches in an epoch, None if the loader does not say."""
    try:
        return len(cast(Sized, loader))
    except (TypeError, NotImplementedError):  # how torch says that a set has no length
        return None


def _declared_images(loader: object, length: int, batch_size: int) -> int:
    """Images in an epoch of a loader that says how many batches it yields."""
    most = length * batch_size
    if isinstance(loader, DataLoader) and loader.batch_sampler is None:
        return most  # its set yields batches
    dataset = getattr(loader, "dataset", None)
    is_by_size = getattr(loader, "batch_size", None) is not None
    by_sampler = is_by_size and not isinstance(dataset, IterableDataset)
    images = _length(getattr(loader, "sampler", None) if by_sampler else dataset)
    return most if images is None else min(images, most)


def _no_batch(loader: object, name: str) -> str:
    images = _length(getattr(loader, "dataset", None))
    if images:
        return (
            f"{name} yields no batch; check its dataset and drop_last: it has {images} images and "
            f"batch_size {getattr(loader, 'batch_size', None)}; lower batch_size or add images"
        )
    return f"{name} yields no batch; its set is empty"


@contextmanager
def fixed_random(*names: int | str) -> Iterator[None]:
    """Python's, numpy's and torch's global CPU generators at a fixed state, put back at the end."""
    seed = stream_seed(*names)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@dataclass
class _FixedItems(Dataset[Sample]):
    """A dataset whose transforms draw the same numbers for (seed, epoch, item) in any process."""

    dataset: Dataset[Sample]
    seed: int
    epoch: int

    def __getitem__(self, index: int) -> Sample:
        with fixed_random("item", self.seed, self.epoch, index):
            return self.dataset[index]

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))


def _generator(*names: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(*names))


def _to_device(images: Tensor, labels: Tensor, device: torch.device) -> Batch:
    return (
        images.to(device, non_blocking=True),
        torch.as_tensor(labels, dtype=torch.long).to(device, non_blocking=True),
    )
