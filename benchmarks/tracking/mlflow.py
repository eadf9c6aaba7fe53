"""Runs in MLflow: at MLFLOW_TRACKING_URI, else in a database of files among the results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow

from benchmarks.tracking.tracker import Settings

__all__ = ["start"]


class _Run:
    def __init__(self, client: Any, run_id: str) -> None:  # Any: the package has no types here
        self._client = client
        self._id = run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self, results: Mapping[str, float]) -> None:
        self.log(results, 0)
        self._client.set_terminated(self._id)


def start(folder: Path, project: str, run: str, settings: Settings) -> _Run:
    """Begin a run of an experiment that has the project's name."""
    place = folder / "mlflow"
    place.mkdir(parents=True, exist_ok=True)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(place / 'mlflow.db').resolve()}"
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(project)
    if found is not None:
        experiment = found.experiment_id
    else:
        artifacts = None if "MLFLOW_TRACKING_URI" in os.environ else place.resolve().as_uri()
        experiment = client.create_experiment(project, artifact_location=artifacts)
    run_id = client.create_run(experiment, run_name=run).info.run_id
    for name, value in settings.items():
        client.log_param(run_id, name, value)
    return _Run(client, run_id)
