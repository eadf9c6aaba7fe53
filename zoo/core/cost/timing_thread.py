"""Run timings in a fresh thread with a fixed thread count and denormals flushed.

`torch.set_flush_denormal` holds for the calling thread alone, and the threads among which an
operator is divided are started once and then kept. So a switch set after the first divided operator
reaches one thread of many, and the others go on being slow with denormal numbers. A thread that is
new starts helpers of its own, which inherit the switch. Whether they did is measured, not assumed:
it depends on the operating system and on the OpenMP that torch was built with.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["flushing_share", "in_quiet_thread"]

_GRAIN = 65_536
"""Elements for each thread: twice the least that torch gives one, so that it divides the work."""
_DENORMAL_BITS = 1_000

T = TypeVar("T")


def in_quiet_thread(call: Callable[[bool], T], *, threads: int, flush: bool = True) -> T:
    """Return what a call returns when it runs in a new thread that was prepared for timing.

    Args:
        call: called with whether every thread flushes denormal numbers.
        threads: among which an operator is divided.
        flush: whether to ask for flushing.
    """
    before = torch.get_num_threads()

    def prepared() -> T:
        torch.set_num_threads(threads)
        try:
            torch.set_flush_denormal(flush)
            return call(flushing_share(threads) == 1.0)
        finally:
            torch.set_num_threads(before)  # other new threads would take it over

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(prepared).result()


def flushing_share(threads: int) -> float:
    """Share of the numbers of a divided operator that are flushed, 1 if every thread does it."""
    bits = torch.full((threads * _GRAIN,), _DENORMAL_BITS, dtype=torch.int32)
    product = bits.view(torch.float32).mul(1.0).view(torch.int32)  # a flushed one has no bits left
    return float(product.eq(0).double().mean())
