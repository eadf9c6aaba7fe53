"""Named random streams, and global generators held still."""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["fixed_random", "search_seeds", "stream_generator", "stream_seed"]


def stream_seed(*names: int | str) -> int:
    """A seed in [0, 2**63) for the stream with these names; other names, independent stream."""
    text = "/".join(map(str, names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


@contextmanager
def fixed_random(*names: int | str) -> Iterator[None]:
    """Python's, numpy's and torch's global CPU generators at a fixed state, put back at the end."""
    seed = stream_seed(*names)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # it takes 32 bits
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset those of GPUs, too
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def stream_generator(*names: int | str) -> torch.Generator:
    """Return a CPU generator at the start of the stream with these names."""
    return torch.Generator().manual_seed(stream_seed(*names))


def search_seeds(seed: int, stream: str) -> np.random.SeedSequence:
    """Return the seeds of a named stream of a search.

    `stream_seed` would do as well, but published decisions were drawn from these.
    """
    return np.random.SeedSequence((seed, zlib.crc32(stream.encode())))
