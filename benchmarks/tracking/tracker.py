"""What a tracker of experiments is asked for, and which there are.

Each tracker is one small module that is imported when it is asked for; its package is an extra.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

__all__ = ["TRACKERS", "Settings", "Tracker", "open_tracker", "require_tracker"]

TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")
"""Names of the trackers, of their modules here, of their packages and of the extras."""

Settings = Mapping[str, str | float]
"""What a run was asked for, flat."""


class Tracker(Protocol):
    """One run in a tracker."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by name, such as `finetune/loss`, of an update or epoch."""

    def close(self, results: Mapping[str, float]) -> None:
        """End the run with the numbers it came to."""


def require_tracker(name: str) -> str:
    """The name of a tracker that can be used.

    Raises:
        ValueError: if there is no such tracker, or its package is not installed.
    """
    if name not in TRACKERS:
        from benchmarks.records.strict import suggest  # the command's help does without pydantic

        raise ValueError(f"unknown tracker {name!r}; {suggest(name, TRACKERS)}")
    if importlib.util.find_spec(name) is None:
        raise ValueError(
            f"--track {name} needs the package {name}: pip install {name} "
            f"(or pip install -e '.[{name}]')"
        )
    return name


def open_tracker(name: str, folder: Path, *, project: str, run: str, settings: Settings) -> Tracker:
    """Begin a run.

    Args:
        name: of the tracker.
        folder: where a tracker that keeps files keeps them, unless its own settings say where.
        project: that runs are grouped under, such as a suite.
        run: name of the run.
        settings: what was asked for.
    """
    return _Guarded(name, folder, _plain(project), _plain(run), settings)


class _Guarded:
    """A run that is told of what went wrong in the tracker, and goes on without it.

    Its server may be gone, its disk full; a training of hours must not end of that.
    """

    def __init__(self, name: str, folder: Path, project: str, run: str, settings: Settings) -> None:
        self._name = name
        self._tracker: Tracker | None = None
        with self._guarded():
            self._tracker = _module(name).start(folder, project, run, settings)

    def log(self, values: Mapping[str, float], step: int) -> None:
        with self._guarded():
            if self._tracker is not None:
                self._tracker.log(values, step)

    def close(self, results: Mapping[str, float]) -> None:
        with self._guarded():
            if self._tracker is not None:
                self._tracker.close(results)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # foreign code and foreign servers: whatever they raise
            self._tracker = None
            warnings.warn(
                f"{self._name} is told no more of this run: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=4,
            )


def _module(name: str) -> Any:  # Any: a module, whose package may be missing
    return importlib.import_module(f"benchmarks.tracking.{name}")


def _plain(name: str) -> str:
    """A name that is one for a folder, too."""
    return re.sub(r"[^\w.=-]", "_", name)[:120].lstrip(".") or "run"
