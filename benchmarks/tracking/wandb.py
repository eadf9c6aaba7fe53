"""Runs in Weights & Biases, as its own environment says: WANDB_MODE=offline keeps files only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from benchmarks.tracking.tracker import Settings

__all__ = ["start"]


class _Run:
    def __init__(self, run: Any) -> None:  # Any: the package may be missing when types are checked
        self._run = run
        self._known: set[str] = set()

    def log(self, values: Mapping[str, float], step: int) -> None:
        # Its own steps never go back, and each training counts its own.
        for phase in {name.partition("/")[0] for name in values}:
            mine = {n: v for n, v in values.items() if n.partition("/")[0] == phase}
            if phase not in self._known:
                self._known.add(phase)
                self._run.define_metric(f"{phase}/step")
                self._run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")
            self._run.log({**mine, f"{phase}/step": step})

    def close(self, results: Mapping[str, float]) -> None:
        self._run.summary.update(dict(results))
        self._run.finish()


def start(folder: Path, project: str, run: str, settings: Settings) -> _Run:
    """Begin a run of a project."""
    place = folder / "wandb"
    place.mkdir(parents=True, exist_ok=True)
    return _Run(
        wandb.init(
            project=project.replace("/", "-"),
            name=run,
            config=dict(settings),
            dir=str(place),
            reinit="create_new",
        )
    )
