"""CUDA graphs of the pretended device: operators are recorded, and replayed on the same memory.

As on CUDA, nothing that is recorded has run afterwards, a replay reads and writes the memory that
the recording named and runs no Python, and the host may not wait while it records.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

__all__ = ["OPEN", "SYNC_MODE", "Graph", "Stream", "permit_wait", "recorded", "stream"]

OPEN: list[Graph] = []
"""The graph that records, if one does."""

SYNC_MODE: list[str | int] = [0]
"""What `torch.cuda.set_sync_debug_mode` was given last."""


class Graph:
    """Stands for `torch.cuda.CUDAGraph`.

    Attributes:
        counts: where a replay is counted as one launch.
    """

    counts: Counter[str] = Counter()

    def __init__(self) -> None:
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def keep(self, given: Any, named: Any) -> None:
        """Keep what lies in memory before an operator runs, to put it back."""
        for leaf in tree_leaves((given, named)):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))

    def add(self, func: Any, given: Any, named: Any, out: Any) -> None:
        """Record an operator that has run."""
        if not func.is_view:
            self._calls.append((func, given, named, out))

    def put_back(self) -> None:
        """Undo what ran while it recorded."""
        for storage, kept in self._before.values():
            storage.copy_(kept)

    def replay(self) -> None:
        """Run the operators again, into the memory that their results have."""
        self.counts["launch"] += 1
        with torch.no_grad():
            for func, given, named, out in self._calls:
                again = func(*given, **named)
                for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


@contextlib.contextmanager
def recorded(graph: Graph, **_: Any) -> Iterator[None]:
    """Stands for `torch.cuda.graph`."""
    random = torch.get_rng_state()
    OPEN.append(graph)
    try:
        yield
    finally:
        OPEN.pop()
        graph.put_back()
        torch.set_rng_state(random)


def permit_wait() -> None:
    """Refuse a wait of the host where CUDA does."""
    if OPEN:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
    if SYNC_MODE[0] in (2, "error"):
        raise RuntimeError("called a synchronizing CUDA operation")


class Stream:
    """Stands for `torch.cuda.Stream`; everything runs in one order here."""

    def __init__(self, *_: Any) -> None:
        pass

    def wait_stream(self, stream: Stream) -> None:
        """Wait for another one, which has ended."""


@contextlib.contextmanager
def stream(_: Stream) -> Iterator[None]:
    """Stands for `torch.cuda.stream`."""
    yield
