"""Any loader as batches that depend on (seed, epoch) alone."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from zoo.core.data.batches import Batch
from zoo.core.data.inputs import Inputs, count_images, moved, tensors_of
from zoo.core.data.pairs import ReadBatch, Targets, read_own, read_pair
from zoo.core.randomness import fixed_random, stream_seed

__all__ = ["LoaderBatches"]

# After so many batches a loader without length is taken for one without end.
MOST_BATCHES = 1_000_000


class LoaderBatches:
    """Any loader as a `BatchSource`.

    Random numbers that the loader draws in this process, from its own generators, those of its
    samplers or the global ones, are fixed by (seed, epoch), and the generators are put back after
    each batch. A sampler with `set_epoch` is told the epoch. A generator inside of the data set is
    not reached. What has no length is counted in one pass over epoch 0.

    Args:
        loader: a DataLoader, or anything else that can be iterated anew for each epoch; yields
            (images, labels), with anything behind them, or dicts, see `read_pair`; with `batch`
            whatever that reads.
        seed: of the random numbers.
        device: where the batches go.
        name: of the loader, for messages.
        dtype: that images are turned into; their own if None.
        is_hard: turn soft targets into class indices, see `Targets`.
        skips_single: leave out a batch of one image among larger ones, for training: batch norms
            and errors relative to a teacher's variance need more than one image.
        batch: turns what the loader yields into (inputs, targets).
        has_own_targets: leave targets as they are; they need not be classes.

    Attributes:
        first: the first batch of epoch 0.
        num_images: in one epoch; where batch sizes are unknown, all count like the first batch.

    Raises:
        ValueError: if the loader cannot be iterated twice, or its first batch cannot be read.
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
        batch: ReadBatch | None = None,
        has_own_targets: bool = False,
    ) -> None:
        self.loader = loader
        self.seed = seed
        self.device = torch.device(device)
        self.name = name
        self.dtype = dtype
        self.targets = None if has_own_targets else Targets(name, is_hard=is_hard)
        self._read_batch = batch
        self._target_dtype = dtype
        _check_reusable(loader, name)
        self._length = _length(loader)
        first = None if self._length == 0 else next(self._pairs(0), None)
        if first is None:
            raise ValueError(_no_batch(loader, name))
        self.first = first
        sizes = [] if self._length is not None else self._batch_sizes()
        if self._length is None:
            self._length = len(sizes)
        self.batch_size = getattr(loader, "batch_size", None) or max(sizes, default=0)
        self.batch_size = self.batch_size or count_images(self.first[0])
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
        """Set the number of classes, and check the first batch's labels against it.

        Args:
            classes: number of logits.
            is_binary: whether the network has one logit, and labels may be 0.0 and 1.0.

        Raises:
            ValueError: if the labels of the first batch do not fit.
        """
        assert self.targets is not None  # classes are read
        self.targets = replace(self.targets, classes=classes, is_binary=is_binary)
        self.targets.read(self.first[1])

    def first_images(self) -> Inputs:
        """Images (N, C, H, W), or other inputs, of the first batch of epoch 0, on the device."""
        return moved(self.first[0], self.device, self.dtype)

    def as_type(self, dtype: torch.dtype) -> LoaderBatches:
        """The same batches, with images of another floating-point type."""
        other = copy.copy(self)
        other.dtype = dtype
        return other

    def first_batch(self) -> Batch:
        """The first batch of epoch 0, as `epoch` returns it, even if it holds one image."""
        return self._converted(*self.first)

    def epoch(self, index: int) -> Iterator[Batch]:
        """Images, shape (N, C, H, W), or other inputs, and labels, or other targets, on the device.

        Labels are int64, shape (N,), or, for soft targets, probabilities, shape (N, classes).
        """
        for images, labels in self._pairs(index):
            if self._skips_single and count_images(images) == 1:
                continue
            yield self._converted(images, labels)

    def _converted(self, images: Inputs, labels: Any) -> Batch:
        """A batch in its final form, on the device."""
        inputs = moved(images, self.device, self.dtype)
        if self.targets is None:
            return inputs, moved(labels, self.device, self._target_dtype)
        dtype = self.dtype or next(tensor.dtype for tensor in tensors_of(inputs))
        return inputs, moved(self.targets.read(labels), self.device, dtype)

    def _pairs(self, index: int) -> Iterator[Batch]:
        """Batches of an epoch as the loader yields them, as many as its length says."""
        samplers = _samplers(self.loader)
        own = _OwnDraws([self.loader, *samplers], stream_seed("loader", self.seed, index))
        draw = partial(fixed_random, "loader", self.seed, index)
        with draw("start"), own.going_on(), self._explained(index, 0):
            for sampler in samplers:
                if hasattr(sampler, "set_epoch"):
                    sampler.set_epoch(index)
            batches = iter(self.loader)
        for number in count() if self._length is None else range(self._length):
            with draw(number), own.going_on(), self._explained(index, number):
                batch = next(batches, _END)
            if batch is _END and self._length is None:
                return
            if batch is _END:
                raise ValueError(
                    f"{self.name} ended after {number} of {self._length} batches in epoch {index}. "
                    "A set that wraps a generator or an open file is empty the second time: let "
                    "its __iter__ start anew, and its __len__, if it has one, say the truth"
                )
            pair = self._pair(batch)
            if count_images(pair[0]) == 0:
                raise ValueError(
                    f"batch {number} of {self.name} in epoch {index} has no images, so no loss; "
                    "let the loader leave such a batch out, and its length with it"
                )
            yield pair

    def _pair(self, batch: object) -> Batch:
        """Inputs and targets of a batch, as they are."""
        if self._read_batch is not None:
            return read_own(self._read_batch, batch, self.name)
        return read_pair(batch, self.name, is_any=self.targets is None)

    @contextmanager
    def _explained(self, epoch: int, number: int) -> Iterator[None]:
        """Explain what is expected of a loader, if its very first batch cannot be read."""
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
                + _READABLE[self.targets is None]
            ) from error

    def _batch_sizes(self) -> list[int]:
        """Images in each batch of epoch 0, for a loader without length."""
        sizes = []
        for images, _ in self._pairs(0):
            sizes.append(count_images(images))
            if len(sizes) > MOST_BATCHES:
                raise ValueError(
                    f"{self.name} has no length and yields more than {MOST_BATCHES:,} batches; if "
                    "it never ends, give it a __len__, the number of batches of an epoch"
                )
        if not sizes or next(self._pairs(0), None) is None:
            raise ValueError(_ONCE.format(name=self.name))
        return sizes


class _OwnDraws:
    """The generators that a loader owns, in the states of one pass while that draws from them.

    Args:
        owners: what may have a generator.
        seed: where each starts.
    """

    def __init__(self, owners: Iterable[object], seed: int) -> None:
        found = (getattr(owner, "generator", None) for owner in owners)
        generators = {id(each): each for each in found if isinstance(each, torch.Generator)}
        self._generators = list(generators.values())
        self._states = [_state_at(seed, each.device) for each in self._generators]

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Let the pass draw; afterwards the generators are as they were."""
        before = self._exchanged(self._states)
        try:
            yield
        finally:
            self._states = self._exchanged(before)

    def _exchanged(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Set the generators' states, and return those that they were in."""
        old = [generator.get_state() for generator in self._generators]
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)
        return old


def _state_at(seed: int, device: torch.device) -> Tensor:
    """State of a generator that was just seeded."""
    return torch.Generator(device).manual_seed(seed).get_state()


def _samplers(owner: object, depth: int = 3) -> list[Any]:
    """The samplers of a loader, and those inside of them, each once.

    torch's `sampler` of a loader with a batch sampler of one's own is never drawn from.

    Args:
        owner: a loader, or a sampler that may hold others.
        depth: how far to look; anyone's samplers may hold each other.
    """
    if not depth:
        return []
    parts = (getattr(owner, name, None) for name in ("sampler", "batch_sampler"))
    found = {
        id(each): each
        for part in parts
        if part is not None
        for each in (part, *_samplers(part, depth - 1))
    }
    return list(found.values())


_END = object()

_READABLE = {
    False: "Each image must be a tensor of the same shape (C, H, W), with a class index",
    True: "Where images or targets differ in size, give the loader a collate_fn",
}

_ONCE = (
    "{name} can be iterated once only, and each epoch needs all of its batches: pass a DataLoader, "
    "a list of batches, or an object whose __iter__ starts anew, not an iterator or generator"
)


def _check_reusable(loader: object, name: str) -> None:
    """Raise for an object that is no loader, or can be iterated once only."""
    if isinstance(loader, Iterator):
        raise ValueError(_ONCE.format(name=name))
    if isinstance(loader, Tensor | np.ndarray | Mapping | str) or not hasattr(loader, "__iter__"):
        way = "DataLoader(dataset, batch_size=64)" if hasattr(loader, "__getitem__") else "one"
        raise ValueError(
            f"{name} is a {type(loader).__name__}, no loader; pass {way}, or a list of batches"
        )


def _length(loader: object) -> int | None:
    """Batches in an epoch; None if the loader has no length."""
    try:
        return len(cast(Sized, loader))
    except (TypeError, NotImplementedError):  # how torch says that a set has no length
        return None


def _declared_images(loader: object, length: int, batch_size: int) -> int:
    """Images in an epoch of a loader that has a length."""
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
