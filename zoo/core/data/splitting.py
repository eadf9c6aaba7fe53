"""Hold a search split out of the training images."""

from __future__ import annotations

import numpy as np

from zoo.core.data.sizes import check_test_size, split_sizes
from zoo.core.randomness import stream_seed

__all__ = ["hold_out", "stratified_order", "test_positions"]


def hold_out(
    labels: np.ndarray, *, seed: int, search_size: int | None, train_size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training and of the search images.

    Args:
        labels: of all images, shape (N,).
        seed: of the choice.
        search_size: images to hold out; a tenth if None.
        train_size: images to train on; all others if None.

    Returns:
        Two ascending arrays without a common element. Every class gives the search split the same
        share of its images, to within one image; so, too, for a training set that is cut.

    Raises:
        ValueError: if there are too few images.
    """
    n_train, n_search = split_sizes(len(labels), search_size, train_size)
    order = stratified_order(labels, seed)
    return np.sort(order[n_search : n_search + n_train]), np.sort(order[:n_search])


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A random order of labels, shape (N,), whose every prefix has all classes in proportion."""
    rng = np.random.default_rng(stream_seed("search split", seed))
    shuffled = rng.permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[shuffled] == label)
        place[members] = (np.arange(len(members)) + rng.uniform()) / len(members)
    return shuffled[np.argsort(place, kind="stable")]


def test_positions(labels: np.ndarray, test_size: int | None) -> np.ndarray:
    """Ascending positions of test images for labels, shape (N,): all, or a stratified choice."""
    if test_size is None:
        return np.arange(len(labels))
    check_test_size(len(labels), test_size)
    return np.sort(stratified_order(labels, 0)[:test_size])
