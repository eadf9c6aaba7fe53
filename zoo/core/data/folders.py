"""Data sets in folders of images: check that they are there, and digest their content."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Container
from pathlib import Path

from zoo.core.data.files_in_memory import read_fashion

__all__ = ["check_folder", "files_digest", "is_from_files", "needed_path"]

_LOGGER = logging.getLogger(__name__)

IN_MEMORY = ("digits", "cluttered_digits")
FOLDERS = ("imagefolder", "imagenet")
FASHION = "fashion_mnist"

# The digest of a smaller set covers the content of its files; of a larger one, names and sizes.
DIGEST_BYTES = 256 * 2**20


def is_from_files(name: str) -> bool:
    """Whether a set is read from a folder, not made in memory."""
    return name not in IN_MEMORY


def files_digest(name: str, path: str | Path | None) -> str | None:
    """A digest that names the content of a set read from a folder of images.

    Two folders with the same digest hold the same images: names and sizes of all files count, and
    their content where they are less than 256 MiB together.

    Args:
        name: of the set.
        path: its folder.

    Of Fashion-MNIST it is that of the images and labels, however they are packed.

    Returns:
        16 hexadecimal digits; None for a set whose name tells its content: those made in memory,
        and CIFAR, whose files torchvision compares with their published checksums.

    Raises:
        FileNotFoundError: for a path that is missing or holds no images.
    """
    if name not in (*FOLDERS, FASHION):
        return None
    root = needed_path(name, None if path is None else Path(path).expanduser())
    if name == FASHION:
        parts = [array for part in ("train", "t10k") for array in read_fashion(root, part)]
        return hashlib.sha256(b"".join(each.numpy().tobytes() for each in parts)).hexdigest()[:16]
    files = [file for part in ("train", "val") for file in _image_files(root / part)]
    sizes = [file.stat().st_size for file in files]
    is_read = sum(sizes) < DIGEST_BYTES
    digest = hashlib.sha256()
    for file, size in zip(files, sizes, strict=True):
        digest.update(os.fsencode(file.relative_to(root).as_posix()) + b"\0%d\0" % size)
        if is_read:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _image_files(root: Path) -> list[Path]:
    """The images of a folder that timm would read, in the order of their names.

    Warns of images in other formats, which are left out.
    """
    from PIL import Image
    from timm.data.readers.img_extensions import get_img_extensions

    check_folder(root)
    files: dict[str, list[Path]] = defaultdict(list)
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            files[Path(name).suffix.lower()].append(Path(folder, name))
    read = get_img_extensions(as_set=True)
    others = sorted((Image.registered_extensions().keys() & files.keys()) - read)
    if others:
        _LOGGER.warning(
            "images left out below %s: %d (%s); what is read is %s",
            root, sum(len(files[each]) for each in others), ", ".join(others),
            ", ".join(sorted(read)),
        )  # fmt: skip
    return sorted(file for suffix in read for file in files[suffix])


def needed_path(name: str, path: Path | None, *, is_created: bool = False) -> Path:
    """The folder of a set.

    Args:
        name: of the set.
        path: as it was given.
        is_created: whether the caller will make it if it does not exist.

    Raises:
        FileNotFoundError: if none was given, or it does not exist.
    """
    if path is None:
        raise FileNotFoundError(f"{name} is read from files; give their folder: --data, or path=")
    if not path.exists() and not is_created:
        raise FileNotFoundError(
            f"{path} does not exist; give the folder that holds {name}: --data, or path="
        )
    return path


def check_folder(root: Path) -> None:
    """Refuse a folder without class folders, or with one that holds no image.

    Raises:
        FileNotFoundError: with the layout that was expected.
    """
    from timm.data.readers.img_extensions import get_img_extensions

    layout = f"expected {root}/<class name>/<image>"
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist; {layout}")
    suffixes = get_img_extensions(as_set=True)
    classes = sorted(each for each in root.iterdir() if each.is_dir() and each.name[0] != ".")
    empty = [each for each in classes if not _holds_image(each, suffixes)]
    if len(empty) == len(classes):
        raise FileNotFoundError(f"{root} holds no images; {layout}")
    if empty:  # timm would leave the class out
        *others, last = sorted(suffixes)
        raise FileNotFoundError(
            f"{empty[0]} holds no {', '.join(others)} or {last}; put the images of the class "
            "there, or remove the folder"
        )


def _holds_image(folder: Path, suffixes: Container[str]) -> bool:
    """Whether there is an image in a folder or below it."""
    return any(
        Path(name).suffix.lower() in suffixes
        for _, _, names in os.walk(folder, followlinks=True)
        for name in names
    )
