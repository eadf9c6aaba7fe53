"""Work in a process that is killed, for tests that take it up again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch

from zoo.core.data.batches import Batch, BatchSource


class Killing:
    """Batches of a source; the process is killed by SIGKILL as one of them is asked for.

    Args:
        source: of the batches.
        at: ordinal of that batch over all epochs, from 0.
    """

    def __init__(self, source: BatchSource, at: int) -> None:
        self.source, self.left = source, at
        self.batch_size, self.num_images = source.batch_size, source.num_images

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, index: int) -> Iterator[Batch]:
        for batch in self.source.epoch(index):
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1
            yield batch


def was_killed(work: Callable[[], Any]) -> bool:
    """Do some work in a process of its own; tell whether that was killed by SIGKILL."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # the threads that earlier tests have started are not here
        try:
            work()
        finally:
            os._exit(1)  # an error shows as a process that was not killed
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
