"""Check the number and the side of the images asked of a data set, before any is made or read."""

from __future__ import annotations

from zoo.core.data.digits import glyph_indices

__all__ = [
    "CLUTTERED_SEARCH",
    "CLUTTERED_TEST",
    "CLUTTERED_TRAIN",
    "check_sizes",
    "check_test_size",
    "split_sizes",
]

# Without a size of its own, a search split takes this share of the training images.
SEARCH_SHARE = 0.1

# Of cluttered_digits, which has any number of images.
CLUTTERED_TRAIN, CLUTTERED_SEARCH, CLUTTERED_TEST = 8_000, 1_000, 2_000

# Longest side of an image; networks for ImageNet see at most 600 pixels.
MOST_PIXELS = 4096

# Limit for images made in memory; a size beyond it is taken for a typing error.
MOST_BYTES = 16 * 2**30


def split_sizes(there: int, search_size: int | None, train_size: int | None) -> tuple[int, int]:
    """Number of training images and of search images, at least one of each.

    Args:
        there: training images of the set.
        search_size: images to hold out; a tenth if None.
        train_size: images to train on; all others if None.

    Raises:
        ValueError: if there are too few.
    """
    n_search = max(1, round(SEARCH_SHARE * there)) if search_size is None else search_size
    n_train = there - n_search if train_size is None else train_size
    if n_search < 1 or n_train < 1 or n_search + n_train > there:
        asked = [name for name, size in (("train_size", train_size), ("search_size", search_size))
                 if size is not None]  # fmt: skip
        raise ValueError(
            f"{there} images cannot give {n_train} for training and {n_search} for search; "
            + (f"lower {' or '.join(asked)}" if asked else "add images")
        )
    return n_train, n_search


def check_sizes(
    name: str,
    image_size: int | None,
    train_size: int | None,
    search_size: int | None,
    test_size: int | None,
) -> None:
    """Refuse sizes that no set, or not this one, can give.

    Args:
        name: of the set.
        image_size: side in pixels; None for the set's own.
        train_size: training images; None for all, or the default of a set made in memory.
        search_size: the same of the search split.
        test_size: the same of the test split.

    Raises:
        ValueError: with the size, the limit and the way out.
    """
    for what, size in (("train", train_size), ("search", search_size), ("test", test_size)):
        if size is not None and size < 1:
            raise ValueError(f"{what}_size {size} is below 1; leave it out to take all there is")
    if image_size is not None and not 1 <= image_size <= MOST_PIXELS:
        raise ValueError(f"image_size {image_size} is not from 1 to {MOST_PIXELS} pixels a side")
    if name in ("cifar10", "cifar100", "fashion_mnist") and image_size not in (None, 32):
        raise ValueError(f"{name} has 32 x 32 images, not {image_size}; leave image_size out")
    if name == "digits" and test_size is not None:
        check_test_size(len(glyph_indices("test")), test_size)
    if name in ("digits", "cluttered_digits"):
        counts = [train_size or CLUTTERED_TRAIN, search_size or CLUTTERED_SEARCH]
        counts += [test_size or CLUTTERED_TEST]
        n_images = sum(counts) if name == "cluttered_digits" else len(glyph_indices("train"))
        n_bytes = 3 * n_images * (image_size or 32) ** 2
        if n_bytes > MOST_BYTES:
            raise ValueError(
                f"{n_images:,} images of {image_size or 32} pixels a side take "
                f"{n_bytes // 2**30:,} GiB of memory, and {name} is made in "
                f"{MOST_BYTES // 2**30} at most; lower train_size or image_size"
            )


def check_test_size(there: int, test_size: int) -> None:
    """Refuse more test images than there are.

    Raises:
        ValueError: with both numbers.
    """
    if test_size > there:
        raise ValueError(
            f"test_size {test_size} is above the {there} test images there are; lower it or leave "
            "it out"
        )
