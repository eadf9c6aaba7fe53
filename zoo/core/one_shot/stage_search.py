"""Scoring and searching single stages against the full network's features, in any process."""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import pickle
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.channels.config import SubnetConfig
from zoo.core.child_process import WorkerDied, Workers
from zoo.core.cost.budget import Budget
from zoo.core.data.inputs import count_images
from zoo.core.errors import InfeasibleBudget
from zoo.core.method.problem import Problem
from zoo.core.method.shared_search import shared_out
from zoo.core.one_shot.stage_features import (
    MOST_KEPT,
    MOST_TOGETHER,
    StageFeatures,
    stage_features,
)
from zoo.core.search.choice_table import State
from zoo.core.search.multiple_choice import skyband
from zoo.core.search.pareto import Archive, evolve_archive
from zoo.core.search.width_grid import PartialGrid, WidthGrid
from zoo.core.supernet.stages import Stage, StageRunner, free_names, stage_costs
from zoo.core.training.distill import output_error, relative_feature_error, soft_cross_entropy
from zoo.core.training.task import CLASSIFICATION, Task, compared_in, outputs_in

__all__ = [
    "JunctionWidths",
    "StageArchives",
    "StageScorer",
    "StageSearch",
    "StagedGrid",
    "check_processes",
    "report_search",
    "run_searches",
    "searched_stages",
    "stage_error",
    "stage_scorers",
    "summed_errors",
]


def stage_error(student: Any, teacher: Any, task: Task = CLASSIFICATION) -> Tensor:
    """Error of a stage's output against the fullnet's, a scalar; zero for equal outputs.

    For maps, shape (N, C, H, W), the squared error over the variance of the teacher's; for logits,
    shape (N, classes), the divergence from the teacher's classes in nats. Where a task has a loss
    of its own, any outputs are compared as maps are. No gradient reaches the teacher.
    """
    if not task.is_classification:
        return output_error(compared_in(student), compared_in(teacher))
    student, teacher = outputs_in(student), outputs_in(teacher)
    if student.ndim == 2:
        return soft_cross_entropy(student, teacher)
    return relative_feature_error(student, teacher)


JunctionWidths = tuple[int, ...]
"""For each junction, from the first, the ordinal of its width among those tried; 0 is full."""


@dataclass(frozen=True, eq=False)
class StagedGrid:
    """A grid of widths over a network cut into stages.

    Attributes:
        grid: of all groups.
        stages: as `cut_stages` returns them.
        is_junction_free: whether the groups at junctions may be narrowed.
    """

    grid: WidthGrid
    stages: tuple[Stage, ...]
    is_junction_free: bool

    @property
    def free(self) -> PartialGrid:
        """All groups that may be narrowed, the others full."""
        names = free_names(self.stages, self.is_junction_free)
        return PartialGrid(self.grid, self.grid.full, self._ordinals(names))

    def check_reach(self, budget: Budget) -> None:
        """Refuse a budget below the narrowest stages between junctions that keep their widths.

        Raises:
            InfeasibleBudget: with both numbers and the way out.
        """
        part = self.free
        smallest = int(part.costs(np.zeros_like(part.full)[None])[0])
        if smallest > budget.limit:
            raise InfeasibleBudget(
                f"budget {budget} is below {budget.format_cost(smallest)}, the "
                "narrowest stages between junctions that keep their widths; raise it, use fewer "
                "stages or junctions 'leading', or lower min_keep"
            )

    def inner(self, stage: int, base: np.ndarray) -> PartialGrid:
        """The inner groups of a stage, all others as in a state, shape (G,)."""
        return PartialGrid(self.grid, base, self._ordinals(self.stages[stage].inner))

    def junction_choices(self, count: int) -> dict[JunctionWidths, np.ndarray]:
        """The network at every choice of junction widths, shape (G,), all else full.

        Args:
            count: evenly spaced widths of a free junction, or all that its grid has; there is one
                choice if none is free.
        """
        junctions = [self._ordinals(stage.junction) for stage in self.stages[:-1]]
        counts = [
            min(count, 1 + int(self.grid.full[groups].max()))
            if self.is_junction_free and len(groups)
            else 1
            for groups in junctions
        ]
        bases = {}
        for chosen in product(*map(range, counts)):
            base = self.grid.full.copy()
            for at, groups, choices in zip(chosen, junctions, counts, strict=True):
                base[groups] = np.round(base[groups] * (1 - at / max(1, choices - 1)))
            bases[chosen] = base
        return bases

    def _ordinals(self, names: Sequence[str]) -> np.ndarray:
        found = [i for i, group in enumerate(self.grid.space.groups) if group.name in names]
        return np.array(found, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class StageArchives:
    """Archives of all stages at one choice of junction widths.

    Attributes:
        base: the network with these junctions and all else at full width, shape (G,).
        parts: the inner groups of each stage.
        archives: of each stage; costs are those of the base with that stage narrowed.
    """

    base: np.ndarray
    parts: tuple[PartialGrid, ...]
    archives: tuple[Archive, ...]

    def added_costs(self) -> list[np.ndarray]:
        """Cost that each archived state adds to the base, shape (n,) a stage; never positive."""
        pairs = zip(self.parts, self.archives, strict=True)
        return [archive.costs - int(part.costs(part.full[None])[0]) for part, archive in pairs]

    def assembled(self, picked: Sequence[int]) -> np.ndarray:
        """The base with one archived state of each stage, by ordinal, shape (G,)."""
        state = self.base.copy()
        for part, archive, at in zip(self.parts, self.archives, picked, strict=True):
            state[part.free] = archive.states[at]
        return state

    def error(self, picked: Sequence[int]) -> float:
        """The summed error of one archived state of each stage, by ordinal."""
        return sum(float(a.losses[at]) for a, at in zip(self.archives, picked, strict=True))


@dataclass(frozen=True, eq=False)
class StageScorer:
    """Error of one stage at any widths, against the fullnet's features.

    Attributes:
        runner: of the stages.
        index: of the stage.
        weights: full-size tensors by state-dict name.
        features: F_(k-1) and F_k.
        task: says how answers are compared.
    """

    runner: StageRunner
    index: int
    weights: Mapping[str, Tensor]
    features: StageFeatures
    task: Task = CLASSIFICATION

    def losses(self, configs: Sequence[SubnetConfig]) -> list[float]:
        """Mean errors over the search split, BatchNorm recalibrated; see `stage_error`."""
        together = MOST_TOGETHER if self.features.is_streamed else 1
        with torch.no_grad():
            parts = [configs[at : at + together] for at in range(0, len(configs), together)]
            return [loss for part in parts for loss in self._losses(part)]

    def _losses(self, configs: Sequence[SubnetConfig]) -> list[float]:
        """Errors of some configurations in one pass over the features."""
        runner, k = self.runner, self.index
        values = self._recalibrated(configs)
        totals, count = [0.0] * len(configs), 0
        for entering, leaving in self.features.pairs():
            images = count_images(entering)
            for place, (config, tensors) in enumerate(zip(configs, values, strict=True)):
                student = runner.output(k, entering, config, tensors, training=False)
                target = runner.narrowed(k + 1, leaving, config)
                totals[place] += images * float(stage_error(student, target, self.task))
            count += images
        return [total / count for total in totals]

    def _recalibrated(self, configs: Sequence[SubnetConfig]) -> list[dict[str, Tensor]]:
        runner, k = self.runner, self.index
        found, features = [], self.features.entering()
        for config in configs:
            narrow = (runner.narrowed(k, entering, config) for entering in features)
            modules = runner.stages[k].modules
            found.append(runner.supernet.recalibrated(config, narrow, self.weights, modules))
        return found

    def charge(self, problem: Problem, widths: np.ndarray, images: int | None = None) -> None:
        """Charge what scoring some configurations cost.

        Args:
            problem: gives the meter.
            widths: of the configurations, shape (n, G).
            images: that each was scored with; None for those of this process's features.
        """
        stage = self.runner.stages[self.index]
        macs = int(stage_costs(problem.space, stage).macs_of_widths(widths).sum())
        count = self.features.images if images is None else images
        problem.meter.passes(count, macs, backward=False)


def stage_scorers(
    problem: Problem, stages: Sequence[Stage], weights: Mapping[str, Tensor]
) -> list[StageScorer]:
    """A scorer for each stage, against a fullnet that is recalibrated as any candidate is.

    Args:
        problem: gives batches, supernet and meter.
        stages: as `cut_stages` returns them.
        weights: of the supernet, full-size, by state-dict name.
    """
    runner = StageRunner(problem.supernet, stages)
    found = stage_features(problem, runner, weights)
    return [
        StageScorer(runner, index, weights, features, problem.task)
        for index, features in enumerate(found)
    ]


def summed_errors(scorers: Sequence[StageScorer], configs: Sequence[SubnetConfig]) -> list[float]:
    """Errors of all stages together, of each configuration."""
    errors = [scorer.losses(configs) for scorer in scorers]
    return [sum(each) for each in zip(*errors, strict=True)]


@dataclass(frozen=True, eq=False)
class StageSearch:
    """The search of one stage between junctions of given widths.

    It needs nothing from outside, unless the features are streamed.

    Attributes:
        scorer: of the stage.
        part: the stage's inner groups, all others fixed.
        order: scores that nest narrower configurations in wider ones, by group name.
        evaluations: subnets scored.
        population: children of a generation.
        mutation: probability with which a group's width mutates.
        rng: all that is drawn comes from here.
    """

    scorer: StageScorer
    part: PartialGrid
    order: Mapping[str, np.ndarray]
    evaluations: int
    population: int
    mutation: float
    rng: np.random.Generator

    @property
    def stage(self) -> Stage:
        """What is searched."""
        return self.scorer.runner.stages[self.scorer.index]

    @property
    def is_streamed(self) -> bool:
        """Whether it needs the data."""
        return self.scorer.features.is_streamed

    def run(self) -> Archive:
        """Evolve the trade-offs between error and cost."""
        return evolve_archive(
            self.part,
            self._losses,
            self.rng,
            evaluations=self.evaluations,
            population=self.population,
            mutation=self.mutation,
        )

    def _losses(self, states: Sequence[State]) -> list[float]:
        whole = self.part.whole(np.array(states))
        return self.scorer.losses([self.part.grid.config(each, self.order) for each in whole])


def searched_stages(
    problem: Problem, tasks: Mapping[Any, StageSearch], workers: int
) -> list[tuple[Archive, int]]:
    """What each search found, and with how many images; ranks run some of the searches each.

    Args:
        problem: gives costs and meter.
        tasks: the searches, by any key.
        workers: see `run_searches`.
    """
    searches = list(tasks.values())
    macs = [stage_costs(problem.space, task.stage).full_macs for task in searches]

    def run(mine: Sequence[int]) -> list[tuple[Archive, int]]:
        chosen = [searches[place] for place in mine]
        found = run_searches(chosen, workers)
        images = [task.scorer.features.images for task in chosen]
        return list(zip(found, images, strict=True))

    return shared_out(problem, macs, run)


def check_processes(workers: int) -> None:
    """Refuse several processes where none can be started, before anything is trained.

    Raises:
        RuntimeError: in a daemon process, or while a script without the guard
            ``if __name__ == "__main__"`` is run anew by a process that it started.
    """
    if workers == 1:
        return
    if multiprocessing.current_process().daemon:
        raise RuntimeError(f"workers is {workers}, but a daemon process starts no others; use 1")
    multiprocessing.spawn.get_preparation_data("search")  # raises where the guard is missing


def run_searches(tasks: Sequence[StageSearch], workers: int) -> list[Archive]:
    """Run searches, in several processes if asked; results are the same for any number of them.

    With features that are streamed they run in this process, which has the data.

    Raises:
        RuntimeError: if a process ended without an answer; it says how.
    """
    is_streamed = any(task.is_streamed for task in tasks)
    if is_streamed and workers > 1:
        warnings.warn(
            f"the features of all stages take more than {MOST_KEPT / 2**30:g} GiB: they are made "
            f"anew in batches, and the stages searched in one process, not in {workers}",
            stacklevel=2,
        )
    if is_streamed or workers == 1 or len(tasks) < 2:
        return [task.run() for task in tasks]
    settle = partial(
        _calculate_as, torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    )
    pool = Workers(min(workers, len(tasks)), settle)
    try:
        # Packed here, since a pipe would share the memory of tensors instead of copying it.
        futures = [pool.submit(_run_packed, pickle.dumps(task)) for task in tasks]
        done = wait(futures, return_when=FIRST_EXCEPTION).done
        return [future.result() for future in futures if future in done]  # all, or one raises
    except WorkerDied as error:
        raise RuntimeError(
            f"a process that searched a stage ended without an answer: {error}; if the script has "
            'no guard `if __name__ == "__main__"`, add it, else use fewer workers, or 1'
        ) from error
    finally:
        pool.shutdown()


def _calculate_as(threads: int, is_deterministic: bool) -> None:
    """Calculate as the process that asks: sums may be split by threads."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(is_deterministic)


def _run_packed(packed: bytes) -> Archive:
    task: StageSearch = pickle.loads(packed)
    return task.run()


def report_search(
    problem: Problem, stage: Stage, task: StageSearch, archive: Archive, images: int
) -> None:
    """Charge a search and trace the trade-offs that it found.

    Args:
        problem: gives the meter.
        stage: that was searched.
        task: its search.
        archive: what it found.
        images: that each candidate was scored with.
    """
    widths = task.part.grid.widths_of(task.part.whole(archive.states))
    task.scorer.charge(problem, widths, images)
    front = skyband(archive.losses, archive.costs)
    problem.trace(
        "search_stages",
        stage=stage.output,
        evaluations=len(archive.losses),
        losses=archive.losses[front],
        costs=archive.costs[front],
    )
