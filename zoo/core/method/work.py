"""Where and how a pruning works: device, callbacks, and checkpoints of its trainings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

from zoo.core.errors import unknown_name
from zoo.core.method.problem import Problem
from zoo.core.method.pruner import Pruner
from zoo.core.method.told import shown, told
from zoo.core.progress import Tell
from zoo.core.training.checkpoint import Checkpoints, digest
from zoo.core.training.course import ModuleState
from zoo.core.training.events import EpochEvent, StepEvent, Watch

__all__ = ["WorkArguments", "check_work_arguments", "set_up"]


class WorkArguments(TypedDict, total=False):
    """Arguments of `zoo.prune` on how it works; docs/training.md shows them.

    Attributes:
        device: where to work, on a copy of the model; where the model is if None.
        on_step: called with a `StepEvent` after each update of a training: of the parent's copy
            that a search trains, of a supernet ("supernet"), of the pruned network ("finetune").
        on_epoch: called with an `EpochEvent` after each pass over the training images.
        checkpoint: folder from which trainings go on if the process was killed and the call is made
            again with the same arguments; removed from when the call returns. `Checkpoints` says
            how often they are written.
    """

    device: str | torch.device | None
    on_step: Callable[[StepEvent], object] | None
    on_epoch: Callable[[EpochEvent], object] | None
    checkpoint: str | Path | Checkpoints | None


def check_work_arguments(given: Mapping[str, object]) -> None:
    """Refuse arguments that are not there.

    Raises:
        ValueError: naming the first, and the nearest ones that are.
    """
    for name in given:
        if name not in WorkArguments.__annotations__:
            raise unknown_name("argument", name, WorkArguments.__annotations__)


def set_up(
    problem: Problem,
    pruner: Pruner,
    work: WorkArguments,
    tell: Tell,
    data: Mapping[str, Tensor],
    *facts: object,
) -> None:
    """Let a problem tell of its trainings, and keep them.

    Args:
        problem: its model is the one that is given.
        pruner: what is asked.
        work: the arguments.
        tell: shows progress.
        data: first batches, by name, by which other data are told.
        facts: what decides the trainings beside the problem and the pruner.
    """
    problem.watch = Watch(work.get("on_step"), work.get("on_epoch"), tell)
    kept = work.get("checkpoint")
    if kept is None:
        return
    if not isinstance(kept, Checkpoints):
        kept = Checkpoints(Path(kept))
    problem.checkpoints = kept.fresh(_origin(problem.model, data, problem, pruner, facts))


def _origin(
    model: nn.Module,
    data: Mapping[str, Tensor],
    problem: Problem,
    pruner: Pruner,
    facts: tuple[object, ...],
) -> str:
    """All that a call's trainings start from, as a text that is the same in another process."""
    given = [
        digest(ModuleState(model).state_dict()),
        digest(data),
        problem.method,
        shown(pruner),
        str(problem.budget),
        repr(problem.rules),
        problem.seed,
        *facts,
    ]
    return json.dumps(given, default=told, sort_keys=True)
