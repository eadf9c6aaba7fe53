"""Early stopping: the epoch that scores best on held-out images, and an end once none is better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from zoo.core.training.checkpoint import State
from zoo.core.training.course import ModuleState
from zoo.core.training.ranks import decided

__all__ = ["BestEpoch", "Direction", "Validation"]

Direction = Literal["max", "min"]


@dataclass
class Validation:
    """How a training is judged between epochs, and what came of it.

    Attributes:
        score: of the network as it would be returned, on held-out images, never those of a test.
        direction: whether a higher or a lower score is better.
        scores: of each epoch; filled in by the training.
        best_epoch: the epoch whose weights were kept, counted from 1; None before the first.
    """

    score: Callable[[nn.Module], float]
    direction: Direction = "max"
    scores: list[float] = field(default_factory=list)
    best_epoch: int | None = None


class BestEpoch:
    """Scores a network after each epoch, and keeps its weights where they score best.

    Of equal scores the first counts; a NaN is worse than any number.

    Args:
        network: what is scored, and put back to its best: the network, or its moving average.
        validation: how to score.
        patience: epochs without a better one after which the training ends.
    """

    def __init__(self, network: nn.Module, validation: Validation, patience: int) -> None:
        self._network = network
        self.validation = validation
        self._patience = patience
        self._best: dict[str, Tensor] = {}
        validation.scores, validation.best_epoch = [], None

    def judge(self) -> bool:
        """Score the network after an epoch; returns whether the training is to end."""
        validation = self.validation
        score = validation.score(self._network)  # in every rank, so that all charge it
        validation.scores.append(decided(lambda: score))
        epoch = len(validation.scores)
        if validation.best_epoch is None or self._is_better(epoch, validation.best_epoch):
            validation.best_epoch = epoch
            state = ModuleState(self._network).state_dict()
            self._best = {name: tensor.detach().clone() for name, tensor in state.items()}
        return epoch - validation.best_epoch >= self._patience

    def restore(self) -> None:
        """Put the best epoch's weights into the network."""
        ModuleState(self._network).load_state_dict(self._best)

    def state_dict(self) -> State:
        """Scores, and the best epoch with its weights."""
        validation = self.validation
        return {
            "scores": list(validation.scores),
            "best_epoch": validation.best_epoch,
            "best": self._best,
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Put them back."""
        self.validation.scores = list(state_dict["scores"])
        self.validation.best_epoch = state_dict["best_epoch"]
        own = ModuleState(self._network).state_dict()
        self._best = {name: each.to(own[name].device) for name, each in state_dict["best"].items()}

    def _is_better(self, epoch: int, best: int) -> bool:
        new, old = (self.validation.scores[number - 1] for number in (epoch, best))
        if math.isnan(new) or math.isnan(old):
            return math.isnan(old) and not math.isnan(new)
        return new > old if self.validation.direction == "max" else new < old
