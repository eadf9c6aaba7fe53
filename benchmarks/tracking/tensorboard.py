"""Runs as event files for TensorBoard: `tensorboard --logdir results/tracking/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from benchmarks.tracking.tracker import Settings

__all__ = ["start"]


class _Run:
    def __init__(self, folder: Path, settings: Settings) -> None:
        self._settings = dict(settings)
        self._writer = SummaryWriter(str(folder))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, results: Mapping[str, float]) -> None:
        self._writer.add_hparams(self._settings, dict(results), run_name=".")
        self._writer.close()


def start(folder: Path, project: str, run: str, settings: Settings) -> _Run:
    """Begin a run in a folder of its own."""
    return _Run(folder / "tensorboard" / project / run, settings)
