"""What a training tells while it runs, and whom."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import Diverged
from zoo.core.progress import Tell
from zoo.core.training.checkpoint import State

__all__ = ["READ_EVERY", "EpochEvent", "LossReader", "StepEvent", "Watch"]

READ_EVERY = 20
"""Updates between two looks at the loss, which wait for the device."""

DIVERGED_RATIO = 1_000.0
"""A loss so many times the first, or so many nats where the first is below 1, does not recover."""


@dataclass(frozen=True)
class StepEvent:
    """One update of a training.

    Attributes:
        phase: what is trained: "baseline" (the parent), "supernet", "finetune", ...
        step, steps: updates done, and in all.
        epoch, epochs: passes over the training images, the running one included, and in all.
        loss: of this update, in nats for cross-entropy.
    """

    phase: str
    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float


@dataclass(frozen=True)
class EpochEvent:
    """One pass over the training images.

    Attributes:
        phase: as in `StepEvent`.
        epoch, epochs: passes done, and in all; early stopping may end before.
        step, steps: updates done, and in all.
        loss: mean over the pass.
        score: of the network on held-out images; None unless the recipe has `patience`.
        best_epoch: the pass with the best score up to now; None without scores.
    """

    phase: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    score: float | None = None
    best_epoch: int | None = None


@dataclass(frozen=True)
class Watch:
    """Who is told of trainings. An exception of theirs ends the training and is passed on.

    Attributes:
        on_step: called after updates, whose losses are then read at once; on a GPU that waits.
        on_epoch: called after every pass over the training images.
        tell: shows progress.
        step_every: updates between two calls of `on_step`.
    """

    on_step: Callable[[StepEvent], object] | None = None
    on_epoch: Callable[[EpochEvent], object] | None = None
    tell: Tell | None = None
    step_every: int = 1

    @property
    def read_every(self) -> int:
        """Updates between two looks at the loss."""
        return READ_EVERY if self.on_step is None else self.step_every


_DOING = {
    "baseline": "training the parent",
    "supernet": "training for the search",
    "finetune": "fine-tuning",
    "finetune_own": "fine-tuning its own way",
}


class LossReader:
    """Reads losses some steps at a time, tells them, and stops a training that diverges.

    Args:
        phase: what is trained.
        steps: in all.
        per_epoch: steps in a pass over the training images.
        watch: who is told.
        diverged: a loss so many times the first ends the training.

    Attributes:
        means: loss of each epoch that has ended.
    """

    def __init__(
        self,
        phase: str,
        steps: int,
        per_epoch: int,
        watch: Watch,
        *,
        diverged: float = DIVERGED_RATIO,
    ) -> None:
        self.phase = phase
        self.steps = steps
        self.per_epoch = max(1, per_epoch)
        self.watch = watch
        self.diverged = diverged
        self.means: list[float] = []
        self._done = 0
        self._first: float | None = None
        self._unread: list[Tensor] = []
        self._epoch: list[float] = []
        self._divergence_hint: Callable[[], str] = str

    def add(self, loss: Tensor, divergence_hint: Callable[[], str] = str) -> None:
        """Take the loss of a step, a scalar.

        Args:
            loss: detached.
            divergence_hint: gives half a sentence on what may make it diverge, and the remedy.

        Raises:
            Diverged: when a loss is NaN, infinite or a thousand times the first.
        """
        self._unread.append(loss)
        self._divergence_hint = divergence_hint
        if len(self._unread) == self.watch.read_every:
            self._read()

    def end_epoch(self) -> float | None:
        """The mean loss of the epoch, which ends here; None if no loss was told in it."""
        self._read()
        if not self._epoch:
            return None
        mean = math.fsum(self._epoch) / len(self._epoch)
        self._epoch = []
        self.means.append(mean)
        return mean

    def tell_epoch(self, score: float | None = None, best_epoch: int | None = None) -> None:
        """Tell of the epoch that has ended."""
        if self.watch.on_epoch is None:
            return
        event = EpochEvent(
            self.phase,
            len(self.means),
            self._epochs,
            self._done,
            self.steps,
            self.means[-1],
            score,
            best_epoch,
        )
        self.watch.on_epoch(event)

    def state_dict(self) -> State:
        """The losses so far; those on the device are read first."""
        self._read()
        return {
            "done": self._done,
            "first": self._first,
            "epoch": list(self._epoch),
            "means": list(self.means),
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Put the losses back."""
        self._done, self._first = state_dict["done"], state_dict["first"]
        self._epoch, self.means = list(state_dict["epoch"]), list(state_dict["means"])

    @property
    def _epochs(self) -> int:
        return -(-self.steps // self.per_epoch)

    def _read(self) -> None:
        if not self._unread:
            return
        values: list[Any] = torch.stack(self._unread).tolist()
        self._unread = []
        for value in values:
            self._done += 1
            self._check(value)
        self._epoch += values
        on_step, tell = self.watch.on_step, self.watch.tell
        if on_step is not None:
            epoch = len(self.means) + 1
            on_step(StepEvent(self.phase, self._done, self.steps, epoch, self._epochs, values[-1]))
        if tell is not None:
            doing = _DOING.get(self.phase, self.phase)
            tell(f"{doing}, loss {values[-1]:.3f}", self._done, self.steps)

    def _check(self, value: float) -> None:
        if self._first is None and math.isfinite(value):
            self._first = value
        limit = self.diverged * max(1.0, self._first or 0.0)
        if not math.isfinite(value) or value > limit:
            way_out = "lower the learning rate, add warm-up epochs or clip the gradient"
            if not math.isfinite(value):
                way_out += ", and look for NaN in the images and targets of later batches"
            raise Diverged(
                f"training loss {value} at step {self._done} of {self.steps}; "
                f"{self._divergence_hint() or way_out}"
            )
