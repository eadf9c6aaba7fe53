"""Images of files in RGB; one that cannot be read is an error that names it, never another image.

timm's own dataset takes the next image in place of one that it cannot read, so that a test split
would be counted on other images, and a training split could draw from the search split.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from zoo.core.errors import said

__all__ = ["FilePixels", "UnreadableImage", "read_rgb", "size_of"]

# Of Pillow's modes, those of more than 8 bits a channel, which `convert` cuts off at 255.
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")

# What Pillow's decoders raise for damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class UnreadableImage(ValueError):
    """An image file is damaged, gone, or holds no bytes that fit; the message names the file."""

    def __init__(self, told: str) -> None:
        if told.startswith("Caught "):  # a loader's process hands on its traceback, made to a text
            told = told.strip().rsplit("\n", 1)[-1].partition(f"{type(self).__name__}: ")[2]
        super().__init__(told)


@dataclass(frozen=True, eq=False)
class FilePixels(Dataset[tuple[Tensor, int]]):
    """Images of files, decoded and transformed each time they are read, and their labels.

    Attributes:
        samples: paths of images, and their labels.
        transform: makes a tensor of an RGB image.
    """

    samples: tuple[tuple[str, int], ...]
    transform: Callable[[Image.Image], Tensor]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        return self.transform(read_rgb(path)), label


def read_rgb(path: str) -> Image.Image:
    """The image of a file in RGB; of an animation the first frame.

    Raises:
        UnreadableImage: if it is damaged or gone, or has more than 8 bits a channel.
    """
    with _opened(path) as image:
        if image.mode in _DEEP:
            raise UnreadableImage(
                f"{path} has more than 8 bits a channel (mode {image.mode}), which would be cut "
                "off; convert it to 8 bits"
            )
        return image.convert("RGB")


def size_of(path: str) -> tuple[int, int]:
    """Width and height of an image in pixels, from the head of its file.

    Raises:
        UnreadableImage: if it is damaged or gone.
    """
    with _opened(path) as image:
        return image.size


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Lend an image that is decoded in the block."""
    try:
        with Image.open(path) as image:
            yield image
    except UnreadableImage:
        raise
    except _DAMAGED as error:
        # Pillow and the system name the file themselves, or not.
        reason = said(error).replace(f" {path!r}", "").replace(f": {path!r}", "")
        raise UnreadableImage(
            f"{path} cannot be read as an image ({reason}); mend it or remove it"
        ) from error
