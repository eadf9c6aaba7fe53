"""Read images and labels from whatever a loader yields; raise where it is ambiguous."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.data.inputs import count_images, mapped
from zoo.core.errors import said

__all__ = ["ReadBatch", "Targets", "read_own", "read_pair"]

IMAGE_KEYS = ("image", "images", "img", "imgs", "pixel_values", "input", "inputs", "x")
LABEL_KEYS = ("label", "labels", "target", "targets", "class", "classes", "fine_label", "y")

# Rows of soft targets add up to 1; in half precision a thousand terms round to this.
SUM_TOLERANCE = 1e-2


ReadBatch = Callable[[Any], Any]
"""Turns what a loader yields into (inputs, targets)."""


def read_own(read: ReadBatch, batch: object, name: str) -> tuple[Any, Any]:
    """Inputs and targets of a batch, read by somebody's callable.

    Args:
        read: the callable.
        batch: what the loader yielded.
        name: of the loader, for messages.

    Raises:
        ValueError: if it fails, returns no pair, or inputs without an image to count.
    """
    try:
        pair = read(batch)
    except Exception as error:  # whatever a foreign callable may raise
        raise ValueError(
            f"batch= does not read what {name} yields, {_describe(batch)}: "
            f"{type(error).__name__}: {said(error)}"
        ) from error
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(
            f"batch= returns {_describe(pair)} for a batch of {name}; let it return two things, "
            "(inputs, targets)"
        )
    inputs, targets = (mapped(part, _plain) for part in pair)
    if isinstance(inputs, Mapping) and not all(isinstance(key, str) for key in inputs):
        raise ValueError("batch= returns inputs as a dict, whose keys must be argument names")
    count_images(inputs)
    return inputs, targets


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().as_subclass(Tensor)


def read_pair(batch: object, name: str, *, is_any: bool = False) -> tuple[Any, Any]:
    """Images and labels of a batch, as they are.

    Args:
        batch: (images, labels) with anything behind them, or a mapping with one key for each.
        name: of the loader, for messages.
        is_any: take anything for labels: masks, boxes, numbers, dicts of them.

    Returns:
        Images, shape (N, C, H, W), and labels, whose first dimension is N.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(batch, Mapping):
        found = [_entry(batch, keys, what, name) for keys, what in _KEYS]
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) >= 2:
        found = [batch[0], batch[1]]
    else:
        raise ValueError(
            f"{name} yields {_describe(batch)}; expected (images, labels), or a dict with an image "
            "and a label"
        )
    images = _tensor(found[0], "images", name)
    if images.ndim != 4:
        raise ValueError(
            f"images of {name} have shape {tuple(images.shape)}; expected (N, C, H, W). A loader "
            "with batch_size=None hands on what its dataset yields, which must be whole batches"
        )
    labels = None if is_any else _tensor(found[1], "labels", name)
    if labels is not None and (not labels.ndim or len(labels) != len(images)):
        raise ValueError(
            f"{name} yields images {tuple(images.shape)} with labels {tuple(labels.shape)}; "
            "expected one label for each image, shape (N,)"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images of {name} are {_kind(images)}; expected floating-point numbers: scale and "
            "normalise them in the dataset's transform as the network was trained (ToTensor and "
            "Normalize, or images.float() / 255)"
        )
    if labels is None:
        return images.detach(), mapped(found[1], _plain)
    return images.detach(), labels.detach()


@dataclass(frozen=True)
class Targets:
    """Checks the labels of a loader, and brings them into one form.

    Attributes:
        name: of the loader, for messages.
        classes: number of logits; None while it is unknown, and labels are not compared with it.
        is_binary: take 0.0 and 1.0 for classes, as networks with one logit do.
        is_hard: turn soft targets into their most likely class, for accuracies.
    """

    name: str = "the loader"
    classes: int | None = None
    is_binary: bool = False
    is_hard: bool = False

    def read(self, labels: Tensor) -> Tensor:
        """Class indices, int64, shape (N,), or probabilities, shape (N, classes).

        Args:
            labels: integers, shape (N,) or (N, 1); or one row for each image, one-hot or
                probabilities, shape (N, classes).

        Raises:
            ValueError: for anything else, or a class that has no logit.
        """
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim == 1:
            return self._indices(labels)
        if labels.ndim == 2:
            return self._rows(labels)
        raise ValueError(
            f"labels of {self.name} have shape {tuple(labels.shape)}: a label for each pixel or "
            "position. Cross-entropy of logits takes one class index for each image, shape (N,); "
            "for other tasks give loss= and metric="
        )

    def _indices(self, labels: Tensor) -> Tensor:
        is_index = not (labels.is_floating_point() or labels.is_complex())
        if not is_index and not (self.is_binary and bool(((labels == 0) | (labels == 1)).all())):
            raise ValueError(
                f"labels of {self.name} are {_kind(labels)}, {_few(labels)}; expected class "
                "indices, which are whole numbers: convert them with labels.long() if they are"
            )
        labels = labels.long()
        if self.classes is not None and len(labels):
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.classes:
                wrong = low if low < 0 else high
                raise ValueError(
                    f"{self.name} yields the label {wrong}, and the network has {self._outputs()}: "
                    f"labels go from 0 to {self.classes - 1}. Renumber the labels or give the "
                    "network a head with an output for each class"
                )
        return labels

    def _rows(self, rows: Tensor) -> Tensor:
        if self.classes is not None and rows.shape[1] != self.classes:
            raise ValueError(
                f"labels of {self.name} have shape {tuple(rows.shape)}, and the network has "
                f"{self._outputs()}; expected (N,), or (N, {self.classes}) for one-hot or soft "
                "targets"
            )
        values = rows.double()
        is_even = (values.sum(1) - 1).abs() <= SUM_TOLERANCE
        is_distribution = bool((is_even & (values >= 0).all(1)).all())
        if not is_distribution:
            raise ValueError(
                f"targets of {self.name}, shape {tuple(rows.shape)}, are no class probabilities: "
                f"a row adds up to {float(values.sum(1)[~is_even][:1].sum()):g}. With several "
                "labels for one image neither cross-entropy nor top-1 applies: give your own, "
                "loss=torch.nn.functional.binary_cross_entropy_with_logits and metric="
            )
        if not rows.is_floating_point():
            return rows.long().argmax(1)
        if not self.is_hard:
            return rows
        best = values.max(1).values
        if bool(((values == best[:, None]).sum(1) > 1).any()):
            raise ValueError(
                f"targets of {self.name} have rows with two classes of the same, highest "
                "probability, so that top-1 does not apply; give class indices, shape (N,)"
            )
        return values.argmax(1)

    def _outputs(self) -> str:
        return "one logit" if self.is_binary else f"{self.classes} outputs"


_KEYS = ((IMAGE_KEYS, "images"), (LABEL_KEYS, "labels"))


def _entry(batch: Mapping[object, object], keys: Sequence[str], what: str, name: str) -> object:
    """The entry of a mapping under the only known key for images, or for labels.

    Raises:
        ValueError: if no known key is there, or several are.
    """
    found = [key for key in keys if key in batch]
    if len(found) == 1:
        return batch[found[0]]
    there = ", ".join(map(str, batch)) or "none"
    told = (
        f"{' and '.join(found)} may all hold the {what}"
        if found
        else f"none of them is known to hold the {what} ({', '.join(keys)})"
    )
    raise ValueError(
        f"{name} yields dicts with the keys {there}; {told}: rename one, or yield (images, labels)"
    )


def _tensor(value: object, what: str, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.as_subclass(Tensor)  # torchvision's kinds of tensors are plain ones here
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Sequence) and value and all(isinstance(v, int) for v in value):
        return torch.tensor(value)
    raise ValueError(
        f"{what} of {name} are {_describe(value)}; expected a tensor. Turn each image into one in "
        "the dataset's transform (ToTensor), and let the loader collate them"
    )


def _describe(value: object) -> str:
    """Type and size of a value, in words."""
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return f"a {type(value).__name__} of {len(value)} with a {type(value[0]).__name__} first"
    if isinstance(value, Tensor | np.ndarray):
        return f"one {type(value).__name__} of {value.dtype}, shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _few(tensor: Tensor) -> str:
    """The first values."""
    return ", ".join(f"{value:g}" for value in tensor[:3].tolist()) + (
        ", ..." if len(tensor) > 3 else ""
    )
