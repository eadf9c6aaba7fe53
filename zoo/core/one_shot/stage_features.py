"""What enters and leaves the stages of the fullnet: kept if it fits, else made anew in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.core.channels.config import SubnetConfig
from zoo.core.data.inputs import count_images, tensors_of
from zoo.core.method.problem import Problem
from zoo.core.supernet.stages import StageRunner, stage_costs
from zoo.core.supernet.supernet import CANDIDATE_BATCHES

__all__ = ["KeptFeatures", "StageFeatures", "StreamedFeatures", "stage_features"]

MOST_KEPT = 4 * 2**30
"""Bytes of the features that are kept for all stages together; with more, none are."""

MOST_TOGETHER = 32
"""Candidates that share a pass over streamed features; each holds the tensors of its stage."""


class StageFeatures(Protocol):
    """F_(k-1) and F_k of the fullnet, the same ones each time.

    Attributes:
        is_streamed: whether they are made anew each time, and charged.
    """

    is_streamed: bool

    @property
    def images(self) -> int:
        """Images that a candidate is scored with, those of its recalibration included."""

    def entering(self) -> Sequence[Any]:
        """F_(k-1) of training batches, for the batch-norm statistics."""

    def pairs(self) -> Iterable[tuple[Any, Any]]:
        """F_(k-1) and F_k of the batches of the search split."""


@dataclass(frozen=True, eq=False)
class KeptFeatures:
    """Features of a stage that were kept from one pass of the fullnet.

    Attributes:
        trained: F_(k-1) of training batches.
        searched: F_(k-1) and F_k of the batches of the search split.
    """

    trained: tuple[Any, ...]
    searched: tuple[tuple[Any, Any], ...]
    is_streamed = False

    @property
    def images(self) -> int:
        """Images of all batches."""
        return sum(map(count_images, (*self.trained, *(each for each, _ in self.searched))))

    def entering(self) -> Sequence[Any]:
        """Those of the training batches."""
        return self.trained

    def pairs(self) -> Iterable[tuple[Any, Any]]:
        """Those of the search split."""
        return self.searched


@dataclass(eq=False)
class StreamedFeatures:
    """Features of a stage, made anew by the fullnet up to there, batch after batch.

    What is held at once is F_(k-1) of the training batches, or one batch of the search split.
    However large that split is, nothing is held that grows with it.

    Attributes:
        problem: gives the batches, and the meter that is charged for every pass.
        runner: of the stages.
        index: of the stage.
        values: tensors of the fullnet's stages up to this one, recalibrated, by state-dict name.
        trained_images: images of the training batches.
        is_single: whether the search split comes in batches of one image.
    """

    problem: Problem
    runner: StageRunner
    index: int
    values: Sequence[Mapping[str, Tensor]]
    trained_images: int
    is_single: bool
    is_streamed = True
    _searched_images: int | None = None

    @property
    def images(self) -> int:
        """Images of all batches; the search split is counted as it is drawn."""
        if self._searched_images is None:
            raise RuntimeError("the search split was not drawn yet")
        return self.trained_images + self._searched_images

    def entering(self) -> Sequence[Any]:
        """Those of the training batches."""
        drawn = self.problem.data.train(CANDIDATE_BATCHES)
        return [self._through(images, self.index) for images, _ in drawn]

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """Those of the search split, one batch at a time."""
        count = 0
        for images, _ in self.problem.data.search():
            if count_images(images) == 1 and not self.is_single:
                continue
            entering = self._through(images, self.index)
            yield entering, self._stage(self.index, entering)
            count += count_images(images)
        self._searched_images = count

    def _through(self, images: Any, count: int) -> Any:
        """What the first stages make of a batch."""
        for index in range(count):
            images = self._stage(index, images)
        return images

    def _stage(self, index: int, entering: Any) -> Any:
        self.problem.meter.passes(count_images(entering), self._macs[index], backward=False)
        full = SubnetConfig.full()
        return self.runner.output(index, entering, full, self.values[index], training=False)

    @cached_property
    def _macs(self) -> list[int]:
        """Multiply-adds of each stage for one image."""
        space = self.problem.space
        return [stage_costs(space, stage).full_macs for stage in self.runner.stages]


def stage_features(
    problem: Problem, runner: StageRunner, weights: Mapping[str, Tensor]
) -> list[StageFeatures]:
    """The features of each stage; charged.

    The fullnet is recalibrated stage by stage, as any candidate is, so its own error is zero. If
    all features take `MOST_KEPT` bytes or less, it runs once and they are kept. Else those of the
    training batches before and behind one stage are the most that is ever held.

    Args:
        problem: gives batches and meter.
        runner: of the stages.
        weights: of the supernet, full-size, by state-dict name.
    """
    full = SubnetConfig.full()
    with torch.no_grad():
        train = [images for images, _ in problem.data.train(CANDIDATE_BATCHES)]
        n_train, n_search = sum(map(count_images, train)), problem.data.num_search
        problem.meter.passes(2 * n_train, problem.cost.full_macs, backward=False)
        values: list[Mapping[str, Tensor]] = []
        trained: list[tuple[Any, ...]] = []
        size = _bytes(train)
        for index, stage in enumerate(runner.stages):
            values.append(problem.supernet.recalibrated(full, train, weights, stage.modules))
            trained.append(tuple(train))
            train = [runner.output(index, x, full, values[-1], training=False) for x in train]
            size += _bytes(train)
            if size * (n_train + n_search) > MOST_KEPT * n_train:
                trained.clear()
        if trained:
            return _kept(problem, runner, values, trained)
    is_single = not any(count_images(images) > 1 for images, _ in problem.data.search())
    return [
        StreamedFeatures(problem, runner, index, values[: index + 1], n_train, is_single)
        for index in range(len(runner.stages))
    ]


def _kept(
    problem: Problem,
    runner: StageRunner,
    values: Sequence[Mapping[str, Tensor]],
    trained: Sequence[tuple[Any, ...]],
) -> list[StageFeatures]:
    search = [images for images, _ in problem.data.search()]
    # One image has no variance.
    search = [images for images in search if count_images(images) > 1] or search
    passes = sum(map(count_images, search))
    problem.meter.passes(passes, problem.cost.full_macs, backward=False)
    full, found = SubnetConfig.full(), list[StageFeatures]()
    for index, entering in enumerate(trained):
        leaving = [runner.output(index, x, full, values[index], training=False) for x in search]
        found.append(KeptFeatures(entering, tuple(zip(search, leaving, strict=True))))
        search = leaving
    return found


def _bytes(features: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors_of(features))
