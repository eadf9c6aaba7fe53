"""What `test_torchrun` runs as one of several ranks.

RANK=0 WORLD_SIZE=2 ... python tests/benchmarks/running/in_ranks.py NAME [ARGUMENT ...]
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks.cli import app
from benchmarks.running import torchrun
from benchmarks.running.torchrun import run_in_ranks, together
from zoo.core.training.ranks import rank, sum_over_ranks, world

GRACE_SECONDS = 2.0


def seen() -> tuple[int, float]:
    """Ranks that run this, and the sum over them of 1 and 2 and so on."""
    return world(), float(sum_over_ranks(torch.tensor(1.0 + rank())))


def fails(mine: int) -> str:
    """Fails in one rank, while the others wait for it."""
    if rank() == mine:
        raise OSError("the disk is full")
    return str(float(sum_over_ranks(torch.ones(1))))


def fails_alike() -> None:
    raise OSError(f"number {rank()}")


def timed(mine: str) -> None:
    """Let one rank fail; says how long it takes until the others have given up."""
    began = time.monotonic()
    real = torchrun._Team.end

    def end(team: torchrun._Team, status: int) -> None:
        real(team, status)
        sys.stderr.write(f"ended after {time.monotonic() - began:.1f} s\n")
        sys.stderr.flush()

    torchrun._Team.end = end  # type: ignore[method-assign]
    together(fails, int(mine))


def dies() -> None:
    if rank() == 1:
        os._exit(9)
    sum_over_ranks(torch.ones(1))


def told() -> None:
    """Functions, and what they raise, in all ranks."""
    assert (world(), rank()) == (1, 0)  # rank 0 is alone between two tasks
    assert together(seen) == (2, 3.0)
    for _ in range(2):  # the same failure in all ranks ends nothing
        try:
            together(fails_alike)
        except OSError as error:
            assert str(error) == "number 0"
    assert together(seen) == (2, 3.0)
    sys.exit(3)


def commands(folder: str) -> None:
    """Several command lines, each as it would be run alone, without reports; their statuses."""
    with patch("benchmarks.cli.write_report"):
        _each(folder)


def _each(folder: str) -> None:
    for number, line in enumerate(Path(folder, "lines").read_text().splitlines()):
        try:
            app(line.split())
        except SystemExit as ended:
            status = str(ended.code or 0)
        except ValueError as error:
            status = str(error)
        Path(folder, f"status{number}").write_text(status)


WORK = {
    "told": told,
    "commands": commands,
    "fails": timed,
    "dies": lambda: together(dies),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    torchrun._GRACE_SECONDS = GRACE_SECONDS
    warnings.simplefilter("error")
    run_in_ranks(lambda: WORK[sys.argv[1]](*sys.argv[2:]))
