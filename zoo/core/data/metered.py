"""What a method may see of a data set, each image charged when it is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain, count, islice

from torch.utils.data import Dataset

from zoo.core.data.batches import Batch, Batches, BatchSource, PartOfBatch, Sample
from zoo.core.data.inputs import count_images
from zoo.core.meter import Meter

__all__ = ["MeteredBatches", "MeteredData", "TestSplit"]


class MeteredBatches:
    """Batches that charge the meter for each image drawn.

    Args:
        source: where the batches come from.
        meter: charged in the phase that is open when a batch is drawn.
        macs_per_image: of a forward pass that is charged with each image; 0 where whoever draws
            the batches charges passes.
    """

    def __init__(self, source: BatchSource, meter: Meter, *, macs_per_image: int = 0) -> None:
        self._source = source
        self._meter = meter
        self._macs_per_image = macs_per_image
        self.batch_size = source.batch_size
        self.num_images = source.num_images

    def __len__(self) -> int:
        return len(self._source)

    def epoch(self, index: int, skip: int = 0) -> Iterator[Batch]:
        """The source's batches of that epoch.

        Args:
            index: of the epoch.
            skip: batches that were charged before: they are drawn at once, and thrown away.
        """
        batches = self._source.epoch(index)
        for _ in islice(batches, skip):
            pass
        return self._charged(batches)

    def shared_out(self, rank: int, ranks: int) -> AbstractContextManager[None]:
        """While it is open, the source reads a rank's part of each batch, if it can."""
        if isinstance(self._source, Batches | MeteredBatches):
            return self._source.shared_out(rank, ranks)
        return nullcontext()

    def _charged(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            count = batch.whole if isinstance(batch, PartOfBatch) else count_images(batch[0])
            self._meter.images(count)
            self._meter.passes(count, self._macs_per_image, backward=False)
            yield batch


class MeteredData:
    """The data that a method may see; the test split cannot be reached from here.

    Args:
        train: training batches.
        search: batches of the split that is held out for decisions.
        meter: charged for every image.
    """

    def __init__(self, train: BatchSource, search: BatchSource, meter: Meter) -> None:
        self.training = MeteredBatches(train, meter)
        self.searching = MeteredBatches(search, meter)
        self.batch_size = train.batch_size
        self.num_train = train.num_images
        self.num_search = search.num_images

    def train(self, n_batches: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """Training batches.

        Args:
            n_batches: how many, going on into the next epochs; one epoch if None.
            epoch: where to begin.

        Returns:
            Images, shape (N, C, H, W), and labels, shape (N,), charged as they are drawn.
        """
        if n_batches is None:
            return self.training.epoch(epoch)
        epochs = map(self.training.epoch, count(epoch))
        return islice(chain.from_iterable(epochs), n_batches)  # drawn, and charged, one by one

    def search(self) -> Iterator[Batch]:
        """One pass over the search split, in a fixed order, as `train` returns batches."""
        return self.searching.epoch(0)


@dataclass
class TestSplit:
    """The test split; it opens once.

    Attributes:
        dataset_once: the split, until it is opened.
    """

    __test__ = False  # not a test case, for pytest

    dataset_once: Dataset[Sample] | None = field(repr=False)

    def open(self) -> Dataset[Sample]:
        """The split.

        Raises:
            RuntimeError: the second time.
        """
        if self.dataset_once is None:
            raise RuntimeError("the test split was opened before; a run reads it once, at the end")
        dataset, self.dataset_once = self.dataset_once, None
        return dataset
