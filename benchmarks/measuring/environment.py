"""What a record says about where it ran; nothing that names a machine, a folder or a person."""

import functools
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.records.runtime import Environment
from zoo.core.cost.measure_latency import cpu_model
from zoo.core.training.ranks import world

__all__ = ["capture"]


def capture(workers: int, device: str = "cuda") -> Environment:
    """The environment of this process.

    Args:
        workers: how many processes run cells beside each other.
        device: a torch device; of a machine with several GPUs the one that is named, else the
            current one.
    """
    commit, is_dirty = _checkout()
    gpu, driver = _gpu(device if device.startswith("cuda") else "cuda")
    return Environment(
        python=platform.python_version(),
        torch=version("torch"),
        timm=version("timm"),
        numpy=version("numpy"),
        cuda=torch.version.cuda if gpu else None,
        driver=driver,
        gpu=gpu,
        cpu=cpu_model(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        workers=workers,
        ranks=world(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        commit=commit,
        dirty=is_dirty,
        system=f"{platform.system()} {platform.machine()}",
        instructions=torch.backends.cpu.get_cpu_capability(),
        cudnn=_cudnn() if gpu else None,
    )


@functools.cache
def _gpu(device: str) -> tuple[str | None, str | None]:
    """Name and driver version of a GPU, or nothing on a machine without."""
    if not torch.cuda.is_available():
        return None, None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = (_output(query) or "").splitlines()
    return torch.cuda.get_device_name(device), lines[0].strip() if lines else None


def _cudnn() -> int | None:
    version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return version


@functools.cache
def _checkout() -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout that this file lies in; unknown when installed."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = _output([*git, "rev-parse", "HEAD"])
    if commit is None or _output([*git, "ls-files", "--error-unmatch", "__init__.py"]) is None:
        return None, None
    changes = _output([*git, "status", "--porcelain", "--untracked-files=no"])
    return commit, None if changes is None else bool(changes)


def _output(command: list[str]) -> str | None:
    """Standard output of a command, stripped; None if it cannot run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
