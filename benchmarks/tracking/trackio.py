"""Runs in Trackio, whose files lie where its own environment says: TRACKIO_DIR."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trackio

from benchmarks.tracking.tracker import Settings

__all__ = ["start"]


class _Run:
    def __init__(self, run: Any) -> None:  # Any: the package may be missing when types are checked
        self._run = run

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, results: Mapping[str, float]) -> None:
        self._run.log(dict(results), step=0)
        trackio.finish()


def start(folder: Path, project: str, run: str, settings: Settings) -> _Run:
    """Begin a run of a project."""
    del folder
    name = project.replace("/", "-")
    return _Run(trackio.init(project=name, name=run, config=dict(settings), embed=False))
