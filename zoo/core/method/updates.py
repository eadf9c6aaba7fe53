"""The updates of a search's own training: batches in order, told, and kept if they are cut."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import Tensor

from zoo.core.data.batches import Batch
from zoo.core.method.problem import Problem
from zoo.core.training.checkpoint import State, Stateful, digest
from zoo.core.training.course import Course, ModuleState
from zoo.core.training.events import LossReader

__all__ = ["Updates"]


class Updates:
    """Iterates over training batches, one for each update, going on into the next epochs.

    What the loop changes must be in its parts: where the problem keeps checkpoints, and this very
    training was cut, they are put back and the batches that were used are left out. What the loop
    traces and spends is kept beside them.

    Args:
        problem: gives data, meter and checkpoints, and knows who is told.
        steps: updates in all.
        parts: what an update changes, by name.
        facts: what decides the training beside parent, data and seed; JSON values.
    """

    def __init__(
        self, problem: Problem, steps: int, parts: Mapping[str, Stateful], **facts: object
    ) -> None:
        self._problem = problem
        self._steps = steps
        source = problem.data.training
        phase = problem.meter.open_phase or "training"
        # Methods judge their losses themselves; here they are only told.
        self._losses = LossReader(phase, steps, len(source), problem.watch, diverged=math.inf)
        checkpoint = None
        if problem.checkpoints is not None:
            checkpoint = problem.checkpoints.of(
                phase,
                steps=steps,
                network=digest(ModuleState(problem.model).state_dict()),
                batches=[source.batch_size, source.num_images, len(source)],
                device=problem.meter.device.type,
                **facts,
            )
        kept: dict[str, Stateful] = {
            "losses": self._losses,
            "meter": problem.meter,
            "trace": _Rows(problem.trace_rows),
            **{f"own {name}": part for name, part in parts.items()},
        }
        self._course = Course(checkpoint, kept, problem.meter.device)

    def __iter__(self) -> Iterator[Batch]:
        """Images, shape (N, C, H, W), and labels, shape (N,), charged as they are drawn."""
        return self._course.steps(self._problem.data.training, self._steps, self._end_epoch)

    @property
    def done(self) -> int:
        """Updates that were made before the one that the last batch is for."""
        return self._course.step

    def tell(self, loss: Tensor) -> None:
        """Tell the loss of an update, a scalar without gradients."""
        self._losses.add(loss)

    def _end_epoch(self) -> None:
        if self._losses.end_epoch() is not None:
            self._losses.tell_epoch()


class _Rows:
    """Trace rows that a training adds."""

    def __init__(self, rows: list[dict[str, object]]) -> None:
        self._rows = rows
        self._since = len(rows)

    def state_dict(self) -> State:
        return {"rows": self._rows[self._since :]}

    def load_state_dict(self, state_dict: State) -> None:
        self._rows[self._since :] = state_dict["rows"]
