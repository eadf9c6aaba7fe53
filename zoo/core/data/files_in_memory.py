"""Small images from files, decoded once and kept as bytes."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zoo.core.data.decoding import read_rgb, size_of

__all__ = ["are_small_and_alike", "decoded", "read_fashion"]

# Sides in pixels up to which a folder of images is kept in memory, and bytes that it may take.
MOST_PIXELS = 64
MOST_BYTES = 2 * 2**30

# Of idx files: unsigned bytes in one dimension, and in three.
_LABELS_MAGIC, _IMAGES_MAGIC = 0x801, 0x803
_FASHION_SIDE, _PADDED_SIDE = 28, 32


def are_small_and_alike(files: Sequence[str], side: int) -> bool:
    """Whether all images are squares of a small side; reads their headers alone.

    Args:
        files: paths of images.
        side: in pixels.

    Raises:
        UnreadableImage: if one is damaged or gone.
    """
    if side > MOST_PIXELS or 3 * len(files) * side**2 > MOST_BYTES:
        return False
    return all(size_of(file) == (side, side) for file in files)  # most others end with the first


def decoded(samples: Sequence[tuple[str, int]], side: int) -> tuple[Tensor, Tensor]:
    """Images, uint8 of shape (N, 3, side, side), and labels, int64 of shape (N,).

    Args:
        samples: paths of images of that side, and their labels.
        side: in pixels.

    Raises:
        UnreadableImage: if one is damaged or gone, or has more than 8 bits a channel.
    """
    images = np.empty((len(samples), 3, side, side), dtype=np.uint8)
    for place, (file, _) in enumerate(samples):
        images[place] = np.asarray(read_rgb(file)).transpose(2, 0, 1)
    labels = torch.tensor([label for _, label in samples], dtype=torch.long)
    return torch.from_numpy(images), labels


def read_fashion(folder: Path, part: Literal["train", "t10k"]) -> tuple[Tensor, Tensor]:
    """One part of Fashion-MNIST, padded with zeros to 32 x 32.

    Args:
        folder: holds the four files as they are published, packed with gzip or not, or as
            torchvision lays them out, in `FashionMNIST/raw`.
        part: training or test images.

    Returns:
        Images, uint8 of shape (N, 1, 32, 32), and labels, int64 of shape (N,).

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if one is not what its name says.
    """
    pixels = _idx(folder, f"{part}-images-idx3-ubyte", _IMAGES_MAGIC)
    labels = _idx(folder, f"{part}-labels-idx1-ubyte", _LABELS_MAGIC)
    if pixels.shape[1:] != (_FASHION_SIDE, _FASHION_SIDE) or len(pixels) != len(labels):
        raise ValueError(
            f"{folder}: {part} has images {pixels.shape} and labels {labels.shape}; expected "
            f"(N, {_FASHION_SIDE}, {_FASHION_SIDE}) and (N,)"
        )
    margin = (_PADDED_SIDE - _FASHION_SIDE) // 2
    padded = np.pad(pixels, ((0, 0), (margin, margin), (margin, margin)))
    return torch.from_numpy(padded[:, None]), torch.from_numpy(labels.astype(np.int64))


def _idx(folder: Path, name: str, magic: int) -> np.ndarray:
    """The numbers of an idx file, uint8."""
    places = [folder, folder / "raw", folder / "FashionMNIST" / "raw"]
    named = (place / f"{name}{end}" for place in places for end in ("", ".gz"))
    found = next((path for path in named if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{folder} holds no {name} or {name}.gz; fashion_mnist needs the four files of "
            "https://github.com/zalandoresearch/fashion-mnist (Debian: the package "
            "dataset-fashion-mnist puts them into /usr/share/datasets/fashion-mnist)"
        )
    try:
        opened = gzip.open if found.suffix == ".gz" else open
        with opened(found, "rb") as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise ValueError(f"{found} is damaged ({error}); fetch it again") from error
    dimensions = magic & 0xFF
    head = np.frombuffer(content[: 4 + 4 * dimensions], dtype=">u4")
    shape = tuple(int(size) for size in head[1:])
    body = np.frombuffer(content, dtype=np.uint8, offset=min(len(content), 4 + 4 * dimensions))
    if len(head) != 1 + dimensions or head[0] != magic or body.size != np.prod(shape):
        raise ValueError(f"{found} is no idx file of {dimensions} dimensions; fetch it again")
    return body.reshape(shape)
