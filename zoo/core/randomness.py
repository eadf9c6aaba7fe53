"""Named random streams, and global generators held still."""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = [
    "fixed_random",
    "global_random",
    "search_seeds",
    "set_global_random",
    "stream_generator",
    "stream_seed",
]


def stream_seed(*names: int | str) -> int:
    """A seed in [0, 2**63) for the stream with these names; other names, independent stream."""
    text = "/".join(map(str, names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


@contextmanager
def fixed_random(*names: int | str, device: torch.device | None = None) -> Iterator[None]:
    """Python's, numpy's and torch's global generators at a fixed state, put back at the end.

    Args:
        names: of the stream that they start.
        device: a GPU whose generator is held, too; None or a CPU for none.
    """
    seed = stream_seed(*names)
    before = global_random(device)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # it takes 32 bits
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset those of GPUs, too
    if device is not None and "cuda" in before:
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    try:
        yield
    finally:
        set_global_random(before, device)


# Any: the states are the libraries' own.
def global_random(device: torch.device | None = None) -> dict[str, Any]:
    """State of the global generators of Python, numpy and torch.

    Args:
        device: a GPU whose generator is looked at, too; None or a CPU for none.
    """
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if device is not None and device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_global_random(state: dict[str, Any], device: torch.device | None = None) -> None:
    """Put back what `global_random` returned, with the same device."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and device is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def stream_generator(*names: int | str) -> torch.Generator:
    """Return a CPU generator at the start of the stream with these names."""
    return torch.Generator().manual_seed(stream_seed(*names))


def search_seeds(seed: int, stream: str) -> np.random.SeedSequence:
    """Return the seeds of a named stream of a search.

    `stream_seed` would do as well, but published decisions were drawn from these.
    """
    return np.random.SeedSequence((seed, zlib.crc32(stream.encode())))
