"""Whether a process may take another task on its GPU."""

from __future__ import annotations

import torch

from benchmarks.records.record import SETTLED, Record

__all__ = ["is_gpu_sound"]


def is_gpu_sound(answer: object) -> bool:
    """In a worker: whether its GPU is as if the task that gave this answer had not been.

    A task that failed may have left a broken context, in which all that follows fails as well. Of
    one that ended well the memory is given back.

    Args:
        answer: of a function of `benchmarks.running.tasks`.

    Raises:
        RuntimeError: by a context that is broken.
    """
    is_good = answer.status in SETTLED if isinstance(answer, Record) else answer is None
    if is_good and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    return is_good
