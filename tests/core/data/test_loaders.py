"""Loaders and batches of every form are read for what they are, or refused in one line."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
)

import zoo
from tests.tiny_network import CLASSES, IMAGES, LABELS, loader, plain, pruned, refused, same_weights
from zoo.core.data import loaders
from zoo.core.data.loaders import LoaderBatches
from zoo.core.data.pairs import Targets, read_pair


def as_batches(form: Callable[[Tensor, Tensor], Any]) -> list[Any]:
    """A list of batches; not a DataLoader."""
    pairs = zip(IMAGES.split(8), LABELS.split(8), strict=True)
    return [form(images, labels) for images, labels in pairs]


Named = collections.namedtuple("Named", "image label path")

FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "pair": lambda images, labels: (images, labels),
    "list": lambda images, labels: [images, labels],
    "with paths": lambda images, labels: (images, labels, ["a.png"] * len(labels)),
    "named tuple": lambda images, labels: Named(images, labels, ["a.png"] * len(labels)),
    "dict": lambda images, labels: {"image": images, "label": labels, "path": ["a.png"]},
    "hugging face": lambda images, labels: {"pixel_values": images, "labels": labels},
    "mapping": lambda images, labels: collections.UserDict(input=images, target=labels),
    "numpy": lambda images, labels: (images.numpy(), labels.numpy()),
    "double": lambda images, labels: (images.double(), labels),
    "integers": lambda images, labels: (images, labels.to(torch.uint8)),
    "list of labels": lambda images, labels: (images, labels.tolist()),
    "column": lambda images, labels: (images, labels[:, None].int()),
    "one-hot integers": lambda images, labels: (images, F.one_hot(labels, CLASSES)),
    "one-hot": lambda images, labels: (images, F.one_hot(labels, CLASSES).float()),
    "with gradients": lambda images, labels: (images.clone().requires_grad_(), labels),
    "channels last": lambda images, labels: (
        images.contiguous(memory_format=torch.channels_last),
        labels,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_batch_is_read_as_the_pair_that_it_is(form: str) -> None:
    source = LoaderBatches(as_batches(FORMS[form]), dtype=torch.float32)
    source.expect(CLASSES, is_binary=False)
    for epoch in (0, 1):
        images, labels = map(torch.cat, zip(*source.epoch(epoch), strict=True))
        assert torch.equal(images, IMAGES) and images.dtype == torch.float32
        assert not images.requires_grad
        if form == "one-hot":
            labels = labels.argmax(1)
        assert torch.equal(labels, LABELS) and labels.dtype == torch.int64


@pytest.mark.parametrize("form", ["dict", "numpy", "with paths", "one-hot"])
def test_every_form_of_batch_prunes_to_the_same_network(form: str) -> None:
    data = as_batches(FORMS[form])
    result = pruned(train=data, validation=data)
    assert result.config == plain().config
    assert (result.val_top1, result.parent_val_top1) == (plain().val_top1, plain().parent_val_top1)
    other = plain().model.state_dict()
    for name, value in result.model.state_dict().items():
        # The loss of one-hot targets is the same sum in another order.
        assert torch.allclose(value, other[name], atol=1e-6)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Images one by one, without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(IMAGES, LABELS, strict=True))


class Measured(Stream):
    def __len__(self) -> int:
        return len(IMAGES)


class Whole(Dataset[tuple[Tensor, Tensor]]):
    """A set whose items are batches."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return IMAGES[8 * index : 8 * index + 8], LABELS[8 * index : 8 * index + 8]

    def __len__(self) -> int:
        return 4


class WholeStream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (Whole()[index] for index in range(4))


class Again:
    """Anything that can be iterated anew."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(as_batches(FORMS["pair"]))


LOADERS: dict[str, Callable[[], Any]] = {
    "stream": lambda: DataLoader(Stream(), batch_size=8),
    "stream with a length": lambda: DataLoader(Measured(), batch_size=8),
    "set of batches": lambda: DataLoader(Whole(), batch_size=None),
    "stream of batches": lambda: DataLoader(WholeStream(), batch_size=None),
    "batch sampler": lambda: DataLoader(
        TensorDataset(IMAGES, LABELS), batch_sampler=torch.arange(32).view(4, 8).tolist()
    ),
    "tuple of batches": lambda: tuple(as_batches(FORMS["pair"])),
    "iterable": Again,
}


@pytest.mark.parametrize("kind", ["iterable", "set of batches", "stream"])
def test_every_kind_of_loader_prunes_to_the_same_network(kind: str) -> None:
    result = pruned(train=LOADERS[kind](), validation=LOADERS[kind]())
    assert result.config == plain().config and same_weights(result.model, plain().model)
    images = {phase: spent.images for phase, spent in plain().spent.items()}
    assert {phase: spent.images for phase, spent in result.spent.items()} == images


@pytest.mark.parametrize("kind", LOADERS)
def test_every_kind_of_loader_knows_its_length(kind: str) -> None:
    source = LoaderBatches(LOADERS[kind]())
    assert (len(source), source.num_images, source.batch_size) == (4, 32, 8)
    for epoch in (0, 1):
        drawn = [labels for _, labels in source.epoch(epoch)]
        assert torch.equal(torch.cat(drawn), LABELS)


def test_a_loader_that_drops_its_last_batch_has_no_images_of_it() -> None:
    source = LoaderBatches(loader(IMAGES[:30], LABELS[:30], drop_last=True))
    assert (len(source), source.num_images) == (3, 24)


class Once(IterableDataset[tuple[Tensor, Tensor]]):
    """A set that hands out one generator."""

    def __init__(self) -> None:
        self.items = iter(list(zip(IMAGES, LABELS, strict=True)))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.items


class Boastful(Stream):
    def __len__(self) -> int:
        return 80


class Pictures(Dataset[tuple[Image.Image, int]]):
    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (8, 8)), 0

    def __len__(self) -> int:
        return 16


class Broken(Dataset[tuple[Tensor, int]]):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise ValueError("no such file")

    def __len__(self) -> int:
        return 16


class Uneven(Dataset[tuple[Tensor, int]]):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(3, 8 + index, 8), 0

    def __len__(self) -> int:
        return 16


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (iter(as_batches(FORMS["pair"])), "train_loader can be iterated once only"),
        ((pair for pair in as_batches(FORMS["pair"])), "not an iterator or generator"),
        (DataLoader(Once(), batch_size=8), "train_loader can be iterated once only"),
        ([], "train_loader yields no batch; its set is empty"),
        (loader(IMAGES[:0], LABELS[:0]), "train_loader yields no batch; its set is empty"),
        (loader(IMAGES[:3], LABELS[:3], drop_last=True), "yields no batch.*has 3 images.*size 8"),
        (loader(IMAGES[:1], LABELS[:1]), "train_loader yields one image"),
        (DataLoader(Stream(), batch_size=64, drop_last=True), "train_loader yields no batch"),
        (IMAGES, "train_loader is a Tensor, no loader"),
        (TensorDataset(IMAGES, LABELS), r"shape \(3, 8, 8\)|no loader; pass DataLoader"),
        (3, "train_loader is a int, no loader"),
        (DataLoader(Stream(), batch_size=None), r"shape \(3, 8, 8\); expected \(N, C, H, W\)"),
        (DataLoader(TensorDataset(IMAGES), batch_size=8), "a list of 1 with a Tensor first"),
        (DataLoader(IMAGES, batch_size=8), r"yields one Tensor of torch.float32, shape \(8, 3"),  # type: ignore[arg-type]
        (DataLoader(Pictures(), batch_size=8), "cannot be read: TypeError: .*must be a tensor"),
        (DataLoader(Uneven(), batch_size=8), "cannot be read: RuntimeError: .*the same shape"),
        (DataLoader(Broken(), batch_size=8), "first batch of train_loader .* no such file. Each"),
        ([([Image.new("RGB", (8, 8))], LABELS[:1])], "images of train_loader are a list of 1 with"),
        ([{"picture": IMAGES, "label": LABELS}], "keys picture, label; none of them is known"),
        ([{"image": IMAGES, "img": IMAGES, "label": LABELS}], "image and img may all hold"),
        ([{"image": IMAGES}], "none of them is known to hold the labels"),
        ([(LABELS, IMAGES)], r"images of train_loader have shape \(32,\)"),
        ([(IMAGES, LABELS[:5])], r"images \(32, 3, 8, 8\) with labels \(5,\)"),
        ([(IMAGES, torch.tensor(3))], r"with labels \(\)"),
        ([(IMAGES, ["cat"] * 32)], "labels of train_loader are a list of 32 with a str first"),
        ([((IMAGES * 50).to(torch.uint8), LABELS)], "images of train_loader are uint8"),
        ([(IMAGES * torch.nan, LABELS)], "images of train_loader hold NaN"),
        (
            [(IMAGES[:, :1], LABELS)],
            r"\(N, 1, 8, 8\); its first convolution, first, reads images of 3",
        ),
        ([(IMAGES.permute(0, 2, 3, 1), LABELS)], "put channels first"),
        ([(IMAGES, LABELS.float())], "labels of train_loader are float32, 0, 1, 2, ...;.*long"),
        ([(IMAGES, LABELS - 1)], "the label -1, and the network has 4 outputs: .* 0 to 3"),
        ([(IMAGES, LABELS + 4)], "the label 7, and the network has 4 outputs"),
        ([(IMAGES, torch.full((32,), -100))], "the label -100"),
        ([(IMAGES, torch.zeros(32, 8, 8, dtype=torch.long))], r"\(32, 8, 8\): a label for each"),
        (
            [(IMAGES, torch.ones(32, 4))],
            "no class probabilities: a row adds up to 4.*give your own, loss=",
        ),
        ([(IMAGES, torch.ones(32, 4).long())], "no class probabilities: a row adds up to 4"),
        ([(IMAGES, torch.full((32, 4), torch.nan))], "no class probabilities"),
        ([(IMAGES, torch.ones(32, 3) / 3)], r"\(32, 3\), and the network has 4 outputs"),
    ],
)
def test_a_training_loader_that_cannot_work_is_told_in_one_line(train: Any, message: str) -> None:
    refused(message, train=train)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_error_of_a_worker_process_is_told() -> None:
    refused("no such file. Each image", train=DataLoader(Broken(), batch_size=8, num_workers=1))


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ([], "val_loader yields no batch"),
        (iter([(IMAGES, LABELS)]), "val_loader can be iterated once only"),
        ([(IMAGES[:, :1], LABELS)], "first batch of val_loader does not go through Tiny in eval"),
        ([(IMAGES, LABELS.view(-1, 1, 1).expand(-1, 8, 8))], "labels of val_loader have shape"),
        ([(IMAGES, LABELS + 1)], "val_loader yields the label 4"),
        ([(IMAGES, LABELS.double())], "labels of val_loader are float64"),
        ([(IMAGES, torch.ones(32, 4) / 4)], "two classes of the same, highest probability"),
    ],
)
def test_a_validation_loader_that_cannot_work_is_told_in_one_line(
    validation: Any, message: str
) -> None:
    refused(message, validation=validation)


def test_a_label_out_of_range_is_told_in_any_batch() -> None:
    late = LABELS.clone()
    late[20] = 9
    with pytest.raises(ValueError, match="train_loader yields the label 9"):
        pruned(train=loader(labels=late), recipe=zoo.Recipe(epochs=1), method="l1_norm")
    with pytest.raises(ValueError, match="val_loader yields the label 9"):
        pruned(validation=loader(labels=late), method="l1_norm")


def test_a_length_that_is_not_true_is_told() -> None:
    with pytest.raises(ValueError, match="ended after 4 of 10 batches in epoch 0"):
        pruned(train=DataLoader(Boastful(), batch_size=8))


def test_a_stream_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(IterableDataset[tuple[Tensor, Tensor]]):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                yield IMAGES[0], LABELS[0]

    monkeypatch.setattr(loaders, "MOST_BATCHES", 20)
    refused("no length and yields more than 20 batches; .*__len__", train=DataLoader(Endless()))


class Shuffled(BatchSampler):
    """Batches in an order of their own, by the generator and the epoch that it was told."""

    def __init__(self, sampler: RandomSampler, generator: torch.Generator) -> None:
        super().__init__(sampler, 8, drop_last=False)
        self.generator, self.epoch = generator, -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        batches = list(super().__iter__())
        for place in torch.randperm(len(batches), generator=self.generator).tolist():
            yield batches[place]


Make = Callable[[torch.Generator, torch.Generator], DataLoader[tuple[Tensor, ...]]]
INDICES = TensorDataset(torch.arange(32.0).view(-1, 1, 1, 1), LABELS)

DRAWING: dict[str, Make] = {
    "sampler": lambda one, other: DataLoader(
        INDICES, 8, sampler=RandomSampler(INDICES, replacement=True, generator=one), generator=other
    ),
    "batch sampler": lambda one, _: DataLoader(
        INDICES, batch_sampler=BatchSampler(RandomSampler(INDICES, generator=one), 8, False)
    ),
    "batch sampler of its own": lambda one, other: DataLoader(
        INDICES, batch_sampler=Shuffled(RandomSampler(INDICES, generator=one), other)
    ),
}


@pytest.mark.parametrize("kind", DRAWING)
def test_images_depend_on_seed_and_epoch_and_the_generators_are_put_back(kind: str) -> None:
    def drawn(source: LoaderBatches, epoch: int) -> list[int]:
        return [int(image) for images, _ in source.epoch(epoch) for image in images]

    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    states = [generator.get_state() for generator in generators]
    made = DRAWING[kind](*generators)
    sources = [LoaderBatches(made, seed=seed) for seed in (0, 1)]
    first = drawn(sources[0], 1)
    assert first == drawn(sources[0], 1)
    assert first != drawn(sources[0], 0) and first != drawn(sources[1], 1)
    begun = sources[0].epoch(1)
    cut = [int(image) for image in next(begun)[0]]
    drawn(sources[1], 0)  # another pass over the same loader in between, as over held-out images
    assert cut + [int(image) for images, _ in begun for image in images] == first
    for generator, state in zip(generators, states, strict=True):
        assert torch.equal(generator.get_state(), state)


def test_a_batch_sampler_is_told_the_epoch() -> None:
    sampler = Shuffled(RandomSampler(INDICES), torch.Generator())
    source = LoaderBatches(DataLoader(INDICES, batch_sampler=sampler))
    list(source.epoch(3))
    assert sampler.epoch == 3


# --- labels and pairs, by themselves


def test_labels_of_every_integer_type_become_indices() -> None:
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool):
        read = Targets(classes=2).read(torch.tensor([0, 1, 1]).to(dtype))
        assert read.dtype == torch.int64 and read.tolist() == [0, 1, 1]


def test_numpy_arrays_are_read_whatever_their_strides() -> None:
    images = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)[:, ::-1]
    read, labels = read_pair((images, np.array([1, 0])), "it")
    assert torch.equal(read, torch.tensor(images.copy())) and labels.tolist() == [1, 0]
