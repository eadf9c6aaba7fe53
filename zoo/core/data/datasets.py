"""Named sets with a search split held out; what a method sees of them is in `metered`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.core.data.batches import Augment, ImageTensors, Sample, crop_and_flip, shift
from zoo.core.data.decoding import FilePixels
from zoo.core.data.digits import cluttered_digits, digits, glyph_indices
from zoo.core.data.files_in_memory import are_small_and_alike, decoded, read_fashion
from zoo.core.data.folders import check_folder, needed_path
from zoo.core.data.image_files import DecodedOnce, ImageFiles, Origin
from zoo.core.data.sizes import (
    CLUTTERED_SEARCH,
    CLUTTERED_TEST,
    CLUTTERED_TRAIN,
    check_sizes,
    split_sizes,
)
from zoo.core.data.splitting import hold_out, test_positions
from zoo.core.errors import unknown_name

__all__ = ["Outline", "Splits", "check_classes", "list_datasets", "load_splits", "outline"]

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)
FASHION_MEAN, FASHION_STD = (0.219,), (0.332,)  # of its training images, padded to 32 x 32
DIGITS_MEAN, DIGITS_STD = (0.3, 0.3, 0.3), (0.35, 0.35, 0.35)
CLUTTERED_MEAN, CLUTTERED_STD = (0.55, 0.55, 0.55), (0.22, 0.22, 0.22)


@dataclass(frozen=True)
class Splits:
    """A named set in three parts.

    Attributes:
        name: as given to `load_splits`.
        train: training images; an `ImageTensors` carries its augmentation.
        search: held out of the training images, for decisions; not augmented.
        test: the set's own test images; only the protocol may use them, through `TestSplit`.
        num_classes: number of labels.
        input_size: (C, H, W) of one image.
        loaders: processes that read images of files for one who draws batches.
    """

    name: str
    train: Dataset[Sample]
    search: Dataset[Sample]
    test: Dataset[Sample]
    num_classes: int
    input_size: tuple[int, int, int]
    loaders: int = 0


@dataclass(frozen=True)
class Outline:
    """What is known of a set before its files are there.

    Attributes:
        num_classes: number of labels.
        input_size: (C, H, W) of one image.
        num_train: training images that are left after the search split was taken.
    """

    num_classes: int
    input_size: tuple[int, int, int]
    num_train: int


@dataclass(frozen=True)
class _Request:
    """The arguments of `load_splits`, for the loader of one set."""

    name: str
    path: Path | None
    seed: int
    image_size: int | None
    train_size: int | None
    search_size: int | None
    test_size: int | None
    is_download_allowed: bool
    cache: Path | None


def list_datasets() -> tuple[str, ...]:
    """Names that `load_splits` knows, sorted."""
    return tuple(sorted(_LOADERS))


def load_splits(
    name: str,
    *,
    path: str | Path | None = None,
    seed: int = 0,
    image_size: int | None = None,
    train_size: int | None = None,
    search_size: int | None = None,
    test_size: int | None = None,
    download: bool = False,
    cache: Path | None = None,
) -> Splits:
    """A named set, with a search split held out of its training images.

    Args:
        name: `"digits"` and `"cluttered_digits"` are made in memory; `"cifar10"` and `"cifar100"`
            are torchvision's files; `"fashion_mnist"` are its four files, packed or not;
            `"imagefolder"` and `"imagenet"` are folders `train` and `val` with one folder of
            images per class. Where all images of an `"imagefolder"` are of one small size, they are
            decoded once and kept in memory, and augmented as CIFAR is.
        path: where the files are; not for the sets made in memory.
        seed: of the search split; the images and the test split do not depend on it.
        image_size: side in pixels; the set's own if None. CIFAR and Fashion-MNIST have 32 only.
        train_size: training images, after the search split was taken; all if None.
        search_size: images of the search split, a tenth of the training images if None.
        test_size: test images; all if None.
        download: let torchvision fetch CIFAR into `path`.
        cache: folder of decoded search and test splits that are too large for memory; without one
            these are decoded each time they are read.

    Returns:
        The three parts; the classes of the search split are as frequent as in the training images.

    Raises:
        ValueError: for an unknown name, or sizes that the set cannot give.
        FileNotFoundError: for a path that is missing or holds no images.
    """
    if name not in _LOADERS:
        raise unknown_name("dataset", name, _LOADERS)
    check_sizes(name, image_size, train_size, search_size, test_size)
    chosen = None if path is None else Path(path).expanduser()
    sizes = (image_size, train_size, search_size, test_size)
    request = _Request(name, chosen, seed, *sizes, download, cache)
    return _LOADERS[name](request)


def outline(
    name: str,
    *,
    image_size: int | None = None,
    train_size: int | None = None,
    search_size: int | None = None,
    test_size: int | None = None,
) -> Outline | None:
    """The shape of what `load_splits` would return for the same arguments; reads no file.

    Args:
        name: as `load_splits` takes it, and the sizes too.
        image_size: side in pixels.
        train_size: training images.
        search_size: images of the search split.
        test_size: test images; only checked.

    Returns:
        None for `"imagefolder"`, of which nothing is known without its files.

    Raises:
        ValueError: for an unknown name, or sizes that the set cannot give.
    """
    if name not in _LOADERS:
        raise unknown_name("dataset", name, _LOADERS)
    check_sizes(name, image_size, train_size, search_size, test_size)
    if name not in _CLASSES:
        return None
    side = image_size or (224 if name == "imagenet" else 32)
    if name == "cluttered_digits":
        return Outline(_CLASSES[name], (3, side, side), train_size or CLUTTERED_TRAIN)
    there = _IMAGES.get(name) or len(glyph_indices("train"))
    n_train, _ = split_sizes(there, search_size, train_size)
    channels = 1 if name == "fashion_mnist" else 3
    return Outline(_CLASSES[name], (channels, side, side), n_train)


def check_classes(dataset: str, num_classes: int, head: int) -> None:
    """Refuse a classifier that has another number of outputs than the set has classes.

    Args:
        dataset: name of the set, for the message.
        num_classes: of the set.
        head: outputs of the classifier.

    Raises:
        ValueError: if the two numbers differ.
    """
    if num_classes != head:
        raise ValueError(
            f"{dataset} has {num_classes} classes and the model's head has {head} outputs; create "
            f"the model with num_classes={num_classes} or call reset_classifier({num_classes})"
        )


def _load_digits(request: _Request) -> Splits:
    size = request.image_size or 32
    tensors = [
        ImageTensors(*digits(part, size), DIGITS_MEAN, DIGITS_STD) for part in ("train", "test")
    ]
    return _split_tensors(request, tensors[0], tensors[1], shift)


def _load_cluttered(request: _Request) -> Splits:
    size = request.image_size or 32
    n_search = request.search_size or CLUTTERED_SEARCH
    n_train = request.train_size or CLUTTERED_TRAIN
    pool = cluttered_digits("train", n_train + n_search, size)
    test = cluttered_digits("test", request.test_size or CLUTTERED_TEST, size)
    return _split_tensors(
        replace(request, train_size=n_train, search_size=n_search),
        ImageTensors(*pool, CLUTTERED_MEAN, CLUTTERED_STD),
        ImageTensors(*test, CLUTTERED_MEAN, CLUTTERED_STD),
        shift,
    )


def _load_cifar(request: _Request) -> Splits:
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[request.name]
    path = needed_path(request.name, request.path, is_created=request.is_download_allowed)
    parts = []
    for is_train in (True, False):
        try:
            part = kind(str(path), train=is_train, download=request.is_download_allowed)
        except RuntimeError as error:
            raise FileNotFoundError(
                f"{path} holds no {request.name} (looked for {kind.base_folder}/); point path at "
                "the folder that torchvision filled, or pass download=True"
            ) from error
        except OSError as error:
            raise FileNotFoundError(
                f"{request.name} could not be downloaded into {path} ({error}); fetch "
                f"{kind.url} elsewhere and unpack it there"
            ) from error
        images = torch.from_numpy(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)))
        parts.append(ImageTensors(images, torch.tensor(part.targets), CIFAR_MEAN, CIFAR_STD))
    return _split_tensors(request, parts[0], parts[1], crop_and_flip)


def _load_fashion(request: _Request) -> Splits:
    path = needed_path(request.name, request.path)
    pool, test = (
        ImageTensors(*read_fashion(path, part), FASHION_MEAN, FASHION_STD)
        for part in ("train", "t10k")
    )
    return _split_tensors(request, pool, test, crop_and_flip)


def _split_tensors(
    request: _Request,
    pool: ImageTensors,
    test: ImageTensors,
    augment: Augment,
    num_classes: int | None = None,
) -> Splits:
    train, search = hold_out(
        pool.labels.numpy(),
        seed=request.seed,
        search_size=request.search_size,
        train_size=request.train_size,
    )
    _, channels, height, width = pool.images.shape
    return Splits(
        name=request.name,
        train=pool.select(train, augment),
        search=pool.select(search, None),
        test=test.select(test_positions(test.labels.numpy(), request.test_size), None),
        num_classes=num_classes or _CLASSES[request.name],
        input_size=(channels, height, width),
    )


def _load_folders(request: _Request) -> Splits:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_dataset

    path = needed_path(request.name, request.path)
    size = request.image_size or 224
    pools = []
    for folder in ("train", "val"):
        check_folder(path / folder)
        pools.append(create_dataset("", root=str(path / folder)))
    pool, test_pool = pools
    classes, test_classes = (each.reader.class_to_idx for each in pools)
    if classes != test_classes:
        other = sorted(set(classes) ^ set(test_classes))
        raise ValueError(f"train and val under {path} differ in their classes: {other[:5]}")
    if len(classes) < 2:
        raise ValueError(f"{path} holds one class, {next(iter(classes))!r}; it takes two or more")
    samples = [each.reader.samples for each in pools]
    if all(are_small_and_alike([file for file, _ in each], size) for each in samples):
        tensors, test = (
            ImageTensors(*decoded(each, size), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
            for each in samples
        )
        return _split_tensors(request, tensors, test, crop_and_flip, len(classes))
    labels, test_labels = (np.array([label for _, label in each]) for each in samples)
    train, search = hold_out(
        labels, seed=request.seed, search_size=request.search_size, train_size=request.train_size
    )
    tested = test_positions(test_labels, request.test_size)
    return Splits(
        name=request.name,
        train=_image_files(pool, train, size, is_augmented=True),
        search=_decoded_once(request, pool, search, size, f"chosen by seed {request.seed}"),
        test=_decoded_once(request, test_pool, tested, size, "of the test split"),
        num_classes=len(classes),
        input_size=(3, size, size),
    )


def _image_files(pool: Any, chosen: np.ndarray, size: int, *, is_augmented: bool) -> ImageFiles:
    """Some of the images that timm reads, transformed all but for the normalisation."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    samples = tuple(pool.reader.samples[place] for place in chosen)
    pixels = FilePixels(samples, _transform(size, is_augmented=is_augmented))
    return ImageFiles(pixels, (3, size, size), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def _decoded_once(
    request: _Request, pool: Any, chosen: np.ndarray, size: int, told: str
) -> DecodedOnce:
    """Some of the images that timm reads, not augmented, for who reads them again and again."""
    root, transform = Path(pool.reader.root).resolve(), _transform(size, is_augmented=False)
    split = f"{root}, {len(chosen)} images {told}, {transform}"
    paths = tuple(str(pool.reader.samples[place][0]) for place in chosen)
    files = _image_files(pool, chosen, size, is_augmented=False)
    return DecodedOnce(files, Origin(" ".join(split.split()), paths), request.cache)


def _transform(size: int, *, is_augmented: bool) -> Callable[[Any], Tensor]:
    """What timm does to an image up to its bytes, uint8, shape (3, size, size)."""
    from timm.data import create_transform

    made: Callable[[Any], Tensor] = create_transform(
        (3, size, size), is_training=is_augmented, hflip=0.5, normalize=False
    )
    return made


_CLASSES = {
    "digits": 10,
    "cluttered_digits": 10,
    "cifar10": 10,
    "cifar100": 100,
    "fashion_mnist": 10,
    "imagenet": 1_000,
}

# Published numbers of training images, for `outline`, which reads no file.
_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "fashion_mnist": 60_000, "imagenet": 1_281_167}

_LOADERS: dict[str, Callable[[_Request], Splits]] = {
    "digits": _load_digits,
    "cluttered_digits": _load_cluttered,
    "cifar10": _load_cifar,
    "cifar100": _load_cifar,
    "fashion_mnist": _load_fashion,
    "imagefolder": _load_folders,
    "imagenet": _load_folders,
}
