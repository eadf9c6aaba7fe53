"""Keep Python's collector of circular garbage from walking through everything while we allocate."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collector_paused"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """Collect no circular garbage while the context is open; what nobody holds is freed as ever.

    A trace makes some 100,000 small objects, which lets the collector run hundreds of times, over
    all objects of torch, too. Nearly all of them stay, so it finds nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
