"""How many processes read images of files changes nothing but the speed."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from zoo.core.data.batches import Batch, Batches, Sample


class Drawn(Dataset[Sample]):
    """Images that are drawn anew each time from global generators, as transforms do."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Sample:
        return index + torch.rand(1, 2, 2) + float(np.random.rand()), index


def reading(workers: int) -> Batches:
    return Batches(Drawn(), 4, seed=3, shuffle=True, workers=workers)


def same(found: Iterator[Batch], wanted: Iterator[Batch]) -> bool:
    pairs = list(zip(found, wanted, strict=True))
    assert len(pairs) > 0
    return all(torch.equal(a, x) and torch.equal(b, y) for (a, b), (x, y) in pairs)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_images_are_the_same_for_any_number_of_processes(workers: int) -> None:
    batches = reading(workers)
    for epoch in (0, 1, 0):
        assert same(batches.epoch(epoch), reading(0).epoch(epoch))
    assert not same(batches.epoch(0), batches.epoch(1))  # two at once, each its own
    first = list(islice(batches.epoch(2), 2))  # given up halfway
    assert same(iter(first), islice(reading(0).epoch(2), 2))
    assert same(batches.epoch(1), reading(0).epoch(1))


def test_processes_last_over_epochs() -> None:
    batches = reading(1)
    seen = set()
    for epoch in range(2):
        list(batches.epoch(epoch))
        assert batches._reader is not None
        seen |= {process.pid for process in batches._reader[0]._iterator._workers}
    assert len(seen) == 1
