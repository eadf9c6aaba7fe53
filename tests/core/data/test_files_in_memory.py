"""Small images from files: read as they are, kept as bytes, and told by name when damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.core.data.batches import ImageTensors
from zoo.core.data.datasets import load_splits, outline
from zoo.core.data.files_in_memory import read_fashion
from zoo.core.data.folders import files_digest

COUNTS = {"train": 40, "t10k": 20}


def write_idx(path: Path, numbers: np.ndarray, *, packed: bool) -> None:
    magic = 0x800 + numbers.ndim
    head = b"".join(int(n).to_bytes(4, "big") for n in (magic, *numbers.shape))
    content = head + numbers.astype(np.uint8).tobytes()
    if packed:
        Path(f"{path}.gz").write_bytes(gzip.compress(content, mtime=0))
    else:
        path.write_bytes(content)


def fashion(folder: Path, *, packed: bool = True) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A set of the published form, with fewer images."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {}
    for seed, (part, count) in enumerate(COUNTS.items()):
        rng = np.random.default_rng(seed)
        pixels, labels = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        write_idx(folder / f"{part}-images-idx3-ubyte", pixels, packed=packed)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels, packed=packed)
        parts[part] = pixels.astype(np.uint8), labels
    return parts


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("inner", ["", "raw", "FashionMNIST/raw"])
def test_images_are_padded_and_labels_kept(packed: bool, inner: str, tmp_path: Path) -> None:
    parts = fashion(tmp_path / inner, packed=packed)
    for part, (pixels, labels) in parts.items():
        images, found = read_fashion(tmp_path, part)  # type: ignore[arg-type]
        assert (images.dtype, tuple(images.shape)) == (torch.uint8, (COUNTS[part], 1, 32, 32))
        np.testing.assert_array_equal(images[:, 0, 2:-2, 2:-2], pixels)
        assert int(images.sum()) == int(pixels.sum())  # nothing but zeros around
        np.testing.assert_array_equal(found, labels)


def test_the_set_has_the_outline_that_is_told_before(tmp_path: Path) -> None:
    fashion(tmp_path)
    splits = load_splits("fashion_mnist", path=tmp_path, search_size=10)
    told = outline("fashion_mnist", search_size=10)
    assert told is not None and told.num_train == 59_990
    assert (splits.input_size, splits.num_classes) == (told.input_size, told.num_classes)
    assert [len(each) for each in (splits.train, splits.search, splits.test)] == [30, 10, 20]  # type: ignore[arg-type]
    assert isinstance(splits.train, ImageTensors) and splits.train.augment is not None
    with pytest.raises(ValueError, match="fashion_mnist has 32 x 32 images"):
        load_splits("fashion_mnist", path=tmp_path, image_size=28)


def test_the_digest_is_that_of_the_images_however_they_are_packed(tmp_path: Path) -> None:
    for name, packed in (("one", True), ("two", False)):
        fashion(tmp_path / name, packed=packed)
    one, two = (files_digest("fashion_mnist", tmp_path / name) for name in ("one", "two"))
    assert one == two is not None
    write_idx(tmp_path / "two" / "t10k-labels-idx1-ubyte", np.zeros(20), packed=False)
    assert files_digest("fashion_mnist", tmp_path / "two") != one


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    fashion(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    cut = gzip.compress(gzip.decompress(whole)[:-1])
    for content in (whole[:100], b"no gzip", cut, gzip.compress(b""), gzip.compress(b"x" * 16)):
        images.write_bytes(content)
        with pytest.raises(ValueError, match=r"train-images.*(damaged|no idx file)"):
            read_fashion(tmp_path, "train")
    images.unlink()
    with pytest.raises(FileNotFoundError, match=r"no train-images-idx3-ubyte.*dataset-fashion"):
        read_fashion(tmp_path, "train")
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((3, 28, 28)), packed=False)
    with pytest.raises(ValueError, match="train has images"):
        read_fashion(tmp_path, "train")


def folders(root: Path, *, odd: bool = False) -> None:
    """Two classes of 8 x 8 photographs, training and validation; an odd one has another size."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            (root / part / label).mkdir(parents=True)
            for count in range(6):
                side = 9 if odd and (part, label, count) == ("val", "dog", 5) else 8
                pixels = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{count}.png")


def test_a_folder_of_small_images_of_one_size_is_decoded_once(tmp_path: Path) -> None:
    folders(tmp_path)
    splits = load_splits("imagefolder", path=tmp_path, image_size=8, search_size=4)
    assert isinstance(splits.train, ImageTensors) and isinstance(splits.test, ImageTensors)
    assert (splits.input_size, splits.num_classes) == ((3, 8, 8), 2)
    assert splits.train.augment is not None and splits.test.augment is None
    on_disk = {
        np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes(): label
        for label, name in enumerate(("cat", "dog"))
        for file in (tmp_path / "val" / name).iterdir()
    }
    in_memory = zip(splits.test.images, splits.test.labels, strict=True)
    assert {i.numpy().tobytes(): int(label) for i, label in in_memory} == on_disk


@pytest.mark.parametrize(("odd", "size"), [(True, 8), (False, 16)])
def test_other_folders_are_read_image_by_image(odd: bool, size: int, tmp_path: Path) -> None:
    folders(tmp_path, odd=odd)
    splits = load_splits("imagefolder", path=tmp_path, image_size=size, search_size=4)
    assert not isinstance(splits.train, ImageTensors)
    assert splits.input_size == (3, size, size)
