"""The course of a training: which batch is next, and a checkpoint of all that it has come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.core.data.batches import Batch, Batches, BatchSource, PartOfBatch
from zoo.core.data.metered import MeteredBatches
from zoo.core.randomness import global_random, set_global_random
from zoo.core.training.checkpoint import Checkpoint, State, Stateful
from zoo.core.training.ranks import all_parts, decided, rank, world

__all__ = ["Course", "GeneratorState", "ModuleState", "Parts", "TensorState", "Values"]


Parts = Mapping[str, Stateful | None]
"""All that a step of a training changes, by name; None for what a training lacks."""


class Course:
    """Hands out the batches of a training, and goes on where a checkpoint ends.

    All parts are put back when the course is made; the images that were seen are drawn again and
    not charged, so that what the loader draws goes on, too.

    Args:
        checkpoint: of this training; None to keep none.
        parts: all that a step changes. The global generators are kept beside them.
        device: whose generator is kept, beside those of the CPU.

    Attributes:
        epoch: the epoch of the next batch.
        batch: its number in the epoch.
        step: batches that were handed out and used, in all.
        is_over: set to end the training with the epoch that is running.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        parts: Parts,
        device: torch.device,
    ) -> None:
        self.epoch = self.batch = self.step = 0
        self.is_over = False
        self._checkpoint = checkpoint
        self._parts = {name: part for name, part in parts.items() if part is not None}
        self._device = device
        self._random: State | None = None
        # All ranks go on from what rank 0 has, wherever the others look for it.
        state = decided(lambda: None if checkpoint is None else checkpoint.load())
        if state is not None:
            self._load(state)

    def epochs(self, count: int) -> Iterator[int]:
        """The epochs that are left of so many."""
        while self.epoch < count and not self.is_over:
            yield self.epoch
            self.epoch, self.batch = self.epoch + 1, 0
            self._save_if_due(at_epoch_end=True)

    def batches(self, source: BatchSource) -> Iterator[Batch]:
        """The batches that are left of this epoch; of files, each rank reads its part of them."""
        for batch in self._left(source, in_parts=True):
            yield batch
            self.batch, self.step = self.batch + 1, self.step + 1
            self._save_if_due()

    def steps(
        self, source: BatchSource, count: int, end_epoch: Callable[[], object]
    ) -> Iterator[Batch]:
        """The batches that are left of so many, going on into the next epochs; whole in every rank.

        Of files, each rank reads its part of a batch and gets the rest from the others.

        Args:
            source: of the batches.
            count: batches in all.
            end_epoch: called after the last batch of each epoch, and after the last of all.
        """
        last = source.num_images % source.batch_size or source.batch_size
        while self.step < count:
            for batch in self._left(source, in_parts=last >= world()):
                yield _whole(batch)
                self.batch, self.step = self.batch + 1, self.step + 1
                if self.step == count:
                    end_epoch()
                    self._save_if_due(at_epoch_end=True)
                    return
                self._save_if_due()
            end_epoch()
            self.epoch, self.batch = self.epoch + 1, 0
            self._save_if_due(at_epoch_end=True)

    def _left(self, source: BatchSource, *, in_parts: bool) -> Iterator[Batch]:
        """What is left of the epoch, batch by batch; what else is read meanwhile is read whole.

        Args:
            source: of the batches.
            in_parts: read this rank's part of each, if the source can.
        """
        found: Iterator[Batch] | None = None
        while True:
            with _parted(source) if in_parts else nullcontext():
                found = self._unused(source) if found is None else found
                batch = next(found, None)
            if batch is None:
                return
            yield batch

    def _unused(self, source: BatchSource) -> Iterator[Batch]:
        """The epoch's batches without those that were used before the checkpoint."""
        if isinstance(source, MeteredBatches):
            found = source.epoch(self.epoch, skip=self.batch)
        else:
            found = source.epoch(self.epoch)
            for _ in islice(found, self.batch):
                pass
        if self._random is not None:  # as it was after the last step, whatever the loader drew
            set_global_random(self._random, self._device)
            self._random = None
        return found

    def _save_if_due(self, *, at_epoch_end: bool = False) -> None:
        checkpoint = self._checkpoint
        is_mine = checkpoint is not None and rank() == 0  # the others hold the same
        if checkpoint is None or not is_mine or not checkpoint.is_due(at_epoch_end=at_epoch_end):
            return
        checkpoint.save(
            {
                "at": [self.epoch, self.batch, self.step, self.is_over],
                "random": global_random(self._device),
                "parts": {name: part.state_dict() for name, part in self._parts.items()},
            }
        )

    def _load(self, state: State) -> None:
        for name, part in self._parts.items():
            part.load_state_dict(state["parts"][name])
        self.epoch, self.batch, self.step, self.is_over = state["at"]
        self._random = state["random"]
        set_global_random(state["random"], self._device)


@dataclass(frozen=True, eq=False)
class TensorState:
    """Tensors that a training changes, put back in place.

    Attributes:
        tensors: by name.
    """

    tensors: Mapping[str, Tensor]

    def state_dict(self) -> State:
        """The tensors, not copied."""
        return dict(self.tensors)

    def load_state_dict(self, state_dict: State) -> None:
        """Overwrite the tensors."""
        _overwrite(self.tensors, state_dict)


@dataclass(frozen=True, eq=False)
class ModuleState:
    """Parameters and buffers of a module, also those that its own state dict leaves out.

    Attributes:
        module: the network or the loss.
    """

    module: nn.Module

    def state_dict(self) -> State:
        """Parameters and buffers by name, not copied."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}

    def load_state_dict(self, state_dict: State) -> None:
        """Overwrite parameters and buffers."""
        _overwrite(self.state_dict(), state_dict)


@dataclass(frozen=True, eq=False)
class GeneratorState:
    """A generator that a training draws from.

    Attributes:
        rng: numpy's.
    """

    rng: np.random.Generator

    def state_dict(self) -> State:
        """The state of its bit generator."""
        return dict(self.rng.bit_generator.state)

    def load_state_dict(self, state_dict: State) -> None:
        """Go on from a state."""
        self.rng.bit_generator.state = state_dict


class Values(dict[str, Any]):
    """Numbers, lists and arrays that a training loop keeps, by name; a `Stateful` dictionary."""

    def state_dict(self) -> State:
        """The values."""
        return dict(self)

    def load_state_dict(self, state_dict: State) -> None:
        """Replace the values."""
        self.update(state_dict)


def _parted(source: BatchSource) -> AbstractContextManager[None]:
    """While it is open, a source that can reads this rank's part of each batch alone."""
    if world() > 1 and isinstance(source, Batches | MeteredBatches):
        return source.shared_out(rank(), world())
    return nullcontext()


def _whole(batch: Batch) -> Batch:
    """A batch of which all ranks have read a part."""
    if not isinstance(batch, PartOfBatch):
        return batch
    images, labels = batch
    return all_parts(images, batch.whole), all_parts(labels, batch.whole)


def _overwrite(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(state[name])
